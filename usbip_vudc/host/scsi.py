"""The SCSI that a mass-storage host speaks: command blocks, and what answers say (SPC-4, SBC-3).

Bytes in, values out: no USB, no transport, no error. Lengths are in bytes, LBAs in blocks.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

__all__ = (
    "INQUIRY",
    "INQUIRY_LENGTH",
    "READ_CAPACITY_10",
    "READ_CAPACITY_16",
    "REPORT_SUPPORTED_OPERATION_CODES",
    "REQUEST_SENSE",
    "SENSE_LENGTH",
    "SYNCHRONIZE_CACHE",
    "TEST_UNIT_READY",
    "Capacity",
    "Inquiry",
    "Sense",
    "SupportedCommand",
    "command_name",
    "read_command",
    "unmap_command",
    "verify_command",
    "write_command",
    "write_same_command",
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
REPORT_SUPPORTED_OPERATION_CODES: Final = struct.pack(">BBBBHIxx", 0xA3, 0x0C, 0, 0, 0, 0x2000)

_COMMANDS: Final = {
    0x00: "TEST UNIT READY", 0x03: "REQUEST SENSE", 0x08: "READ(6)", 0x0A: "WRITE(6)",
    0x12: "INQUIRY", 0x15: "MODE SELECT(6)", 0x1A: "MODE SENSE(6)", 0x1B: "START STOP UNIT",
    0x1D: "SEND DIAGNOSTIC", 0x1E: "PREVENT ALLOW MEDIUM REMOVAL", 0x23: "READ FORMAT CAPACITIES",
    0x25: "READ CAPACITY(10)", 0x28: "READ(10)", 0x2A: "WRITE(10)", 0x2E: "WRITE AND VERIFY(10)",
    0x2F: "VERIFY(10)", 0x35: "SYNCHRONIZE CACHE(10)", 0x41: "WRITE SAME(10)", 0x42: "UNMAP",
    0x43: "READ TOC/PMA/ATIP", 0x46: "GET CONFIGURATION", 0x4A: "GET EVENT STATUS NOTIFICATION",
    0x55: "MODE SELECT(10)", 0x5A: "MODE SENSE(10)", 0x88: "READ(16)", 0x8A: "WRITE(16)",
    0x8E: "WRITE AND VERIFY(16)", 0x8F: "VERIFY(16)", 0x91: "SYNCHRONIZE CACHE(16)",
    0x93: "WRITE SAME(16)", 0xA0: "REPORT LUNS", 0xA8: "READ(12)", 0xAA: "WRITE(12)",
    0xAE: "WRITE AND VERIFY(12)", 0xAF: "VERIFY(12)",
}  # fmt: skip
_SERVICE_ACTIONS: Final = {
    (0x9E, 0x10): "READ CAPACITY(16)", (0x9E, 0x12): "GET LBA STATUS",
    (0xA3, 0x0C): "REPORT SUPPORTED OPERATION CODES",
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
    (0x1D, 0x00): "miscompare during verify operation",
    (0x20, 0x00): "invalid command operation code",
    (0x21, 0x00): "logical block address out of range",
    (0x24, 0x00): "invalid field in CDB",
    (0x25, 0x00): "logical unit not supported",
    (0x26, 0x00): "invalid field in parameter list",
    (0x27, 0x00): "write protected",
    (0x27, 0x02): "logical unit software write protected",
    (0x28, 0x00): "not ready to ready change, medium may have changed",
    (0x2A, 0x01): "mode parameters changed",
    (0x29, 0x00): "power on, reset, or bus device reset occurred",
    (0x39, 0x00): "saving parameters not supported",
    (0x3A, 0x00): "medium not present",
    (0x4B, 0x00): "data phase error",
    (0x53, 0x02): "medium removal prevented",
    (0x55, 0x00): "system resource failure",
}

_NOT_READY, _UNIT_ATTENTION = 0x02, 0x06
_BECOMING_READY: Final = 0x04

_VALID: Final = 0x80
_LBA: Final = bytes((0x00, 0x0A, _VALID))
"""How the information descriptor begins, where it is valid (SPC-4 table 30)."""


@dataclass(frozen=True, slots=True)
class Sense:
    """Why a command failed: sense key, additional sense code and qualifier (SPC-4 4.5).

    ``information`` is the LBA that goes with it, where there is one. ``deferred`` says that it was
    an earlier command that failed, whose status was good (SPC-4 4.5.5). Neither counts when two
    are compared.
    """

    key: int
    asc: int = 0
    ascq: int = 0
    information: int | None = field(default=None, compare=False)
    deferred: bool = field(default=False, compare=False)

    @classmethod
    def parse(cls, data: bytes) -> Sense:
        """Read fixed (70h, 71h) or descriptor format (72h, 73h); too short reads as zeros."""
        data = data.ljust(SENSE_LENGTH, b"\0")
        deferred = data[0] & 0x7F in (0x71, 0x73)
        if data[0] & 0x7F in (0x72, 0x73):
            lba = int.from_bytes(data[12:20]) if data[7] >= 12 and data[8:11] == _LBA else None
            return cls(data[1] & 0x0F, data[2], data[3], lba, deferred)
        lba = int.from_bytes(data[3:7]) if data[0] & _VALID else None
        return cls(data[2] & 0x0F, data[12], data[13], lba, deferred)

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
        text = f"{_SENSE_KEYS[self.key]}, {text} ({self.key:X}h {self.asc:02X}h {self.ascq:02X}h)"
        if self.information is not None:
            text += f" at LBA {self.information}"
        return f"{text}, of an earlier command" if self.deferred else text


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
    """The command's name in SPC-4, SBC-3 or MMC-6, or its operation code."""
    if len(cdb) > 1 and (cdb[0], cdb[1] & 0x1F) in _SERVICE_ACTIONS:
        return _SERVICE_ACTIONS[cdb[0], cdb[1] & 0x1F]
    return _COMMANDS.get(cdb[0], f"command {cdb[0]:02X}h")


