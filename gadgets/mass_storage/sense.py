"""Sense data: why a SCSI command failed (SPC-4 4.5), in the fixed format. Pure values."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Final

from usbip_vudc.errors import UsbipVudcError

__all__ = ("CheckCondition", "Sense")

_FIXED: Final = struct.Struct(">BxBIB4xBB4x")
_CURRENT_FIXED: Final = 0x70
_VALID: Final = 0x80


@dataclass(frozen=True, slots=True)
class Sense:
    """Sense key, additional sense code and its qualifier (SPC-4 tables 27 and E.13).

    ``information`` is the LBA of the block that failed, in blocks, where one did.
    """

    key: int
    asc: int = 0
    ascq: int = 0
    information: int | None = None

    def at(self, lba: int) -> Sense:
        """The same, of one block."""
        return replace(self, information=lba)

    def pack(self) -> bytes:
        """The 18 bytes of fixed format sense data (SPC-4 table 48)."""
        response, information = _CURRENT_FIXED, 0
        # SPC-4 4.5.3: VALID is zero where the value does not fit in the four bytes.
        if self.information is not None and self.information <= 0xFFFF_FFFF:
            response |= _VALID
            information = self.information
        return _FIXED.pack(response, self.key, information, 10, self.asc, self.ascq)

    def __str__(self) -> str:
        return f"{self.key:02x}/{self.asc:02x}/{self.ascq:02x}"


NO_SENSE: Final = Sense(0x0)
MEDIUM_NOT_PRESENT: Final = Sense(0x2, 0x3A)
WRITE_ERROR: Final = Sense(0x3, 0x0C)
UNRECOVERED_READ_ERROR: Final = Sense(0x3, 0x11)
INVALID_OPCODE: Final = Sense(0x5, 0x20)
LBA_OUT_OF_RANGE: Final = Sense(0x5, 0x21)
INVALID_FIELD: Final = Sense(0x5, 0x24)
SAVING_NOT_SUPPORTED: Final = Sense(0x5, 0x39)
REMOVAL_PREVENTED: Final = Sense(0x5, 0x53, 0x02)
MEDIUM_CHANGED: Final = Sense(0x6, 0x28)
POWER_ON: Final = Sense(0x6, 0x29)
WRITE_PROTECTED: Final = Sense(0x7, 0x27)
DATA_PHASE_ERROR: Final = Sense(0xB, 0x4B)


class CheckCondition(UsbipVudcError):
    """The command ends with CHECK CONDITION; ``sense`` says why."""

    def __init__(self, sense: Sense) -> None:
        super().__init__(f"CHECK CONDITION {sense}")
        self.sense = sense
