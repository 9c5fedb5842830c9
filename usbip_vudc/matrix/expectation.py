"""What a cell must show, computed from its parts. Nothing is run.

Two rules of USB decide about an SG list that does not go out as one URB (USB 2.0 5.8.3): a short
packet ends a transfer, and a URB that ends inside a packet overflows. What a plan does is known
where it only takes time or keeps packets whole, and for the ready-made ones; for any other it is
"any named outcome". Recovery is always required.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from usbip_vudc.injection import CATALOGUE, Layout, Plan, Rule
from usbip_vudc.injection.actions import Delay, Nak, PacketSize, TcpCut, TcpStall, UseLayout
from usbip_vudc.matrix.bench import make_gadget, transfer_length, wish_of
from usbip_vudc.matrix.cell import Cell
from usbip_vudc.matrix.outcome import DIFFERS, EQUAL
from usbip_vudc.matrix.running import RECOVERED, Seen
from usbip_vudc.matrix.use import SgWish

__all__ = ("ANY", "Expected", "Step", "expected")

OVERFLOW: Final = "-EOVERFLOW"
TRANSPORT: Final = "TransportError"

_SOON: Final = 2.0
"""Seconds that a plan may hold a transfer up in all, without any effect but that."""


@dataclass(frozen=True, slots=True)
class Step:
    """Outcomes of one step: those that may come, and those that must. None: any that has a name."""

    may: frozenset[str] | None = None
    must: frozenset[str] = frozenset()

    @classmethod
    def only(cls, *outcomes: str) -> Step:
        """All of these and no other."""
        return cls(frozenset(outcomes), frozenset(outcomes))

    @classmethod
    def some(cls, *outcomes: str) -> Step:
        """Any of these and no other."""
        return cls(frozenset(outcomes))

    def holds(self, seen: tuple[str, ...]) -> bool:
        """Whether these outcomes are what may be, and all that must."""
        return (self.may is None or self.may >= set(seen)) and self.must <= set(seen)

    def __str__(self) -> str:
        if self.may is None:
            return "any named outcome"
        must = " and ".join(sorted(self.must, key=_good_first))
        maybe = " or ".join(sorted(self.may - self.must, key=_good_first))
        if must and maybe:
            return f"{must}, maybe {maybe}"
        return must or (maybe if EQUAL in self.may else f"maybe {maybe}")


def _good_first(outcome: str) -> tuple[bool, str]:
    return outcome != EQUAL, outcome


ANY: Final = Step()
_EQUAL: Final = Step.only(EQUAL)
_NOTHING: Final = Step.some()


@dataclass(frozen=True, slots=True)
class Expected:
    """The outcomes of each step; ``setup`` has some only where opening the device may fail."""

    setup: Step = _NOTHING
    out: Step = _EQUAL
    in_: Step = _EQUAL

    @property
    def fails(self) -> bool:
        """Whether some step may fail, so that recovery is due."""
        steps = (self.setup, self.out, self.in_)
        return any(step.may is None or step.may - {EQUAL} for step in steps)

    def holds(self, seen: Seen) -> bool:
        """Whether a run was as expected; what failed must have recovered."""
        steps = ((self.setup, seen.setup), (self.out, seen.out), (self.in_, seen.in_))
        return all(step.holds(outcomes) for step, outcomes in steps) and seen.recovery in (
            "",
            RECOVERED,
        )

    def __str__(self) -> str:
        if self.out == ANY == self.in_:
            return f"{ANY}, {RECOVERED}"
        setup = f"setup {self.setup}, " if self.setup != _NOTHING else ""
        recovery = f", {RECOVERED}" if self.fails else ""
        return f"{setup}OUT {self.out}, IN {self.in_}{recovery}"


_ANYTHING: Final = Expected(ANY, ANY, ANY)


def expected(cell: Cell) -> Expected:
    """What a run of this cell has to show. Raises SchemeError for one that cannot exist."""
    wish = wish_of(cell, make_gadget(cell))
    by_list = _by_list(cell, wish)
    name = _ready_name(cell.plan)
    ready = _READY.get(name)
    if ready is _sg_2019:
        return ready(by_list, wish, transfer_length(cell))
    if by_list.fails and any(_lays_out(rule) for rule in cell.plan.rules):
        return _ANYTHING  # the plan's URBs instead of the cell's
    if all(_keeps_packets(rule, cell, wish) for rule in cell.plan.rules):
        return by_list
    # How Linux recovers by itself is not for us to predict.
    if ready is None or cell.carrier.host == "linux" or (by_list.fails and name not in _IN_SETUP):
        return _ANYTHING
    return ready(by_list, wish, transfer_length(cell))


# --- the SG list --------------------------------------------------------------------------------


def _by_list(cell: Cell, wish: SgWish) -> Expected:
    if wish.one_urb or _benign(_each(wish.layout), transfer_length(cell), wish.max_packet_size):
        return Expected()
    # The device has whole packets to send, and one of them finds too little room.
    overflows = Step.only(OVERFLOW)
    if cell.gadget != "storage":
        return Expected(in_=overflows)  # a stream that goes out has no ends to be seen
    # BOT 6.6.1: what follows a short packet is taken for a CBW, and is not valid.
    return Expected(out=Step.only(TRANSPORT), in_=overflows)


def _each(layout: Layout) -> Layout:
    text = str(layout)
    return layout if text.startswith("each:") else Layout.parse(f"each:{text}")


def _benign(layout: Layout, length: int, max_packet_size: int) -> bool:
    return layout.verdict(length, max_packet_size).benign


# --- plans --------------------------------------------------------------------------------------


def _lays_out(rule: Rule) -> bool:
    return rule.where.seam != "function" and isinstance(rule.action, UseLayout)


def _keeps_packets(rule: Rule, cell: Cell, wish: SgWish) -> bool:
    """Whether all that a rule can do is to take time, or to keep every packet as it was."""
    match rule.action:
        case Delay(seconds) | Nak(seconds) | TcpStall(seconds):
            urbs = 1 if wish.one_urb else len(wish.entries(transfer_length(cell)))
            return seconds * urbs < _SOON
        case TcpCut():
            return True
        case PacketSize():
            return not rule.action.illegal
        case UseLayout(layout):
            size = wish.max_packet_size
            lengths = _lengths(cell, size)
            return layout.one_request or all(_benign(layout, n, size) for n in lengths)
    return False


def _lengths(cell: Cell, max_packet_size: int) -> tuple[int, ...]:
    """Bytes of the requests and URBs that a rule may meet."""
    length = transfer_length(cell)
    whole = -(-length // max_packet_size) * max_packet_size
    if cell.gadget == "storage":
        # CBW and the room for one, CSW, READ CAPACITY, REQUEST SENSE, INQUIRY, data
        return 31, max_packet_size, 13, 8, 18, 36, length
    return 64, length, whole, 16 << 10


_Ready = Callable[[Expected, SgWish, int], Expected]
"""(what the SG list alone would show, the wish, bytes of a transfer) -> what the plan shows."""


def _sg_2019(by_list: Expected, wish: SgWish, length: int) -> Expected:
    layout = next(
        rule.action.layout
        for rule in CATALOGUE["sg-2019"].plan("").rules
        if isinstance(rule.action, UseLayout)
    )
    hostile = not _benign(layout, length, wish.max_packet_size)
    return replace(by_list, in_=Step.only(OVERFLOW) if hostile else _EQUAL)


def _shows(**steps: Step) -> _Ready:
    def ready(by_list: Expected, _wish: SgWish, _length: int) -> Expected:
        return replace(by_list, **steps)

    return ready


def _may_fail(*outcomes: str) -> _Ready:
    moving = Step.some(EQUAL, *outcomes)
    return _shows(setup=Step.some(*outcomes), out=moving, in_=moving)


_PROTO: Final = ("-EPROTO", "-EIO")
_UNLINKED: Final = ("-ECONNRESET", "-EIO")

_READY: Final[Mapping[str, _Ready]] = {
    "sg-2019": _sg_2019,
    # Our initiator reads a CSW once more after a ZLP or a stall, as BOT figure 2 has it.
    "zero-length-csw": _shows(),
    "stalled-csw": _shows(),
    # The fourth command is of the setup.
    "wrong-tag": _shows(setup=Step.only(TRANSPORT)),
    "residue-lies": _shows(in_=Step.only("StorageError")),
    "olympus-signature": _shows(
        setup=Step.only(TRANSPORT), out=Step.only(TRANSPORT), in_=Step.only(TRANSPORT)
    ),
    # 36 bytes of INQUIRY and a CSW are one packet, for which 36 bytes are no room.
    "data-with-csw": _shows(setup=Step.only(OVERFLOW)),
    "bit-rot": _shows(in_=Step.some(EQUAL, DIFFERS)),
    "flaky-wire": _may_fail(*_PROTO),
    "unlink-race": _may_fail(*_UNLINKED),
    "pulled-plug": _shows(out=Step.only(EQUAL, "-ENODEV")),
}
"""Ready-made plan -> what it stands for, at our own host."""

_IN_SETUP: Final = frozenset(("wrong-tag", "data-with-csw"))
"""Those that are over when data begin to move, whatever the SG list."""


def _ready_name(plan: Plan) -> str:
    """The name of the ready-made plan that these rules are, whatever the seed."""
    found = CATALOGUE.get(plan.name)
    return plan.name if found is not None and found.plan("").rules == plan.rules else ""
