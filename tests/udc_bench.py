"""A bench of the conformance suite: a UDC with the suite's device on it, and a host at its cable.

`Bench` is what the suite works with; the UDC lives in a thread of its own, the host is an ordinary
pyusb device. `UserspaceBench` is the one that needs no kernel; those that do are in
tests/kernel/benches.py.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from array import array
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any, Final, Self, TypeVar

import anyio
import anyio.abc
import anyio.from_thread
import usb.core
import usb.util

from tests.devices import Script, Scripted, gadget
from usbip_vudc.errors import UrbError
from usbip_vudc.function import ControlRequest, Endpoint, Request
from usbip_vudc.gadget import Gadget
from usbip_vudc.pyusb_backend import get_backend
from usbip_vudc.serving import serving_in
from usbip_vudc.sglist import Buffer
from usbip_vudc.urb import URB_ZERO_PACKET, HostUrb
from usbip_vudc.usb.ch9 import Direction, Feature, Speed, StandardRequest
from usbip_vudc.vudc import UserspaceUDC

T = TypeVar("T")

DEADLINE: Final = 20.0
"""Seconds: only a failure takes that long."""

OUR_HOST: Final = "our host"
"""The trait of a bench whose host is our own pyusb backend."""


class Device(Scripted):
    """The suite's function: each life waits for an order, and ends with it.

    The suite queues requests on ``endpoints`` from outside; an order is for what only a coroutine
    within `run` can do. ``used`` says that this life is not as it began.
    """

    def __init__(self) -> None:
        super().__init__(self._live, alternates=1)
        self.endpoints: Mapping[str, Endpoint] = {}
        self.used = False
        self.crashing = False
        self._news = threading.Condition()
        self._ordered = anyio.Event()
        self._order: Script | None = None

    async def run(self, endpoints: Mapping[str, Endpoint]) -> None:
        try:
            await super().run(endpoints)
        finally:
            self.tell()

    async def _live(self, endpoints: Mapping[str, Endpoint]) -> None:
        self.endpoints = endpoints
        self.used = False
        self._ordered = anyio.Event()
        self.tell()
        await self._ordered.wait()
        if self._order is not None:
            await self._order(endpoints)

    def setup(self, request: ControlRequest) -> Buffer | None:
        try:
            return super().setup(request)
        finally:
            self.tell()

    def order(self, script: Script) -> None:
        """Make this life do something. To be called in the UDC's thread."""
        self.used = True
        self._order = script
        self._ordered.set()

    @property
    def alive(self) -> bool:
        """Whether `run` runs."""
        return self.lives > self.ended

    def queue(self, role: str, request: Request) -> None:
        """Queue a request whose end `wait` sees. To be called in the UDC's thread."""
        request.on_complete = self.told
        self.endpoints[role].queue(request)

    def tell(self) -> None:
        """Something has happened: let `wait` look."""
        with self._news:
            self._news.notify_all()

    def told(self, _request: Request) -> None:
        """For ``on_complete``: a request has ended."""
        self.tell()

    def wait(self, happened: Callable[[], bool], what: str) -> None:
        """Wait in another thread than the UDC's."""
        with self._news:
            assert self._news.wait_for(happened, DEADLINE), f"{what}: not within {DEADLINE:g} s"


