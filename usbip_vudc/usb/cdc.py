"""The words of a CDC serial line, which device and host share (PSTN 1.2 6.3 to 6.5).

Requests, line coding and SERIAL_STATE: values and their bytes, no behaviour. Descriptors are the
gadget's, in gadgets/acm. Names keep the specification's spelling. Standard library only.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final

from usbip_vudc.errors import RemoteProtocolError, SchemeError

__all__ = (
    "BREAK_ON",
    "SERIAL_STATE_LENGTH",
    "ControlLineState",
    "LineCoding",
    "LineRequest",
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
_KNOWN: Final = 0x7F
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

    @property
    def characters_per_second(self) -> float:
        """How many bytes a UART moves at this coding: start, data, parity and stop bits each."""
        stop = float(_STOP_WORDS[StopBits(self.bCharFormat)])
        return self.dwDTERate / (1 + self.bDataBits + (self.bParityType != Parity.NONE) + stop)

    def __str__(self) -> str:
        parity = Parity(self.bParityType).name[0]
        return f"{self.dwDTERate} {self.bDataBits}{parity}{_STOP_WORDS[StopBits(self.bCharFormat)]}"


def pack_serial_state(state: int, interface: int) -> bytes:
    """The ten bytes of a SERIAL_STATE notification from bInterfaceNumber (PSTN 1.2 6.5.4)."""
    return _NOTIFICATION.pack(0xA1, _SERIAL_STATE, 0, interface, 2, state)


def parse_serial_state(data: bytes | bytearray | memoryview) -> SerialState:
    """Read a SERIAL_STATE notification; reserved bits are dropped.

    Raises RemoteProtocolError for other bytes.
    """
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
    return SerialState(state & _KNOWN)
