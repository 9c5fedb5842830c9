"""The thirteen cases of Bulk-Only Transport 1.0 (BOT 6.7): one table for device, host and judge.

A case is what the host expects of a command against what the device intends: no data (n), data
in (i) or data out (o), and which of the two is longer. What a device of this project chooses where
the specification leaves it a choice is in gadgets/mass_storage/bot.py. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from usbip_vudc.usb.bot import CswStatus
from usbip_vudc.usb.ch9 import Direction

__all__ = ("BOT_CASES", "BotCase", "bot_case")


@dataclass(frozen=True, slots=True, kw_only=True)
class BotCase:
    """One case. ``signs`` are those of the host's length less the device's, in bytes.

    ``statuses`` are the values of bCSWStatus that a device may answer with. ``device_shows`` and
    ``host_does`` say the rest for people.
    """

    number: int
    name: str
    host: Direction | None
    device: Direction | None
    signs: tuple[int, ...]
    statuses: tuple[CswStatus, ...]
    section: str
    device_shows: str
    host_does: str

    @property
    def is_phase_error(self) -> bool:
        """Whether host and device cannot both have their way."""
        return self.statuses == _PHASE


_N, _I, _O = None, Direction.IN, Direction.OUT
_DONE: Final = (CswStatus.PASSED, CswStatus.FAILED)
_PHASE: Final = (CswStatus.PHASE_ERROR,)
_SECTIONS: Final = {None: "BOT 6.7.1", _I: "BOT 6.7.2", _O: "BOT 6.7.3"}
_LETTERS: Final = {None: "n", _I: "i", _O: "o"}
_LESS, _EQUAL, _MORE = (-1,), (0,), (1,)
_ANY: Final = (-1, 0, 1)
_RELATIONS: Final = {_LESS: "<", _EQUAL: "=", _MORE: ">", _ANY: "<>"}

_TAKES_IN: Final = "takes what comes, clears a halt of bulk IN, reads the CSW"
_GIVES_OUT: Final = "sends until all is taken or STALLed, clears the halt, reads the CSW"
_RECOVERS: Final = "then reset recovery, whatever the residue says"


def _case(
    number: int,
    host: Direction | None,
    device: Direction | None,
    signs: tuple[int, ...],
    statuses: tuple[CswStatus, ...],
    device_shows: str,
    host_does: str,
) -> BotCase:
    return BotCase(
        number=number,
        name=f"H{_LETTERS[host]} {_RELATIONS[signs]} D{_LETTERS[device]}",
        host=host,
        device=device,
        signs=signs,
        statuses=statuses,
        section=_SECTIONS[host],
        device_shows=device_shows,
        host_does=host_does,
    )


_STALLS_IN: Final = "STALL on bulk IN where that is less than the host expects"
_OR_STALLS_OUT: Final = "or ends it with STALL on bulk OUT"

BOT_CASES: Final[Mapping[int, BotCase]] = {
    case.number: case
    for case in (
        _case(1, _N, _N, _EQUAL, _DONE, "residue 0", "reads the CSW"),
        _case(2, _N, _I, _LESS, _PHASE, "no data", f"reads the CSW, {_RECOVERS}"),
        _case(3, _N, _O, _LESS, _PHASE, "no data", f"reads the CSW, {_RECOVERS}"),
        _case(
            4, _I, _N, _MORE, _DONE,
            f"no data, or padding; {_STALLS_IN}; the residue is all of it",
            f"{_TAKES_IN}: none of it counts",
        ),
        _case(
            5, _I, _I, _MORE, _DONE,
            f"its data, or these and padding; {_STALLS_IN}; the residue is what does not count",
            f"{_TAKES_IN}: all but the residue counts",
        ),
        _case(6, _I, _I, _EQUAL, _DONE, "all data, residue 0", "takes all, reads the CSW"),
        _case(
            7, _I, _I, _LESS, _PHASE,
            f"data up to what the host expects; {_STALLS_IN}",
            f"{_TAKES_IN}, {_RECOVERS}",
        ),
        _case(
            8, _I, _O, _ANY, _PHASE,
            f"no data, or anything up to what the host expects; {_STALLS_IN}",
            f"{_TAKES_IN}, {_RECOVERS}",
        ),
        _case(
            9, _O, _N, _MORE, _DONE,
            f"takes all and drops it, {_OR_STALLS_OUT}; the residue is all of it",
            f"{_GIVES_OUT}: none of it counts",
        ),
        _case(
            10, _O, _I, _ANY, _PHASE, f"takes all and drops it, {_OR_STALLS_OUT}",
            f"{_GIVES_OUT}, {_RECOVERS}",
        ),
        _case(
            11, _O, _O, _MORE, _DONE,
            f"uses what it means and drops the rest, {_OR_STALLS_OUT}; the residue is the rest",
            f"{_GIVES_OUT}: all but the residue counts",
        ),
        _case(12, _O, _O, _EQUAL, _DONE, "takes all, residue 0", "sends all, reads the CSW"),
        _case(
            13, _O, _O, _LESS, _PHASE,
            f"takes all, used or not, {_OR_STALLS_OUT}", f"{_GIVES_OUT}, {_RECOVERS}",
        ),
    )
}  # fmt: skip
"""By number."""

_BY_LENGTHS: Final = {
    (case.host, case.device, sign): case for case in BOT_CASES.values() for sign in case.signs
}


def bot_case(
    host: Direction | None, host_length: int, device: Direction | None, device_length: int
) -> BotCase:
    """Which case it is. Lengths are in bytes; a length of 0 means no data, whatever the direction.

    >>> bot_case(Direction.IN, 512, Direction.IN, 36).name
    'Hi > Di'
    """
    sign = (host_length > device_length) - (host_length < device_length)
    return _BY_LENGTHS[host if host_length else None, device if device_length else None, sign]
