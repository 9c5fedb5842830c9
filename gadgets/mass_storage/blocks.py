"""The commands that move and check blocks: READ, WRITE, VERIFY, SYNCHRONIZE CACHE (SBC-3 5). Pure.

LBAs and transfer lengths are in blocks.
"""

from __future__ import annotations

import struct
from functools import partial
from typing import Final

from gadgets.mass_storage import sense
from gadgets.mass_storage.command import GOOD, Answer, Command, command, is_disk
from gadgets.mass_storage.sense import CheckCondition, Sense
from gadgets.mass_storage.unit import Lun
from usbip_vudc.usb.ch9 import Direction

__all__ = ("COMMANDS", "check_range", "check_writable", "first_difference", "flush")

_IN, _OUT = Direction.IN, Direction.OUT

_CDB6: Final = struct.Struct(">xBHB")
_CDB10: Final = struct.Struct(">xBIxH")
_CDB12: Final = struct.Struct(">xBII")
_CDB16: Final = struct.Struct(">xBQI")

_FUA: Final = 0x08
_IMMED: Final = 0x02
_PIECE: Final = 1 << 20

_NO_COMPARISON, _COMPARE, _RESERVED_BYTCHK, _COMPARE_ONE = range(4)
"""BYTCHK (SBC-3 5.27): what the data-out buffer has for the medium to be compared with."""


def check_range(lun: Lun, lba: int, blocks: int) -> None:
    """Raises CheckCondition 05/21/00 beyond the last block (SBC-3 4.5)."""
    if lba + blocks > lun.block_count:
        raise CheckCondition(sense.LBA_OUT_OF_RANGE)


def check_writable(lun: Lun) -> None:
    """Raises CheckCondition 07/27 for a write-protected unit (SBC-3 4.12)."""
    if lun.read_only:
        raise CheckCondition(sense.WRITE_PROTECTED)
    if lun.software_write_protected:
        raise CheckCondition(sense.SOFTWARE_WRITE_PROTECTED)


def flush(lun: Lun) -> Sense | None:
    """Make written data durable. Blocks."""
    try:
        lun.flush()
    except OSError:
        return sense.WRITE_ERROR
    return None


# --- READ and WRITE ----------------------------------------------------------------------------


def _read(lun: Lun, flags: int, lba: int, blocks: int) -> Answer:
    """SBC-3 5.8 and on. FUA: what is in the cache only goes to the medium first."""
    if lba + blocks > lun.block_count:
        raise CheckCondition(sense.LBA_OUT_OF_RANGE)
    size = lun.block_size
    answer = Answer(_IN, blocks * size, lba * size)
    if flags & _FUA and lun.has_write_cache:
        answer.work = partial(flush, lun)
    return answer


def _write(lun: Lun, flags: int, lba: int, blocks: int) -> Answer:
    """SBC-3 5.32 and on. FUA, or a cache that is off: durable before the status."""
    check_writable(lun)
    if lba + blocks > lun.block_count:
        raise CheckCondition(sense.LBA_OUT_OF_RANGE)
    size = lun.block_size
    answer = Answer(_OUT, blocks * size, lba * size)
    if lun.has_write_cache and (flags & _FUA or lun.write_through):
        answer.work = partial(flush, lun)
    return answer


def _fields6(cdb: bytes) -> tuple[int, int, int]:
    """SBC-3 5.7: 21 bits of LBA, and a length of 0 means 256 blocks."""
    high, low, blocks = _CDB6.unpack_from(cdb)
    return 0, (high & 0x1F) << 16 | low, blocks or 256


def _read6(lun: Lun, cdb: bytes) -> Answer:
    return _read(lun, *_fields6(cdb))


def _write6(lun: Lun, cdb: bytes) -> Answer:
    return _write(lun, *_fields6(cdb))


def _read10(lun: Lun, cdb: bytes) -> Answer:
    return _read(lun, *_CDB10.unpack_from(cdb))


def _write10(lun: Lun, cdb: bytes) -> Answer:
    return _write(lun, *_CDB10.unpack_from(cdb))


def _read12(lun: Lun, cdb: bytes) -> Answer:
    return _read(lun, *_CDB12.unpack_from(cdb))


def _write12(lun: Lun, cdb: bytes) -> Answer:
    return _write(lun, *_CDB12.unpack_from(cdb))


def _read16(lun: Lun, cdb: bytes) -> Answer:
    return _read(lun, *_CDB16.unpack_from(cdb))


def _write16(lun: Lun, cdb: bytes) -> Answer:
    return _write(lun, *_CDB16.unpack_from(cdb))


# --- VERIFY ------------------------------------------------------------------------------------


