"""The device under test: what checks need to know of it, and how it is brought back in order."""

from __future__ import annotations

import contextlib
import struct
from dataclasses import dataclass
from typing import Final

import usb.core

from usbip_vudc.bot_check.exchange import Seen, exchange
from usbip_vudc.bot_check.findings import NotApplicable, Violation
from usbip_vudc.bot_check.initiator import IN, OUT, Initiator
from usbip_vudc.errors import SchemeError
from usbip_vudc.host import scsi
from usbip_vudc.sglist import Buffer
from usbip_vudc.usb.bot import Cbw, CswStatus

__all__ = ("SPAN", "Medium", "Subject")

SPAN: Final = 4
"""Lengths of data stages are up to so many units (see `Medium.unit`)."""

_INQUIRY_ROOM: Final = 255
_MODE_SENSE: Final = bytes.fromhex("1a003f00c000")
_MODE_ROOM: Final = 192
_WRITE_PROTECTED: Final = 0x80
"""The WP bit of a mode parameter header (SPC-4 7.5.4)."""

_TRIES: Final = 5
"""A unit may have that many things to say before it is ready: unit attentions, one each."""

_FIRST_TAG: Final = 0x0B07C001


@dataclass(frozen=True, slots=True, kw_only=True)
class Medium:
    """The place on the medium that checks read, and write again as it was.

    ``unit`` is the bytes of a data stage: whole blocks and whole packets. ``original`` is what
    `SPAN` units from ``lba`` on hold.
    """

    lba: int
    block_size: int
    unit: int
    original: bytes
    writable: bool

    def blocks(self, units: int) -> int:
        """So many units in blocks."""
        return units * self.unit // self.block_size


class Subject:
    """One logical unit of a device, behind an initiator.

    ``lba`` is where checks may read and write; None: the middle of the medium. ``may_write`` lets
    them write there what they have read. `prepare` comes first.
    """

    def __init__(
        self, host: Initiator, *, lun: int = 0, lba: int | None = None, may_write: bool = True
    ) -> None:
        self.host = host
        self.lun = lun
        self.max_lun = 0
        self.inquiry = b""
        self._medium: Medium | None = None
        self._why_not = ""
        self._lba = lba
        self._may_write = may_write
        self._tag = _FIRST_TAG

    @property
    def medium(self) -> Medium:
        """Raises NotApplicable where there is none to be read."""
        if self._medium is None:
            raise NotApplicable(self._why_not)
        return self._medium

    @property
    def writable(self) -> Medium:
        """The same where it may be written. Raises NotApplicable."""
        medium = self.medium
        if not self._may_write:
            raise NotApplicable("it would write to the medium (--no-write)")
        if not medium.writable:
            raise NotApplicable("the medium is write-protected")
        return medium

    # --- commands ------------------------------------------------------------------------------

    def cbw(self, cdb: bytes, length: int = 0, *, is_in: bool = True) -> Cbw:
        """The next CBW for this unit."""
        self._tag = (self._tag + 1) & 0xFFFF_FFFF
        return Cbw(self._tag, length, IN if is_in and length else OUT, self.lun, cdb)

    def command(
        self, cdb: bytes, length: int = 0, *, is_in: bool = True, data: Buffer = b""
    ) -> Seen:
        """Carry out a command. Raises as `exchange`."""
        return exchange(self.host, self.cbw(cdb, length, is_in=is_in), data)

    def read(self, lba: int, blocks: int, block_size: int) -> bytes:
        """READ. Raises Violation where it fails."""
        seen = self.command(scsi.read_command(lba, blocks), blocks * block_size)
        if seen.csw.bCSWStatus or seen.moved < blocks * block_size:
            raise Violation(f"READ of block {lba}: status {seen.csw.bCSWStatus}, {self._sense()}")
        return seen.data

    def _sense(self) -> scsi.Sense:
        """Why the last command failed; that clears it."""
        return scsi.Sense.parse(self.command(scsi.REQUEST_SENSE, scsi.SENSE_LENGTH).data)

    # --- before, between and after -------------------------------------------------------------

    def prepare(self) -> None:
        """Reset recovery, and read what checks need to know; once, before all else.

        Raises Violation where the device does not even answer INQUIRY, SchemeError for a LUN or
        an LBA that it does not have.
        """
        self.host.reset_recovery()
        answer = self.host.get_max_lun()
        self.max_lun = answer[0] if answer else 0
        if self.lun > self.max_lun:
            raise SchemeError(f"LUN {self.lun}: expected 0 to {self.max_lun}")
        self.inquiry = self.command(_inquiry(_INQUIRY_ROOM), _INQUIRY_ROOM).data
        if len(self.inquiry) < scsi.INQUIRY_LENGTH:
            raise Violation(f"INQUIRY brought {len(self.inquiry)} bytes, expected 36 or more")
        if not self.settle():
            return
        try:
            self._medium = self._look()
        except Violation as violation:
            self._why_not = str(violation)

    def _look(self) -> Medium:
        last, size = struct.unpack(">II", self.command(scsi.READ_CAPACITY_10, 8).data[:8])
        unit = max(size, self.host.packet)
        span = SPAN * unit // size
        lba = max((last + 1 - span) // 2, 0) if self._lba is None else self._lba
        if lba + span > last + 1:
            where = f"LBA {lba}" if self._lba is not None else "a medium"
            raise SchemeError(f"{where} of {last + 1} blocks: the checks need {span} blocks there")
        header = self.command(_MODE_SENSE, _MODE_ROOM)
        protected = len(header.data) > 2 and bool(header.data[2] & _WRITE_PROTECTED)
        return Medium(
            lba=lba,
            block_size=size,
            unit=unit,
            original=self.read(lba, span, size),
            writable=not protected,
        )

    def settle(self) -> bool:
        """Whether the unit is ready, once it has been asked until it had nothing more to say.

        Raises Violation where it does not answer as it must.
        """
        for _ in range(_TRIES):
            seen = self.command(scsi.TEST_UNIT_READY)
            if seen.csw.bCSWStatus == CswStatus.PASSED:
                return True
            if seen.csw.bCSWStatus != CswStatus.FAILED:
                raise Violation(f"TEST UNIT READY: bCSWStatus {seen.csw.bCSWStatus} (BOT 6.7.1)")
            sense = self._sense()
            self._why_not = f"the unit is not ready: {sense}"
            if not sense.unit_attention:
                break
        return False

    def require_ready(self) -> None:
        """Raises NotApplicable where the unit is not ready, which then says why."""
        if not self.settle():
            raise NotApplicable(self._why_not)

    def check_medium(self) -> None:
        """The medium must be as it was. Raises Violation, after writing it again."""
        medium = self.medium
        blocks = medium.blocks(SPAN)
        if self.read(medium.lba, blocks, medium.block_size) == medium.original:
            return
        write = scsi.write_command(medium.lba, blocks)
        self.command(write, len(medium.original), is_in=False, data=medium.original)
        raise Violation(f"it has changed blocks {medium.lba} to {medium.lba + blocks - 1}")

    def bring_back(self) -> str:
        """Get a device that is in disorder to answer again: what is wrong with it, or nothing."""
        for remedy in (self.host.reset_recovery, self.host.device.reset):
            with contextlib.suppress(Violation, usb.core.USBError):
                remedy()
                self.settle()
                return ""
        return "neither reset recovery nor a reset of the port brings it back"


def _inquiry(length: int) -> bytes:
    return bytes((0x12, 0, 0, 0, length, 0))
