"""MODE SENSE: the pages and the two headers (SPC-4 6.13, 6.14 and 7.5, SBC-3 6.4). Pure."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from gadgets.mass_storage import sense
from gadgets.mass_storage.sense import CheckCondition
from gadgets.mass_storage.unit import Lun

__all__ = ("PAGES", "sense6", "sense10")

_WP: Final = 0x80
_DPOFUA: Final = 0x10
_WCE: Final = 0x04

_CHANGEABLE, _SAVED = 1, 3
_ALL_PAGES, _ALL_SUBPAGES = 0x3F, 0xFF


def sense6(lun: Lun, page: int, subpage: int) -> bytes:
    """MODE SENSE(6), given bytes 2 and 3 of the command. Raises CheckCondition."""
    pages = _pages(lun, page, subpage)
    return struct.pack(">BBBB", 3 + len(pages), 0, _device_specific(lun), 0) + pages


def sense10(lun: Lun, page: int, subpage: int) -> bytes:
    """MODE SENSE(10), given bytes 2 and 3 of the command. Raises CheckCondition."""
    pages = _pages(lun, page, subpage)
    return struct.pack(">HBB4x", 6 + len(pages), 0, _device_specific(lun)) + pages


def _device_specific(lun: Lun) -> int:
    """SBC-3 table 193."""
    return (_WP if lun.read_only else 0) | (_DPOFUA if lun.has_write_cache else 0)


def _pages(lun: Lun, page: int, subpage: int) -> bytes:
    control, code = page >> 6, page & 0x3F
    if control == _SAVED:
        raise CheckCondition(sense.SAVING_NOT_SUPPORTED)
    if subpage and not (subpage == _ALL_SUBPAGES and code == _ALL_PAGES):
        raise CheckCondition(sense.INVALID_FIELD)
    codes = sorted(PAGES) if code == _ALL_PAGES else [code]
    written = []
    for code in codes:
        write = PAGES.get(code)
        if write is None:
            raise CheckCondition(sense.INVALID_FIELD)
        # SPC-4 6.13.3: of changeable values a set bit may be changed. None may.
        body = write(lun)
        body = bytes(len(body)) if control == _CHANGEABLE else body
        written.append(bytes((code, len(body))) + body)
    return b"".join(written)


def _caching(lun: Lun) -> bytes:
    """SBC-3 table 197: WCE tells the host whether SYNCHRONIZE CACHE matters."""
    return struct.pack(">B17x", _WCE if lun.has_write_cache else 0)


def _informational_exceptions(_lun: Lun) -> bytes:
    """SPC-4 table 425: nothing is reported on its own."""
    return bytes(10)


PAGES: Final[dict[int, Callable[[Lun], bytes]]] = {
    0x08: _caching,
    0x1C: _informational_exceptions,
}
