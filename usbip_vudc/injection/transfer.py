"""Transfer: what passes a seam, as the rules of a plan see it. Pure.

`Commands` follows the Bulk-Only commands in it (BOT 5), so that rules can speak of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from usbip_vudc.sglist import Buffer
from usbip_vudc.usb.bot import CBW_SIZE, CSW_SIZE
from usbip_vudc.usb.ch9 import Direction, SetupPacket

__all__ = ("PHASES", "SEAMS", "Command", "Commands", "Transfer")

SEAMS: Final = ("function", "host", "cable")
"""The function's endpoints, the host's URBs, the bytes between them."""

PHASES: Final = ("command", "data", "status")
"""Of a Bulk-Only command: its CBW, its data, its CSW."""


@dataclass(slots=True, kw_only=True)
class Transfer:
    """A Request of a function, or a URB, on its way through a seam.

    ``function`` and ``role`` are known at the function's seam only. ``length`` is in bytes, and
    ``position`` and ``end`` say which bytes of its endpoint's stream it holds (the Injector's
    affair, as is ``reserved``). ``data`` is the payload where it is known: of IN at the function,
    of OUT at host and cable, and of both once they have moved. ``setup`` makes it a control
    transfer. It ``is_iso`` where it is the data of one service interval, or a URB with packets.
    """

    seam: str
    address: int
    direction: Direction
    length: int
    function: str = ""
    role: str = ""
    max_packet_size: int = 0
    data: Buffer = b""
    setup: SetupPacket | None = None
    is_iso: bool = False
    position: int = 0
    end: int = 0
    reserved: int = 0
    command: Command | None = None
    phase: str = ""


@dataclass(frozen=True, slots=True)
class Command:
    """What a CBW asked for. ``blocks`` is (first LBA, count) where the opcode has them."""

    opcode: int
    direction: Direction
    length: int
    blocks: tuple[int, int] | None


_BLOCKS: Final = {
    # opcode: where LBA and count lie in the CDB, as (start, stop) each (SBC-3 5)
    0x28: ((2, 6), (7, 9)), 0x2A: ((2, 6), (7, 9)), 0x2F: ((2, 6), (7, 9)),
    0x88: ((2, 10), (10, 14)), 0x8A: ((2, 10), (10, 14)), 0x8F: ((2, 10), (10, 14)),
    0xA8: ((2, 6), (6, 10)), 0xAA: ((2, 6), (6, 10)),
}  # fmt: skip


class Commands:
    """The Bulk-Only command that each function is at."""

    def __init__(self) -> None:
        self._current: dict[str, tuple[Command, str]] = {}

    def follow(self, transfer: Transfer) -> None:
        """Set the transfer's ``command`` and ``phase``, where there is a command."""
        if transfer.setup is not None:
            return
        data, function = transfer.data, transfer.function
        is_in = transfer.direction == Direction.IN
        if not is_in and len(data) == CBW_SIZE and bytes(data[:4]) == _SIGNED_CBW:
            self._current[function] = (_command(bytes(data)), "command")
            transfer.command, transfer.phase = self._current[function]
        elif function in self._current:
            command, phase = self._current[function]
            transfer.phase = _next(transfer, command, phase)
            if transfer.phase != "command":
                # One that is about to come is nobody's yet.
                transfer.command = command
                self._current[function] = (command, transfer.phase)
        else:
            # What a disk waits for first is a CBW; once it is there its bytes tell.
            transfer.phase = "" if is_in or data else "command"

    def forget(self, function: str) -> None:
        """A function begins anew, whatever it was at."""
        self._current.pop(function, None)


_SIGNED_CBW: Final = b"USBC"
_SIGNED_CSW: Final = b"USBS"


def _next(transfer: Transfer, command: Command, phase: str) -> str:
    if transfer.direction == Direction.IN:
        # Before its bytes are known a CSW shows by its length: nobody reads 13 bytes of data.
        signed = not transfer.data or bytes(transfer.data[:4]) == _SIGNED_CSW
        return "status" if transfer.length == CSW_SIZE and signed else "data"
    waits = command.direction == Direction.OUT and command.length and phase != "status"
    return "data" if waits else "command"


def _command(cbw: bytes) -> Command:
    opcode = cbw[15]
    blocks = None
    if opcode in _BLOCKS:
        (start, stop), (first, last) = _BLOCKS[opcode]
        cdb = cbw[15:]
        blocks = (int.from_bytes(cdb[start:stop], "big"), int.from_bytes(cdb[first:last], "big"))
    return Command(
        opcode,
        Direction.IN if cbw[12] & 0x80 else Direction.OUT,
        int.from_bytes(cbw[8:12], "little"),
        blocks,
    )
