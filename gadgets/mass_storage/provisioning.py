"""The commands that write without data for each block, or give blocks back (SBC-3 4.7 and 5). Pure.

UNMAP, WRITE SAME and GET LBA STATUS. On a thin unit every block that is given back reads as
zeroes (LBPRZ). LBAs and numbers of blocks are in blocks.
"""

from __future__ import annotations

import struct
from functools import partial
from typing import Final

from gadgets.mass_storage import sense
from gadgets.mass_storage.blocks import check_range, check_writable, flush
from gadgets.mass_storage.command import GOOD, Answer, Command, command, is_disk
from gadgets.mass_storage.sense import CheckCondition, Sense
from gadgets.mass_storage.unit import Lun

__all__ = ("COMMANDS", "MAX_DESCRIPTORS", "MAX_WRITE_SAME")

MAX_WRITE_SAME: Final = 0x7F_FFFF
"""Blocks of one WRITE SAME, which would otherwise write for hours: what Linux sends at most where
nobody tells it (drivers/scsi/sd.h, SD_MAX_WS16_BLOCKS)."""

MAX_DESCRIPTORS: Final = (0xFFFF - 8) // 16
"""Block descriptors that an UNMAP parameter list has room for."""

_WS10: Final = struct.Struct(">xBIxH")
_WS16: Final = struct.Struct(">xBQI")
_RANGE: Final = struct.Struct(">QI4x")

_UNMAP, _NDOB = 0x08, 0x01
_PIECE: Final = 1 << 20


def _has_thin_blocks(lun: Lun) -> bool:
    return lun.thin and not lun.cdrom


def _has_thick_blocks(lun: Lun) -> bool:
    return not lun.thin and not lun.cdrom


# --- WRITE SAME (SBC-3 5.46 to 5.48) -----------------------------------------------------------


def _write_same(lun: Lun, flags: int, lba: int, blocks: int) -> Answer:
    check_writable(lun)
    # WSNZ of the Block Limits page is 0: no blocks are all that follow, and one at least.
    check_range(lun, lba, blocks or 1)
    blocks = blocks or lun.block_count - lba
    if blocks > MAX_WRITE_SAME:
        raise CheckCondition(sense.INVALID_FIELD)
    offset = lba * lun.block_size
    work = partial(_fill, lun, offset, blocks, bool(flags & _UNMAP))
    if flags & _NDOB:
        answer = Answer(work=partial(work, bytes(lun.block_size)))
    else:
        answer = Answer.parameters(lun.block_size, work)
    answer.offset, answer.touches = offset, blocks * lun.block_size
    return answer


def _fill(lun: Lun, offset: int, blocks: int, unmap: bool, block: bytes) -> Sense | None:
    """SBC-3 5.47: where LBPRZ is set, UNMAP counts only for a block of zeroes."""
    if unmap and not any(block):
        failure = _give_back(lun, offset, blocks * lun.block_size)
    else:
        failure = _write_pieces(lun, offset, blocks * lun.block_size, block)
    return failure or (flush(lun) if lun.write_through else None)


