"""The commands about the state of a unit: ready, started, locked, what failed last. Pure.

SPC-4 6, and START STOP UNIT of SBC-3 5.25.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from gadgets.mass_storage import sense
from gadgets.mass_storage.blocks import flush
from gadgets.mass_storage.command import GOOD, Answer, Command, command
from gadgets.mass_storage.sense import CheckCondition, Sense
from gadgets.mass_storage.unit import Lun

__all__ = ("COMMANDS",)

_DESC: Final = 0x01
_IMMED: Final = 0x01
_START, _LOEJ = 0x01, 0x02


def _is_removable(lun: Lun) -> bool:
    return lun.removable


def _is_fixed(lun: Lun) -> bool:
    return not lun.removable


def _test_unit_ready(_lun: Lun, _cdb: bytes) -> Answer:
    return GOOD


def _request_sense(lun: Lun, cdb: bytes) -> Answer:
    """SPC-4 6.39: what failed last, else what the host must still be told, which is then told."""
    found = lun.sense
    if found == sense.NO_SENSE and lun.attentions:
        found = lun.attentions.pop(0)
    elif found == sense.NO_SENSE and not lun.medium_present:
        found = sense.MEDIUM_NOT_PRESENT
    data = found.pack_descriptors() if cdb[1] & _DESC else found.pack()
    return Answer.reply(data, cdb[4])


def _start_stop_unit(lun: Lun, cdb: bytes) -> Answer:
    """SBC-3 5.25. IMMED: the status of a stop does not wait for the cache; an eject's does."""
    loej = cdb[4] & _LOEJ
    if cdb[4] & _START:
        if not lun.medium_present and not (loej and _load(lun)):
            raise CheckCondition(sense.MEDIUM_NOT_PRESENT)
        return GOOD
    if loej and lun.prevented:
        raise CheckCondition(sense.REMOVAL_PREVENTED)
    work = partial(flush, lun)
    if loej:
        return Answer(work=work, finish=partial(_eject, lun))
    return Answer(afterwards=work) if cdb[1] & _IMMED else Answer(work=work)


def _eject(lun: Lun) -> Sense | None:
    try:
        lun.eject()
    except OSError:
        lun.attentions.remove(sense.WRITE_ERROR.later())  # told at once, by this command
        return sense.WRITE_ERROR
    return None


def _load(lun: Lun) -> bool:
    try:
        lun.insert()
    except (OSError, ValueError):
        return False
    return True


def _prevent_allow(lun: Lun, cdb: bytes) -> Answer:
    """SPC-4 6.19."""
    lun.prevented = bool(cdb[4])
    return GOOD


def _send_diagnostic(_lun: Lun, cdb: bytes) -> Answer:
    """SPC-4 6.42: the default self-test passes; SELF-TEST CODE would ask for another one."""
    if cdb[1] & 0xE0:
        raise CheckCondition(sense.INVALID_FIELD)
    return GOOD


COMMANDS: Final[tuple[Command, ...]] = (
    command("TEST UNIT READY", "00 00 00 00 00 00", _test_unit_ready, needs_medium=True),
    command("REQUEST SENSE", "03 01 00 00 ff 00", _request_sense, attends=False),
    # No power conditions, and a fixed medium has no tray.
    command("START STOP UNIT", "1b 01 00 00 01 00", _start_stop_unit, fits=_is_fixed),
    command("START STOP UNIT", "1b 01 00 00 03 00", _start_stop_unit, fits=_is_removable),
    command("SEND DIAGNOSTIC", "1d 04 00 00 00 00", _send_diagnostic),
    command(
        "PREVENT ALLOW MEDIUM REMOVAL", "1e 00 00 00 01 00", _prevent_allow, fits=_is_removable
    ),
)
