"""A device, a host and a plan at every seam between them: the scenes of tests/hostile.py."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from typing import Final, Self

import anyio
import usb.core
import usb.util

from gadgets.mass_storage import MassStorageFunction, RamLun
from tests.devices import Scripted
from usbip_vudc.errors import RemoteProtocolError, UrbError
from usbip_vudc.exportable import Export
from usbip_vudc.function import Endpoint, Function, Request
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.host.blocking import BlockingHost
from usbip_vudc.host.handshake import ImportRefused
from usbip_vudc.host.storage import StorageError, UsbStorage
from usbip_vudc.injection import Plan, injected, injected_connect
from usbip_vudc.proxy.export import InjectedExport
from usbip_vudc.pyusb_backend import get_backend
from usbip_vudc.serving import serving_udcs
from usbip_vudc.settle import wait_until
from usbip_vudc.urb import HostUrb
from usbip_vudc.usb.ch9 import SetupPacket, Speed
from usbip_vudc.vudc import UserspaceUDC

IN, OUT = 0x81, 0x01
LENGTH: Final = 600
"""Bytes of a transfer: a packet of 512 and a short one."""
DEADLINE: Final = 10.0


def message(number: int) -> bytes:
    """The number-th transfer's bytes, from 1."""
    return bytes((number,)) + bytes(i % 251 for i in range(LENGTH - 1))


def verdict(data: bytes, *, first: int = 1) -> str:
    """What these bytes are, of the messages from ``first`` on."""
    for number in range(first, first + 20):
        whole = message(number)
        which = "" if number == first else f" of number {number}"
        if data == whole:
            return f"all{which}"
        if data and len(data) < LENGTH and whole.startswith(data):
            return f"first {len(data)} bytes{which}"
        if data and len(data) < LENGTH and whole.endswith(data):
            return f"last {len(data)} bytes{which}"
        if data.startswith(whole):
            return f"all{which} and {len(data) - LENGTH} bytes"
    return f"{len(data)} changed bytes" if data else "0 bytes"


# --- the device --------------------------------------------------------------------------------


class Talk(Scripted):
    """Offers messages on its IN endpoint, takes them on OUT, and notes how each request ended."""

    name = "talk"

    def __init__(self) -> None:
        super().__init__(alternates=1)
        self.seen: dict[str, list[str]] = {"in": [], "out": []}
        self.sent = self.came = 0
        self.news = threading.Condition()

    async def run(self, endpoints: Mapping[str, Endpoint]) -> None:
        self.lives += 1
        for role in ("in", "out"):
            self._offer(endpoints[role])
        await anyio.sleep_forever()

    def _offer(self, endpoint: Endpoint) -> None:
        if endpoint.role == "in":
            self.sent += 1
            data: bytes | bytearray = message(self.sent)
        else:
            data = bytearray(1024)

        def ended(request: Request) -> None:
            self._note(endpoint.role, request)
            if request.error is None or type(request.error).__name__ == "Overflow":
                self._offer(endpoint)

        endpoint.queue(Request(data, on_complete=ended))

    def _note(self, role: str, request: Request) -> None:
        data = request.sg.gather()[: request.actual]
        what = verdict(data)
        if role == "in":
            what = "all" if request.actual == LENGTH else f"{request.actual} bytes"
        if request.error is not None:
            what = type(request.error).__name__ + (f", {what}" if request.actual else "")
        with self.news:
            self.seen[role].append(what)
            self.news.notify_all()

    def first(self, role: str) -> str:
        """How the first request on an endpoint ended."""
        with self.news:
            assert self.news.wait_for(lambda: self.seen[role], DEADLINE), f"{role}: nothing ended"
            return self.seen[role][0]


# --- the scene ---------------------------------------------------------------------------------


