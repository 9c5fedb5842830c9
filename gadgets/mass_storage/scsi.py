"""The SCSI target: interprets command blocks over Luns (SPC-4, SBC-3; READ FORMAT CAPACITIES: UFI).

Pure: it decides what a command will do, and the caller moves the data. Nothing waits here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from gadgets.mass_storage import inquiry, mode, sense
from gadgets.mass_storage.sense import CheckCondition, Sense
from gadgets.mass_storage.unit import Lun
from usbip_vudc.usb.ch9 import Direction

__all__ = ("COMMANDS", "Answer", "Command", "Target")

_IN, _OUT = Direction.IN, Direction.OUT


class Answer:
    """What the device intends for one command.

    ``length`` bytes move in ``direction`` (None: no data): from ``data``, or where that is None
    from or to byte ``offset`` of the medium. ``work`` may block: it runs before IN data and
    before the status. ``finish`` runs after it, on the event loop. Both return the Sense of their
    failure or None.
    ``failed`` is CHECK CONDITION; the unit's sense is set already.
    """

    __slots__ = ("data", "direction", "failed", "finish", "length", "offset", "work")

    def __init__(
        self,
        direction: Direction | None = None,
        length: int = 0,
        offset: int = 0,
        data: bytes | None = None,
        work: Callable[[], Sense | None] | None = None,
        finish: Callable[[], Sense | None] | None = None,
        failed: bool = False,
    ) -> None:
        self.direction = direction
        self.length = length
        self.offset = offset
        self.data = data
        self.work = work
        self.finish = finish
        self.failed = failed

    @classmethod
    def reply(cls, data: bytes, allocation: int) -> Answer:
        """Parameter data, cut to the allocation length in bytes (SPC-4 4.2.5.6)."""
        data = data[:allocation]
        return cls(_IN, len(data), data=data)


_GOOD: Final = Answer()
_FAILED: Final = Answer(failed=True)


class Command(NamedTuple):
    """How an opcode is handled.

    ``needs_medium`` answers 02/3A/00 without one. ``attends`` is False for the commands that a
    pending UNIT ATTENTION does not hold up (SAM-5 5.14).
    """

    name: str
    handle: Callable[[Lun, bytes], Answer]
    needs_medium: bool = False
    attends: bool = True


class Target:
    """The logical units of one function, 1 to 16."""

    def __init__(self, luns: Sequence[Lun]) -> None:
        self.luns = tuple(luns)
        self.commands: Mapping[int, Command] = {
            **COMMANDS,
            0xA0: Command("REPORT LUNS", self._report_luns, attends=False),
        }

    def reset(self) -> None:
        """Power on or reset: every unit reports 06/29/00 once."""
        for lun in self.luns:
            lun.reset()

    def execute(self, lun: Lun, cdb: bytes) -> Answer:
        """Interpret one command block. What is refused fails with the unit's sense set."""
        opcode = cdb[0]
        command = self.commands.get(opcode)
        try:
            if lun.attentions and (command is None or command.attends):
                raise CheckCondition(lun.attentions.pop(0))
            if command is None:
                raise CheckCondition(sense.INVALID_OPCODE)
            if len(cdb) < _CDB_SIZES[opcode >> 5]:
                raise CheckCondition(sense.INVALID_FIELD)
            if command.needs_medium and not lun.size:
                raise CheckCondition(sense.MEDIUM_NOT_PRESENT)
            answer = command.handle(lun, cdb)
        except CheckCondition as condition:
            lun.sense = condition.sense
            return _FAILED
        lun.sense = sense.NO_SENSE
        return answer

    def _report_luns(self, _lun: Lun, cdb: bytes) -> Answer:
        """SPC-4 6.33: peripheral addressing; SELECT REPORT 1 asks for well known units only."""
        select, allocation = struct.unpack_from(">2xB3xI", cdb)
        if select > 2 or allocation < 16:
            raise CheckCondition(sense.INVALID_FIELD)
        numbers = range(len(self.luns)) if select != 1 else ()
        entries = b"".join(struct.pack(">xB6x", number) for number in numbers)
        return Answer.reply(struct.pack(">I4x", len(entries)) + entries, allocation)


_CDB_SIZES: Final = (6, 10, 10, 1, 16, 12, 1, 1)
"""Bytes of a command block by its group code, the top bits of the opcode (SPC-4 table 20)."""


# --- data --------------------------------------------------------------------------------------

_CDB6: Final = struct.Struct(">xBHB")
_CDB10: Final = struct.Struct(">xBIxH")
_CDB12: Final = struct.Struct(">xBII")
_CDB16: Final = struct.Struct(">xBQI")

_PROTECT: Final = 0xE0
_FUA: Final = 0x08


def _flush(lun: Lun) -> Sense | None:
    try:
        lun.flush()
    except OSError:
        return sense.WRITE_ERROR
    return None


