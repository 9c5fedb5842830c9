"""Random rows for every UDC: made of a seed, for one maxpacket. Pure; the same seed, the same row.

A row prints as text that pastes back into a test. It never depends on a race: a transfer that
nothing will end is one with a short timeout, and what could go either way on a kernel is left out.
What that is, and why, stands at `_Dice`.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, replace
from typing import Final

from tests.udc_model import FIFO_SIZE, QUIRKS, Load, Model, Quirk
from tests.udc_row import (
    PATIENCE_MS,
    TIMEOUT_MS,
    Feature,
    Halt,
    Length,
    Queue,
    Size,
    Step,
    Transfer,
    Withdraw,
    bytes_of,
)

__all__ = ("RandomRow", "random_row")

NOTHING_MS: Final = 30
"""For a transfer that finds no request: it cannot take anything, however early it is unlinked."""

_STEPS: Final = range(5, 12)
_MOST_REQUESTS: Final = 4
_NOTHING_IN: Final = 4
"""One in so many rows may have a transfer that finds no request."""

_LATE_BYTES_IN: Final = 3
"""One in so many rows may have a transfer that moves bytes and then times out: it takes longer."""


@dataclass(frozen=True, slots=True)
class RandomRow:
    """Steps for packets of ``packet`` bytes; ``call`` makes them again."""

    call: str
    packet: int
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        lines = "".join(f"    {_source(step)},\n" for step in self.steps)
        return f"# {self.call}\n(\n{lines})"


def random_row(
    seed: int, packet: int, *, zero_packets: bool = False, late_bytes: bool = True
) -> RandomRow:
    """The row of this seed.

    With ``zero_packets`` the host may use URB_ZERO_PACKET, which only our own can. Without
    ``late_bytes`` no transfer times out that has moved something: that saves time.
    """
    for attempt in itertools.count():
        rng = random.Random(f"{seed}/{attempt}")
        dice = _Dice(rng, packet, zero_packets=zero_packets, late_bytes=late_bytes)
        steps = dice.steps()
        if all(_ends_everywhere(steps, packet, quirks) for quirks in _WORLDS):
            kinds = f"zero_packets={zero_packets}, late_bytes={late_bytes}"
            sized = tuple(_sized(step, packet) for step in steps)
            return RandomRow(f"random_row({seed}, {packet}, {kinds})", packet, sized)
    raise AssertionError("unreachable")


_WORLDS: Final = tuple(
    frozenset(quirk for quirk in QUIRKS if quirk.trait in traits)
    for traits in ((), ("FunctionFS",), ("FunctionFS", "dummy_udc"))
)
"""The quirks of every kind of UDC that there is."""


def _ends_everywhere(steps: list[Step], packet: int, quirks: frozenset[Quirk]) -> bool:
    """Whether each transfer ends by itself, or has a timeout that its bytes have time for."""
    model = Model(packet, quirks)
    for step in steps:
        late = len(model.late)
        model.do(step)
        if isinstance(step, Transfer) and len(model.late) > late:
            least = TIMEOUT_MS if model.late[-1] else NOTHING_MS
            if not least <= step.timeout_ms < PATIENCE_MS:
                return False
    return True


# --- making steps ------------------------------------------------------------------------------


class _Dice:
    """Makes the steps of one row, following what they do by the model of a bus without quirks.

    Left out: a halt of an IN endpoint with requests queued, which is refused; the withdrawal of
    an IN request of at most `FIFO_SIZE` bytes, which dummy_udc may have taken into its FIFO, and
    one that is left over (it would come to the next row); and whatever depends on which comes
    first, of a request and a transfer that wait for each other.
    """

    def __init__(
        self, rng: random.Random, packet: int, *, zero_packets: bool, late_bytes: bool
    ) -> None:
        self._rng = rng
        self._packet = packet
        self._zero_packets = zero_packets
        self._model = Model(packet)
        self._steps: list[Step] = []
        self._may_find_nothing = rng.randrange(_NOTHING_IN) == 0
        self._may_be_late = rng.randrange(_LATE_BYTES_IN) == 0 and late_bytes

    def steps(self) -> list[Step]:
        acts = (self._give, self._take, self._read, self._write, self._halt, self._withdraw)
        count = self._rng.choice(_STEPS)
        while len(self._steps) < count:
            self._rng.choices(acts, (4, 4, 6, 6, 1, 1))[0]()
        self._clean_up()
        return self._steps

    def _do(self, step: Step) -> None:
        self._model.do(step)
        self._steps.append(step)

    def _length(self) -> int:
        """Near a boundary between packets, or anywhere."""
        near = self._rng.choice((0, 0, 0, 1, 1, 1, 2, 3)) * self._packet
        off = self._rng.choice((-1, 0, 0, 0, 1, 2, self._rng.randint(-31, 31)))
        if self._rng.random() < 0.15:
            return self._rng.randrange(3 * self._packet)
        return max(near + off, 0)

    def _segments(self, length: int) -> tuple[int, ...]:
        """An SG list of that many bytes, cut near the packets and elsewhere."""
        cuts = {min(self._length(), length) for _ in range(self._rng.choice((0, 0, 1, 2, 4)))}
        ends = sorted({0, length} | cuts)
        return tuple(stop - start for start, stop in itertools.pairwise(ends))

    # --- the device ----------------------------------------------------------------------------

    def _request(self, role: str, length: int) -> Queue:
        is_in = role == "in"
        return Queue(
            role,
            self._segments(length),
            zero=is_in and self._rng.random() < 0.25,
            partial=not is_in and self._rng.random() < 0.25,
        )

    def _give(self) -> None:
        if len(self._requests("in")) < _MOST_REQUESTS:
            self._do(self._request("in", self._length()))

    def _take(self) -> None:
        if len(self._requests("out")) < _MOST_REQUESTS:
            self._do(self._request("out", self._length() + self._rng.choice((0, self._packet))))

    def _halt(self) -> None:
        role = self._rng.choice(("in", "out"))
        if self._model.wires[role].halted:
            self._do(Feature(role, halt=False))
        elif self._rng.random() < 0.5 and (role == "out" or not self._requests("in")):
            self._do(Halt(role))
        else:
            self._do(Feature(role, halt=self._rng.random() < 0.7))

    def _withdraw(self) -> None:
        numbers = [
            number
            for number, asked in enumerate(self._model.asked)
            if any(load.end is None for load in asked.loads)
            and not (asked.role == "in" and _may_be_early(asked.loads[0]))
        ]
        if numbers:
            self._do(Withdraw(self._rng.choice(numbers)))

    def _requests(self, role: str) -> list[Load]:
        return self._model.wires[role].requests

    # --- the host ------------------------------------------------------------------------------

    def _read(self) -> None:
        lengths = [load.length - load.moved for load in self._requests("in")]
        sums = list(itertools.accumulate(lengths))
        rooms = (self._length(), self._packet, *sums, *(s + self._packet for s in sums), *lengths)
        if self._requests("in") and self._rng.random() < 0.2:
            rooms = (max(lengths[0] - self._rng.randrange(1, 32), 1),)  # babble
        room = max(self._rng.choice(rooms) + self._rng.choice((0, 0, 0, -1, 1)), 1)
        self._transfer(Transfer("in", room, PATIENCE_MS))

    def _write(self) -> None:
        rooms = [load.length - load.moved for load in self._requests("out")]
        sums = list(itertools.accumulate(rooms))
        lengths = (self._length(), *rooms, *sums, *(s + self._packet for s in sums))
        length = max(self._rng.choice(lengths) + self._rng.choice((0, 0, 0, -1, 1)), 0)
        zero = self._zero_packets and self._rng.random() < 0.4
        self._transfer(Transfer("out", length, PATIENCE_MS, zero))

    def _transfer(self, step: Transfer) -> None:
        """Do it, with requests that end it, or a timeout, where it does not end by itself."""
        moved = self._left_waiting(step)
        if moved is None:
            self._do(step)
        elif moved and self._may_be_late:
            self._may_be_late = False
            self._do(replace(step, timeout_ms=TIMEOUT_MS))
        elif not self._requests(step.role) and self._may_find_nothing:
            self._may_find_nothing = False
            self._do(replace(step, timeout_ms=NOTHING_MS))
        elif self._rng.random() < 0.4:
            self._feed(step)
        else:
            (self._give if step.role == "in" else self._take)()

    def _left_waiting(self, step: Transfer) -> int | None:
        """Bytes that it moves before it waits for ever; None where it ends."""
        model = Model(self._packet)
        for done in (*self._steps, step):
            model.do(done)
        return model.late[-1] if len(model.late) > len(self._model.late) else None

    def _feed(self, step: Transfer) -> None:
        """Have the device queue requests while it waits, each of which it takes as a whole."""
        length = bytes_of(step.length, self._packet)
        for _ in range(_MOST_REQUESTS):
            moved = self._left_waiting(step)
            if moved is None:
                break
            left = length - moved
            size = self._rng.choice((left, left - left % self._packet, self._packet))
            if step.role == "out":
                size = left + self._rng.choice((0, 1, self._packet))
            size = min(size, left) if step.role == "in" else size
            queue = Queue(step.role, self._segments(size))
            step = replace(step, during=(*step.during, queue))
        if self._left_waiting(step) is None:
            self._do(step)

    # --- the end -------------------------------------------------------------------------------

    def _clean_up(self) -> None:
        """Clear the halts, and read what could not be taken back."""
        for role, wire in self._model.wires.items():
            if wire.halted:
                self._do(Feature(role, halt=False))
        while any(_may_be_early(load) or load.zero for load in self._requests("in")):
            load = self._requests("in")[0]
            left = load.length - load.moved
            whole = left and not left % self._packet and not load.zero
            room = left if whole else left - left % self._packet + self._packet
            self._do(Transfer("in", room, PATIENCE_MS))


def _may_be_early(load: Load) -> bool:
    return load.length <= FIFO_SIZE


# --- as text -----------------------------------------------------------------------------------


def _size(length: Length, packet: int) -> Length:
    """In packets where it is near whole ones: what a reader, and another speed, understand."""
    number = bytes_of(length, packet)
    packets = (number + packet // 2) // packet
    delta = number - packets * packet
    return Size(packets, delta) if packets and abs(delta) < FIFO_SIZE else number


def _sized(step: Step, packet: int) -> Step:
    if isinstance(step, Queue):
        return replace(step, segments=tuple(_size(s, packet) for s in step.segments))
    if isinstance(step, Transfer):
        during = tuple(
            replace(queue, segments=tuple(_size(s, packet) for s in queue.segments))
            for queue in step.during
        )
        return replace(step, length=_size(step.length, packet), during=during)
    return step


def _text(length: Length) -> str:
    if isinstance(length, int):
        return str(length)
    packets = "M" if length.packets == 1 else f"{length.packets} * M"
    return (
        packets if not length.delta else f"{packets} {'-+'[length.delta > 0]} {abs(length.delta)}"
    )


def _source(step: Step) -> str:
    """A step as it is written in udc_conformance.py."""
    match step:
        case Queue():
            words = [_text(segment) for segment in step.segments]
            words += [f"{name}=True" for name in ("zero", "partial") if getattr(step, name)]
            return f"{'give' if step.role == 'in' else 'take'}({', '.join(words)})"
        case Transfer():
            words = [_text(step.length)]
            if step.timeout_ms != PATIENCE_MS:
                words.append(f"timeout_ms={step.timeout_ms}")
            if step.zero:
                words.append("zero=True")
            if step.during:
                words.append(f"during=({', '.join(map(_source, step.during))},)")
            return f"{'read' if step.role == 'in' else 'write'}({', '.join(words)})"
        case Withdraw(request):
            return f"Withdraw({request})"
        case Halt(role):
            return f'Halt("{role}")'
        case Feature(role, halt):
            return f'Feature("{role}", halt={halt})'
