"""The commands of a CD-ROM drive with one data track, besides those for blocks (MMC-6). Pure.

Only features whose commands are here are told of: there is no audio, no raw sector, no second
session.
"""

from __future__ import annotations

import struct
from typing import Final

from gadgets.mass_storage import sense
from gadgets.mass_storage.command import Answer, Command, command
from gadgets.mass_storage.sense import CheckCondition
from gadgets.mass_storage.unit import Lun, MediumEvent

__all__ = ("COMMANDS",)


def _is_cdrom(lun: Lun) -> bool:
    return lun.cdrom


# --- READ TOC/PMA/ATIP (MMC-6 6.25) ------------------------------------------------------------

_MSF: Final = 0x02
_DATA_TRACK: Final = 0x14
"""ADR 1 (the current position) and CONTROL 4 (data, no copy)."""

_LEAD_OUT: Final = 0xAA
_PREGAP: Final = 150
"""Frames, 2 seconds: LBA 0 is at 00:02:00 (MMC-6 table 573)."""

_LAST_MSF: Final = (255, 59, 74)


def _read_toc(lun: Lun, cdb: bytes) -> Answer:
    flags, form, track, allocation, control = struct.unpack_from(">xBB3xBHB", cdb)
    # SFF-8020i had the format at the top of the last byte, and macOS still sends it there.
    form = form or control >> 6
    if form == 0:
        data = _toc(lun, track, bool(flags & _MSF))
    elif form == 1:
        data = bytes((1, 1)) + _track(1, 0, bool(flags & _MSF))
    elif form == 2:
        data = _full_toc(lun)
    else:
        raise CheckCondition(sense.INVALID_FIELD)
    return Answer.reply(struct.pack(">H", len(data)) + data, allocation)


def _toc(lun: Lun, first: int, as_msf: bool) -> bytes:
    """Track 1, where it is wanted, and the lead-out."""
    if 1 < first != _LEAD_OUT:
        raise CheckCondition(sense.INVALID_FIELD)
    tracks = _track(1, 0, as_msf) if first <= 1 else b""
    return bytes((1, 1)) + tracks + _track(_LEAD_OUT, lun.block_count, as_msf)


def _track(number: int, lba: int, as_msf: bool) -> bytes:
    start = bytes((0, *_msf(lba))) if as_msf else struct.pack(">I", min(lba, 0xFFFF_FFFF))
    return bytes((0, _DATA_TRACK, number, 0)) + start


def _msf(lba: int) -> tuple[int, int, int]:
    """Minutes, seconds and frames; an image that no CD could hold ends where they do."""
    seconds, frame = divmod(lba + _PREGAP, 75)
    minute, second = divmod(seconds, 60)
    return (minute, second, frame) if minute <= 255 else _LAST_MSF


def _full_toc(lun: Lun) -> bytes:
    """MMC-6 table 497: first and last track, lead-out, and track 1, always in MSF."""
    points = (
        (0xA0, (1, 0, 0)),
        (0xA1, (1, 0, 0)),
        (0xA2, _msf(lun.block_count)),
        (0x01, _msf(0)),
    )
    entries = (bytes((1, _DATA_TRACK, 0, point, 0, 0, 0, 0, *msf)) for point, msf in points)
    return bytes((1, 1)) + b"".join(entries)


# --- GET CONFIGURATION (MMC-6 6.5 and 5) -------------------------------------------------------

_CDROM_PROFILE: Final = 0x0008
_ALL, _CURRENT, _ONE = range(3)
_PERSISTENT, _IS_CURRENT = 0x02, 0x01
_USB: Final = 8
_DBE_INQ2: Final = 0x02
_TRAY_EJECT_LOCK: Final = 0x29


def _features(lun: Lun) -> tuple[tuple[int, int, bytes], ...]:
    """Code, version and flags, data."""
    here = _IS_CURRENT if lun.medium_present else 0
    always = _PERSISTENT | _IS_CURRENT
    return (
        (0x0000, always, struct.pack(">HBx", _CDROM_PROFILE, here)),
        (0x0001, 2 << 2 | always, struct.pack(">IB3x", _USB, _DBE_INQ2)),
        (0x0003, always, bytes((_TRAY_EJECT_LOCK, 0, 0, 0))),
        (0x0010, here, struct.pack(">IHBx", lun.block_size, 1, 0)),
    )


def _get_configuration(lun: Lun, cdb: bytes) -> Answer:
    how, first, allocation = struct.unpack_from(">xBH3xH", cdb)
    if how > _ONE:
        raise CheckCondition(sense.INVALID_FIELD)
    data = b"".join(
        struct.pack(">HBB", code, flags, len(body)) + body
        for code, flags, body in _features(lun)
        if (code == first if how == _ONE else code >= first)
        and (how != _CURRENT or flags & _IS_CURRENT)
    )
    profile = _CDROM_PROFILE if lun.medium_present else 0
    return Answer.reply(struct.pack(">IxxH", 4 + len(data), profile) + data, allocation)


# --- GET EVENT STATUS NOTIFICATION (MMC-6 6.6) -------------------------------------------------

_NO_EVENT_AVAILABLE: Final = 0x80
_MEDIA_CLASS: Final = 4
_SUPPORTED_CLASSES: Final = 1 << _MEDIA_CLASS
_MEDIA_PRESENT: Final = 0x02
_EVENTS: Final = {
    MediumEvent.EJECT_REQUESTED: 1,
    MediumEvent.INSERTED: 2,
    MediumEvent.EJECTED: 3,
}


def _get_event_status(lun: Lun, cdb: bytes) -> Answer:
    """Polled only; each event is told once."""
    polled, classes, allocation = struct.unpack_from(">xBxxBxxH", cdb)
    if not polled & 0x01:
        raise CheckCondition(sense.INVALID_FIELD)
    if not classes & _SUPPORTED_CLASSES:
        data = struct.pack(">HBB", 2, _NO_EVENT_AVAILABLE, _SUPPORTED_CLASSES)
        return Answer.reply(data, allocation)
    event = _EVENTS.get(lun.news, 0) if lun.news is not None else 0
    if allocation > 4:
        lun.news = None
    status = _MEDIA_PRESENT if lun.medium_present else 0
    data = struct.pack(">HBBBBxx", 6, _MEDIA_CLASS, _SUPPORTED_CLASSES, event, status)
    return Answer.reply(data, allocation)


COMMANDS: Final[tuple[Command, ...]] = (
    command("READ TOC/PMA/ATIP", "43 02 0f 000000 ff ffff c0", _read_toc,
            needs_medium=True, fits=_is_cdrom),
    command("GET CONFIGURATION", "46 03 ffff 000000 ffff 00", _get_configuration,
            attends=False, fits=_is_cdrom),
    command("GET EVENT STATUS NOTIFICATION", "4a 01 0000 ff 0000 ffff 00", _get_event_status,
            attends=False, fits=_is_cdrom),
)  # fmt: skip
