"""MODE SENSE and MODE SELECT: pages, headers, and what a host may change. Pure.

SPC-4 6.11 to 6.14 and 7.5, SBC-3 6.5, MMC-3 5.5. Nothing is saved: a reset brings all back.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from gadgets.mass_storage import sense
from gadgets.mass_storage.blocks import flush
from gadgets.mass_storage.command import GOOD, Answer, Command, any_unit, command, is_disk
from gadgets.mass_storage.sense import CheckCondition, Sense
from gadgets.mass_storage.unit import Lun

__all__ = ("COMMANDS", "PAGES", "Page")

_WP: Final = 0x80
_DPOFUA: Final = 0x10
_WCE: Final = 0x04
_SWP: Final = 0x08
_PF: Final = 0x10
_PS: Final = 0x80

_CURRENT, _CHANGEABLE, _DEFAULT, _SAVED = range(4)
_ALL_PAGES, _ALL_SUBPAGES = 0x3F, 0xFF


# --- MODE SENSE --------------------------------------------------------------------------------


def _mode_sense6(lun: Lun, cdb: bytes) -> Answer:
    """SPC-4 6.13. No block descriptors, whatever DBD says."""
    pages = _pages(lun, cdb[2], cdb[3])
    return Answer.reply(bytes((3 + len(pages), 0, _device_specific(lun), 0)) + pages, cdb[4])


def _mode_sense10(lun: Lun, cdb: bytes) -> Answer:
    """SPC-4 6.14."""
    pages = _pages(lun, cdb[2], cdb[3])
    (allocation,) = struct.unpack_from(">H", cdb, 7)
    header = struct.pack(">HBB4x", 6 + len(pages), 0, _device_specific(lun))
    return Answer.reply(header + pages, allocation)


def _device_specific(lun: Lun) -> int:
    """SBC-3 table 193; MMC-6 7.2.2 has none of it."""
    if lun.cdrom:
        return 0
    is_protected = lun.read_only or lun.software_write_protected
    return (_WP if is_protected else 0) | (_DPOFUA if lun.has_write_cache else 0)


def _pages(lun: Lun, page: int, subpage: int) -> bytes:
    control, code = page >> 6, page & 0x3F
    if control == _SAVED:
        raise CheckCondition(sense.SAVING_NOT_SUPPORTED)
    if subpage not in (0, _ALL_SUBPAGES):
        raise CheckCondition(sense.INVALID_FIELD)
    fitting = [one for one in PAGES if one.fits(lun) and code in (one.code, _ALL_PAGES)]
    if not fitting:
        raise CheckCondition(sense.INVALID_FIELD)
    return b"".join(_page(one, lun, control) for one in fitting)


def _page(page: Page, lun: Lun, control: int) -> bytes:
    """SPC-4 6.13.3: of the changeable values, a set bit may be changed."""
    body = page.write(lun, control == _DEFAULT)
    if control == _CHANGEABLE:
        body = page.mask(lun).ljust(len(body), b"\0")
    return bytes((page.code, len(body))) + body


# --- MODE SELECT -------------------------------------------------------------------------------


def _mode_select6(lun: Lun, cdb: bytes) -> Answer:
    """SPC-4 6.11."""
    return _mode_select(lun, cdb[1], 4, cdb[4])


def _mode_select10(lun: Lun, cdb: bytes) -> Answer:
    """SPC-4 6.12."""
    (length,) = struct.unpack_from(">H", cdb, 7)
    return _mode_select(lun, cdb[1], 8, length)


def _mode_select(lun: Lun, flags: int, header: int, length: int) -> Answer:
    if not length:
        return GOOD
    if not flags & _PF:
        raise CheckCondition(sense.INVALID_FIELD)  # pages before SCSI-2 had no format
    if length < header:
        raise CheckCondition(sense.LIST_LENGTH_ERROR)
    return Answer.parameters(length, partial(_select, lun, header))


def _select(lun: Lun, header: int, data: bytes) -> Sense | None:
    """Parse completely, then act: a list with one bad page changes nothing."""
    medium_type = data[header // 4]
    descriptors = data[3] if header == 4 else data[6] << 8 | data[7]
    if medium_type or descriptors:
        return sense.INVALID_FIELD_IN_LIST  # MODE SENSE shows neither
    try:
        changes = list(_parse_pages(lun, data[header:]))
    except CheckCondition as condition:
        return condition.sense
    for page, body in changes:
        failure = page.change(lun, body)
        if failure is not None:
            return failure
    return None


def _parse_pages(lun: Lun, data: bytes) -> Iterator[tuple[Page, bytes]]:
    """SPC-4 6.11: what cannot be changed must come as MODE SENSE shows it."""
    while data:
        if len(data) < 2 or len(data) < 2 + data[1]:
            raise CheckCondition(sense.LIST_LENGTH_ERROR)
        # PS is reserved here, and hosts send back what they got; SPF is for subpages.
        code, body = data[0] & ~_PS, data[2 : 2 + data[1]]
        page = next((one for one in PAGES if one.code == code and one.fits(lun)), None)
        if page is None:
            raise CheckCondition(sense.INVALID_FIELD_IN_LIST)
        now, mask = page.write(lun, False), page.mask(lun).ljust(len(body), b"\0")
        if len(body) != len(now) or any(
            (new ^ old) & ~may for new, old, may in zip(body, now, mask, strict=True)
        ):
            raise CheckCondition(sense.INVALID_FIELD_IN_LIST)
        yield page, body
        data = data[2 + len(body) :]


# --- pages -------------------------------------------------------------------------------------


def _keep(_lun: Lun, _body: bytes) -> None:
    """Nothing of the page can change."""


def _nothing(_lun: Lun) -> bytes:
    return b""


@dataclass(frozen=True, slots=True)
class Page:
    """One mode page.

    ``write`` gives what follows its code and length, as it is or (True) by default; ``change``
    puts another one in force and may block. ``mask`` has a bit for each that may change; what it
    lacks at its end is zeroes.
    """

    code: int
    write: Callable[[Lun, bool], bytes]
    fits: Callable[[Lun], bool] = any_unit
    mask: Callable[[Lun], bytes] = _nothing
    change: Callable[[Lun, bytes], Sense | None] = _keep


def _error_recovery(_lun: Lun, _default: bool) -> bytes:
    """SBC-3 6.5.8, MMC-6 7.3: errors are told at once, nothing is retried or reassigned."""
    return bytes(10)


def _caching(lun: Lun, default: bool) -> bytes:
    """SBC-3 6.5.5: WCE tells the host whether SYNCHRONIZE CACHE matters."""
    is_on = lun.has_write_cache and (default or not lun.write_through)
    return struct.pack(">B17x", _WCE if is_on else 0)


def _caching_mask(lun: Lun) -> bytes:
    return bytes((_WCE if lun.has_write_cache else 0,))


def _change_caching(lun: Lun, body: bytes) -> Sense | None:
    """Off: each write is durable before its status, and so is what is in the cache now."""
    lun.write_through = lun.has_write_cache and not body[0] & _WCE
    return flush(lun) if lun.write_through else None


def _control(lun: Lun, default: bool) -> bytes:
    """SPC-4 7.5.8: SWP protects until it is cleared, or until a reset."""
    is_on = lun.software_write_protected and not default
    return struct.pack(">xxB7x", _SWP if is_on else 0)


def _change_control(lun: Lun, body: bytes) -> None:
    lun.software_write_protected = bool(body[2] & _SWP)


def _informational_exceptions(_lun: Lun, _default: bool) -> bytes:
    """SPC-4 7.5.13: nothing is reported on its own."""
    return bytes(10)


_CDROM_CAPABILITIES: Final = struct.Struct(">4xBxHHHH4x")
_LOCK, _LOCKED, _EJECT, _TRAY = 0x01, 0x02, 0x08, 0x20
_KB_PER_SECOND: Final = 176
"""The speed of an audio CD."""


def _cdrom_capabilities(lun: Lun, _default: bool) -> bytes:
    """MMC-3 5.5.10, which later ones drop but drivers still read: reads data, writes nothing."""
    mechanism = _TRAY | _EJECT | _LOCK | (_LOCKED if lun.prevented else 0)
    speed = 48 * _KB_PER_SECOND
    return _CDROM_CAPABILITIES.pack(mechanism, speed, 0, 0, speed)


PAGES: Final[tuple[Page, ...]] = (
    Page(0x01, _error_recovery),
    Page(0x08, _caching, is_disk, _caching_mask, _change_caching),
    Page(0x0A, _control, is_disk, lambda _lun: bytes((0, 0, _SWP)), _change_control),
    Page(0x1C, _informational_exceptions, is_disk),
    Page(0x2A, _cdrom_capabilities, lambda lun: lun.cdrom),
)
"""In the order of their codes."""

COMMANDS: Final[tuple[Command, ...]] = (
    # SP: there is nothing to save pages in.
    command("MODE SELECT(6)", "15 10 0000 ff 00", _mode_select6),
    command("MODE SENSE(6)", "1a 08 ff ff ff 00", _mode_sense6),
    command("MODE SELECT(10)", "55 10 0000000000 ffff 00", _mode_select10),
    command("MODE SENSE(10)", "5a 18 ff ff 000000 ffff 00", _mode_sense10),
)
