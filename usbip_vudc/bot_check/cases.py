"""The thirteen cases (BOT 6.7) as checks: commands whose data host and device disagree about.

The host's side of each is in the CBW, the device's in the command block. Only bytes that are on
the medium already are ever written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

from usbip_vudc.bot_check.check import Check
from usbip_vudc.bot_check.exchange import Seen, exchange
from usbip_vudc.bot_check.findings import NotApplicable, Violation
from usbip_vudc.bot_check.judging import faults
from usbip_vudc.bot_check.subject import Subject
from usbip_vudc.host import scsi
from usbip_vudc.usb.bot import CswStatus
from usbip_vudc.usb.bot_cases import BOT_CASES, BotCase
from usbip_vudc.usb.ch9 import Direction

__all__ = ("CASE_CHECKS", "ROWS", "Row", "Trial")


class Trial(NamedTuple):
    """A command block, the bytes that it means, and the bytes that the host announces.

    ``content`` is what those that come in must be, as far as that is known.
    """

    cdb: bytes
    intended: int
    announced: int
    content: bytes = b""


@dataclass(frozen=True, slots=True)
class Row:
    """A way to try a case; ``variant`` tells it from the other ways."""

    case: int
    variant: str
    what: str
    trial: Callable[[Subject], Trial]

    @property
    def name(self) -> str:
        """``case-5-short``, say."""
        return f"case-{self.case}-{self.variant}" if self.variant else f"case-{self.case}"


# --- commands ----------------------------------------------------------------------------------


def _ready(announced: int) -> Callable[[Subject], Trial]:
    """TEST UNIT READY: no data. Announced are so many units."""
    return lambda subject: Trial(scsi.TEST_UNIT_READY, 0, announced * _unit(subject))


def _inquiry(allocated: int, announced: int | None = None) -> Callable[[Subject], Trial]:
    """INQUIRY with that allocation length, and that much announced, in bytes."""

    def trial(subject: Subject) -> Trial:
        intended = min(allocated, len(subject.inquiry))
        cdb = bytes((0x12, 0, 0, 0, allocated, 0))
        content = subject.inquiry[:intended]
        return Trial(cdb, intended, allocated if announced is None else announced, content)

    return trial


def _read(units: int, announced: int) -> Callable[[Subject], Trial]:
    def trial(subject: Subject) -> Trial:
        medium = subject.medium
        cdb = scsi.read_command(medium.lba, medium.blocks(units))
        intended = units * medium.unit
        return Trial(cdb, intended, announced * medium.unit, medium.original[:intended])

    return trial


def _write(units: int, announced: int) -> Callable[[Subject], Trial]:
    def trial(subject: Subject) -> Trial:
        medium = subject.writable
        cdb = scsi.write_command(medium.lba, medium.blocks(units))
        return Trial(cdb, units * medium.unit, announced * medium.unit)

    return trial


def _unit(subject: Subject) -> int:
    """Bytes of a data stage that no medium is needed for."""
    return max(subject.host.packet, 512)


ROWS: Final = (
    Row(1, "", "TEST UNIT READY", _ready(0)),
    Row(2, "", "INQUIRY of 36 bytes, none expected", _inquiry(36, 0)),
    Row(2, "read", "READ, no data expected", _read(1, 0)),
    Row(3, "", "WRITE, no data announced", _write(1, 0)),
    Row(4, "", "TEST UNIT READY, data expected", _ready(1)),
    Row(5, "", "READ of half of what is expected", _read(1, 2)),
    Row(5, "short", "INQUIRY, 255 bytes expected", _inquiry(255)),
    Row(6, "", "READ of what is expected", _read(2, 2)),
    Row(6, "short", "INQUIRY of 36 bytes", _inquiry(36)),
    Row(7, "", "READ of twice as much as is expected", _read(2, 1)),
    Row(7, "short", "INQUIRY of 36 bytes, 18 expected", _inquiry(36, 18)),
    Row(8, "", "WRITE, as much data expected", _write(1, 1)),
    Row(8, "more", "WRITE, more data expected", _write(1, 2)),
    Row(8, "less", "WRITE, less data expected", _write(2, 1)),
    Row(9, "", "TEST UNIT READY, data sent", _ready(1)),
    Row(10, "", "READ, as much data sent", _read(1, 1)),
    Row(10, "more", "READ, more data sent", _read(1, 2)),
    Row(10, "less", "READ, less data sent", _read(2, 1)),
    Row(11, "", "WRITE of half of what is sent", _write(1, 2)),
    Row(12, "", "WRITE of what is sent", _write(2, 2)),
    Row(13, "", "WRITE of twice as much as is sent", _write(2, 1)),
)
"""Each case at least once, with a data stage of whole packets; `short` has a short packet."""


# --- trying them -------------------------------------------------------------------------------


def _try_row(row: Row, subject: Subject) -> str:
    case = BOT_CASES[row.case]
    trial = row.trial(subject)
    is_in = case.host is Direction.IN
    cbw = subject.cbw(trial.cdb, trial.announced, is_in=is_in)
    seen = exchange(subject.host, cbw, b"" if is_in else _data(subject, trial.announced))
    found = faults(case, cbw, seen, trial.intended, trial.content)
    if seen.csw.bCSWStatus == CswStatus.PHASE_ERROR:
        subject.host.reset_recovery()  # BOT 5.3.3.1
    if case.device is Direction.OUT:
        subject.settle()
        subject.check_medium()
    if found:
        raise Violation("; ".join(found))
    return _remark(case, seen, trial.announced)


def _data(subject: Subject, length: int) -> bytes:
    """What is on the medium already, or zeros where nobody will write them."""
    try:
        return subject.medium.original[:length].ljust(length, b"\0")
    except NotApplicable:
        return bytes(length)


def _remark(case: BotCase, seen: Seen, announced: int) -> str:
    """Which of the ways that are open to it the device took."""
    told = []
    if seen.csw.bCSWStatus == CswStatus.FAILED:
        told.append("the command failed")
    if case.host is not None and (case.number not in (6, 12) or seen.moved < announced):
        stalled = ", then STALL" if seen.stalls else ""
        told.append(f"{seen.moved} of {announced} bytes{stalled}")
    return "; ".join(told)


def _check(row: Row) -> Check:
    case = BOT_CASES[row.case]
    return Check(
        name=row.name,
        group="cases",
        number=row.case,
        what=f"{case.name}: {row.what}",
        source=f"{case.section} case {case.number}",
        try_it=partial(_try_row, row),
    )


CASE_CHECKS: Final = tuple(map(_check, ROWS))
