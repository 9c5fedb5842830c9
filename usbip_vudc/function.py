"""THE SEAM between what a device does (Function) and what carries it (UDC).

A Function describes its interfaces by role and talks to Endpoints by queueing Requests, as a
kernel gadget driver does with ``usb_ep_queue``. A UDC (ours in userspace, or a kernel one) gives
it the Endpoints while a configuration is selected. Nothing here knows a socket, a file or USB/IP.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, Self, TypedDict, Unpack

import anyio
import anyio.to_thread

from usbip_vudc.errors import LocalProtocolError, SchemeError, TransferError
from usbip_vudc.sglist import Buffer, SGList
from usbip_vudc.usb.ch9 import Direction, SetupPacket, Speed, TransferType

__all__ = (
    "UDC",
    "AltSetting",
    "ClassDescriptor",
    "ControlRequest",
    "Endpoint",
    "EndpointSpec",
    "Function",
    "InterfaceSpec",
    "Request",
)


# --- what a function says of itself ------------------------------------------------------------


class ClassDescriptor(Protocol):
    """A class-specific descriptor that may name other interfaces of its function."""

    def pack(self, numbers: Mapping[str, int]) -> bytes:
        """The bytes, given bInterfaceNumber of each interface role of the function."""


class _EndpointOptions(TypedDict, total=False):
    """What an endpoint may be given besides; `EndpointSpec` says what each is."""

    bInterval: Mapping[Speed, int]
    max_packet_size: Mapping[Speed, int]
    max_burst: int
    mult: int
    number: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSpec:
    """An endpoint by role. The UDC picks the address; the speed picks what is not given here.

    ``interval_ms`` is the polling period of an interrupt or isochronous endpoint, in ms;
    ``bInterval``, by speed, is that byte itself where it must be just so.
    ``max_packet_size`` in bytes, by speed, where it differs from the speed's own default.
    ``max_burst`` is bMaxBurst at SuperSpeed: packets in a burst less one. ``mult`` is the number
    of packets (high speed, periodic) or bursts (SuperSpeed, isochronous) of one service interval
    less one. ``number`` is the endpoint number that a host expects; only the userspace UDC can
    promise one, FunctionFS lets the kernel's controller choose.
    """

    role: str
    direction: Direction
    transfer_type: TransferType
    interval_ms: float = 0
    bInterval: Mapping[Speed, int] = field(default_factory=dict)
    max_packet_size: Mapping[Speed, int] = field(default_factory=dict)
    max_burst: int = 0
    mult: int = 0
    number: int | None = None

    def __post_init__(self) -> None:
        where = f"endpoint {self.role}"
        if not 0 <= self.interval_ms < math.inf:
            raise SchemeError(f"{where}: interval_ms {self.interval_ms}: expected 0 or more")
        if self.number is not None and not 1 <= self.number <= 15:
            raise SchemeError(f"{where}: number {self.number}: expected 1 to 15 (USB 2.0 9.6.6)")
        for name, value, most in (
            ("mult", self.mult, 3),
            ("max_burst", self.max_burst, 0xFF),
            *(("bInterval", value, 0xFF) for value in self.bInterval.values()),
            *(("max_packet_size", value, 0xFFFF) for value in self.max_packet_size.values()),
        ):
            if not 0 <= value <= most:  # no descriptor could say it, not even an illegal one
                raise SchemeError(f"{where}: {name} {value}: expected 0 to {most}")

    @classmethod
    def bulk_in(cls, role: str, **options: Unpack[_EndpointOptions]) -> Self:
        """A bulk endpoint to the host."""
        return cls._of(role, Direction.IN, TransferType.BULK, 0, options)

    @classmethod
    def bulk_out(cls, role: str, **options: Unpack[_EndpointOptions]) -> Self:
        """A bulk endpoint from the host."""
        return cls._of(role, Direction.OUT, TransferType.BULK, 0, options)

    @classmethod
    def interrupt_in(
        cls, role: str, *, interval_ms: float = 10, **options: Unpack[_EndpointOptions]
    ) -> Self:
        """An interrupt endpoint to the host, polled every ``interval_ms``."""
        return cls._of(role, Direction.IN, TransferType.INTERRUPT, interval_ms, options)

    @classmethod
    def interrupt_out(
        cls, role: str, *, interval_ms: float = 10, **options: Unpack[_EndpointOptions]
    ) -> Self:
        """An interrupt endpoint from the host, served every ``interval_ms``."""
        return cls._of(role, Direction.OUT, TransferType.INTERRUPT, interval_ms, options)

    @classmethod
    def iso_in(
        cls, role: str, *, interval_ms: float = 1, **options: Unpack[_EndpointOptions]
    ) -> Self:
        """An isochronous endpoint to the host, one service interval every ``interval_ms``."""
        return cls._of(role, Direction.IN, TransferType.ISOCHRONOUS, interval_ms, options)

    @classmethod
    def iso_out(
        cls, role: str, *, interval_ms: float = 1, **options: Unpack[_EndpointOptions]
    ) -> Self:
        """An isochronous endpoint from the host, one service interval every ``interval_ms``."""
        return cls._of(role, Direction.OUT, TransferType.ISOCHRONOUS, interval_ms, options)

    @classmethod
    def _of(
        cls,
        role: str,
        direction: Direction,
        transfer_type: TransferType,
        interval_ms: float,
        options: _EndpointOptions,
    ) -> Self:
        return cls(
            role=role,
            direction=direction,
            transfer_type=transfer_type,
            interval_ms=interval_ms,
            **options,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AltSetting:
    """One alternate setting: its endpoints and the class descriptors before them."""

    endpoints: tuple[EndpointSpec, ...] = ()
    class_descriptors: tuple[ClassDescriptor, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceSpec:
    """An interface by role, with its alternate settings in order from 0."""

    role: str
    bInterfaceClass: int
    bInterfaceSubClass: int = 0
    bInterfaceProtocol: int = 0
    name: str = ""
    alternates: tuple[AltSetting, ...]


# --- what moves --------------------------------------------------------------------------------


class Request:
    """A transfer that a function offers to one endpoint: the kernel's ``struct usb_request``.

    ``sg`` holds the bytes to send, or the room for bytes to come. ``zero`` asks for a ZLP after
    an IN request that is a multiple of the maxpacket. After completion ``actual`` is the number
    of bytes moved and ``error`` is None or the TransferError; while it is ``queued`` the memory
    belongs to the UDC. A request that is done may be queued again, from ``on_complete`` too.

    ``partial`` lets an OUT request complete at the end of any packet, not only of a short one:
    what a stream wants, whose sender never says where it stops (Linux's cdc-acm sends no ZLP).
    It completes as many requests of one packet would, at a fraction of their cost; a UDC that
    cannot see the end of the host's transfer cuts such a request to one maxpacket.
    """

    # Class-level values stand until something is set; requests are made and reused on hot paths.
    actual: int = 0
    queued: bool = False
    done: bool = False
    error: TransferError | None = None

    def __init__(
        self,
        data: SGList | Buffer,
        *,
        zero: bool = False,
        partial: bool = False,
        on_complete: Callable[[Request], None] | None = None,
    ) -> None:
        self.sg = data if isinstance(data, SGList) else SGList(data)
        self.length = self.sg.length
        self.zero = zero
        self.partial = partial
        self.on_complete = on_complete

    def begin(self, role: str) -> None:
        """Called by whoever takes it on, for an endpoint of this role: it is queued.

        Raises LocalProtocolError where it is queued already.
        """
        if self.queued:
            raise LocalProtocolError(f"{role}: {self!r} is queued already")
        self.queued, self.done, self.actual, self.error = True, False, 0, None

    def complete(self, error: TransferError | None = None) -> None:
        """Called once by the UDC for each time it was queued. Runs ``on_complete``."""
        self.error = error
        self.queued = False
        self.done = True
        if self.on_complete is not None:
            self.on_complete(self)

    def __repr__(self) -> str:
        state = "queued" if self.queued else type(self.error).__name__ if self.error else "idle"
        return f"<Request {self.actual}/{self.length} {state}>"


class Endpoint(ABC):
    """One endpoint of a live configuration, as its function sees it.

    ``address`` is bEndpointAddress, ``max_packet_size`` is in bytes, ``interface`` is the
    bInterfaceNumber that it belongs to; all as the UDC chose them. ``bytes_per_interval`` is what
    a periodic endpoint may move in one service interval, in bytes, and 0 for a bulk one.

    A request on an isochronous endpoint is the data of one service interval, no more than
    ``bytes_per_interval`` (the kernel's UDCs say the same); it has no ZLP and no halt.
    """

    role: str
    direction: Direction
    transfer_type: TransferType
    address: int
    max_packet_size: int
    bytes_per_interval: int = 0
    interface: int

    @abstractmethod
    def queue(self, request: Request) -> Request:
        """Queue a request behind those already queued, and return it at once.

        It completes when the host has moved its bytes, or at once with EndpointDisabled where
        the configuration is over; ``on_complete`` never runs before this call returns, but for
        that. On a halted endpoint it waits for the host to clear the halt. Raises
        LocalProtocolError for a request that is queued already.
        """

    @abstractmethod
    def withdraw(self, request: Request) -> None:
        """Take a request back: it completes with RequestWithdrawn. A done one is left alone."""

    @abstractmethod
    def halt(self) -> None:
        """Answer the host with STALL until it sends CLEAR_FEATURE(ENDPOINT_HALT).

        Raises LocalProtocolError while IN requests are queued (the kernel: -EAGAIN).
        """

    def wedge(self) -> None:
        """Halt it so that the host's CLEAR_FEATURE does not help, until `halt` makes it a halt.

        The kernel's usb_ep_set_wedge; raises as `halt`. FunctionFS has no such call: there it is
        halted again and again, and the host may see the endpoint NAK for an instant. A controller
        that can do neither halts.
        """
        self.halt()

    async def submit(self, data: Request | SGList | Buffer, *, zero: bool = False) -> int:
        """Queue a request and wait until the host has taken or filled it; bytes moved.

        Raises EndpointDisabled if the configuration ended first and Overflow if the host sent
        too much; the buffers may then hold partial data. A cancelled wait withdraws the request.
        """
        request = data if isinstance(data, Request) else Request(data, zero=zero)
        finished = anyio.Event()

        def wake(_request: Request) -> None:
            finished.set()
            self.task_woken()

        request.on_complete = wake
        self.queue(request)
        try:
            await finished.wait()
        except BaseException:
            self.withdraw(request)
            raise
        if request.error is not None:
            raise request.error
        return request.actual

    def task_woken(self) -> None:  # noqa: B027 - a controller that need not know leaves it empty
        """Say that a completion has made a task ready, so that it soon gets its turn.

        `submit` does so by itself; a function that wakes tasks from ``on_complete`` should.
        """

    def round_up(self, length: int) -> int:
        """``length`` bytes rounded up to whole packets: the size an OUT request should have."""
        return -(-length // self.max_packet_size) * self.max_packet_size


@dataclass(slots=True)
class ControlRequest:
    """A class or vendor request on ep0, with what the host sent in its OUT data stage.

    ``interface`` and ``endpoint`` are the role that wIndex names, where it names one.
    """

    setup: SetupPacket
    data: bytes = b""
    interface: str | None = None
    endpoint: str | None = None


class Function(ABC):
    """What a device does. Written once; runs on every UDC.

    ``interfaces`` describes it by role. A Function belongs to one gadget at a time.

    ``plain_interfaces`` describes the same function without class-specific descriptors, where
    its host driver copes with that: for a controller that cannot send them (FunctionFS takes no
    CS_INTERFACE descriptor). The roles of its endpoints are the same. None where there is no
    such form.

    ``device_requests`` says that it answers vendor requests to the device as a whole, beside
    those to its interfaces and endpoints: FunctionFS brings them only to functions that ask.
    """

    name: ClassVar[str]
    device_requests: ClassVar[bool] = False
    interfaces: Sequence[InterfaceSpec]
    plain_interfaces: Sequence[InterfaceSpec] | None = None

    def selected(self) -> None:  # noqa: B027 - a function without such state leaves it empty
        """The host has selected it anew, and has asked nothing yet: forget what the last one set.

        `run` follows soon, but a host's next request may be quicker.
        """

    @abstractmethod
    async def run(self, endpoints: Mapping[str, Endpoint]) -> None:
        """Live exactly as long as the configuration and its alternate settings.

        Started when the host selects them, with the endpoints by role, and cancelled when it
        deselects them, resets the bus or goes away; every queued request then completes with
        EndpointDisabled. Returning leaves the endpoints answering NAK. Raising SoftDisconnect
        takes the device off the bus for a while, whereupon a host may begin anew. Raising
        anything else is a crash of the firmware: the device disconnects for good.
        """

    def setup(self, request: ControlRequest) -> Buffer | None:  # noqa: ARG002 - for overriders
        """Answer a class or vendor request, without waiting.

        One standard request comes here too: GET_DESCRIPTOR with the interface as its recipient
        (bmRequestType 0x81), as hosts ask for the report descriptor of a HID interface.

        Return the bytes of the IN data stage (cut to wLength for you), or b"" to acknowledge
        an OUT request. None stalls, so what is not handled is refused.
        """
        return None

    def refuses(self, setup: SetupPacket) -> bool:  # noqa: ARG002 - for overriders
        """Whether an OUT request is refused whatever its data are, so that none are taken.

        For a controller that acknowledges data as it takes them, as FunctionFS does: by the time
        of `setup` it is too late there. Where this says yes, `setup` returns None as well.
        """
        return False


class UDC(ABC):
    """A USB device controller that carries one gadget."""

    name: str

    @abstractmethod
    def unplug(self) -> None:
        """Disconnect from the host. Every request completes with EndpointDisabled."""
