"""What is wrong with what a host saw of a command, by the thirteen cases (BOT 6.7). Pure."""

from __future__ import annotations

from collections.abc import Iterator

from usbip_vudc.bot_check.exchange import Seen, status_name
from usbip_vudc.usb.bot import Cbw, CswStatus
from usbip_vudc.usb.bot_cases import BotCase
from usbip_vudc.usb.ch9 import Direction

__all__ = ("faults",)


def faults(
    case: BotCase, cbw: Cbw, seen: Seen, intended: int, content: bytes = b""
) -> tuple[str, ...]:
    """Each fault in words; none where the device keeps to the case.

    ``intended`` is the bytes that the device means to send or to use for the command, and
    ``content`` what those that come in must be, where that is known.
    """
    found = [*_of_the_data(case, cbw, seen), *_of_the_status(case, cbw, seen)]
    if not case.is_phase_error and not found:
        found += _of_the_residue(case, cbw, seen, intended)
        found += _of_the_content(seen, content)
    return tuple(found)


def _of_the_data(case: BotCase, cbw: Cbw, seen: Seen) -> Iterator[str]:
    expected = cbw.dCBWDataTransferLength
    if seen.early:
        yield (
            f"the CSW came in the data stage, after {seen.moved} of {expected} bytes and no STALL "
            f"({case.section})"
        )
    elif case.host is Direction.IN and seen.moved < expected and not seen.stalls:
        yield f"{seen.moved} of {expected} bytes came, and no STALL on bulk IN ({case.section})"


def _of_the_status(case: BotCase, cbw: Cbw, seen: Seen) -> Iterator[str]:
    status, residue = seen.csw.bCSWStatus, seen.csw.dCSWDataResidue
    if status not in case.statuses:
        allowed = " or ".join(map(status_name, case.statuses))
        yield f"bCSWStatus {status_name(status)}, expected {allowed} ({case.section})"
    elif not case.is_phase_error and residue > cbw.dCBWDataTransferLength:
        yield (
            f"dCSWDataResidue {residue} of {cbw.dCBWDataTransferLength} bytes: more than there "
            f"were to move (BOT 6.3.2)"
        )


def _of_the_residue(case: BotCase, cbw: Cbw, seen: Seen, intended: int) -> Iterator[str]:
    expected, residue = cbw.dCBWDataTransferLength, seen.csw.dCSWDataResidue
    counts = expected - residue
    if case.host is not None and counts > seen.moved:
        yield f"the residue says that {counts} bytes count, but {seen.moved} moved ({case.section})"
    elif seen.csw.bCSWStatus == CswStatus.PASSED and counts != intended:
        yield (
            f"dCSWDataResidue {residue} of {expected} bytes, expected {expected - intended} "
            f"({case.section})"
        )
    elif seen.csw.bCSWStatus == CswStatus.PASSED and seen.moved < intended:
        yield f"{seen.moved} bytes moved of {intended} that count ({case.section})"


def _of_the_content(seen: Seen, content: bytes) -> Iterator[str]:
    pairs = zip(seen.data, content, strict=False)
    wrong = next((at for at, (came, meant) in enumerate(pairs) if came != meant), None)
    if seen.csw.bCSWStatus == CswStatus.PASSED and wrong is not None:
        yield f"byte {wrong} of the data is {seen.data[wrong]:#04x}, expected {content[wrong]:#04x}"
