"""The state of a serial line as CDC sees it (PSTN 1.2 6.3 to 6.5). Pure: no endpoint, no task.

`LineState.handle` takes a class request and says what to answer and what happened. The values
here are used by both ends: a host packs what a device parses.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final

from usbip_vudc.errors import RemoteProtocolError, SchemeError
from usbip_vudc.usb.ch9 import SetupPacket

__all__ = (
    "BREAK_ON",
    "SERIAL_STATE_LENGTH",
    "BreakSent",
    "Connected",
    "ControlLineState",
    "ControlLinesSet",
    "Disconnected",
    "LineCoding",
    "LineCodingSet",
    "LineEvent",
    "LineRequest",
    "LineState",
    "Outcome",
    "Parity",
    "SerialState",
    "StopBits",
    "pack_serial_state",
    "parse_serial_state",
)


class LineRequest(IntEnum):
    """The class requests of a serial line: their bRequest (PSTN 1.2 table 13)."""

    SET_LINE_CODING = 0x20
    GET_LINE_CODING = 0x21
    SET_CONTROL_LINE_STATE = 0x22
    SEND_BREAK = 0x23


class StopBits(IntEnum):
    """BCharFormat (PSTN 1.2 table 17)."""

    ONE = 0
    ONE_AND_A_HALF = 1
    TWO = 2


class Parity(IntEnum):
    """BParityType (PSTN 1.2 table 17)."""

    NONE = 0
    ODD = 1
    EVEN = 2
    MARK = 3
    SPACE = 4


class ControlLineState(IntFlag):
    """The bits of wValue of SET_CONTROL_LINE_STATE (PSTN 1.2 table 18)."""

    DTR = 0x01
    RTS = 0x02


class SerialState(IntFlag):
    """The bits of the SERIAL_STATE notification (PSTN 1.2 table 31).

    DCD and DSR are the field's words for bRxCarrier and bTxCarrier.
    """

    DCD = 0x01
    DSR = 0x02
    BREAK = 0x04
    RING = 0x08
    FRAMING = 0x10
    PARITY = 0x20
    OVERRUN = 0x40

    @property
    def lasting(self) -> SerialState:
        """The bits that last: the other ones tell of something that happened once (6.5.4)."""
        return self & (SerialState.DCD | SerialState.DSR)


BREAK_ON: Final = 0xFFFF
"""wValue of SEND_BREAK: until one with 0 comes (PSTN 1.2 6.3.13). Others are milliseconds."""

SERIAL_STATE_LENGTH: Final = 10
"""Bytes of a SERIAL_STATE notification: 8 like a setup packet, and the 16-bit state."""

_SERIAL_STATE: Final = 0x20
_CODING: Final = struct.Struct("<IBBB")
_NOTIFICATION: Final = struct.Struct("<BBHHHH")
_DATA_BITS: Final = (5, 6, 7, 8, 16)
_STOP_WORDS: Final = {StopBits.ONE: "1", StopBits.ONE_AND_A_HALF: "1.5", StopBits.TWO: "2"}
_TEXT: Final = re.compile(
    r"(?P<baud>\d+)(\s+(?P<bits>5|6|7|8|16)(?P<parity>[NOEMS])(?P<stop>1\.5|1|2))?"
)


@dataclass(frozen=True, slots=True)
class LineCoding:
    """How characters travel (PSTN 1.2 table 17). ``dwDTERate`` is in bits per second.

    Raises SchemeError, naming the field, for a value that the table does not have.
    """

    dwDTERate: int = 9600
    bCharFormat: int = StopBits.ONE
    bParityType: int = Parity.NONE
    bDataBits: int = 8

    SIZE = 7

    def __post_init__(self) -> None:
        rows = (
            ("dwDTERate", 0 < self.dwDTERate <= 0xFFFF_FFFF, "1 to 4294967295 bit/s"),
            ("bCharFormat", self.bCharFormat in tuple(StopBits), "0, 1 or 2"),
            ("bParityType", self.bParityType in tuple(Parity), "0 to 4"),
            ("bDataBits", self.bDataBits in _DATA_BITS, "5, 6, 7, 8 or 16"),
        )
        for name, good, expected in rows:
            if not good:
                raise SchemeError(
                    f"line coding: {name} {getattr(self, name)}, expected {expected} "
                    f"(PSTN 1.2 table 17)"
                )

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview) -> LineCoding:
        """Read the seven bytes of a data stage. Raises SchemeError for any other length too."""
        if len(data) != cls.SIZE:
            raise SchemeError(f"line coding has {len(data)} bytes, expected 7 (PSTN 1.2 table 17)")
        return cls(*_CODING.unpack(data))

    @classmethod
    def from_text(cls, text: str) -> LineCoding:
        """Read ``115200 8N1``, or ``115200`` alone for 8N1. Raises SchemeError for other text."""
        match = _TEXT.fullmatch(text.strip().upper())
        if match is None:
            raise SchemeError(f"line coding {text!r}: expected such as '115200 8N1' or '9600 7E2'")
        baud = int(match["baud"])
        if match["bits"] is None:
            return cls(baud)
        stop = next(bits for bits, word in _STOP_WORDS.items() if word == match["stop"])
        parity = next(parity for parity in Parity if parity.name[0] == match["parity"])
        return cls(baud, stop, parity, int(match["bits"]))

    def pack(self) -> bytes:
        """The seven bytes as they travel."""
        return _CODING.pack(self.dwDTERate, self.bCharFormat, self.bParityType, self.bDataBits)

    def __str__(self) -> str:
        parity = Parity(self.bParityType).name[0]
        return f"{self.dwDTERate} {self.bDataBits}{parity}{_STOP_WORDS[StopBits(self.bCharFormat)]}"


def pack_serial_state(state: int, interface: int) -> bytes:
    """The ten bytes of a SERIAL_STATE notification from bInterfaceNumber (PSTN 1.2 6.5.4)."""
    return _NOTIFICATION.pack(0xA1, _SERIAL_STATE, 0, interface, 2, state)


def parse_serial_state(data: bytes | bytearray | memoryview) -> SerialState:
    """Read a SERIAL_STATE notification. Raises RemoteProtocolError for other bytes."""
    if len(data) != SERIAL_STATE_LENGTH:
        raise RemoteProtocolError(
            f"SERIAL_STATE has {len(data)} bytes, expected {SERIAL_STATE_LENGTH} (PSTN 1.2 6.5.4)"
        )
    bmRequestType, bNotification, _wValue, _wIndex, wLength, state = _NOTIFICATION.unpack(data)
    if (bmRequestType, bNotification, wLength) != (0xA1, _SERIAL_STATE, 2):
        raise RemoteProtocolError(
            f"notification {bmRequestType:02x} {bNotification:02x} with {wLength} bytes, expected "
            f"a1 20 with 2 (PSTN 1.2 6.5.4)"
        )
    return SerialState(state)


# --- what happened -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connected:
    """The host has configured the device; bytes can flow."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The configuration is over. DTR and RTS have fallen, as when a plug is pulled."""