class Bench(ABC):
    """One controller with its device, and the host that it is plugged into (`plug`).

    ``traits`` are what rows name where benches differ: the UDC's driver, FunctionFS, the host.
    """

    traits: frozenset[str]
    speed: Speed

    def __init__(self) -> None:
        self.device = Device()
        self.host: usb.core.Device | None = None
        self._bound = False
        self._thread = ExitStack()
        self._udc = ExitStack()
        self._cable = ExitStack()
        self._portal: anyio.from_thread.BlockingPortal | None = None

    @property
    def gadget(self) -> Gadget:
        """The suite's device as a gadget for this speed."""
        return replace(gadget(self.device, max_speed=self.speed), name="conformance")

    @property
    def max_packet_size(self) -> int:
        """Of both bulk endpoints, in bytes."""
        return self.device.endpoints["in"].max_packet_size

    # --- what a kind of bench is ---------------------------------------------------------------

    @abstractmethod
    def controller(self) -> AbstractContextManager[None]:
        """The controller with its gadget, ready to be plugged in, as long as the context lasts."""

    @abstractmethod
    def cable(self) -> AbstractContextManager[usb.core.Device]:
        """The host's view of the device, configured, as long as the context lasts."""

    # --- the thread of the UDC -----------------------------------------------------------------

    def __enter__(self) -> Self:
        self._portal = self._thread.enter_context(anyio.from_thread.start_blocking_portal())
        return self

    def __exit__(self, *_exception: object) -> None:
        with self._thread, self._udc, self._cable:
            self.host = None

    @property
    def portal(self) -> anyio.from_thread.BlockingPortal:
        """The way into the UDC's thread."""
        assert self._portal is not None
        return self._portal

    def call(self, function: Callable[..., T], *arguments: object) -> T:
        """Call a function in the UDC's thread."""
        result: T = self.portal.call(function, *arguments)
        return result

    @contextmanager
    def task(
        self, run: Callable[..., Awaitable[object]], stop: Callable[[], None]
    ) -> Iterator[Any]:
        """Run a task in the UDC's thread that reports when it has started; ``stop`` ends it."""
        future, started = self.portal.start_task(run)
        try:
            yield started
        finally:
            self.call(stop)
            future.result(DEADLINE)

    # --- plugged in, and not -------------------------------------------------------------------

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Plugged in, running, with nothing queued: for one row or claim, and whole afterwards."""
        try:
            if self.host is None:
                self.plug()
            elif self.device.used or not self.device.alive:
                self.reset()
            yield
        except BaseException:
            self._mend()
            raise
        if self.host is None:
            self.plug()

    def _mend(self) -> None:
        """Whatever state it is in, the next one must not suffer from it.

        What goes wrong here must not hide what went wrong before: the next one tries again.
        """
        with suppress(Exception):
            self.unbind()
        self.host = None
        self.device.crashing = False
        with suppress(Exception):
            self.plug()

    def plug(self) -> None:
        """Make the controller, where there is none, and plug it in: the device runs."""
        before = self.device.lives
        if not self._bound:
            self._udc.enter_context(self.controller())
            self._bound = True
        self.host = self._cable.enter_context(self.cable())
        self.wait(lambda: self.device.lives > before and self.device.alive, "plugged in")

    def detach(self) -> None:
        """The host lets go of the device."""
        self.host = None
        self._cable.close()

    def reopen(self) -> None:
        """The host lets go of a device that left by itself, and takes it where it has come back."""
        self.host = None
        self._cable.close()
        self.host = self._cable.enter_context(self.cable())
        self.wait(lambda: self.device.alive, "back on the bus")

    def remove(self) -> None:
        """The controller goes away, and the host sees its device go."""
        self._bound = False
        self._udc.close()

    def unbind(self) -> None:
        """The same, and the host lets go of what it held."""
        try:
            self.remove()
        finally:
            self.detach()

    def reset(self) -> None:
        """Reset the bus; the device begins a new life."""
        host, before = self.opened, self.device.lives
        host.backend.reset_device(host._ctx.handle)
        self.wait(
            lambda: self.device.lives > before and self.device.alive, "the life after a reset"
        )

    @property
    def opened(self) -> usb.core.Device:
        """The host's device, with a handle open."""
        assert self.host is not None
        self.host._ctx.managed_open()
        return self.host

    # --- the device's side ---------------------------------------------------------------------

    def wait(self, happened: Callable[[], bool], what: str) -> None:
        """Wait for something that the device sees."""
        self.device.wait(happened, what)

    def order(self, script: Script) -> None:
        """Have the device do something in its `run`."""
        self.call(self.device.order, script)

    def queue(self, role: str, request: Request) -> Request:
        """Queue a request on an endpoint of the device."""
        self.call(self.device.queue, role, request)
        return request

    def wait_done(self, request: Request) -> None:
        """Wait until a request has completed, in whatever way."""
        self.wait(lambda: request.done, f"{request!r} done")

    def withdraw(self, request: Request) -> None:
        """Have the device take a request back."""
        for endpoint in self.device.endpoints.values():
            self.call(endpoint.withdraw, request)
        self.wait_done(request)

    # --- the host's side -----------------------------------------------------------------------

    def address(self, role: str) -> int:
        """The address that the UDC chose."""
        return self.device.endpoints[role].address

    def read(self, room: int, timeout_ms: int) -> bytes | int:
        """Read from the device: its bytes, or an errno."""
        try:
            answer: array[int] = self.opened.read(self.address("in"), room, timeout_ms)
        except usb.core.USBError as error:
            return int(error.errno)
        return answer.tobytes()

    def write(self, data: bytes, timeout_ms: int, *, zero: bool = False) -> tuple[int, int]:
        """Write to the device: bytes moved, and an errno or 0.

        ``zero`` asks for URB_ZERO_PACKET, which pyusb has no word for: our own backend has it.
        """
        try:
            if zero:
                urb = HostUrb(self.address("out"), data, flags=URB_ZERO_PACKET)
                moved = self.opened._ctx.handle.host.transfer(urb, timeout_ms / 1000)
            else:
                moved = self.opened.write(self.address("out"), data, timeout_ms)
        except (usb.core.USBError, UrbError) as error:
            return 0, int(error.errno or 0)
        return int(moved), 0

    def set_halt(self, role: str, *, halt: bool) -> None:
        """SET_FEATURE or CLEAR_FEATURE(ENDPOINT_HALT)."""
        address = self.address(role)
        if halt:
            request = StandardRequest.SET_FEATURE
            self.opened.ctrl_transfer(0x02, request, Feature.ENDPOINT_HALT, address)
        else:
            self.opened.clear_halt(address)


class UserspaceBench(Bench):
    """The userspace UDC behind a server, and our own pyusb backend as its host."""

    traits = frozenset(("userspace", OUR_HOST))

    def __init__(self, speed: Speed) -> None:
        super().__init__()
        self.speed = speed
        self.port = 0

    @contextmanager
    def controller(self) -> Iterator[None]:
        """A server that exports it as 1-1."""
        udc = UserspaceUDC(self.gadget, speed=self.speed)
        with serving_in(self.portal, udc) as self.port:
            yield

    @contextmanager
    def cable(self) -> Iterator[usb.core.Device]:
        """Imported by our backend."""
        with claimed(usb.core.find(backend=get_backend(port=self.port))) as host:
            yield host


@contextmanager
def claimed(host: usb.core.Device | None) -> Iterator[usb.core.Device]:
    """Hold a device open, with its interface claimed."""
    assert host is not None
    try:
        usb.util.claim_interface(host, 0)
        yield host
    finally:
        usb.util.dispose_resources(host)


def is_in(address: int) -> bool:
    """Whether an endpoint's address says IN."""
    return bool(address & Direction.IN)
