"""One suite for every UDC: rows of requests against transfers, in maxpackets.

A row says what the device queues and what the host asks, one step after the other, and what each
of them sees. It knows of no controller and of no backend of pyusb: `Bench` is one with a host at
its cable. The kernel's usbip-vudc and dummy_hcd are the referee for the userspace UDC; where one
of them differs, the row says what it gives, and why. The life of a function is in
udc_lifecycle.py.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.udc_bench import Bench
from usbip_vudc.errors import Overflow, RequestWithdrawn, TransferError
from usbip_vudc.function import Request
from usbip_vudc.sglist import SGList

# --- the language of rows ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Size:
    """A number of bytes: whole packets, and a few bytes more or less."""

    packets: int
    delta: int = 0

    def __rmul__(self, factor: int) -> Size:
        return Size(factor * self.packets, factor * self.delta)

    def __add__(self, delta: int) -> Size:
        return Size(self.packets, self.delta + delta)

    def __sub__(self, delta: int) -> Size:
        return Size(self.packets, self.delta - delta)


M: Final = Size(1)
"""One maxpacket: 64, 512 or 1024 bytes at full, high and super speed. Deltas stay below 64."""

Length = Size | int


def bytes_of(length: Length, max_packet_size: int) -> int:
    if isinstance(length, int):
        return length
    return length.packets * max_packet_size + length.delta


@dataclass(frozen=True, slots=True)
class Queue:
    """The device queues a request on the endpoint of this role, of these segments."""

    role: str
    segments: tuple[Length, ...]
    zero: bool = False
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Withdraw:
    """The device takes its n-th request back, and sees how it ended."""

    request: int


@dataclass(frozen=True, slots=True)
class Halt:
    """The device halts an endpoint."""

    role: str


@dataclass(frozen=True, slots=True)
class Transfer:
    """The host reads into that much room, or writes that much."""

    role: str
    length: Length
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class Feature:
    """The host sets or clears ENDPOINT_HALT."""

    role: str
    halt: bool


Step = Queue | Withdraw | Halt | Transfer | Feature


def give(*segments: Length, zero: bool = False) -> Queue:
    return Queue("in", segments, zero=zero)


def take(*segments: Length, partial: bool = False) -> Queue:
    return Queue("out", segments, partial=partial)


PATIENCE_MS: Final = 20_000
"""Only a failure takes that long."""

TIMEOUT_MS: Final = 400
"""For transfers that NAK must hold up, or that a device under emulation would else not reach."""


def read(room: Length, *, timeout_ms: int = PATIENCE_MS) -> Transfer:
    return Transfer("in", room, timeout_ms)


def write(length: Length, *, timeout_ms: int = PATIENCE_MS) -> Transfer:
    return Transfer("out", length, timeout_ms)


@dataclass(frozen=True, slots=True)
class Failed:
    """An end with an errno (a transfer) or a TransferError (a request), ``moved`` bytes before."""

    why: int | type[TransferError]
    moved: Length = 0


WAITING: Final = "waiting"
"""A request that nobody has taken when the row is over."""

Outcome = Length | Failed | str


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of each request and of each transfer, in order.

    ``lost`` says that bytes which one side moved never came to the other.
    """

    requests: tuple[Outcome, ...]
    transfers: tuple[Outcome, ...]
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """Steps, and what is seen; ``differs`` by a trait of the bench (`Bench.traits`)."""

    name: str
    steps: tuple[Step, ...]
    seen: Seen
    differs: Mapping[str, Seen] = field(default_factory=dict)

    def seen_on(self, traits: frozenset[str]) -> Seen:
        return next((seen for trait, seen in self.differs.items() if trait in traits), self.seen)


def shown(outcome: Outcome, max_packet_size: int) -> int | str:
    """An outcome as a number of bytes, or as words."""
    if isinstance(outcome, str):
        return outcome
    if not isinstance(outcome, Failed):
        return bytes_of(outcome, max_packet_size)
    why = outcome.why
    name = errno.errorcode[why] if isinstance(why, int) else why.__name__
    moved = bytes_of(outcome.moved, max_packet_size)
    return f"{name} after {moved}" if moved else name