class Scene:
    """One device with a plan at every seam, and a host that can lose it and find it again."""

    def __init__(self, rule: str, function: Function) -> None:
        self.plan = Plan.parse(rule)
        self.function = function
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        device = Gadget(
            name="hostile", idVendor=0x1D6B, idProduct=0x0104,
            configs=(Config(functions=(self.function,)),),
        )  # fmt: skip
        udc = UserspaceUDC(injected(device, self.plan), speed=Speed.HIGH)
        export = InjectedExport(Export(1, udc), self.plan)
        self.port = self._stack.enter_context(serving_udcs(export))
        self.connect = injected_connect(self.plan)
        self.open()
        return self

    def __exit__(self, *_exception: object) -> None:
        with self._stack:
            self.close()

    def open(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class TalkScene(Scene):
    """A `Talk` and a bare host."""

    function: Talk
    host: BlockingHost

    def open(self) -> None:
        found: list[BlockingHost] = []

        def imported() -> bool:
            with suppress(ImportRefused):  # it is away, or the server has not seen us leave
                found.append(self.connect("127.0.0.1", self.port, "1-1"))
            return bool(found)

        assert wait_until(imported, DEADLINE)
        self.host = found[0]
        lives = self.function.lives
        self.host.control(SetupPacket(0x00, 9, 1))
        assert wait_until(lambda: self.function.lives > lives, DEADLINE)

    def close(self) -> None:
        self.host.close()

    def again(self) -> None:
        """Import the device again."""
        self.close()
        self.open()

    def clear_halt(self) -> None:
        for endpoint in (IN, OUT):
            self.host.control(SetupPacket(0x02, 1, 0, endpoint))

    # --- what the host does ---

    def read(self, room: int = 1024, timeout: float = DEADLINE) -> str:
        buffer = bytearray(room)
        return self._outcome(lambda: self.host.transfer(HostUrb(IN, buffer), timeout), buffer)

    def write(self, timeout: float = DEADLINE) -> str:
        self.function.came += 1
        data = message(self.function.came)
        return self._outcome(lambda: self.host.transfer(HostUrb(OUT, data), timeout))

    def two_reads(self) -> str:
        """Two URBs at once: in which order they came back."""
        order: list[str] = []
        urbs = [HostUrb(IN, bytearray(1024)) for _ in range(2)]
        for number, urb in enumerate(urbs, 1):
            urb.on_complete = lambda _urb, number=number: order.append(str(number))
            self.host.submit(urb)
        for urb in urbs:
            assert self.host.wait(urb, DEADLINE)
        return " then ".join(order)

    def control(self, *, out: bool = False) -> str:
        """Have it say, or store, four bytes."""
        if out:
            store = SetupPacket(0x41, 0x5B, 0, 0, 4)
            return self._outcome(lambda: len(self.host.control(store, b"abcd")) or LENGTH)
        self.function.stored = b"abcd"
        answer = bytearray()

        def ask() -> int:
            answer.extend(self.host.control(SetupPacket(0xC1, 0x5C, 0, 0, 8)))
            return LENGTH

        outcome = self._outcome(ask)
        if outcome != "all" or answer == b"abcd":
            return outcome
        changed = "" if b"abcd".startswith(answer) else " changed"
        return f"{'first ' if answer and not changed else ''}{len(answer)}{changed} bytes"

    def _outcome(self, transfer: Callable[[], int], buffer: bytearray | None = None) -> str:
        try:
            moved = transfer()
        except UrbError as error:
            return f"-{errno.errorcode[error.errno]}"
        except RemoteProtocolError:
            return "RemoteProtocolError"
        if buffer is None:
            return "all" if moved == LENGTH else f"{moved} bytes"
        return verdict(bytes(buffer[:moved]))

    def works(self) -> None:
        """Both ways, with nothing wrong any more."""
        for _ in range(2):
            assert self.read().startswith("all")
            assert self.write() == "all"


class DiskScene(Scene):
    """A disk and our storage host."""

    def __init__(self, rule: str) -> None:
        self.lun = RamLun(1 << 20)
        self.data = bytes(i % 249 for i in range(4096))
        for start in range(0, 8192, 4096):
            self.lun.write(start, memoryview(self.data))
        super().__init__(rule, MassStorageFunction([self.lun]))

    def open(self) -> None:
        backend = get_backend(port=self.port, connect=self.connect)
        self.device = usb.core.find(backend=backend)
        self.disk = UsbStorage(self.device, timeout_ms=2000)
        self.disk.wait_ready()
        self.disk.read_capacity()

    def close(self) -> None:
        usb.util.dispose_resources(self.device)

    def again(self) -> None:
        self.close()
        assert wait_until(lambda: not isinstance(self._try_open(), Exception), DEADLINE)

    def _try_open(self) -> Exception | None:
        try:
            self.open()
        except (usb.core.USBError, AttributeError, ValueError) as error:
            return error
        return None

    def reset_recovery(self) -> None:
        self.disk.reset_recovery()
        self.disk.wait_ready()

    def read(self) -> str:
        """READ(10) of eight blocks."""
        return self._outcome(lambda: self.disk.read(0, 8))

    def write(self) -> str:
        """WRITE(10) of eight blocks."""

        def write() -> bytes:
            self.disk.write(8, self.data)
            return bytes(self.lun.read(4096, 4096))

        return self._outcome(write)

    def inquiry(self) -> str:
        """INQUIRY."""

        def ask() -> bytes:
            self.disk.inquiry()
            return self.data

        return self._outcome(ask)

    def _outcome(self, call: Callable[[], bytes | memoryview]) -> str:
        try:
            data = bytes(call())
        except StorageError as error:
            return type(error).__name__
        except usb.core.USBError as error:
            return f"-{errno.errorcode[error.errno or 0]}"
        return "all" if data == self.data else f"{len(data)} changed bytes"

    def works(self) -> None:
        for _ in range(2):
            assert (self.read(), self.write()) == ("all", "all")
            assert self.inquiry() == "all"
