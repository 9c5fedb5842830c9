"""INQUIRY: the standard data and the vital product data pages (SPC-4 6.6 and 7.8, SBC-3 6.6).

Pure: a Lun in, bytes out.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from gadgets.mass_storage import sense
from gadgets.mass_storage.sense import CheckCondition
from gadgets.mass_storage.unit import Lun

__all__ = ("PAGES", "answer")

_REMOVABLE: Final = 0x80
_VERSION_SPC_4: Final = 0x06
_RESPONSE_FORMAT: Final = 0x02

_OPTIMAL_TRANSFER: Final = 1 << 20
"""Bytes: what one request moves without being cut here."""


def answer(lun: Lun, evpd: int, page: int) -> bytes:
    """The data before it is cut to the allocation length. Raises CheckCondition 05/24/00."""
    if evpd & ~0x01 or (page and not evpd):
        raise CheckCondition(sense.INVALID_FIELD)
    if not evpd:
        return _standard(lun)
    write = PAGES.get(page)
    if write is None:
        raise CheckCondition(sense.INVALID_FIELD)
    body = write(lun)
    return struct.pack(">BBH", 0, page, len(body)) + body


def _standard(lun: Lun) -> bytes:
    """SPC-4 table 175, the 36 bytes that every host asks for."""
    return struct.pack(
        ">BBBBB3x8s16s4s",
        0,  # a direct access block device is connected
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


def _supported_pages(_lun: Lun) -> bytes:
    return bytes(sorted(PAGES))


def _unit_serial_number(lun: Lun) -> bytes:
    return lun.serial.encode("ascii")


def _device_identification(lun: Lun) -> bytes:
    """SPC-4 7.8.6: one designator of the unit, T10 vendor ID based (type 1), in ASCII (2)."""
    name = _padded(lun.vendor, 8) + _padded(lun.product, 16) + lun.serial.encode("ascii")
    return struct.pack(">BBxB", 0x02, 0x01, len(name)) + name


def _block_limits(lun: Lun) -> bytes:
    """SBC-3 table 205: no limit but a preference, and no UNMAP."""
    return struct.pack(">4xII48x", 0, _OPTIMAL_TRANSFER // lun.block_size)


def _block_characteristics(_lun: Lun) -> bytes:
    """SBC-3 table 203: a medium that does not rotate."""
    return struct.pack(">H58x", 1)


PAGES: Final[dict[int, Callable[[Lun], bytes]]] = {
    0x00: _supported_pages,
    0x80: _unit_serial_number,
    0x83: _device_identification,
    0xB0: _block_limits,
    0xB1: _block_characteristics,
}
