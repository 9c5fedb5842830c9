"""What the tests of the proxy share: devices behind it, and hosts that look at every status."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import anyio.abc
import anyio.from_thread

from tests.devices import Scripted, echo, gadget
from usbip_vudc.errors import UrbError
from usbip_vudc.exportable import Export
from usbip_vudc.gadget import Gadget
from usbip_vudc.host.blocking import BlockingHost
from usbip_vudc.injection import Plan
from usbip_vudc.proxy.export import InjectedExport
from usbip_vudc.proxy.server import Proxy
from usbip_vudc.serving import serving_udcs
from usbip_vudc.urb import HostUrb, Urb
from usbip_vudc.usb.ch9 import Direction, SetupPacket, Speed
from usbip_vudc.vudc import UserspaceUDC

IN, OUT = 0x81, 0x01
HOST = "127.0.0.1"
SET_CONFIGURATION = SetupPacket(0, 9, 1)
GET_CONFIGURATION = SetupPacket(0x80, 8, 0, 0, 1)


class Watched(UserspaceUDC):
    """Keeps the bulk URBs that it was given."""

    def __init__(self, gadget: Gadget, speed: Speed = Speed.SUPER) -> None:
        super().__init__(gadget, speed=speed, name="watched")
        self._seen: list[Urb] = []

    def submit(self, urb: Urb) -> None:
        if urb.endpoint & 0x0F:
            self._seen.append(urb)
        super().submit(urb)

    @property
    def urbs(self) -> list[tuple[int, int | None]]:
        """Length and status of each, in order; no status where it was taken back."""
        return [(urb.length, urb.status) for urb in self._seen]


@contextmanager
def behind(plan: str) -> Iterator[tuple[int, InjectedExport, Scripted]]:
    """A device that echoes, behind a plan for the cable: the TCP port, the export, the function."""
    function = Scripted(echo)
    export = InjectedExport(Export(1, Watched(gadget(function))), Plan.parse(plan))
    with serving_udcs(export) as port:
        yield port, export, function


@contextmanager
def plugged(port: int) -> Iterator[BlockingHost]:
    """The device, imported and configured."""
    with BlockingHost(HOST, port, "1-1") as host:
        host.control(SET_CONFIGURATION)
        yield host


def write(host: BlockingHost, data: bytes, timeout: float | None = 10.0) -> int:
    """Bytes that went out on bulk."""
    return host.transfer(HostUrb(OUT, data), timeout)


def read(host: BlockingHost, length: int, timeout: float | None = 10.0) -> bytes:
    """What came in on bulk."""
    buffer = bytearray(length)
    return bytes(buffer[: host.transfer(HostUrb(IN, buffer), timeout)])


def outcome(host: BlockingHost, endpoint: int, data: bytes | int, timeout: float = 10.0) -> str:
    """One transfer in words: the errno and the bytes moved, or the bytes."""
    buffer = bytearray(data)
    try:
        actual = host.transfer(HostUrb(endpoint, buffer), timeout)
    except UrbError as error:
        return f"{errno.errorcode[error.errno]} {error.actual_length}"
    return buffer[:actual].decode() if endpoint & Direction.IN else str(actual)


@contextmanager
def proxying(proxy: Proxy) -> Iterator[int]:
    """A proxy in a thread, for as long as the context lasts: its TCP port."""
    with anyio.from_thread.start_blocking_portal() as portal:
        scope = portal.call(anyio.CancelScope)

        async def serve(*, task_status: anyio.abc.TaskStatus[tuple[str, int]]) -> None:
            with scope:
                await proxy.serve(HOST, 0, task_status=task_status)

        future, (_, listening) = portal.start_task(serve)
        try:
            yield listening
        finally:
            portal.call(scope.cancel)
            future.result(timeout=10)
