"""What a device makes of USB Mass Storage Class Bulk-Only Transport 1.0: refusals and 13 cases.

Bytes in, values out: no endpoint, no SCSI, no event loop. The wrappers themselves, which a host
packs and parses too, are in usbip_vudc/usb/bot.py. Section numbers are the specification's
("BOT"). IN and OUT are the host's view.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from usbip_vudc.errors import RemoteProtocolError
from usbip_vudc.sglist import Buffer
from usbip_vudc.usb.bot import Cbw
from usbip_vudc.usb.bot_cases import BOT_CASES
from usbip_vudc.usb.ch9 import Direction

__all__ = ("CASES", "Case", "InvalidCbw", "Plan", "decide", "receive_cbw")


class InvalidCbw(RemoteProtocolError):
    """A CBW that is not valid or not meaningful: both endpoints halt until reset (BOT 6.6.1)."""


def receive_cbw(data: Buffer, max_lun: int) -> Cbw:
    """Read what one transfer on the OUT endpoint brought.

    Raises InvalidCbw where it is not valid (BOT 6.2.1) or not meaningful (BOT 6.2.2).
    """
    try:
        cbw = Cbw.parse(data)
    except RemoteProtocolError as error:
        raise InvalidCbw(str(error)) from error
    if cbw.bmCBWFlags & 0x7F:
        raise InvalidCbw(f"bmCBWFlags {cbw.bmCBWFlags:#04x}, expected 0x00 or 0x80 (BOT 6.2.2)")
    if cbw.bCBWLUN > max_lun:
        raise InvalidCbw(f"bCBWLUN {cbw.bCBWLUN:#04x}, expected 0 to {max_lun} (BOT 6.2.2)")
    return cbw


# --- the thirteen cases (BOT 6.7) --------------------------------------------------------------


class Case(NamedTuple):
    """One of the thirteen cases (`BOT_CASES`), and what this device chooses to do about it.

    ``moves`` says whether any data moves. ``halts`` is the endpoint that ends the host's data
    phase with STALL.
    """

    number: int
    name: str
    moves: bool
    halts: Direction | None
    phase_error: bool


_I, _O = Direction.IN, Direction.OUT

_CHOICES: Final[dict[int, tuple[bool, Direction | None]]] = {
    # number: (data move, what halts). As f_mass_storage does, IN data are never padded; what it
    # takes from bulk OUT and drops, we end with STALL.
    1: (False, None),
    2: (False, None),
    3: (False, None),
    4: (False, _I),
    5: (True, _I),
    6: (True, None),
    # BOT 6.7.2: "may send data up to a total of dCBWDataTransferLength"; so does f_mass_storage.
    7: (True, None),
    8: (False, _I),
    9: (False, _O),
    10: (False, _O),
    11: (True, _O),
    12: (True, None),
    # BOT 6.7.3 lets the device take a part. A host and a device that disagree about the length
    # of a write must not change the medium, so it takes none.
    13: (False, _O),
}

CASES: Final[dict[tuple[Direction | None, Direction | None, int], Case]] = {
    # (host expects, device intends, sign of host's length less device's)
    (case.host, case.device, sign): Case(
        case.number, case.name, *_CHOICES[case.number], case.is_phase_error
    )
    for case in BOT_CASES.values()
    for sign in case.signs
}


class Plan(NamedTuple):
    """What to do about one command: the case, and how many bytes of data move."""

    case: Case
    length: int


def decide(
    host: Direction | None, host_length: int, device: Direction | None, device_length: int
) -> Plan:
    """Which of the thirteen cases it is, and how many bytes move (BOT 6.7).

    Lengths are in bytes. A length of 0 means no data, whatever the direction.
    """
    if not host_length:
        host = None
    if not device_length:
        device = None
    sign = (host_length > device_length) - (host_length < device_length)
    case = CASES[host, device, sign]
    return Plan(case, min(host_length, device_length) if case.moves else 0)