@dataclass(frozen=True, slots=True)
class LineCodingSet:
    """SET_LINE_CODING, also where it says what was set already."""

    coding: LineCoding


@dataclass(frozen=True, slots=True)
class ControlLinesSet:
    """SET_CONTROL_LINE_STATE, also where nothing changed."""

    dtr: bool
    rts: bool


@dataclass(frozen=True, slots=True)
class BreakSent:
    """SEND_BREAK for ``duration_ms`` milliseconds; None: until one of 0, which ends it."""

    duration_ms: int | None


LineEvent = Connected | Disconnected | LineCodingSet | ControlLinesSet | BreakSent
"""What an application can hear of its line."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a request came to: ``reply`` as `Function.setup` returns it (None stalls)."""

    reply: bytes | None = None
    event: LineEvent | None = None


_STALL: Final = Outcome()


@dataclass(slots=True)
class LineState:
    """One line. ``coding`` and ``serial`` outlive a disconnect; DTR, RTS and a break do not."""

    coding: LineCoding = LineCoding()
    control: ControlLineState = ControlLineState(0)  # noqa: RUF009 - a value
    serial: SerialState = SerialState(0)  # noqa: RUF009 - a value
    breaking: bool = False
    """A break of unlimited time is on. One of so many ms is the event's business alone."""

    def handle(self, setup: SetupPacket, data: bytes = b"") -> Outcome:
        """Act on a class request to the communications interface. What is not known stalls."""
        handler = _HANDLERS.get((setup.bmRequestType, setup.bRequest))
        return handler(self, setup, data) if handler is not None else _STALL

    def disconnect(self) -> None:
        """Let fall what the host holds up."""
        self.control = ControlLineState(0)
        self.breaking = False

    def change_serial(self, changes: Mapping[SerialState, bool]) -> SerialState:
        """Set or clear bits of the serial state: what the notification must say now.

        Of the bits given only DCD and DSR stay; the others are told once.
        """
        state = self.serial
        for bit, value in changes.items():
            state = state | bit if value else state & ~bit
        self.serial = state.lasting
        return state


def _set_line_coding(line: LineState, setup: SetupPacket, data: bytes) -> Outcome:
    if setup.wLength != LineCoding.SIZE:
        return _STALL
    try:
        line.coding = LineCoding.parse(data)
    except SchemeError:
        return _STALL  # a UART cannot do it, and a stall is the one way to say so
    return Outcome(b"", LineCodingSet(line.coding))


def _get_line_coding(line: LineState, _setup: SetupPacket, _data: bytes) -> Outcome:
    return Outcome(line.coding.pack())


def _set_control_line_state(line: LineState, setup: SetupPacket, _data: bytes) -> Outcome:
    # Bits 2 to 15 are reserved (table 18): ignored, as a later revision may use them.
    line.control = ControlLineState(setup.wValue & 3)
    dtr, rts = ControlLineState.DTR in line.control, ControlLineState.RTS in line.control
    return Outcome(b"", ControlLinesSet(dtr, rts))


def _send_break(line: LineState, setup: SetupPacket, _data: bytes) -> Outcome:
    line.breaking = setup.wValue == BREAK_ON
    return Outcome(b"", BreakSent(None if line.breaking else setup.wValue))


_Handler = Callable[[LineState, SetupPacket, bytes], Outcome]

_HANDLERS: Final[Mapping[tuple[int, int], _Handler]] = {
    (0x21, LineRequest.SET_LINE_CODING): _set_line_coding,
    (0xA1, LineRequest.GET_LINE_CODING): _get_line_coding,
    (0x21, LineRequest.SET_CONTROL_LINE_STATE): _set_control_line_state,
    (0x21, LineRequest.SEND_BREAK): _send_break,
}
"""(bmRequestType, bRequest) -> handler."""
