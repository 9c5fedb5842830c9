"""A row of the conformance suite: steps of device and host in turn, and what each of them sees.

Lengths are in maxpackets, so a row holds at every speed. The rows are in udc_conformance.py.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from tests.udc_bench import Bench
from usbip_vudc.errors import TransferError
from usbip_vudc.function import Request
from usbip_vudc.sglist import SGList

# --- the language ------------------------------------------------------------------------------


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
    """The host reads into that much room, or writes that much.

    ``during`` are requests that the device queues while the host waits for the end of it.
    """

    role: str
    length: Length
    timeout_ms: int
    zero: bool = False
    during: tuple[Queue, ...] = ()


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


def read(
    room: Length, *, timeout_ms: int = PATIENCE_MS, during: tuple[Queue, ...] = ()
) -> Transfer:
    return Transfer("in", room, timeout_ms, during=during)


def write(
    length: Length,
    *,
    timeout_ms: int = PATIENCE_MS,
    zero: bool = False,
    during: tuple[Queue, ...] = (),
) -> Transfer:
    return Transfer("out", length, timeout_ms, zero, during)


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
    """Steps, and what is seen; ``differs`` by a trait of the bench (`Bench.traits`).

    ``needs`` is a trait without which the steps cannot be done.
    """

    name: str
    steps: tuple[Step, ...]
    seen: Seen
    differs: Mapping[str, Seen] = field(default_factory=dict)
    needs: str | None = None

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


# --- playing a row -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Played:
    """What became of steps, in bytes and words, and the bytes at each side of each direction."""

    requests: tuple[int | str, ...]
    transfers: tuple[int | str, ...]
    given: bytes
    read: bytes
    taken: bytes
    written: bytes


def perform(bench: Bench, steps: Sequence[Step], waiting: Collection[int] = ()) -> Played:
    """Do steps on a bench that is `ready`; it is left with nothing queued.

    Requests of the numbers ``waiting`` are not waited for.
    """
    stage = _Stage(bench)
    for step in steps:
        stage.do(step)
    played = stage.played(waiting)
    stage.clear()
    return played


def assert_played(bench: Bench, steps: Sequence[Step], expected: Played, text: str) -> None:
    """Hold what comes of steps on a bench against all of ``expected``; ``text`` is their source."""
    waiting = [n for n, outcome in enumerate(expected.requests) if outcome == WAITING]
    try:
        with bench.ready():
            seen = perform(bench, steps, waiting)
            assert (seen.requests, seen.transfers) == (expected.requests, expected.transfers)
            assert seen == expected
    except Exception as error:
        error.add_note(text)
        raise


def play(bench: Bench, row: Row) -> None:
    """Do the steps of a row on a bench, and hold what was seen against it."""
    if row.needs is not None and row.needs not in bench.traits:
        return
    with bench.ready():
        expected = row.seen_on(bench.traits)
        waiting = [n for n, outcome in enumerate(expected.requests) if outcome == WAITING]
        seen = perform(bench, row.steps, waiting)
        size = bench.max_packet_size
        assert (list(seen.requests), list(seen.transfers)) == (
            [shown(outcome, size) for outcome in expected.requests],
            [shown(outcome, size) for outcome in expected.transfers],
        )
        if not expected.lost:
            assert seen.read == seen.given
            assert seen.taken == seen.written


def play_all(bench: Bench, rows: Sequence[Row]) -> None:
    """Play rows one after the other, and then raise what failed."""
    failures: list[Exception] = []
    for row in rows:
        try:
            play(bench, row)
        except Exception as error:
            error.add_note(f"row: {row.name}")
            failures.append(error)
    if failures:
        raise ExceptionGroup(f"{len(failures)} of {len(rows)} rows", failures)


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
                self._wait_for_in(role)
                bench.call(bench.device.endpoints[role].halt)
            case Feature(role, halt):
                bench.set_halt(role, halt=halt)
            case Transfer():
                self._transfers.append(self._under_way(step))

    def _wait_for_in(self, role: str) -> None:
        """An IN endpoint halts with nothing queued: the device may hear of an end later."""
        for step, request in self._requests:
            if step.role == role == "in":
                self._bench.wait_done(request)

    def _under_way(self, step: Transfer) -> Outcome:
        length = bytes_of(step.length, self._bench.max_packet_size)
        data = self._data(length) if step.role == "out" else b""
        if not step.during:
            return self._transfer(step, length, data)
        with ThreadPoolExecutor(1) as host:
            outcome = host.submit(self._transfer, step, length, data)
            for queue in step.during:
                self.do(queue)
            return outcome.result()

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

    def _transfer(self, step: Transfer, length: int, data: bytes) -> Outcome:
        if step.role == "in":
            result: Any = self._bench.read(length, step.timeout_ms)
            if isinstance(result, int):
                return Failed(result)
            self.read += result
            return len(result)
        moved, number = self._bench.write(data, step.timeout_ms, zero=step.zero)
        if number:
            return Failed(number)
        self.written += data[:moved]
        return moved

    def played(self, waiting: Collection[int]) -> Played:
        """What became of everything, once all requests are done that should be."""
        requests: list[Outcome] = []
        for number, (step, request) in enumerate(self._requests):
            if number not in waiting:
                self._bench.wait_done(request)
            requests.append(self._outcome(step, request))
        size = self._bench.max_packet_size
        return Played(
            tuple(shown(outcome, size) for outcome in requests),
            tuple(shown(outcome, size) for outcome in self._transfers),
            bytes(self.given),
            bytes(self.read),
            bytes(self.taken),
            bytes(self.written),
        )

    def _outcome(self, step: Queue, request: Request) -> Outcome:
        if not request.done:
            return WAITING
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