# --- the rows ----------------------------------------------------------------------------------

EPIPE, EOVERFLOW, ETIMEDOUT = (
    Failed(number) for number in (errno.EPIPE, errno.EOVERFLOW, errno.ETIMEDOUT)
)
WITHDRAWN: Final = Failed(RequestWithdrawn)

TEN_ROWS: Final = (
    Row(
        "SG OUT, short",
        (take(1, M - 1, 3, M + 25, M - 28), write(2 * M - 24)),
        Seen((2 * M - 24,), (2 * M - 24,)),
    ),
    Row(
        "OUT full and ZLP",
        (take(3 * M), write(2 * M), write(0)),
        Seen((2 * M,), (2 * M, 0)),
    ),
    Row(
        "SG IN, short",
        (give(1, M - 1, 3, M + 25), read(4 * M)),
        Seen((2 * M + 28,), (2 * M + 28,)),
    ),
    Row(
        "IN and ZLP",
        (give(M), give(), read(4 * M)),
        Seen((M, 0), (M,)),
    ),
    Row(
        "two requests, one URB",
        (give(M), give(M - 12), read(4 * M)),
        Seen((M, M - 12), (2 * M - 12,)),
    ),
    Row(
        "short splits",
        (give(20), give(M - 20), read(M), read(M)),
        Seen((20, M - 20), (20, M - 20)),
    ),
    Row(
        "halt then CSW",
        (Halt("in"), give(13), read(13), Feature("in", halt=False), read(13)),
        Seen((13,), (EPIPE, 13)),
    ),
    Row(
        "request spans URBs",
        (give(2 * M), read(M), read(M)),
        Seen((2 * M,), (M, M)),
    ),
    Row(
        "request larger than URB",
        (give(M + 25), read(M), read(M)),
        Seen((M + 25,), (M, 25)),
    ),
    Row(
        "babble",
        (give(M - 12), read(M - 40)),
        Seen((M - 40,), (EOVERFLOW,), lost=True),
    ),
)
"""The ten rows that the project's model of the bus was made from."""