def read_command(lba: int, blocks: int) -> bytes:
    """READ(10), or READ(16) where ten bytes cannot say it."""
    return _block_command(0x28, 0x88, lba, blocks)


def write_command(lba: int, blocks: int) -> bytes:
    """WRITE(10), or WRITE(16) where ten bytes cannot say it."""
    return _block_command(0x2A, 0x8A, lba, blocks)


def verify_command(lba: int, blocks: int, *, compare: bool = False) -> bytes:
    """VERIFY(16); ``compare`` has the host send the blocks that should be there (BYTCHK 1)."""
    return struct.pack(">BBQIBB", 0x8F, 0x02 if compare else 0, lba, blocks, 0, 0)


def write_same_command(lba: int, blocks: int, *, unmap: bool = False, data: bool = True) -> bytes:
    """WRITE SAME(16), ``unmap`` to give zeroes back, without ``data`` for zeroes (NDOB)."""
    flags = (0x08 if unmap else 0) | (0 if data else 0x01)
    return struct.pack(">BBQIBB", 0x93, flags, lba, blocks, 0, 0)


def unmap_command(ranges: Iterable[tuple[int, int]]) -> tuple[bytes, bytes]:
    """UNMAP and its parameter list, of pairs of an LBA and a number of blocks (SBC-3 5.28)."""
    body = b"".join(struct.pack(">QI4x", lba, blocks) for lba, blocks in ranges)
    data = struct.pack(">HH4x", len(body) + 6, len(body)) + body
    return struct.pack(">B6xHx", 0x42, len(data)), data


@dataclass(frozen=True, slots=True)
class SupportedCommand:
    """One entry of REPORT SUPPORTED OPERATION CODES (SPC-4 table 261); ``size`` of its CDB."""

    opcode: int
    service_action: int | None
    size: int

    @property
    def name(self) -> str:
        """As `command_name` has it."""
        return command_name(bytes((self.opcode, self.service_action or 0)))

    @classmethod
    def parse_all(cls, data: bytes) -> tuple[SupportedCommand, ...]:
        """Read the parameter data, as much of it as came."""
        end = min(4 + int.from_bytes(data[:4]), len(data))
        found = []
        for at in range(4, end - 7, 8):
            opcode, action, flags, size = struct.unpack_from(">BxHxBH", data, at)
            found.append(cls(opcode, action if flags & 0x01 else None, size))
        return tuple(found)


def _block_command(code10: int, code16: int, lba: int, blocks: int) -> bytes:
    """A READ or WRITE CDB: ten bytes where they can say it, else sixteen (SBC-3 5.8, 5.10)."""
    if lba + blocks <= 1 << 32 and blocks <= 0xFFFF:
        return struct.pack(">BBIBHB", code10, 0, lba, 0, blocks, 0)
    return struct.pack(">BBQIBB", code16, 0, lba, blocks, 0, 0)
