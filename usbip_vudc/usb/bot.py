"""The words of USB Mass Storage Class Bulk-Only Transport 1.0, which device and host share.

CBW, CSW and the class requests: values and their bytes. What a device refuses and the thirteen
cases are in gadgets/mass_storage/bot.py, what a host refuses in host/storage.py. Section numbers
are the specification's ("BOT"). IN and OUT are the host's view. Standard library only.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from usbip_vudc.errors import RemoteProtocolError
from usbip_vudc.usb.ch9 import Direction

__all__ = (
    "BULK_ONLY",
    "BULK_ONLY_MASS_STORAGE_RESET",
    "CBW_SIZE",
    "CSW_SIZE",
    "GET_MAX_LUN",
    "MAX_LUNS",
    "SCSI_TRANSPARENT",
    "Cbw",
    "Csw",
    "CswStatus",
    "pack_csw",
)

SCSI_TRANSPARENT: Final = 0x06
"""bInterfaceSubClass: the command blocks are SCSI's (BOT 4.3)."""

BULK_ONLY: Final = 0x50
"""bInterfaceProtocol (BOT 4.3)."""

GET_MAX_LUN: Final = 0xFE
"""bRequest of the class request that returns the last LUN (BOT 3.2)."""

BULK_ONLY_MASS_STORAGE_RESET: Final = 0xFF
"""bRequest of the class request that readies the device for the next CBW (BOT 3.1)."""

MAX_LUNS: Final = 16
"""bCBWLUN has four bits (BOT 5.1)."""

CBW_SIZE: Final = 31
"""Bytes of every CBW (BOT 5.1)."""

CSW_SIZE: Final = 13
"""Bytes of every CSW (BOT 5.2)."""

_CBW_SIGNATURE: Final = 0x43425355
_CSW_SIGNATURE: Final = 0x53425355

_CBW: Final = struct.Struct("<IIIBBB16s")
_CSW: Final = struct.Struct("<IIIB")


@dataclass(frozen=True, slots=True)
class Cbw:
    """Command Block Wrapper (BOT table 5.1). ``dCBWDataTransferLength`` is in bytes.

    ``CBWCB`` is the command block alone, bCBWCBLength bytes of it.
    """

    dCBWTag: int
    dCBWDataTransferLength: int
    bmCBWFlags: int
    bCBWLUN: int
    CBWCB: bytes

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview) -> Cbw:
        """Read one. Raises RemoteProtocolError where the bytes are none.

        Flags and LUN are taken as they came: whether they mean anything is the device's to say.
        """
        if len(data) != CBW_SIZE:
            raise RemoteProtocolError(f"CBW length {len(data)}, expected {CBW_SIZE} (BOT 6.2.1)")
        signature, tag, length, flags, lun, size, block = _CBW.unpack(data)
        if signature != _CBW_SIGNATURE:
            raise RemoteProtocolError(
                f"dCBWSignature {signature:#010x}, expected {_CBW_SIGNATURE:#010x} (BOT 6.2.1)"
            )
        if not 1 <= size <= 16:
            raise RemoteProtocolError(f"bCBWCBLength {size:#04x}, expected 1 to 16 (BOT 6.2.2)")
        return cls(tag, length, flags, lun, block[:size])

    def pack(self) -> bytes:
        """The 31 bytes as they travel."""
        return _CBW.pack(
            _CBW_SIGNATURE,
            self.dCBWTag,
            self.dCBWDataTransferLength,
            self.bmCBWFlags,
            self.bCBWLUN,
            len(self.CBWCB),
            self.CBWCB,
        )

    @property
    def direction(self) -> Direction | None:
        """Which way the host expects data; None where it expects none (BOT 5.1, bmCBWFlags)."""
        if not self.dCBWDataTransferLength:
            return None
        return Direction.IN if self.bmCBWFlags & Direction.IN else Direction.OUT


class CswStatus(IntEnum):
    """bCSWStatus (BOT table 5.3)."""

    PASSED = 0
    FAILED = 1
    PHASE_ERROR = 2


@dataclass(frozen=True, slots=True)
class Csw:
    """Command Status Wrapper (BOT table 5.2). ``dCSWDataResidue`` is in bytes."""

    dCSWTag: int
    dCSWDataResidue: int
    bCSWStatus: int

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview) -> Csw:
        """Read one. Raises RemoteProtocolError where the bytes are none (BOT 6.3.1)."""
        if len(data) != CSW_SIZE:
            raise RemoteProtocolError(f"CSW length {len(data)}, expected {CSW_SIZE} (BOT 6.3.1)")
        signature, tag, residue, status = _CSW.unpack(data)
        if signature != _CSW_SIGNATURE:
            raise RemoteProtocolError(
                f"dCSWSignature {signature:#010x}, expected {_CSW_SIGNATURE:#010x} (BOT 6.3.1)"
            )
        return cls(tag, residue, status)

    def pack(self) -> bytes:
        """The 13 bytes as they travel."""
        return pack_csw(self.dCSWTag, self.dCSWDataResidue, self.bCSWStatus)


def pack_csw(tag: int, residue: int, status: int) -> bytes:
    """The 13 bytes of a CSW, for every command: no object is made."""
    return _CSW.pack(_CSW_SIGNATURE, tag, residue, status)
