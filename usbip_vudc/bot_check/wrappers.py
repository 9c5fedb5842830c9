"""CBWs that are not valid or not meaningful (BOT 6.2), and what a device must not care about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from usbip_vudc.bot_check.check import Check
from usbip_vudc.bot_check.exchange import read_csw, status_name
from usbip_vudc.bot_check.findings import NotApplicable, Silent, Violation
from usbip_vudc.bot_check.initiator import IN, OUT, Initiator
from usbip_vudc.bot_check.subject import Subject
from usbip_vudc.host import scsi
from usbip_vudc.usb.bot import CBW_SIZE, CSW_SIZE, MAX_LUNS, Cbw, CswStatus

__all__ = ("WRAPPER_CHECKS",)

_FLAGS, _LUN, _LENGTH, _BLOCK = 12, 13, 14, 15
"""Where fields begin in a CBW (BOT table 5.1)."""


def _good(subject: Subject) -> bytearray:
    """A CBW of TEST UNIT READY."""
    return bytearray(subject.cbw(scsi.TEST_UNIT_READY).pack())


# --- not valid (BOT 6.2.1): STALL until reset recovery (BOT 6.6.1) -------------------------------


def _shortened(subject: Subject) -> bytes:
    return bytes(_good(subject)[:-1])


def _lengthened(subject: Subject) -> bytes:
    return bytes(_good(subject)) + b"\0"


def _signed_wrongly(subject: Subject) -> bytes:
    data = _good(subject)
    data[3] = ord("S")  # as a CSW begins
    return bytes(data)


def _a_packet(subject: Subject) -> bytes:
    return bytes(subject.host.packet)


def _refused(make: Callable[[Subject], bytes], subject: Subject) -> str:
    """It must STALL bulk IN; bulk OUT may STALL or take what comes. Reset recovery ends that."""
    host = subject.host
    host.send(make(subject))
    _expect_stall(host, "after the CBW")
    took = not host.send(_good(subject)).stalled
    _expect_stall(host, "after the next CBW")
    _recovers(subject)
    return "bulk OUT takes and drops" if took else "bulk OUT STALLs, too"


def _kept(subject: Subject) -> str:
    """Clearing the halts is no reset recovery: the device must go on STALLing."""
    host = subject.host
    host.send(_shortened(subject))
    _expect_stall(host, "after the CBW")
    host.clear_halt(IN)
    host.clear_halt(OUT)
    took = not host.send(_good(subject)).stalled
    _expect_stall(host, "after CLEAR_FEATURE(ENDPOINT_HALT) of both endpoints")
    _recovers(subject)
    return "bulk OUT takes and drops" if took else "bulk OUT STALLs, too"


def _expect_stall(host: Initiator, when: str) -> None:
    moved = host.receive(CSW_SIZE)
    if not moved.stalled:
        raise Violation(f"{when} bulk IN brought {moved.count} bytes, expected STALL (BOT 6.6.1)")


def _recovers(subject: Subject) -> None:
    subject.host.reset_recovery()
    try:
        subject.settle()
    except Violation as violation:
        raise Violation(f"after reset recovery: {violation}") from violation


# --- not meaningful (BOT 6.2.2): what a device does is its own affair (BOT 6.4) -------------------


def _with_byte(offset: int, value: Callable[[Subject], int], subject: Subject) -> bytes:
    data = _good(subject)
    data[offset] = value(subject)
    return bytes(data)


def _absent_lun(subject: Subject) -> int:
    if subject.max_lun + 1 >= MAX_LUNS:
        raise NotApplicable("the device has all 16 LUNs")
    return subject.max_lun + 1


def _tolerated(make: Callable[[Subject], bytes], subject: Subject) -> str:
    """Whatever it does, reset recovery must bring it back."""
    told = _made_of_it(subject.host, make(subject))
    _recovers(subject)
    return told


def _made_of_it(host: Initiator, data: bytes) -> str:
    """Silence is one of the things that it may make of a CBW that means nothing."""
    try:
        if host.send(data).stalled:
            return "bulk OUT STALLs"
        moved = host.receive(CSW_SIZE)
    except Silent as silent:
        return str(silent)
    if moved.stalled:
        return "bulk IN STALLs"
    if moved.count != CSW_SIZE:
        return f"{moved.count} bytes that are no CSW"
    return f"bCSWStatus {status_name(moved.data[-1])}"


# --- what says nothing (BOT 5.1) -----------------------------------------------------------------


def _passes(subject: Subject, cbw: Cbw, data: bytes) -> None:
    """A command that cannot fail, sent as these bytes."""
    subject.require_ready()
    subject.host.send(data)
    csw, _ = read_csw(subject.host, cbw)
    if csw.bCSWStatus != CswStatus.PASSED:
        raise Violation(f"bCSWStatus {status_name(csw.bCSWStatus)}, expected 0 (passed)")


def _beyond_the_block(subject: Subject) -> str:
    cbw = subject.cbw(scsi.TEST_UNIT_READY)
    end = _BLOCK + len(cbw.CBWCB)
    _passes(subject, cbw, cbw.pack()[:end] + b"\xff" * (CBW_SIZE - end))
    return ""


def _direction_without_data(subject: Subject) -> str:
    cbw = subject.cbw(scsi.TEST_UNIT_READY)
    data = bytearray(cbw.pack())
    data[_FLAGS] = IN
    _passes(subject, cbw, bytes(data))
    return ""


def _tags(subject: Subject) -> str:
    for tag in (0, 0x8000_0000, 0xFFFF_FFFF):
        cbw = replace(subject.cbw(scsi.TEST_UNIT_READY), dCBWTag=tag)
        _passes(subject, cbw, cbw.pack())
    return ""


# --- all of them ---------------------------------------------------------------------------------

_NOT_VALID: Final = (
    ("cbw-short", "a CBW of 30 bytes: STALL until reset recovery", _shortened),
    ("cbw-long", "a CBW of 32 bytes: STALL until reset recovery", _lengthened),
    ("cbw-signature", "dCBWSignature is wrong: STALL until reset recovery", _signed_wrongly),
    ("cbw-packet", "a whole packet of zeros: STALL until reset recovery", _a_packet),
)
_NOT_MEANINGFUL: Final[tuple[tuple[str, str, int, Callable[[Subject], int]], ...]] = (
    ("cbw-flags", "reserved bits of bmCBWFlags", _FLAGS, lambda _: 0x41),
    ("cbw-lun-reserved", "reserved bits of bCBWLUN", _LUN, lambda subject: 0xF0 | subject.lun),
    ("cbw-lun-absent", "bCBWLUN beyond Get Max LUN", _LUN, _absent_lun),
    ("cbw-length-0", "bCBWCBLength 0", _LENGTH, lambda _: 0),
    ("cbw-length-17", "bCBWCBLength 17", _LENGTH, lambda _: 17),
    ("cbw-length-reserved", "reserved bits of bCBWCBLength", _LENGTH, lambda _: 0xE6),
)

WRAPPER_CHECKS: Final = (
    *(
        Check(name=name, group="cbw", what=what, source="BOT 6.2.1, 6.6.1",
              try_it=partial(_refused, make))
        for name, what, make in _NOT_VALID
    ),
    Check(name="cbw-wedge", group="cbw", what="clearing the halts without the reset ends nothing",
          source="BOT 6.6.1", try_it=_kept),
    *(
        Check(name=name, group="cbw", what=f"{what}: reset recovery brings it back",
              source="BOT 6.2.2, 6.4",
              try_it=partial(_tolerated, partial(_with_byte, offset, value)))
        for name, what, offset, value in _NOT_MEANINGFUL
    ),
    Check(name="cbw-beyond", group="cbw", what="bytes behind the command block say nothing",
          source="BOT 5.1", try_it=_beyond_the_block),
    Check(name="cbw-direction", group="cbw", what="the Direction bit says nothing without data",
          source="BOT 5.1", try_it=_direction_without_data),
    Check(name="cbw-tag", group="cbw", what="any dCBWTag comes back as dCSWTag",
          source="BOT 5.1, 5.2", try_it=_tags),
)  # fmt: skip
