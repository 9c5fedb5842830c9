"""Sense data: why a SCSI command failed (SPC-4 4.5), in both formats. Pure values."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Final

from usbip_vudc.errors import UsbipVudcError

__all__ = ("CheckCondition", "Sense")

_FIXED: Final = struct.Struct(">BxBIB4xBB4x")
_DESCRIPTOR: Final = struct.Struct(">BBBB3xB")
_INFORMATION: Final = struct.Struct(">BBBxQ")
_CURRENT_FIXED, _CURRENT_DESCRIPTOR = 0x70, 0x72
_VALID: Final = 0x80


@dataclass(frozen=True, slots=True)
class Sense:
    """Sense key, additional sense code and its qualifier (SPC-4 tables 27 and E.13).

    ``information`` is the LBA of the block that failed, in blocks, where one did. ``deferred``
    says that what failed was a command whose status was GOOD (SPC-4 4.5.5).
    """

    key: int
    asc: int = 0
    ascq: int = 0
    information: int | None = None
    deferred: bool = False

    def at(self, lba: int) -> Sense:
        """The same, of one block."""
        return replace(self, information=lba)

    def later(self) -> Sense:
        """The same, as a deferred error."""
        return replace(self, deferred=True)

    def pack(self) -> bytes:
        """The 18 bytes of fixed format sense data (SPC-4 table 53)."""
        response, information = _CURRENT_FIXED + self.deferred, 0
        # SPC-4 4.5.3: VALID is zero where the value does not fit in the four bytes.
        if self.information is not None and self.information <= 0xFFFF_FFFF:
            response |= _VALID
            information = self.information
        return _FIXED.pack(response, self.key, information, 10, self.asc, self.ascq)

    def pack_descriptors(self) -> bytes:
        """Descriptor format sense data (SPC-4 table 28), whose information holds any LBA."""
        descriptors = b""
        if self.information is not None:
            descriptors = _INFORMATION.pack(0x00, 0x0A, _VALID, self.information)
        response = _CURRENT_DESCRIPTOR + self.deferred
        header = _DESCRIPTOR.pack(response, self.key, self.asc, self.ascq, len(descriptors))
        return header + descriptors

    def __str__(self) -> str:
        code = f"{self.key:02x}/{self.asc:02x}/{self.ascq:02x}"
        return f"{code} deferred" if self.deferred else code


NO_SENSE: Final = Sense(0x0)
MEDIUM_NOT_PRESENT: Final = Sense(0x2, 0x3A)
WRITE_ERROR: Final = Sense(0x3, 0x0C)
UNRECOVERED_READ_ERROR: Final = Sense(0x3, 0x11)
LIST_LENGTH_ERROR: Final = Sense(0x5, 0x1A)
INVALID_OPCODE: Final = Sense(0x5, 0x20)
LBA_OUT_OF_RANGE: Final = Sense(0x5, 0x21)
INVALID_FIELD: Final = Sense(0x5, 0x24)
INVALID_FIELD_IN_LIST: Final = Sense(0x5, 0x26)
SAVING_NOT_SUPPORTED: Final = Sense(0x5, 0x39)
REMOVAL_PREVENTED: Final = Sense(0x5, 0x53, 0x02)
MEDIUM_CHANGED: Final = Sense(0x6, 0x28)
POWER_ON: Final = Sense(0x6, 0x29)
MODE_PARAMETERS_CHANGED: Final = Sense(0x6, 0x2A, 0x01)
WRITE_PROTECTED: Final = Sense(0x7, 0x27)
SOFTWARE_WRITE_PROTECTED: Final = Sense(0x7, 0x27, 0x02)
DATA_PHASE_ERROR: Final = Sense(0xB, 0x4B)
MISCOMPARE: Final = Sense(0xE, 0x1D)


class CheckCondition(UsbipVudcError):
    """The command ends with CHECK CONDITION; ``sense`` says why."""

    def __init__(self, sense: Sense) -> None:
        super().__init__(f"CHECK CONDITION {sense}")
        self.sense = sense
