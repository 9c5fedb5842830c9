"""The wrappers of USB Mass Storage Class Bulk-Only Transport 1.0: CBW, CSW and the 13 cases.

Bytes in, values out: no endpoint, no SCSI, no event loop. Section numbers are the specification's
("BOT"). IN and OUT are the host's view.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from usbip_vudc.errors import RemoteProtocolError
from usbip_vudc.sglist import Buffer
from usbip_vudc.usb.ch9 import Direction

__all__ = (
    "BULK_ONLY_MASS_STORAGE_RESET",
    "CASES",
    "CBW_SIZE",
    "CSW_SIZE",
    "GET_MAX_LUN",
    "MAX_LUNS",
    "Case",
    "Cbw",
    "Csw",
    "CswStatus",
    "InvalidCbw",
    "Plan",
    "decide",
    "pack_csw",
)

CBW_SIZE: Final = 31
CSW_SIZE: Final = 13
MAX_LUNS: Final = 16
"""bCBWLUN has four bits (BOT 5.1)."""

GET_MAX_LUN: Final = 0xFE
"""bRequest of the class request that returns the last LUN (BOT 3.2)."""

BULK_ONLY_MASS_STORAGE_RESET: Final = 0xFF
"""bRequest of the class request that readies the device for the next CBW (BOT 3.1)."""

CBW_SIGNATURE: Final = 0x43425355
CSW_SIGNATURE: Final = 0x53425355

_CBW: Final = struct.Struct("<IIIBBB16s")
_CSW: Final = struct.Struct("<IIIB")


class InvalidCbw(RemoteProtocolError):
    """A CBW that is not valid or not meaningful: both endpoints halt until reset (BOT 6.6.1)."""


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
    def parse(cls, data: Buffer, max_lun: int = MAX_LUNS - 1) -> Cbw:
        """Read what one transfer on the OUT endpoint brought.

        Raises InvalidCbw where it is not valid (BOT 6.2.1) or not meaningful (BOT 6.2.2).
        """
        if len(data) != CBW_SIZE:
            raise InvalidCbw(f"CBW length {len(data)}, expected {CBW_SIZE} (BOT 6.2.1)")
        signature, tag, length, flags, lun, size, block = _CBW.unpack(data)
        if signature != CBW_SIGNATURE:
            raise InvalidCbw(
                f"dCBWSignature {signature:#010x}, expected {CBW_SIGNATURE:#010x} (BOT 6.2.1)"
            )
        if flags & 0x7F:
            raise InvalidCbw(f"bmCBWFlags {flags:#04x}, expected 0x00 or 0x80 (BOT 6.2.2)")
        if lun > max_lun:
            raise InvalidCbw(f"bCBWLUN {lun:#04x}, expected 0 to {max_lun} (BOT 6.2.2)")
        if not 1 <= size <= 16:
            raise InvalidCbw(f"bCBWCBLength {size:#04x}, expected 1 to 16 (BOT 6.2.2)")
        return cls(tag, length, flags, lun, block[:size])

    def pack(self) -> bytes:
        """The 31 bytes as they travel."""
        return _CBW.pack(
            CBW_SIGNATURE,
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
    def parse(cls, data: Buffer) -> Csw:
        """Read one. Raises RemoteProtocolError where it is not valid (BOT 6.3.1)."""
        if len(data) != CSW_SIZE:
            raise RemoteProtocolError(f"CSW length {len(data)}, expected {CSW_SIZE} (BOT 6.3.1)")
        signature, tag, residue, status = _CSW.unpack(data)
        if signature != CSW_SIGNATURE:
            raise RemoteProtocolError(
                f"dCSWSignature {signature:#010x}, expected {CSW_SIGNATURE:#010x} (BOT 6.3.1)"
            )
        return cls(tag, residue, status)

    def pack(self) -> bytes:
        """The 13 bytes as they travel."""
        return pack_csw(self.dCSWTag, self.dCSWDataResidue, self.bCSWStatus)


def pack_csw(tag: int, residue: int, status: int) -> bytes:
    """The 13 bytes of a CSW, for every command: no object is made."""
    return _CSW.pack(CSW_SIGNATURE, tag, residue, status)


# --- the thirteen cases (BOT 6.7) --------------------------------------------------------------


class Case(NamedTuple):
    """One of the thirteen cases: who expects what, and what the device then does.

    ``moves`` says whether any data moves. ``halts`` is the endpoint that ends the host's data
    phase with STALL; where IN data ended with a short packet already no STALL is needed.
    """

    number: int
    name: str
    moves: bool = False
    halts: Direction | None = None
    phase_error: bool = False


_N, _I, _O = None, Direction.IN, Direction.OUT

CASES: Final[dict[tuple[Direction | None, Direction | None, int], Case]] = {
    # (host expects, device intends, sign of host's length minus device's)
    (_N, _N, 0): Case(1, "Hn = Dn"),
    (_N, _I, -1): Case(2, "Hn < Di", phase_error=True),
    (_N, _O, -1): Case(3, "Hn < Do", phase_error=True),
    (_I, _N, 1): Case(4, "Hi > Dn", halts=_I),
    (_I, _I, 1): Case(5, "Hi > Di", moves=True, halts=_I),
    (_I, _I, 0): Case(6, "Hi = Di", moves=True),
    # BOT 6.7.2: "may send data up to a total of dCBWDataTransferLength"; so does f_mass_storage.
    (_I, _I, -1): Case(7, "Hi < Di", moves=True, phase_error=True),
    **{(_I, _O, sign): Case(8, "Hi <> Do", halts=_I, phase_error=True) for sign in (-1, 0, 1)},
    (_O, _N, 1): Case(9, "Ho > Dn", halts=_O),
    **{(_O, _I, sign): Case(10, "Ho <> Di", halts=_O, phase_error=True) for sign in (-1, 0, 1)},
    (_O, _O, 1): Case(11, "Ho > Do", moves=True, halts=_O),
    (_O, _O, 0): Case(12, "Ho = Do", moves=True),
    # BOT 6.7.3 lets the device take a part. A host and a device that disagree about the length
    # of a write must not change the medium, so it takes none.
    (_O, _O, -1): Case(13, "Ho < Do", halts=_O, phase_error=True),
}


class Plan(NamedTuple):
    """What to do about one command: the case, and how many bytes of data move."""

    case: Case
    length: int


def decide(
    host: Direction | None, host_length: int, device: Direction | None, device_length: int
) -> Plan:
    """Which of the thirteen cases it is, and how many bytes move (BOT 6.7).

    Lengths are in bytes. A length of 0 means no data, whatever the direction.
    """
    if not host_length:
        host = None
    if not device_length:
        device = None
    sign = (host_length > device_length) - (host_length < device_length)
    case = CASES[host, device, sign]
    return Plan(case, min(host_length, device_length) if case.moves else 0)
