"""The SCSI that a mass-storage host speaks: command blocks, and what answers say (SPC-4, SBC-3).

Bytes in, values out: no USB, no transport, no error. Lengths are in bytes, LBAs in blocks.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

__all__ = (
    "INQUIRY",
    "INQUIRY_LENGTH",
    "READ_CAPACITY_10",
    "READ_CAPACITY_16",
    "REQUEST_SENSE",
    "SENSE_LENGTH",
    "SYNCHRONIZE_CACHE",
    "TEST_UNIT_READY",
    "Capacity",
    "Inquiry",
    "Sense",
    "command_name",
    "read_command",
    "write_command",
)

INQUIRY_LENGTH: Final = 36
"""Bytes of the standard INQUIRY data that everyone has (SPC-4 6.4.2)."""

SENSE_LENGTH: Final = 18
"""Bytes of sense data in fixed format (SPC-4 4.5.3)."""

# Command blocks (CDBs) that are always the same.
TEST_UNIT_READY: Final = bytes(6)
REQUEST_SENSE: Final = bytes((0x03, 0, 0, 0, SENSE_LENGTH, 0))
INQUIRY: Final = bytes((0x12, 0, 0, 0, INQUIRY_LENGTH, 0))
READ_CAPACITY_10: Final = bytes((0x25, *bytes(9)))
READ_CAPACITY_16: Final = struct.pack(">BBQIBB", 0x9E, 0x10, 0, 32, 0, 0)
SYNCHRONIZE_CACHE: Final = bytes((0x35, *bytes(9)))

_COMMANDS: Final = {
    0x00: "TEST UNIT READY", 0x03: "REQUEST SENSE", 0x12: "INQUIRY", 0x1A: "MODE SENSE(6)",
    0x1B: "START STOP UNIT", 0x1E: "PREVENT ALLOW MEDIUM REMOVAL", 0x23: "READ FORMAT CAPACITIES",
    0x25: "READ CAPACITY(10)", 0x28: "READ(10)", 0x2A: "WRITE(10)", 0x2F: "VERIFY(10)",
    0x35: "SYNCHRONIZE CACHE(10)", 0x5A: "MODE SENSE(10)", 0x88: "READ(16)", 0x8A: "WRITE(16)",
    0x9E: "READ CAPACITY(16)", 0xA0: "REPORT LUNS",
}  # fmt: skip
_SENSE_KEYS: Final = (
    "NO SENSE", "RECOVERED ERROR", "NOT READY", "MEDIUM ERROR", "HARDWARE ERROR",
    "ILLEGAL REQUEST", "UNIT ATTENTION", "DATA PROTECT", "BLANK CHECK", "VENDOR SPECIFIC",
    "COPY ABORTED", "ABORTED COMMAND", "RESERVED", "VOLUME OVERFLOW", "MISCOMPARE", "COMPLETED",
)  # fmt: skip
_ADDITIONAL: Final = {
    (0x00, 0x00): "no additional sense information",
    (0x04, 0x00): "logical unit not ready, cause not reportable",
    (0x04, 0x01): "logical unit is becoming ready",
    (0x04, 0x02): "logical unit not ready, START UNIT required",
    (0x0C, 0x00): "write error",
    (0x11, 0x00): "unrecovered read error",
    (0x1A, 0x00): "parameter list length error",
    (0x20, 0x00): "invalid command operation code",
    (0x21, 0x00): "logical block address out of range",
    (0x24, 0x00): "invalid field in CDB",
    (0x25, 0x00): "logical unit not supported",
    (0x26, 0x00): "invalid field in parameter list",
    (0x27, 0x00): "write protected",
    (0x28, 0x00): "not ready to ready change, medium may have changed",
    (0x29, 0x00): "power on, reset, or bus device reset occurred",
    (0x39, 0x00): "saving parameters not supported",
    (0x3A, 0x00): "medium not present",
    (0x53, 0x02): "medium removal prevented",
    (0x55, 0x00): "system resource failure",
}

_NOT_READY, _UNIT_ATTENTION = 0x02, 0x06
_BECOMING_READY: Final = 0x04


@dataclass(frozen=True, slots=True)
class Sense:
    """Why a command failed: sense key, additional sense code and qualifier (SPC-4 4.5)."""

    key: int
    asc: int = 0
    ascq: int = 0

    @classmethod
    def parse(cls, data: bytes) -> Sense:
        """Read fixed (70h, 71h) or descriptor format (72h, 73h); too short reads as zeros."""
        data = data.ljust(SENSE_LENGTH, b"\0")
        if data[0] & 0x7F in (0x72, 0x73):
            return cls(data[1] & 0x0F, data[2], data[3])
        return cls(data[2] & 0x0F, data[12], data[13])

    @property
    def becoming_ready(self) -> bool:
        """The unit will be ready by itself."""
        return self.key == _NOT_READY and self.asc == _BECOMING_READY

    @property
    def unit_attention(self) -> bool:
        """Something happened to the unit, and it was told now: the command may be sent again."""
        return self.key == _UNIT_ATTENTION

    def __str__(self) -> str:
        text = _ADDITIONAL.get((self.asc, self.ascq), "no name known")
        return f"{_SENSE_KEYS[self.key]}, {text} ({self.key:X}h {self.asc:02X}h {self.ascq:02X}h)"


class Capacity(NamedTuple):
    """The size of a medium: number of blocks, and bytes of one."""

    blocks: int
    block_size: int


@dataclass(frozen=True, slots=True)
class Inquiry:
    """Standard INQUIRY data (SPC-4 6.4.2), texts without their padding."""

    peripheral: int
    removable: bool
    vendor: str
    product: str
    revision: str

    @classmethod
    def parse(cls, data: bytes) -> Inquiry:
        """Read 36 bytes; what is missing reads as zeros."""
        data = data.ljust(INQUIRY_LENGTH, b"\0")
        vendor, product, revision = (
            data[start:end].decode("ascii", "replace").strip(" \0")
            for start, end in ((8, 16), (16, 32), (32, 36))
        )
        return cls(data[0], bool(data[1] & 0x80), vendor, product, revision)


def command_name(cdb: bytes) -> str:
    """The command's name in SPC-4 or SBC-3, or its operation code."""
    return _COMMANDS.get(cdb[0], f"command {cdb[0]:02X}h")


def read_command(lba: int, blocks: int) -> bytes:
    """READ(10), or READ(16) where ten bytes cannot say it."""
    return _block_command(0x28, 0x88, lba, blocks)


def write_command(lba: int, blocks: int) -> bytes:
    """WRITE(10), or WRITE(16) where ten bytes cannot say it."""
    return _block_command(0x2A, 0x8A, lba, blocks)


def _block_command(code10: int, code16: int, lba: int, blocks: int) -> bytes:
    """A READ or WRITE CDB: ten bytes where they can say it, else sixteen (SBC-3 5.8, 5.10)."""
    if lba + blocks <= 1 << 32 and blocks <= 0xFFFF:
        return struct.pack(">BBIBHB", code10, 0, lba, 0, blocks, 0)
    return struct.pack(">BBQIBB", code16, 0, lba, blocks, 0, 0)