OTHER_ROWS: Final = (
    # ZLPs
    Row(
        "zero ends a URB that has more room",
        (give(M, M, zero=True), read(4 * M)),
        Seen((2 * M,), (2 * M,)),
    ),
    Row(
        "zero makes a URB of its own where the first is full",
        (give(M, zero=True), read(M), read(M)),
        Seen((M,), (M, 0)),
    ),
    Row(
        "zero adds nothing to a short packet",
        (give(M + 25, zero=True), give(M - 1), read(4 * M), read(4 * M)),
        Seen((M + 25, M - 1), (M + 25, M - 1)),
    ),
    Row(
        "a ZLP alone, both ways",
        (take(M), give(), write(0), read(M)),
        Seen((0, 0), (0, 0)),
    ),
    # whole packets
    Row(
        "OUT that fills its request needs no ZLP",
        (take(M, M), write(2 * M)),
        Seen((2 * M,), (2 * M,)),
    ),
    Row(
        "OUT request spans URBs",
        (take(3 * M), write(M), write(M), write(M)),
        Seen((3 * M,), (M, M, M)),
    ),
    Row(
        "OUT URB spans requests",
        (take(M), take(1, M - 1), take(M), write(2 * M + 25)),
        Seen((M, M, 25), (2 * M + 25,)),
    ),
    Row(
        "several IN requests in flight keep their order",
        tuple(give(M - n, 2 * n) for n in range(1, 9)) + (read(4 * M),) * 8,
        Seen(tuple(M + n for n in range(1, 9)), tuple(M + n for n in range(1, 9))),
    ),
    Row(
        "several OUT requests in flight keep their order",
        (take(2 * M),) * 8 + tuple(write(M + n) for n in range(1, 9)),
        Seen(tuple(M + n for n in range(1, 9)), tuple(M + n for n in range(1, 9))),
    ),
    Row(
        "a stream: partial requests end with any packet",
        (take(4 * M, partial=True), take(4 * M, partial=True), write(2 * M)),
        Seen((2 * M, WAITING), (2 * M,)),
        # FunctionFS does not tell where the host's transfer ends, so a partial request there is
        # one of a single packet (drivers/usb/gadget/function/f_fs.c has usb_ep_queue alone).
        {"FunctionFS": Seen((M, M), (2 * M,))},
    ),
    # too much
    Row(
        "OUT request too small for a packet",
        (take(M - 28), write(M)),
        # The host is told what fitted, with status 0.
        Seen((Failed(Overflow, M - 28),), (M - 28,), lost=False),
        # ffs_user_copy_worker() gives req->status or req->actual, never both.
        {"FunctionFS": Seen((Failed(Overflow),), (M - 28,), lost=True)},
    ),
    Row(
        "OUT request ends inside a packet",
        (take(M + 25), write(2 * M)),
        Seen((Failed(Overflow, M + 25),), (M + 25,), lost=False),
        {"FunctionFS": Seen((Failed(Overflow),), (M + 25,), lost=True)},
    ),
    # halts
    Row(
        "a halted OUT endpoint keeps its request",
        (Halt("out"), take(M), write(M), Feature("out", halt=False), write(M - 1)),
        Seen((M - 1,), (EPIPE, M - 1)),
    ),
    Row(
        "the host may halt an endpoint whose request waits",
        (give(M + 25), Feature("in", halt=True), read(4 * M), read(4 * M),
         Feature("in", halt=False), read(4 * M)),
        Seen((M + 25,), (EPIPE, EPIPE, M + 25)),
    ),
    Row(
        "clearing a halt that is none harms nothing",
        (give(M - 1), take(M), Feature("in", halt=False), Feature("out", halt=False),
         write(M - 2), read(M)),
        Seen((M - 1, M - 2), (M - 2, M - 1)),
    ),
    # taking back: the device
    Row(
        "a withdrawn IN request sends nothing",
        (give(M + 25), give(2 * M - 1), Withdraw(0), read(4 * M)),
        Seen((WITHDRAWN, 2 * M - 1), (2 * M - 1,)),
    ),
    Row(
        "a withdrawn OUT request takes nothing",
        (take(M), take(2 * M), Withdraw(0), write(M + 25)),
        Seen((WITHDRAWN, M + 25), (M + 25,)),
    ),
    Row(
        "an endpoint works after its last request was withdrawn",
        (give(M + 25), take(M), Withdraw(0), Withdraw(1), take(M), give(M - 1), write(M), read(M)),
        Seen((WITHDRAWN, WITHDRAWN, M, M - 1), (M, M - 1)),
    ),
    Row(
        "a small IN request waits for the host",
        (give(13), Withdraw(0), read(M, timeout_ms=TIMEOUT_MS)),
        Seen((WITHDRAWN,), (ETIMEDOUT,)),
        # dummy_queue() puts an IN request of at most 64 bytes into a FIFO where it is the only
        # one, and completes it at once (drivers/usb/gadget/udc/dummy_hcd.c, FIFO_SIZE).
        {"dummy_udc": Seen((13,), (13,))},
    ),
    # taking back: the host
    Row(
        "an IN URB that timed out takes nothing from the next",
        (read(2 * M, timeout_ms=TIMEOUT_MS), give(M + 25), give(M - 1), read(2 * M), read(2 * M)),
        Seen((M + 25, M - 1), (ETIMEDOUT, M + 25, M - 1)),
    ),
    Row(
        "an OUT URB that timed out is not delivered",
        (write(M, timeout_ms=TIMEOUT_MS), take(2 * M), write(M - 1)),
        Seen((M - 1,), (ETIMEDOUT, M - 1)),
    ),
    Row(
        "whole packets and no ZLP: the URB waits for more",
        (give(M), read(2 * M, timeout_ms=TIMEOUT_MS), give(M + 25), read(2 * M)),
        # The bytes left the device with a URB that was then unlinked, and RET_UNLINK carries none
        # (drivers/usb/usbip/vudc_tx.c).
        Seen((M, M + 25), (ETIMEDOUT, M + 25), lost=True),
        # dummy_hcd writes into the host's own memory: the URB comes back with what it had.
        {"dummy_udc": Seen((M, M + 25), (M, M + 25))},
    ),
)  # fmt: skip

