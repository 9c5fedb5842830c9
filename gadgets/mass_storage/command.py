"""What a SCSI command is and what becomes of it: Command, CommandSet and Answer. Pure values.

The families of commands (blocks.py, capacity.py, cdrom.py, mode.py, ...) write theirs as tables of
Command; scsi.py puts them together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from gadgets.mass_storage import sense
from gadgets.mass_storage.sense import CheckCondition, Sense
from gadgets.mass_storage.unit import Lun
from usbip_vudc.sglist import Buffer
from usbip_vudc.usb.ch9 import Direction

__all__ = ("GOOD", "Answer", "Command", "CommandSet", "any_unit", "command", "is_disk")

Work = Callable[[], Sense | None]
Take = Callable[[int, memoryview], Sense | None]


class Answer:
    """What the device intends for one command.

    ``length`` bytes move in ``direction`` (None: no data): from ``data``, or where that is None
    from or to byte ``offset`` of the medium. ``take`` gets OUT data in place of the medium, piece
    by piece and in order: how many bytes came before, and bytes that stay only while it runs.
    ``touches`` is how many bytes from ``offset`` on are read or written, where they do not move.

    ``work`` may block: it runs before IN data, after OUT data and before the status. ``finish``
    runs after it, on the event loop. ``afterwards`` may block: it runs when the status is on its
    way, and what fails there is a deferred error. All return the Sense of their failure or None.
    ``failed`` is CHECK CONDITION; the unit's sense is set already.
    """

    __slots__ = (
        "afterwards", "data", "direction", "failed", "finish", "length", "offset", "take",
        "touches", "work",
    )  # fmt: skip

    def __init__(
        self,
        direction: Direction | None = None,
        length: int = 0,
        offset: int = 0,
        data: Buffer | None = None,
        take: Take | None = None,
        work: Work | None = None,
        finish: Work | None = None,
        afterwards: Work | None = None,
        failed: bool = False,
    ) -> None:
        self.direction = direction
        self.length = length
        self.offset = offset
        self.data = data
        self.take = take
        self.touches = 0
        self.work = work
        self.finish = finish
        self.afterwards = afterwards
        self.failed = failed

    @classmethod
    def reply(cls, data: bytes, allocation: int) -> Answer:
        """Parameter data, cut to the allocation length in bytes (SPC-4 4.2.5.6)."""
        data = data[:allocation]
        return cls(Direction.IN, len(data), data=data)

    @classmethod
    def parameters(cls, length: int, work: Callable[[bytes], Sense | None]) -> Answer:
        """A parameter list of ``length`` bytes from the host; ``work`` gets it whole, or never."""
        received = bytearray()

        def take(_offset: int, piece: memoryview) -> None:
            received.extend(piece)

        return cls(Direction.OUT, length, take=take, work=lambda: work(bytes(received)))


GOOD: Final = Answer()
"""Nothing moves and nothing fails."""


def any_unit(_lun: Lun) -> bool:
    """Every kind of unit has the command."""
    return True


def is_disk(lun: Lun) -> bool:
    """The commands of SBC that MMC does not share."""
    return not lun.cdrom


@dataclass(frozen=True, slots=True)
class Command:
    """How one operation code, or one service action of it, is handled.

    ``usage`` is the CDB usage data (SPC-4 6.35.3): the operation code, and then a set bit for
    each bit of the command block that is looked at. Any other that is set fails with 05/24/00.
    ``needs_medium`` answers 02/3A/00 without one. ``attends`` is False for the commands that a
    pending UNIT ATTENTION or deferred error does not hold up (SAM-5 5.14, SPC-4 4.5.5). ``fits``
    says which units have it.
    """

    name: str
    usage: bytes
    handle: Callable[[Lun, bytes], Answer]
    needs_medium: bool
    attends: bool
    fits: Callable[[Lun], bool]
    service_action: int | None
    reserved: int

    @property
    def opcode(self) -> int:
        """The operation code."""
        return self.usage[0]

    @property
    def size(self) -> int:
        """Bytes of the command block."""
        return len(self.usage)


def command(
    name: str,
    usage: str,
    handle: Callable[[Lun, bytes], Answer],
    *,
    needs_medium: bool = False,
    attends: bool = True,
    fits: Callable[[Lun], bool] = any_unit,
    service_action: bool = False,
) -> Command:
    """A Command, its usage in hexadecimal: ``28 18 ffffffff 00 ffff 00`` is READ(10).

    ``service_action`` says that the low bits of byte 1 are no mask but such a code.
    """
    data = bytes.fromhex(usage)
    mask = bytearray(data)
    mask[0] = 0xFF
    if len(data) == 6:
        mask[1] |= 0xE0  # SCSI-2 7.2.2 had the LUN there, and hosts that old still send it
    action = None
    if service_action:
        mask[1] |= 0x1F
        action = data[1] & 0x1F
    reserved = int.from_bytes(mask) ^ (1 << 8 * len(data)) - 1
    return Command(name, data, handle, needs_medium, attends, fits, action, reserved)


class CommandSet:
    """The commands that one kind of unit has."""

    def __init__(self, commands: Iterable[Command]) -> None:
        self._plain: dict[int, Command] = {}
        self._actions: dict[int, dict[int, Command]] = {}
        for one in commands:
            if one.service_action is None:
                self._plain[one.opcode] = one
            else:
                self._actions.setdefault(one.opcode, {})[one.service_action] = one

    def __iter__(self) -> Iterator[Command]:
        """By operation code and service action."""
        every = {code: {0: one} for code, one in self._plain.items()} | self._actions
        for _, group in sorted(every.items()):
            for _, one in sorted(group.items()):
                yield one

    def find(self, cdb: bytes) -> Command | None:
        """The command of a command block; None where the operation code is unknown.

        Raises CheckCondition 05/24/00 for a service action that is not there (SPC-4 4.2.5.2).
        """
        opcode = cdb[0]
        found = self._plain.get(opcode)
        if found is not None:
            return found
        group = self._actions.get(opcode)
        if group is None:
            return None
        found = group.get(cdb[1] & 0x1F) if len(cdb) > 1 else None
        if found is None:
            raise CheckCondition(sense.INVALID_FIELD)
        return found

    def named(self, opcode: int, service_action: int) -> Command | None:
        """A command by its codes; the second counts only where there are service actions."""
        if opcode in self._plain:
            return self._plain[opcode]
        return self._actions.get(opcode, {}).get(service_action)

    def has_service_actions(self, opcode: int) -> bool:
        """Whether the operation code means nothing without a service action."""
        return opcode in self._actions