def _write_pieces(lun: Lun, offset: int, length: int, block: bytes) -> Sense | None:
    pattern = memoryview(block * min(_PIECE // len(block), length // len(block)))
    end = offset + length
    while offset < end:
        piece = pattern[: end - offset]
        written = lun.write(offset, piece)
        offset += written
        if written < len(piece):
            return sense.WRITE_ERROR.at(offset // lun.block_size)
    return None


def _give_back(lun: Lun, offset: int, length: int) -> Sense | None:
    try:
        lun.unmap(offset, length)
    except OSError:
        return sense.WRITE_ERROR.at(offset // lun.block_size)
    return None


def _write_same10(lun: Lun, cdb: bytes) -> Answer:
    flags, lba, blocks = _WS10.unpack_from(cdb)
    return _write_same(lun, flags & _UNMAP, lba, blocks)


def _write_same16(lun: Lun, cdb: bytes) -> Answer:
    return _write_same(lun, *_WS16.unpack_from(cdb))


# --- UNMAP (SBC-3 5.28) ------------------------------------------------------------------------


def _unmap(lun: Lun, cdb: bytes) -> Answer:
    (length,) = struct.unpack_from(">H", cdb, 7)
    check_writable(lun)
    if not length:
        return GOOD
    if length < 8:
        raise CheckCondition(sense.LIST_LENGTH_ERROR)
    return Answer.parameters(length, partial(_unmap_ranges, lun))


def _unmap_ranges(lun: Lun, data: bytes) -> Sense | None:
    """Parse completely, then act: a list with one bad range changes nothing."""
    list_length, descriptors_length = struct.unpack_from(">HH", data)
    if list_length + 2 > len(data) or descriptors_length + 8 > len(data):
        return sense.LIST_LENGTH_ERROR
    ranges = [
        _RANGE.unpack_from(data, 8 + number * _RANGE.size)
        for number in range(descriptors_length // _RANGE.size)  # an incomplete one is ignored
    ]
    if any(lba + blocks > lun.block_count for lba, blocks in ranges):
        return sense.LBA_OUT_OF_RANGE
    for lba, blocks in ranges:
        if blocks:
            failure = _give_back(lun, lba * lun.block_size, blocks * lun.block_size)
            if failure is not None:
                return failure
    return flush(lun) if lun.write_through else None


# --- GET LBA STATUS (SBC-3 5.4) ----------------------------------------------------------------

_MAPPED, _DEALLOCATED = 0, 1


def _get_lba_status(lun: Lun, cdb: bytes) -> Answer:
    """One descriptor: the host asks again from the end of it."""
    lba, allocation = struct.unpack_from(">QI", cdb, 2)
    if lba >= lun.block_count:
        raise CheckCondition(sense.LBA_OUT_OF_RANGE)
    offset = lba * lun.block_size
    try:
        # Every block of a fully provisioned unit is mapped (SBC-3 4.7.2), holes or not.
        is_mapped, length = lun.extent(offset) if lun.thin else (True, lun.size - offset)
    except OSError as error:
        raise CheckCondition(sense.UNRECOVERED_READ_ERROR.at(lba)) from error
    # A block that is in part a hole is none: the file system's blocks may be smaller than these.
    blocks = -(-length // lun.block_size) if is_mapped else length // lun.block_size
    status = _MAPPED if is_mapped or not blocks else _DEALLOCATED
    blocks = min(max(blocks, 1), 0xFFFF_FFFF)
    return Answer.reply(struct.pack(">I4xQIB3x", 20, lba, blocks, status), allocation)


COMMANDS: Final[tuple[Command, ...]] = (
    # ANCHOR, PBDATA and LBDATA are for other kinds of units and times.
    command(
        "WRITE SAME(10)", "41 00 ffffffff 00 ffff 00", _write_same10,
        needs_medium=True, fits=_has_thick_blocks,
    ),
    command(
        "WRITE SAME(10)", "41 08 ffffffff 00 ffff 00", _write_same10,
        needs_medium=True, fits=_has_thin_blocks,
    ),
    command(
        "WRITE SAME(16)", "93 01 ffffffffffffffff ffffffff 00 00", _write_same16,
        needs_medium=True, fits=_has_thick_blocks,
    ),
    command(
        "WRITE SAME(16)", "93 09 ffffffffffffffff ffffffff 00 00", _write_same16,
        needs_medium=True, fits=_has_thin_blocks,
    ),
    command(
        "UNMAP", "42 00 00000000 00 ffff 00", _unmap, needs_medium=True, fits=_has_thin_blocks
    ),
    command(
        "GET LBA STATUS", "9e 12 ffffffffffffffff ffffffff 00 00", _get_lba_status,
        needs_medium=True, fits=is_disk, service_action=True,
    ),
)  # fmt: skip
