"""THE SEAM between what a device does (Function) and what carries it (UDC).

A Function describes its interfaces by role and talks to Endpoints by queueing Requests, as a
kernel gadget driver does with ``usb_ep_queue``. A UDC (ours in userspace, or a kernel one) gives
it the Endpoints while a configuration is selected. Nothing here knows a socket, a file or USB/IP.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, Self

import anyio
import anyio.to_thread

from usbip_vudc.errors import TransferError
from usbip_vudc.sglist import Buffer, SGList
from usbip_vudc.usb.ch9 import Direction, SetupPacket, Speed, TransferType

__all__ = (
    "UDC",
    "AltSetting",
    "Blocking",
    "ClassDescriptor",
    "ControlRequest",
    "Conversation",
    "Endpoint",
    "EndpointSpec",
    "Function",
    "InterfaceSpec",
    "Request",
    "converse",
)


# --- what a function says of itself ------------------------------------------------------------


class ClassDescriptor(Protocol):
    """A class-specific descriptor that may name other interfaces of its function."""

    def pack(self, numbers: Mapping[str, int]) -> bytes:
        """The bytes, given bInterfaceNumber of each interface role of the function."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSpec:
    """An endpoint by role. The UDC picks the address; the speed picks what is not given here.

    ``interval_ms`` is the polling period of an interrupt or isochronous endpoint, in ms.
    ``max_packet_size`` in bytes, by speed, where it differs from the speed's own default.
    ``max_burst`` is bMaxBurst at SuperSpeed: packets in a burst less one.
    """

    role: str
    direction: Direction
    transfer_type: TransferType
    interval_ms: float = 0
    max_packet_size: Mapping[Speed, int] = field(default_factory=dict)
    max_burst: int = 0

    @classmethod
    def bulk_in(cls, role: str) -> Self:
        """A bulk endpoint to the host."""
        return cls(role=role, direction=Direction.IN, transfer_type=TransferType.BULK)

    @classmethod
    def bulk_out(cls, role: str) -> Self:
        """A bulk endpoint from the host."""
        return cls(role=role, direction=Direction.OUT, transfer_type=TransferType.BULK)


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
    bInterfaceNumber that it belongs to; all as the UDC chose them.
    """

    role: str
    direction: Direction
    transfer_type: TransferType
    address: int
    max_packet_size: int
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
    """

    name: ClassVar[str]
    interfaces: Sequence[InterfaceSpec]
    plain_interfaces: Sequence[InterfaceSpec] | None = None

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

        Return the bytes of the IN data stage (cut to wLength for you), or b"" to acknowledge
        an OUT request. None stalls, so what is not handled is refused.
        """
        return None


class UDC(ABC):
    """A USB device controller that carries one gadget."""

    name: str

    @abstractmethod
    def unplug(self) -> None:
        """Disconnect from the host. Every request completes with EndpointDisabled."""


# --- conversations: functions that only wait for requests --------------------------------------


@dataclass(slots=True)
class Blocking:
    """Yielded by a conversation: run ``work`` in a thread (fsync, say) and send its result."""

    work: Callable[[], object]


Conversation = Generator["Request | Blocking", object, None]
"""A generator that yields what it waits for: a queued Request, or Blocking work.

It is resumed with the Request (look at ``actual``), or the TransferError is raised in it.
"""


async def converse(conversation: Conversation) -> None:
    """Drive a conversation to its end, each step run by the completion that it waited for.

    A step costs no task switch, which is what makes one command of a disk cheap (an anyio task
    that waits on an Event pays about 10 us for every wake). On cancellation the generator is
    closed; it withdraws nothing itself, since the UDC has then disabled its endpoints.
    """
    driver = _Driver(conversation)
    try:
        driver.resume(None)
        while True:
            await driver.attention.wait()
            driver.attention = anyio.Event()
            if driver.ended:
                break
            await driver.run_blocking()
    finally:
        driver.close()
    if driver.failure is not None:
        raise driver.failure


class _Driver:
    """Steps one conversation; wakes its `converse` task only to end or to do blocking work."""

    __slots__ = ("_conversation", "attention", "blocking", "ended", "failure")

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self.attention = anyio.Event()
        self.blocking: Blocking | None = None
        self.ended = False
        self.failure: BaseException | None = None

    def resume(self, request: Request | None) -> None:
        """Run the generator until it waits for something that is not done yet."""
        if self.ended:
            return
        if request is None:
            self._step(None, None)
        else:
            request.on_complete = None
            self._step(request, request.error)

    def _step(self, outcome: object, error: BaseException | None) -> None:
        while True:
            try:
                if error is None:
                    waiting = self._conversation.send(outcome)
                else:
                    waiting = self._conversation.throw(error)
            except StopIteration:
                return self._end(None)
            except BaseException as failure:
                return self._end(failure)
            if isinstance(waiting, Blocking):
                self.blocking = waiting
                self.attention.set()
                return None
            if not waiting.done:
                waiting.on_complete = self.resume
                return None
            outcome, error = waiting, waiting.error

    async def run_blocking(self) -> None:
        """Do the work that the conversation waits for, off the event loop, and resume it."""
        blocking, self.blocking = self.blocking, None
        if blocking is None:
            return
        outcome: object = None
        error: BaseException | None = None
        try:
            outcome = await anyio.to_thread.run_sync(blocking.work)
        except OSError as failure:
            error = failure
        self._step(outcome, error)

    def _end(self, failure: BaseException | None) -> None:
        self.ended = True
        self.failure = failure
        self.attention.set()

    def close(self) -> None:
        self.ended = True
        self._conversation.close()
