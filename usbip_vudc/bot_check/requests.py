"""The class requests (BOT 3), and the status behind a halt that the host has set (BOT 5.3.3)."""

from __future__ import annotations

from typing import Final

from usbip_vudc.bot_check.check import Check
from usbip_vudc.bot_check.exchange import read_csw, status_name
from usbip_vudc.bot_check.findings import Violation
from usbip_vudc.bot_check.initiator import IN, OUT
from usbip_vudc.bot_check.subject import SPAN, Subject
from usbip_vudc.host import scsi
from usbip_vudc.usb.bot import CSW_SIZE, MAX_LUNS, CswStatus

__all__ = ("REQUEST_CHECKS",)


def _max_lun(subject: Subject) -> str:
    answer = subject.host.get_max_lun()
    if answer is None:
        return "STALL: one LUN"
    if len(answer) != 1 or answer[0] >= MAX_LUNS:
        raise Violation(f"it brings {answer.hex(' ') or 'nothing'}, expected one byte, 0 to 15")
    return f"{answer[0]}"


def _reset_amid_data(subject: Subject) -> str:
    """Reset recovery with a data stage half done: the next transfer is a CBW."""
    medium = subject.medium
    cdb = scsi.read_command(medium.lba, medium.blocks(SPAN))
    subject.host.send(subject.cbw(cdb, len(medium.original)).pack())
    subject.host.receive(subject.host.packet)
    subject.host.reset_recovery()
    _is_in_order(subject)
    return ""


def _reset_before_status(subject: Subject) -> str:
    """Reset recovery where the host has not fetched the CSW: it must not come any more."""
    subject.host.send(subject.cbw(scsi.TEST_UNIT_READY).pack())
    subject.host.reset_recovery()
    _is_in_order(subject)
    return ""


def _is_in_order(subject: Subject) -> None:
    try:
        subject.settle()
    except Violation as violation:
        raise Violation(f"after reset recovery: {violation}") from violation


def _reset_keeps_stalls(subject: Subject) -> str:
    """The reset readies the device for a CBW; the halts are the host's to clear."""
    host = subject.host
    host.send(bytes(host.packet))
    if not host.receive(CSW_SIZE).stalled:
        raise Violation("a CBW that is not valid was not met with STALL (BOT 6.6.1)")
    before = {direction for direction in (IN, OUT) if host.is_halted(direction)}
    host.reset()
    after = {direction for direction in (IN, OUT) if host.is_halted(direction)}
    host.reset_recovery()
    if before != after:
        gone = " and ".join(f"bulk {direction.name}" for direction in sorted(before - after))
        raise Violation(f"the reset alone ended the halt of {gone or 'none'}")
    return ""


def _status_waits(subject: Subject) -> str:
    """A halt that the host sets before it fetches the CSW delays it, and loses nothing."""
    host = subject.host
    cbw = subject.cbw(scsi.TEST_UNIT_READY)
    host.send(cbw.pack())
    host.halt(IN)
    if not host.receive(CSW_SIZE).stalled:
        raise Violation("bulk IN brought data though SET_FEATURE(ENDPOINT_HALT) was acknowledged")
    host.clear_halt(IN)
    csw, _ = read_csw(host, cbw)
    if csw.bCSWStatus not in (CswStatus.PASSED, CswStatus.FAILED):
        raise Violation(f"bCSWStatus {status_name(csw.bCSWStatus)}, expected 0 or 1")
    return ""


REQUEST_CHECKS: Final = (
    Check(name="max-lun", group="class", what="Get Max LUN brings one byte, 0 to 15, or STALL",
          source="BOT 3.2", try_it=_max_lun),
    Check(name="reset-data", group="class", what="reset recovery amid a data stage",
          source="BOT 3.1, 5.3.4", try_it=_reset_amid_data),
    Check(name="reset-status", group="class", what="reset recovery before the CSW",
          source="BOT 3.1, 5.3.4", try_it=_reset_before_status),
    Check(name="reset-stalls", group="class", what="the reset alone ends no halt",
          source="BOT 3.1", try_it=_reset_keeps_stalls),
    Check(name="status-halt", group="class", what="the CSW waits behind a halt",
          source="BOT 5.3.3, figure 2", try_it=_status_waits),
)  # fmt: skip
