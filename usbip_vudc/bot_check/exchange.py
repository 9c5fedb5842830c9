"""One command of the bulk-only transport as a host carries it out, and all that it sees of it.

Nothing is judged here but what leaves a host without a status: judging.py has the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from usbip_vudc.bot_check.findings import Violation
from usbip_vudc.bot_check.initiator import IN, OUT, Initiator, Moved
from usbip_vudc.errors import RemoteProtocolError
from usbip_vudc.sglist import Buffer
from usbip_vudc.usb.bot import CSW_SIZE, Cbw, Csw, CswStatus

__all__ = ("Seen", "exchange", "read_csw", "status_name")

_CSW_SIGNATURE: Final = b"USBS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a host has seen of a command.

    ``moved`` is the bytes of the data stage, ``data`` those that came in. ``stalls`` is how often
    bulk IN, or bulk OUT in a data stage that goes out, was STALLed. ``early`` says that the CSW
    came where data were expected.
    """

    csw: Csw
    moved: int = 0
    data: bytes = b""
    stalls: int = 0
    early: bool = False


def exchange(host: Initiator, cbw: Cbw, data_out: Buffer = b"") -> Seen:
    """Carry out a command: CBW, the data stage that it announces, CSW. Halts are cleared.

    ``data_out`` are the bytes that go out where it announces such. Raises as `Initiator` does,
    and Violation where there is no CSW to be had, or one that is none (BOT 6.3.1).
    """
    if host.send(cbw.pack()).stalled:
        raise Violation("bulk OUT was STALLed instead of taking a valid CBW (BOT 5.3.1)")
    moved = _data_stage(host, cbw, data_out)
    if moved.stalled:
        host.clear_halt(OUT if cbw.direction is OUT else IN)
    early = _last_packet(moved.data, host.packet)
    if early[:4] == _CSW_SIGNATURE and len(early) == CSW_SIZE and not moved.stalled:
        data = moved.data[: -len(early)]
        return Seen(csw=_parsed(early, cbw), moved=len(data), data=data, early=True)
    csw, stalls = read_csw(host, cbw)
    return Seen(csw=csw, moved=moved.count, data=moved.data, stalls=moved.stalled + stalls)


def _data_stage(host: Initiator, cbw: Cbw, data_out: Buffer) -> Moved:
    if cbw.direction is IN:
        return host.receive(cbw.dCBWDataTransferLength)
    if cbw.direction is OUT:
        return host.send(data_out)
    return Moved(0)


def _last_packet(data: bytes, packet: int) -> bytes:
    return data[len(data) // packet * packet :]


def read_csw(host: Initiator, cbw: Cbw) -> tuple[Csw, int]:
    """The CSW of a command, and how often bulk IN was STALLed before it (BOT figure 2).

    Raises as `exchange`.
    """
    moved = host.receive(CSW_SIZE)
    stalls = int(moved.stalled)
    if moved.stalled:
        host.clear_halt(IN)
        moved = host.receive(CSW_SIZE)
    if moved.stalled:
        host.clear_halt(IN)
        raise Violation("bulk IN was STALLed twice where the CSW should come (BOT figure 2)")
    return _parsed(moved.data, cbw), stalls


def _parsed(data: bytes, cbw: Cbw) -> Csw:
    try:
        csw = Csw.parse(data)
    except RemoteProtocolError as error:
        raise Violation(str(error)) from None
    if csw.dCSWTag != cbw.dCBWTag:
        raise Violation(f"dCSWTag {csw.dCSWTag:#x}, expected {cbw.dCBWTag:#x} (BOT 6.3.1)")
    return csw


def status_name(status: int) -> str:
    """A value of bCSWStatus in words.

    >>> status_name(2)
    '2 (phase error)'
    """
    try:
        return f"{status} ({CswStatus(status).name.lower().replace('_', ' ')})"
    except ValueError:
        return f"{status} (reserved)"
