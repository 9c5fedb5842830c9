"""The thirty tests of usbtest, what each does, and the words that choose among them. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from usbip_vudc.errors import SchemeError
from usbip_vudc.usb.ch9 import Direction, TransferType

__all__ = ("CASES", "GROUPS", "Case", "parse_cases")

_IN, _OUT = Direction.IN, Direction.OUT
_CONTROL, _ISO = TransferType.CONTROL, TransferType.ISOCHRONOUS
_BULK, _INTERRUPT = TransferType.BULK, TransferType.INTERRUPT


@dataclass(frozen=True, slots=True)
class Case:
    """One test. ``direction`` is None where it uses endpoint 0, or bulk endpoints of both."""

    number: int
    group: str
    transfer_type: TransferType
    direction: Direction | None
    what: str

    @property
    def vendor(self) -> bool:
        """Whether it needs a device that knows vendor requests 0x5b and 0x5c."""
        return self.number in (14, 21)


CASES: Final = (
    Case(0, "control", _CONTROL, None, "nothing but the driver's answer"),
    Case(1, "out", _BULK, _OUT, "bulk OUT, one URB at a time"),
    Case(2, "in", _BULK, _IN, "bulk IN, one URB at a time"),
    Case(3, "out", _BULK, _OUT, "bulk OUT of varying length, with ZLPs"),
    Case(4, "in", _BULK, _IN, "bulk IN of varying length"),
    Case(5, "out", _BULK, _OUT, "bulk OUT from scatterlists of equal entries"),
    Case(6, "in", _BULK, _IN, "bulk IN into scatterlists of equal entries"),
    Case(7, "out", _BULK, _OUT, "bulk OUT from scatterlists of varying entries"),
    Case(8, "in", _BULK, _IN, "bulk IN into scatterlists of varying entries"),
    Case(9, "control", _CONTROL, None, "requests of chapter 9, each setting, BOS and qualifier"),
    Case(10, "control", _CONTROL, None, "16 control requests queued: stalls, short reads, order"),
    Case(11, "unlink", _BULK, _IN, "unlink and kill a bulk IN URB"),
    Case(12, "unlink", _BULK, _OUT, "unlink and kill a bulk OUT URB"),
    Case(13, "halt", _BULK, None, "halt and clear bulk endpoints, with I/O in each state"),
    Case(14, "control", _CONTROL, None, "vendor OUT 0x5b written, read back by 0x5c"),
    Case(15, "iso", _ISO, _OUT, "isochronous OUT, queued"),
    Case(16, "iso", _ISO, _IN, "isochronous IN, queued"),
    Case(17, "out", _BULK, _OUT, "bulk OUT from an odd address, mapped by the core"),
    Case(18, "in", _BULK, _IN, "bulk IN to an odd address, mapped by the core"),
    Case(19, "out", _BULK, _OUT, "bulk OUT from an odd address, mapped before"),
    Case(20, "in", _BULK, _IN, "bulk IN to an odd address, mapped before"),
    Case(21, "control", _CONTROL, None, "as 14, from an odd address"),
    Case(22, "iso", _ISO, _OUT, "isochronous OUT from an odd address"),
    Case(23, "iso", _ISO, _IN, "isochronous IN to an odd address"),
    Case(24, "unlink", _BULK, _OUT, "unlink two URBs out of a queue of bulk OUT"),
    Case(25, "interrupt", _INTERRUPT, _OUT, "interrupt OUT, one URB at a time"),
    Case(26, "interrupt", _INTERRUPT, _IN, "interrupt IN, one URB at a time"),
    Case(27, "throughput", _BULK, _OUT, "bulk OUT as fast as it goes, queued"),
    Case(28, "throughput", _BULK, _IN, "bulk IN as fast as it goes, queued"),
    Case(29, "halt", _BULK, _OUT, "clear a halt between bulk OUT transfers of three packets"),
)
"""drivers/usb/misc/usbtest.c, usbtest_do_ioctl; the place is the number."""

GROUPS: Final = tuple(dict.fromkeys(case.group for case in CASES))
"""The words of tools/usb/hcd-tests.sh, and those for what came after it."""

_ISO_GROUPS: Final = {"iso-out": _OUT, "iso-in": _IN}


def parse_cases(text: str) -> tuple[Case, ...]:
    """Read numbers, ranges and groups, ``control,7,24-26``; each case once, in their order.

    Raises SchemeError for any other word.
    """
    chosen = [case for word in text.split(",") for case in _parse_word(word.strip())]
    return tuple(dict.fromkeys(chosen))


def _parse_word(word: str) -> Sequence[Case]:
    if word in GROUPS:
        return [case for case in CASES if case.group == word]
    if word in _ISO_GROUPS:
        return [c for c in CASES if c.group == "iso" and c.direction == _ISO_GROUPS[word]]
    found = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", word)
    begin, end = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if not 0 <= begin <= end < len(CASES):
        known = ", ".join((*GROUPS, *_ISO_GROUPS))
        raise SchemeError(
            f"cases: {word!r}: expected a number of 0 to {len(CASES) - 1}, a range such as 1-8, "
            f"or one of {known}"
        )
    return CASES[begin : end + 1]
