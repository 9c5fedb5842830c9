"""INQUIRY: the standard data and the vital product data pages (SPC-4 6.6 and 7.8, SBC-3 6.6).

Pure: a Lun and a command block in, bytes out.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from gadgets.mass_storage import sense
from gadgets.mass_storage.command import Answer, Command, any_unit, command, is_disk
from gadgets.mass_storage.provisioning import MAX_DESCRIPTORS, MAX_WRITE_SAME
from gadgets.mass_storage.sense import CheckCondition
from gadgets.mass_storage.unit import Lun

__all__ = ("COMMANDS", "PAGES")

_REMOVABLE: Final = 0x80
_VERSION_SPC_4: Final = 0x06
_RESPONSE_FORMAT: Final = 0x02

_DISK, _CDROM = 0x00, 0x05
"""Peripheral device types (SPC-4 table 143), of a unit that is connected."""

_OPTIMAL_TRANSFER: Final = 1 << 20
"""Bytes: what one request moves without being cut here."""

_UNMAP_GRANULARITY: Final = 4096
"""Bytes: what file systems and pages of memory have for a block."""

_NO_LIMIT: Final = 0xFFFF_FFFF
_LBPU, _LBPWS, _LBPWS10, _LBPRZ = 0x80, 0x40, 0x20, 0x04
_THIN: Final = 2


def _inquiry(lun: Lun, cdb: bytes) -> Answer:
    evpd, page, allocation = struct.unpack_from(">xBBH", cdb)
    return Answer.reply(_page(lun, page) if evpd & 0x01 else _standard(lun, page), allocation)


def _page(lun: Lun, page: int) -> bytes:
    write, fits = PAGES.get(page, (None, any_unit))
    if write is None or not fits(lun):
        raise CheckCondition(sense.INVALID_FIELD)
    body = write(lun)
    return struct.pack(">BBH", _device_type(lun), page, len(body)) + body


def _device_type(lun: Lun) -> int:
    return _CDROM if lun.cdrom else _DISK


def _standard(lun: Lun, page: int) -> bytes:
    """SPC-4 table 175, the 36 bytes that every host asks for."""
    if page:
        raise CheckCondition(sense.INVALID_FIELD)
    return struct.pack(
        ">BBBBB3x8s16s4s",
        _device_type(lun),
        _REMOVABLE if lun.removable else 0,
        _VERSION_SPC_4,
        _RESPONSE_FORMAT,
        31,
        _padded(lun.vendor, 8),
        _padded(lun.product, 16),
        _padded(lun.revision, 4),
    )


def _padded(text: str, width: int) -> bytes:
    return text.encode("ascii").ljust(width)


def _supported_pages(lun: Lun) -> bytes:
    return bytes(sorted(page for page, (_, fits) in PAGES.items() if fits(lun)))


def _unit_serial_number(lun: Lun) -> bytes:
    return lun.serial.encode("ascii")


def _device_identification(lun: Lun) -> bytes:
    """SPC-4 7.8.6: one designator of the unit, T10 vendor ID based (type 1), in ASCII (2).

    No other unit of the device has it, though their serial numbers may be one: hosts that find two
    disks with one name take them for two paths to one disk.
    """
    number = f"-{lun.number}" if lun.number else ""
    name = _padded(lun.vendor, 8) + _padded(lun.product, 16) + (lun.serial + number).encode("ascii")
    return struct.pack(">BBxB", 0x02, 0x01, len(name)) + name


def _block_limits(lun: Lun) -> bytes:
    """SBC-3 table 205: no limit for transfers but a preference."""
    unmap = (0, 0, 0)
    if lun.thin:
        unmap = (_NO_LIMIT, MAX_DESCRIPTORS, max(_UNMAP_GRANULARITY // lun.block_size, 1))
    preference = _OPTIMAL_TRANSFER // lun.block_size
    return struct.pack(">8xI4xIII4xQ20x", preference, *unmap, MAX_WRITE_SAME)


def _block_characteristics(_lun: Lun) -> bytes:
    """SBC-3 table 203: a medium that does not rotate."""
    return struct.pack(">H58x", 1)


def _logical_block_provisioning(lun: Lun) -> bytes:
    """SBC-3 table 208: what gives blocks back, and that they then read as zeroes."""
    if not lun.thin:
        return bytes(4)
    return struct.pack(">xBBx", _LBPU | _LBPWS | _LBPWS10 | _LBPRZ, _THIN)


PAGES: Final[dict[int, tuple[Callable[[Lun], bytes], Callable[[Lun], bool]]]] = {
    0x00: (_supported_pages, any_unit),
    0x80: (_unit_serial_number, any_unit),
    0x83: (_device_identification, any_unit),
    0xB0: (_block_limits, is_disk),
    0xB1: (_block_characteristics, is_disk),
    0xB2: (_logical_block_provisioning, is_disk),
}
"""What writes a page, and which units have it."""

COMMANDS: Final[tuple[Command, ...]] = (
    command("INQUIRY", "12 01 ff ffff 00", _inquiry, attends=False),
)
