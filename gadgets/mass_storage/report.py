"""REPORT LUNS and REPORT SUPPORTED OPERATION CODES (SPC-4 6.33 and 6.35). Pure.

The second one is made of the very table that commands are looked up in.
"""

from __future__ import annotations

import struct
from functools import partial
from typing import Final

from gadgets.mass_storage import sense
from gadgets.mass_storage.command import Answer, Command, CommandSet, command
from gadgets.mass_storage.sense import CheckCondition
from gadgets.mass_storage.unit import Lun

__all__ = ("report_luns", "report_supported_operation_codes")

_TIMEOUTS: Final = struct.pack(">HBBII", 10, 0, 0, 0, 0)
"""The command timeouts descriptor (SPC-4 table 264): no time is indicated."""

_RCTD: Final = 0x80
_CTDP, _SERVACTV = 0x02, 0x01
_ONE_CTDP: Final = 0x80
_NOT_SUPPORTED, _AS_THE_STANDARD_SAYS = 0x01, 0x03
_ALL, _OPCODE, _SERVICE_ACTION, _EITHER = range(4)


def report_luns(count: int) -> Command:
    """The command for a device of ``count`` units."""
    return command(
        "REPORT LUNS",
        "a0 00 ff 000000 ffffffff 00 00",
        partial(_report_luns, count),
        attends=False,
    )


def _report_luns(count: int, _lun: Lun, cdb: bytes) -> Answer:
    """SPC-4 6.33: peripheral addressing; SELECT REPORT 1 asks for well known units only."""
    select, allocation = struct.unpack_from(">2xB3xI", cdb)
    if select > 2 or allocation < 16:
        raise CheckCondition(sense.INVALID_FIELD)
    numbers = range(count) if select != 1 else ()
    entries = b"".join(struct.pack(">xB6x", number) for number in numbers)
    return Answer.reply(struct.pack(">I4x", len(entries)) + entries, allocation)


def report_supported_operation_codes(commands: tuple[Command, ...]) -> Command:
    """The command for a unit with these ``commands`` and itself."""

    def handle(_lun: Lun, cdb: bytes) -> Answer:
        return _report(every, cdb)

    own = command(
        "REPORT SUPPORTED OPERATION CODES",
        "a3 0c 87 ff ffff ffffffff 00 00",
        handle,
        service_action=True,
    )
    every = CommandSet((*commands, own))
    return own


def _report(commands: CommandSet, cdb: bytes) -> Answer:
    options, opcode, action, allocation = struct.unpack_from(">2xBBHI", cdb)
    with_timeouts = bool(options & _RCTD)
    how = options & 0x07
    if how == _ALL:
        return Answer.reply(_all(commands, with_timeouts), allocation)
    has_actions = commands.has_service_actions(opcode)
    # SPC-4 table 259: the wrong kind of question about an operation code.
    if how > _EITHER or how == (_OPCODE if has_actions else _SERVICE_ACTION):
        raise CheckCondition(sense.INVALID_FIELD)
    found = commands.named(opcode, action)
    if how == _EITHER and action and not has_actions:
        found = None  # SPC-4 table 259 again: there is no such service action
    return Answer.reply(_one(found, with_timeouts), allocation)


def _all(commands: CommandSet, with_timeouts: bool) -> bytes:
    """SPC-4 table 260."""
    descriptors = []
    for one in commands:
        flags = _SERVACTV if one.service_action is not None else 0
        flags |= _CTDP if with_timeouts else 0
        action = one.service_action or 0
        descriptors.append(struct.pack(">BxHxBH", one.opcode, action, flags, one.size))
        if with_timeouts:
            descriptors.append(_TIMEOUTS)
    data = b"".join(descriptors)
    return struct.pack(">I", len(data)) + data


def _one(found: Command | None, with_timeouts: bool) -> bytes:
    """SPC-4 table 263."""
    if found is None:
        return struct.pack(">xBH", _NOT_SUPPORTED, 0)
    support = _AS_THE_STANDARD_SAYS | (_ONE_CTDP if with_timeouts else 0)
    data = struct.pack(">xBH", support, found.size) + found.usage
    return data + _TIMEOUTS if with_timeouts else data
