"""A second, naive model of the bus: one packet at a time, no shortcuts. The differential oracle.

It shares no code with the project. `Wire` is one endpoint; `predict` plays the steps of a row
(udc_row.py) on two of them. Where a kernel is known to differ, it does as that kernel (`QUIRKS`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.udc_row import (
    WAITING,
    Feature,
    Halt,
    Played,
    Queue,
    Step,
    Transfer,
    Withdraw,
    bytes_of,
)

# --- one endpoint ------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class Load:
    """A request or a URB: ``data`` to send, or ``length`` bytes of room that ``data`` fills."""

    length: int
    data: bytearray = field(default_factory=bytearray)
    zero: bool = False
    partial: bool = False
    moved: int = 0
    end: str | None = None


DONE: Final = "done"


@dataclass(eq=False, slots=True)
class Wire:
    """One endpoint of packets of ``packet`` bytes, with what is queued at either end."""

    is_in: bool
    packet: int
    requests: list[Load] = field(default_factory=list)
    urbs: list[Load] = field(default_factory=list)
    halted: bool = False

    def queue(self, request: Load) -> None:
        self.requests.append(request)
        self.run()

    def submit(self, urb: Load) -> None:
        self.urbs.append(urb)
        if self.halted:
            self.halt()
        self.run()

    def take_back(self, load: Load, why: str) -> None:
        """Unlink a URB, or withdraw a request: nothing happens to one that has ended."""
        load.end = load.end or why
        self.forget()

    def halt(self) -> None:
        self.halted = True
        for urb in self.urbs:
            urb.end = "EPIPE"
        self.forget()

    def clear(self) -> None:
        self.halted = False
        self.run()

    def forget(self) -> None:
        self.urbs = [urb for urb in self.urbs if urb.end is None]
        self.requests = [request for request in self.requests if request.end is None]

    def run(self) -> None:
        while self.urbs and self.requests and not self.halted:
            ends = self.requests[0], self.urbs[0]
            sender, taker = ends if self.is_in else reversed(ends)
            self.one_packet(sender, taker)
            self.forget()

    def one_packet(self, sender: Load, taker: Load) -> None:
        packet = sender.data[sender.moved : min(sender.moved + self.packet, sender.length)]
        fits = packet[: taker.length - taker.moved]
        taker.data += fits
        sender.moved += len(fits)
        taker.moved += len(fits)
        if len(fits) < len(packet):
            sender.end, taker.end = DONE, "too much"
        elif len(packet) < self.packet:
            sender.end = taker.end = DONE
        else:
            sent = sender.moved == sender.length
            if sent and not sender.zero:
                sender.end = DONE
            if taker.moved == taker.length or (sent and taker.partial):
                taker.end = DONE


# --- where a kernel is known to differ ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Quirk:
    """What benches of a trait do otherwise than the bus, where in Linux that is, and what."""

    trait: str
    source: str
    what: str


FIFO: Final = Quirk(
    "dummy_udc",
    "drivers/usb/gadget/udc/dummy_hcd.c, dummy_queue()",
    "an IN request of at most 64 bytes that finds its endpoint's queue empty completes at once, "
    "and cannot be taken back",
)
LATE_BYTES: Final = Quirk(
    "dummy_udc",
    "drivers/usb/gadget/udc/dummy_hcd.c, dummy_perform_transfer()",
    "packets land in the URB's own memory: one that timed out comes back with what it had",
)
NO_BYTES_WITH_STATUS: Final = Quirk(
    "FunctionFS",
    "drivers/usb/gadget/function/f_fs.c, ffs_user_copy_worker()",
    "a request that failed says no number of bytes, and what came with it is lost",
)
ONE_PACKET: Final = Quirk(
    "FunctionFS",
    "drivers/usb/gadget/function/f_fs.c, ffs_epfile_io()",
    "the end of the host's transfer cannot be seen: a partial request is one of one packet",
)
ZLP_APART: Final = Quirk(
    "FunctionFS",
    "drivers/usb/gadget/function/f_fs.c, ffs_epfile_io()",
    "usb_request's zero cannot be set: the ZLP is a request of its own, which comes even where "
    "the data before it was babble",
)
QUIRKS: Final = (FIFO, LATE_BYTES, NO_BYTES_WITH_STATUS, ONE_PACKET, ZLP_APART)

FIFO_SIZE: Final = 64


def quirks_of(traits: frozenset[str]) -> frozenset[Quirk]:
    """Those of a bench with these traits (`Bench.traits`)."""
    return frozenset(quirk for quirk in QUIRKS if quirk.trait in traits)


# --- a row -------------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class Asked:
    """A request of the device: it is over when all its ``loads`` are. ``early`` says at once."""

    role: str
    loads: list[Load]
    early: bool = False

    def outcome(self, quirks: frozenset[Quirk]) -> tuple[int | str, bytes]:
        """What the device is told, and the bytes that this says have moved."""
        if not self.early and any(load.end is None for load in self.loads):
            return WAITING, b""
        first = self.loads[0]
        ends = [load.end for load in self.loads if load.end not in (None, DONE)]
        moved = first.length if self.early else first.moved
        if not ends or self.early:
            return moved, bytes(first.data[:moved])
        if NO_BYTES_WITH_STATUS in quirks and first.end != DONE:
            moved = 0
        name = "Overflow" if ends[0] == "too much" else "RequestWithdrawn"
        return f"{name} after {moved}" if moved else name, bytes(first.data[:moved])


_COUNT: Final = bytes(range(251))
"""What the bytes of both directions are, over and over: as in udc_row.py."""


class Model:
    """Both endpoints of the suite's device, and what has become of each step."""

    def __init__(self, packet: int, quirks: frozenset[Quirk] = frozenset()) -> None:
        self.packet = packet
        self.quirks = quirks
        self.wires = {"in": Wire(True, packet), "out": Wire(False, packet)}
        self.asked: list[Asked] = []
        self.transfers: list[int | str] = []
        self.late: list[int] = []
        """How many bytes each URB had moved that timed out."""
        self.read = bytearray()
        self.written = bytearray()
        self._position = 0

    def do(self, step: Step) -> None:
        match step:
            case Queue():
                self._queue(step)
            case Withdraw(number):
                asked = self.asked[number]
                for load in asked.loads:
                    if not asked.early:
                        self.wires[asked.role].take_back(load, "withdrawn")
            case Halt(role) | Feature(role, True):
                self.wires[role].halt()
            case Feature(role):
                self.wires[role].clear()
            case Transfer():
                self._transfer(step)

    def _data(self, length: int) -> bytearray:
        start, self._position = self._position % len(_COUNT), self._position + length
        return bytearray((_COUNT * (2 + length // len(_COUNT)))[start : start + length])

    def _queue(self, step: Queue) -> None:
        length = sum(bytes_of(segment, self.packet) for segment in step.segments)
        wire = self.wires[step.role]
        data = self._data(length) if wire.is_in else bytearray()
        if ONE_PACKET in self.quirks and step.partial:
            length = min(length, self.packet)
        loads = [Load(length, data, step.zero, step.partial)]
        if ZLP_APART in self.quirks and step.zero:
            loads[0].zero = False
            loads += [Load(0)] if length and not length % self.packet else []
        early = FIFO in self.quirks and wire.is_in and length <= FIFO_SIZE and not wire.requests
        self.asked.append(Asked(step.role, loads, early))
        for load in loads:
            wire.queue(load)

    def _transfer(self, step: Transfer) -> None:
        wire = self.wires[step.role]
        length = bytes_of(step.length, self.packet)
        urb = Load(length, bytearray() if wire.is_in else self._data(length), step.zero)
        wire.submit(urb)
        for queue in step.during:
            self._queue(queue)
        outcome: int | str = urb.moved
        if urb.end is None:
            self.late.append(urb.moved)
            wire.take_back(urb, "ETIMEDOUT")
            if not (LATE_BYTES in self.quirks and urb.moved):
                outcome = "ETIMEDOUT"
        elif wire.is_in and urb.end == "too much":
            outcome = "EOVERFLOW"
        elif urb.end == "EPIPE":
            outcome = "EPIPE"
        if not isinstance(outcome, str):
            both = self.read if wire.is_in else self.written
            both += urb.data[: urb.moved]
        self.transfers.append(outcome)

    def played(self) -> Played:
        """As `perform` tells it."""
        told = [(asked, *asked.outcome(self.quirks)) for asked in self.asked]
        return Played(
            tuple(outcome for _, outcome, _ in told),
            tuple(self.transfers),
            b"".join(data for asked, _, data in told if asked.role == "in"),
            bytes(self.read),
            b"".join(data for asked, _, data in told if asked.role == "out"),
            bytes(self.written),
        )


def predict(steps: Sequence[Step], packet: int, quirks: Iterable[Quirk] = frozenset()) -> Played:
    """What must come of these steps with packets of that many bytes."""
    model = Model(packet, frozenset(quirks))
    for step in steps:
        model.do(step)
    return model.played()
