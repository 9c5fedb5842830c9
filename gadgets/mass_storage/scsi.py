"""The SCSI target: interprets command blocks over Luns (SPC-4, SBC-3, MMC-6; UFI for one).

Pure: it decides what a command will do, and the caller moves the data. Nothing waits here. The
commands are in rooms of their own, by family.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gadgets.mass_storage import (
    blocks,
    capacity,
    cdrom,
    inquiry,
    mode,
    provisioning,
    report,
    sense,
    state,
)
from gadgets.mass_storage.command import Answer, Command, CommandSet
from gadgets.mass_storage.sense import CheckCondition
from gadgets.mass_storage.unit import Lun

__all__ = ("COMMANDS", "Answer", "Target", "commands_of")

COMMANDS: Final[tuple[Command, ...]] = (
    *state.COMMANDS,
    *inquiry.COMMANDS,
    *mode.COMMANDS,
    *capacity.COMMANDS,
    *blocks.COMMANDS,
    *provisioning.COMMANDS,
    *cdrom.COMMANDS,
)
"""Every command but the two that report.py makes for a target; ``fits`` says for which units."""

_FAILED: Final = Answer(failed=True)


def commands_of(lun: Lun, *, count: int = 1) -> CommandSet:
    """All that a unit of a device of ``count`` units can do. Any other opcode is 05/20/00."""
    fitting = (*(one for one in COMMANDS if one.fits(lun)), report.report_luns(count))
    return CommandSet((*fitting, report.report_supported_operation_codes(fitting)))


class Target:
    """The logical units of one function, 1 to 16."""

    def __init__(self, luns: Sequence[Lun]) -> None:
        self.luns = tuple(luns)
        for number, lun in enumerate(self.luns):
            lun.number = number
        self.commands = {lun: commands_of(lun, count=len(self.luns)) for lun in self.luns}

    def reset(self) -> None:
        """Power on or reset: every unit reports 06/29/00 once."""
        for lun in self.luns:
            lun.reset()

    def execute(self, lun: Lun, cdb: bytes) -> Answer:
        """Interpret one command block. What is refused fails with the unit's sense set."""
        try:
            answer = self._execute(lun, cdb)
        except CheckCondition as condition:
            lun.sense = condition.sense
            return _FAILED
        lun.sense = sense.NO_SENSE
        return answer

    def _execute(self, lun: Lun, cdb: bytes) -> Answer:
        refusal = lun.refusal(cdb)
        if refusal is not None:
            raise CheckCondition(refusal)
        if lun.attentions and not self._is_let_through(lun, cdb):
            raise CheckCondition(lun.attentions.pop(0))
        command = self.commands[lun].find(cdb)
        if command is None:
            raise CheckCondition(sense.INVALID_OPCODE)
        size = command.size
        reserved = int.from_bytes(cdb[:size]) & command.reserved
        if len(cdb) < size or (reserved and reserved != self._lun_bits(lun, size)):
            raise CheckCondition(sense.INVALID_FIELD)
        if command.needs_medium and not lun.size:
            raise CheckCondition(sense.MEDIUM_NOT_PRESENT)
        return command.handle(lun, cdb)

    def _lun_bits(self, lun: Lun, size: int) -> int:
        """What a host of SCSI-2's time repeats in byte 1: the LUN, in bits 7 to 5 (7.2.2)."""
        return (self.luns.index(lun) << 5 & 0xE0) << 8 * (size - 2)

    def _is_let_through(self, lun: Lun, cdb: bytes) -> bool:
        command = self.commands[lun].named(cdb[0], cdb[1] & 0x1F if len(cdb) > 1 else 0)
        return command is not None and not command.attends