ROWS: Final = TEN_ROWS + OTHER_ROWS


# --- playing a row -----------------------------------------------------------------------------


def play(bench: Bench, row: Row) -> None:
    """Do the steps of a row on a bench, and hold what was seen against it."""
    with bench.ready():
        expected = row.seen_on(bench.traits)
        stage = _Stage(bench)
        for step in row.steps:
            stage.do(step)
        seen = stage.seen(expected)
        size = bench.max_packet_size
        assert seen == (
            [shown(outcome, size) for outcome in expected.requests],
            [shown(outcome, size) for outcome in expected.transfers],
        )
        if not expected.lost:
            assert bytes(stage.read) == bytes(stage.given)
            assert bytes(stage.taken) == bytes(stage.written)
        stage.clear()


class _Stage:
    """One row in progress: the data of either direction are one endless pattern."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._requests: list[tuple[Queue, Request]] = []
        self._transfers: list[Outcome] = []
        self._position = 0
        self.given = bytearray()
        self.taken = bytearray()
        self.written = bytearray()
        self.read = bytearray()

    def do(self, step: Step) -> None:
        bench = self._bench
        match step:
            case Queue():
                self._requests.append((step, self._queue(step)))
            case Withdraw(number):
                _, request = self._requests[number]
                bench.withdraw(request)
            case Halt(role):
                bench.call(bench.device.endpoints[role].halt)
            case Feature(role, halt):
                bench.set_halt(role, halt=halt)
            case Transfer():
                self._transfers.append(self._transfer(step))

    def _data(self, length: int) -> bytes:
        start, self._position = self._position, self._position + length
        return bytes(position % 251 for position in range(start, start + length))

    def _lengths(self, step: Queue) -> list[int]:
        return [bytes_of(length, self._bench.max_packet_size) for length in step.segments]

    def _queue(self, step: Queue) -> Request:
        lengths = self._lengths(step)
        is_in = step.role == "in"
        data: bytes | bytearray = self._data(sum(lengths)) if is_in else bytearray(sum(lengths))
        request = Request(
            SGList.laid_out(data, tuple(lengths)), zero=step.zero, partial=step.partial
        )
        self._bench.queue(step.role, request)
        return request

    def _transfer(self, step: Transfer) -> Outcome:
        length = bytes_of(step.length, self._bench.max_packet_size)
        if step.role == "in":
            result: Any = self._bench.read(length, step.timeout_ms)
            if isinstance(result, int):
                return Failed(result)
            self.read += result
            return len(result)
        data = self._data(length)
        moved, number = self._bench.write(data, step.timeout_ms)
        if number:
            return Failed(number)
        self.written += data[:moved]
        return moved

    def seen(self, expected: Seen) -> tuple[list[int | str], list[int | str]]:
        """What became of everything, once all requests are done that should be."""
        requests: list[Outcome] = []
        for (step, request), outcome in zip(self._requests, expected.requests, strict=True):
            if outcome != WAITING:
                self._bench.wait_done(request)
            requests.append(self._outcome(step, request))
        size = self._bench.max_packet_size
        return [shown(o, size) for o in requests], [shown(o, size) for o in self._transfers]

    def _outcome(self, step: Queue, request: Request) -> Outcome:
        if not request.done:
            return WAITING
        if not isinstance(request.error, RequestWithdrawn):
            data = request.sg.gather()[: request.actual]
            if step.role == "in":
                self.given += data
            else:
                self.taken += data
        if request.error is not None:
            return Failed(type(request.error), request.actual)
        return request.actual

    def clear(self) -> None:
        """Leave nothing on the bench for the next row."""
        for _, request in self._requests:
            if not request.done:
                self._bench.withdraw(request)