def _verify_medium(lun: Lun, offset: int, length: int) -> Sense | None:
    good = lun.verify(offset, length)
    if good == length:
        return None
    return sense.UNRECOVERED_READ_ERROR.at((offset + good) // lun.block_size)


def first_difference(one: bytearray, other: memoryview) -> int:
    """The offset of the first byte that differs, of two of one length that do."""
    low, high = 0, len(one)
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low


def _compare(lun: Lun, start: int, offset: int, data: memoryview) -> Sense | None:
    """SBC-3 5.27: the medium against what the host sent, in bytes from ``start + offset``."""
    at = start + offset
    # A bytearray is compared by memcmp; two memoryviews byte by byte, 30 times slower.
    found = bytearray(lun.read(at, len(data)))
    whole = data[: len(found)]
    if found != whole:
        return sense.MISCOMPARE.at((at + first_difference(found, whole)) // lun.block_size)
    if len(found) < len(data):
        return sense.UNRECOVERED_READ_ERROR.at((at + len(found)) // lun.block_size)
    return None


def _compare_one(lun: Lun, offset: int, length: int, block: bytes) -> Sense | None:
    pattern = memoryview(block * min(_PIECE // len(block), length // len(block)))
    for start in range(0, length, len(pattern)):
        piece = pattern[: length - start]
        failure = _compare(lun, offset, start, piece)
        if failure is not None:
            return failure
    return None


def _verify(lun: Lun, flags: int, lba: int, blocks: int) -> Answer:
    """SBC-3 5.27 and on: the medium alone, or compared with blocks that the host sends."""
    how = flags >> 1 & 0x03
    if how == _RESERVED_BYTCHK:
        raise CheckCondition(sense.INVALID_FIELD)
    check_range(lun, lba, blocks)
    if not blocks:
        return GOOD
    offset, length = lba * lun.block_size, blocks * lun.block_size
    if how == _COMPARE:
        answer = Answer(_OUT, length, take=partial(_compare, lun, offset))
    elif how == _COMPARE_ONE:
        answer = Answer.parameters(lun.block_size, partial(_compare_one, lun, offset, length))
    else:
        answer = Answer(work=partial(_verify_medium, lun, offset, length))
    answer.offset, answer.touches = offset, length
    return answer


def _write_checked(lun: Lun, start: int, offset: int, data: memoryview) -> Sense | None:
    written = lun.write(start + offset, data)
    lun.bytes_written += written
    if written < len(data):
        return sense.WRITE_ERROR.at((start + offset + written) // lun.block_size)
    return _compare(lun, start, offset, data)


def _flush_and_verify(lun: Lun, offset: int, length: int) -> Sense | None:
    return flush(lun) or _verify_medium(lun, offset, length)


def _write_and_verify(lun: Lun, flags: int, lba: int, blocks: int) -> Answer:
    """SBC-3 5.36 and on: it is on the medium, and readable from there, before the status."""
    how = flags >> 1 & 0x03
    if how > _COMPARE:
        raise CheckCondition(sense.INVALID_FIELD)
    check_writable(lun)
    check_range(lun, lba, blocks)
    if not blocks:
        return GOOD
    offset, length = lba * lun.block_size, blocks * lun.block_size
    answer = Answer(_OUT, length, offset, work=partial(_flush_and_verify, lun, offset, length))
    if how == _COMPARE:
        answer.take, answer.touches = partial(_write_checked, lun, offset), length
        answer.work = partial(flush, lun)
    return answer


def _verify10(lun: Lun, cdb: bytes) -> Answer:
    return _verify(lun, *_CDB10.unpack_from(cdb))


def _verify12(lun: Lun, cdb: bytes) -> Answer:
    return _verify(lun, *_CDB12.unpack_from(cdb))


def _verify16(lun: Lun, cdb: bytes) -> Answer:
    return _verify(lun, *_CDB16.unpack_from(cdb))


def _write_and_verify10(lun: Lun, cdb: bytes) -> Answer:
    return _write_and_verify(lun, *_CDB10.unpack_from(cdb))


def _write_and_verify12(lun: Lun, cdb: bytes) -> Answer:
    return _write_and_verify(lun, *_CDB12.unpack_from(cdb))


def _write_and_verify16(lun: Lun, cdb: bytes) -> Answer:
    return _write_and_verify(lun, *_CDB16.unpack_from(cdb))


def _synchronize(layout: struct.Struct, lun: Lun, cdb: bytes) -> Answer:
    """SBC-3 5.24: all of the cache, whatever the range. IMMED: the status does not wait for it."""
    flags, lba, blocks = layout.unpack_from(cdb)
    check_range(lun, lba, blocks)
    if not lun.has_write_cache:
        return GOOD
    work = partial(flush, lun)
    return Answer(afterwards=work) if flags & _IMMED else Answer(work=work)


COMMANDS: Final[tuple[Command, ...]] = (
    command("READ(6)", "08 1f ffff ff 00", _read6, needs_medium=True, fits=is_disk),
    command("READ(10)", "28 18 ffffffff 00 ffff 00", _read10, needs_medium=True),
    command("READ(12)", "a8 18 ffffffff ffffffff 00 00", _read12, needs_medium=True),
    *(
        command(name, usage, handle, needs_medium=True, fits=is_disk)
        for name, usage, handle in (
            ("READ(16)", "88 18 ffffffffffffffff ffffffff 00 00", _read16),
            ("WRITE(6)", "0a 1f ffff ff 00", _write6),
            ("WRITE(10)", "2a 18 ffffffff 00 ffff 00", _write10),
            ("WRITE(12)", "aa 18 ffffffff ffffffff 00 00", _write12),
            ("WRITE(16)", "8a 18 ffffffffffffffff ffffffff 00 00", _write16),
            ("VERIFY(10)", "2f 16 ffffffff 00 ffff 00", _verify10),
            ("VERIFY(12)", "af 16 ffffffff ffffffff 00 00", _verify12),
            ("VERIFY(16)", "8f 16 ffffffffffffffff ffffffff 00 00", _verify16),
            ("WRITE AND VERIFY(10)", "2e 16 ffffffff 00 ffff 00", _write_and_verify10),
            ("WRITE AND VERIFY(12)", "ae 16 ffffffff ffffffff 00 00", _write_and_verify12),
            ("WRITE AND VERIFY(16)", "8e 16 ffffffffffffffff ffffffff 00 00",
             _write_and_verify16),
            ("SYNCHRONIZE CACHE(10)", "35 02 ffffffff 00 ffff 00", partial(_synchronize, _CDB10)),
            ("SYNCHRONIZE CACHE(16)", "91 02 ffffffffffffffff ffffffff 00 00",
             partial(_synchronize, _CDB16)),
        )
    ),
)  # fmt: skip