def _verify(lun: Lun, offset: int, length: int) -> Sense | None:
    good = lun.verify(offset, length)
    if good == length:
        return None
    return sense.UNRECOVERED_READ_ERROR.at((offset + good) // lun.block_size)


def _check_range(lun: Lun, lba: int, blocks: int) -> None:
    if lba + blocks > lun.block_count:
        raise CheckCondition(sense.LBA_OUT_OF_RANGE)


def _read(lun: Lun, flags: int, lba: int, blocks: int) -> Answer:
    """SBC-3 5.8 and on. FUA: what is in the cache only goes to the medium first."""
    if flags & _PROTECT:
        raise CheckCondition(sense.INVALID_FIELD)
    if lba + blocks > lun.block_count:
        raise CheckCondition(sense.LBA_OUT_OF_RANGE)
    size = lun.block_size
    answer = Answer(_IN, blocks * size, lba * size)
    if flags & _FUA and lun.has_write_cache:
        answer.work = partial(_flush, lun)
    return answer


def _write(lun: Lun, flags: int, lba: int, blocks: int) -> Answer:
    """SBC-3 5.32 and on. FUA: durable before the status."""
    if flags & _PROTECT:
        raise CheckCondition(sense.INVALID_FIELD)
    if lun.read_only:
        raise CheckCondition(sense.WRITE_PROTECTED)
    if lba + blocks > lun.block_count:
        raise CheckCondition(sense.LBA_OUT_OF_RANGE)
    size = lun.block_size
    answer = Answer(_OUT, blocks * size, lba * size)
    if flags & _FUA and lun.has_write_cache:
        answer.work = partial(_flush, lun)
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


def _verify10(lun: Lun, cdb: bytes) -> Answer:
    """SBC-3 5.27. BYTCHK other than 0 would have the host send data to compare."""
    flags, lba, blocks = _CDB10.unpack_from(cdb)
    if flags & (_PROTECT | 0x06):
        raise CheckCondition(sense.INVALID_FIELD)
    _check_range(lun, lba, blocks)
    return Answer(work=partial(_verify, lun, lba * lun.block_size, blocks * lun.block_size))


def _synchronize(layout: struct.Struct, lun: Lun, cdb: bytes) -> Answer:
    """SBC-3 5.24: all of the cache, whatever the range; IMMED does not make it faster."""
    _, lba, blocks = layout.unpack_from(cdb)
    _check_range(lun, lba, blocks)
    return Answer(work=partial(_flush, lun)) if lun.has_write_cache else _GOOD


# --- state -------------------------------------------------------------------------------------


def _test_unit_ready(_lun: Lun, _cdb: bytes) -> Answer:
    return _GOOD


def _request_sense(lun: Lun, cdb: bytes) -> Answer:
    """SPC-4 6.39: what failed last, else a pending UNIT ATTENTION, which is then reported."""
    if cdb[1] & 0x01:
        raise CheckCondition(sense.INVALID_FIELD)  # DESC: only the fixed format here
    found = lun.sense
    if found == sense.NO_SENSE and lun.attentions:
        found = lun.attentions.pop(0)
    elif found == sense.NO_SENSE and not lun.medium_present:
        found = sense.MEDIUM_NOT_PRESENT
    return Answer.reply(found.pack(), cdb[4])


def _start_stop_unit(lun: Lun, cdb: bytes) -> Answer:
    """SBC-3 5.25: START is bit 0, LOEJ bit 1 of byte 4."""
    if cdb[4] & 0xF0:
        raise CheckCondition(sense.INVALID_FIELD)  # power conditions
    start, loej = cdb[4] & 0x01, cdb[4] & 0x02
    if loej and not lun.removable:
        raise CheckCondition(sense.INVALID_FIELD)
    if start:
        if not lun.medium_present and not (loej and _load(lun)):
            raise CheckCondition(sense.MEDIUM_NOT_PRESENT)
        return _GOOD
    if loej and lun.prevented:
        raise CheckCondition(sense.REMOVAL_PREVENTED)
    return Answer(work=partial(_flush, lun), finish=partial(_eject, lun) if loej else None)


def _eject(lun: Lun) -> Sense | None:
    try:
        lun.eject()
    except OSError:
        return sense.WRITE_ERROR
    return None


def _load(lun: Lun) -> bool:
    try:
        lun.insert()
    except (OSError, ValueError):
        return False
    return True


def _prevent_allow(lun: Lun, cdb: bytes) -> Answer:
    """SPC-4 6.19 of removable units; a fixed one has nothing to prevent."""
    if not lun.removable:
        raise CheckCondition(sense.INVALID_OPCODE)
    if cdb[4] & 0xFE:
        raise CheckCondition(sense.INVALID_FIELD)
    lun.prevented = bool(cdb[4])
    return _GOOD


def _send_diagnostic(_lun: Lun, cdb: bytes) -> Answer:
    """SPC-4 6.42: the default self-test passes; no other one exists."""
    if cdb[1] & ~0x04 or cdb[3] or cdb[4]:
        raise CheckCondition(sense.INVALID_FIELD)
    return _GOOD


# --- geometry ----------------------------------------------------------------------------------


def _read_capacity10(lun: Lun, cdb: bytes) -> Answer:
    """SBC-3 5.12. FFFFFFFFh sends the host to READ CAPACITY(16)."""
    if any(cdb[2:6]) or cdb[8] & 0x01:
        raise CheckCondition(sense.INVALID_FIELD)  # PMI and its LBA are obsolete
    last = min(lun.block_count - 1, 0xFFFF_FFFF)
    return Answer.reply(struct.pack(">II", last, lun.block_size), 8)


def _service_action_in(lun: Lun, cdb: bytes) -> Answer:
    """SBC-3 5.13, READ CAPACITY(16), is the only service action here."""
    if cdb[1] & 0x1F != 0x10:
        raise CheckCondition(sense.INVALID_FIELD)
    (allocation,) = struct.unpack_from(">I", cdb, 10)
    data = struct.pack(">QI20x", lun.block_count - 1, lun.block_size)
    return Answer.reply(data, allocation)


def _read_format_capacities(lun: Lun, cdb: bytes) -> Answer:
    """UFI 4.10: one descriptor, of formatted media (type 2)."""
    (allocation,) = struct.unpack_from(">H", cdb, 7)
    blocks = min(lun.block_count, 0xFFFF_FFFF)
    return Answer.reply(struct.pack(">3xBII", 8, blocks, 2 << 24 | lun.block_size), allocation)


# --- identity and modes ------------------------------------------------------------------------


def _inquiry(lun: Lun, cdb: bytes) -> Answer:
    evpd, page, allocation = struct.unpack_from(">xBBH", cdb)
    return Answer.reply(inquiry.answer(lun, evpd, page), allocation)


def _mode_sense6(lun: Lun, cdb: bytes) -> Answer:
    return Answer.reply(mode.sense6(lun, cdb[2], cdb[3]), cdb[4])


def _mode_sense10(lun: Lun, cdb: bytes) -> Answer:
    (allocation,) = struct.unpack_from(">H", cdb, 7)
    return Answer.reply(mode.sense10(lun, cdb[2], cdb[3]), allocation)


def _mode_select6(_lun: Lun, cdb: bytes) -> Answer:
    return _mode_select(cdb[4])


def _mode_select10(_lun: Lun, cdb: bytes) -> Answer:
    return _mode_select(cdb[7] | cdb[8])


def _mode_select(length: int) -> Answer:
    """SPC-4 6.11: no page can be changed, but an empty list is no error."""
    if length:
        raise CheckCondition(sense.INVALID_OPCODE)
    return _GOOD


COMMANDS: Final[dict[int, Command]] = {
    0x00: Command("TEST UNIT READY", _test_unit_ready, needs_medium=True),
    0x03: Command("REQUEST SENSE", _request_sense, attends=False),
    0x08: Command("READ(6)", _read6, needs_medium=True),
    0x0A: Command("WRITE(6)", _write6, needs_medium=True),
    0x12: Command("INQUIRY", _inquiry, attends=False),
    0x15: Command("MODE SELECT(6)", _mode_select6),
    0x1A: Command("MODE SENSE(6)", _mode_sense6),
    0x1B: Command("START STOP UNIT", _start_stop_unit),
    0x1D: Command("SEND DIAGNOSTIC", _send_diagnostic),
    0x1E: Command("PREVENT ALLOW MEDIUM REMOVAL", _prevent_allow),
    0x23: Command("READ FORMAT CAPACITIES", _read_format_capacities, needs_medium=True),
    0x25: Command("READ CAPACITY(10)", _read_capacity10, needs_medium=True),
    0x28: Command("READ(10)", _read10, needs_medium=True),
    0x2A: Command("WRITE(10)", _write10, needs_medium=True),
    0x2F: Command("VERIFY(10)", _verify10, needs_medium=True),
    0x35: Command("SYNCHRONIZE CACHE(10)", partial(_synchronize, _CDB10), needs_medium=True),
    0x55: Command("MODE SELECT(10)", _mode_select10),
    0x5A: Command("MODE SENSE(10)", _mode_sense10),
    0x88: Command("READ(16)", _read16, needs_medium=True),
    0x8A: Command("WRITE(16)", _write16, needs_medium=True),
    0x91: Command("SYNCHRONIZE CACHE(16)", partial(_synchronize, _CDB16), needs_medium=True),
    0x9E: Command("SERVICE ACTION IN(16)", _service_action_in, needs_medium=True),
    0xA8: Command("READ(12)", _read12, needs_medium=True),
    0xAA: Command("WRITE(12)", _write12, needs_medium=True),
}
"""Every opcode but REPORT LUNS, which is the `Target`'s. Any other fails with 05/20/00."""
