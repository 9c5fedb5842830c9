"""The registers of an FT232R and the vendor requests that move them. Pure: no endpoint, no task.

`Chip.handle` takes a request and says what to answer and what happened, as LineState of the
CDC-ACM port does; what can happen is in gadgets/serial/line.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from gadgets.serial.line import BreakSent, ControlLinesSet, Line, LineCodingSet, LineEvent
from usbip_vudc.errors import SchemeError
from usbip_vudc.usb.cdc import ControlLineState, SerialState
from usbip_vudc.usb.ch9 import SetupPacket
from usbip_vudc.usb.ftdi import (
    BREAK,
    FlowControl,
    FtdiRequest,
    LineStatus,
    ModemStatus,
    Reset,
    baud_rate,
    line_coding,
)

__all__ = ("DEFAULT_LATENCY_MS", "Chip", "Outcome")

DEFAULT_LATENCY_MS: Final = 16
_XON, _XOFF = 0x11, 0x13
_IDLE: Final = LineStatus.HOLDING_EMPTY | LineStatus.TRANSMITTER_EMPTY


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a request came to: ``reply`` as `Function.setup` returns it (None stalls)."""

    reply: bytes | None = None
    event: LineEvent | None = None


_STALL: Final = Outcome()
_DONE: Final = Outcome(b"")


@dataclass(slots=True, kw_only=True)
class Chip(Line):
    """One channel. With the two flags it has a loopback plug: the host sees its own RTS and DTR.

    ``latency_ms`` is how long the chip waits for bytes before it sends a packet of status alone.
    """

    eeprom: bytes
    cts_follows_rts: bool
    dsr_follows_dtr: bool
    cts: bool = False
    ringing: bool = False
    latency_ms: int = DEFAULT_LATENCY_MS
    flow: FlowControl = FlowControl.NONE
    xon: int = _XON
    xoff: int = _XOFF
    stopped: bool = False
    """An XOFF came from the far end, and no XON since."""

    def handle(self, setup: SetupPacket) -> Outcome:
        """Act on a vendor request to the device. What is not known stalls."""
        handler = _HANDLERS.get((setup.bmRequestType, setup.bRequest))
        return handler(self, setup) if handler is not None else _STALL

    @property
    def modem_status(self) -> ModemStatus:
        """The first status byte."""
        status = ModemStatus.ALWAYS
        for bit, up in (
            (ModemStatus.CTS, self.cts),
            (ModemStatus.DSR, SerialState.DSR in self.serial),
            (ModemStatus.RING, self.ringing),
            (ModemStatus.DCD, SerialState.DCD in self.serial),
        ):
            if up:
                status |= bit
        return status

    def status(self, errors: LineStatus = LineStatus.NONE) -> bytes:
        """Both status bytes."""
        return bytes((self.modem_status, _IDLE | errors))

    @property
    def may_transmit(self) -> bool:
        """Whether flow control lets bytes from the host out of the chip."""
        return not (
            (FlowControl.RTS_CTS in self.flow and not self.cts)
            or (FlowControl.DTR_DSR in self.flow and SerialState.DSR not in self.serial)
            or (FlowControl.XON_XOFF in self.flow and self.stopped)
        )

    def received(self, character: int) -> None:
        """Take an XON or XOFF from the far end."""
        self.stopped = character == self.xoff

    def plug(self) -> None:
        """Let CTS and DSR follow where the plug is in."""
        if self.cts_follows_rts:
            self.cts = ControlLineState.RTS in self.control
        if self.dsr_follows_dtr:
            dsr = ControlLineState.DTR in self.control
            self.change_serial({SerialState.DSR: dsr})

    def disconnect(self) -> None:
        """The host is gone: what it held up falls, and its settings go with it."""
        Line.disconnect(self)
        self.latency_ms = DEFAULT_LATENCY_MS
        self.flow = FlowControl.NONE
        self.stopped = False
        self.plug()


def _reset(chip: Chip, setup: SetupPacket) -> Outcome:
    # The chip holds no bytes of its own: what is on its way is the profile's until the host has it.
    if setup.wValue not in tuple(Reset):
        return _STALL
    if setup.wValue == Reset.SIO:
        chip.flow, chip.stopped = FlowControl.NONE, False
    return _DONE


def _modem_ctrl(chip: Chip, setup: SetupPacket) -> Outcome:
    """Set those of DTR and RTS whose bit is set in the mask, the high byte."""
    mask = ControlLineState(setup.wValue >> 8 & 3)
    chip.control = chip.control & ~mask | ControlLineState(setup.wValue & 3) & mask
    chip.plug()
    dtr, rts = ControlLineState.DTR in chip.control, ControlLineState.RTS in chip.control
    return Outcome(b"", ControlLinesSet(dtr, rts))


def _set_flow_ctrl(chip: Chip, setup: SetupPacket) -> Outcome:
    chip.flow = FlowControl(setup.wIndex >> 8 & 7)
    chip.stopped = False
    if FlowControl.XON_XOFF in chip.flow:
        chip.xon, chip.xoff = setup.wValue & 0xFF, setup.wValue >> 8
    return _DONE


def _set_baud_rate(chip: Chip, setup: SetupPacket) -> Outcome:
    coding = chip.coding
    rate = baud_rate((setup.wIndex & 1) << 16 | setup.wValue)
    chip.coding = type(coding)(rate, coding.bCharFormat, coding.bParityType, coding.bDataBits)
    return Outcome(b"", LineCodingSet(chip.coding))


def _set_data(chip: Chip, setup: SetupPacket) -> Outcome:
    try:
        chip.coding = line_coding(chip.coding.dwDTERate, setup.wValue)
    except SchemeError:
        return _STALL
    breaking = bool(setup.wValue & BREAK)
    if breaking != chip.breaking:
        chip.breaking = breaking
        return Outcome(b"", BreakSent(None if breaking else 0))
    return Outcome(b"", LineCodingSet(chip.coding))


def _get_modem_status(chip: Chip, _setup: SetupPacket) -> Outcome:
    return Outcome(chip.status())


def _set_latency_timer(chip: Chip, setup: SetupPacket) -> Outcome:
    if not 0 < setup.wValue <= 255:
        return _STALL
    chip.latency_ms = setup.wValue
    return _DONE


def _get_latency_timer(chip: Chip, _setup: SetupPacket) -> Outcome:
    return Outcome(bytes((chip.latency_ms,)))


def _set_character(_chip: Chip, _setup: SetupPacket) -> Outcome:
    """The event and the error character: there is no parity error that a byte could stand for."""
    return _DONE


def _set_bitmode(_chip: Chip, setup: SetupPacket) -> Outcome:
    # The high byte is the mode: 0 is the UART. The others would make pins of it, and it has none.
    return _STALL if setup.wValue >> 8 else _DONE


def _read_eeprom(chip: Chip, setup: SetupPacket) -> Outcome:
    """The word that wIndex names."""
    return Outcome(chip.eeprom[2 * setup.wIndex : 2 * setup.wIndex + 2] or None)


_Handler = Callable[[Chip, SetupPacket], Outcome]
_OUT, _IN = 0x40, 0xC0

_HANDLERS: Final[Mapping[tuple[int, int], _Handler]] = {
    (_OUT, FtdiRequest.RESET): _reset,
    (_OUT, FtdiRequest.MODEM_CTRL): _modem_ctrl,
    (_OUT, FtdiRequest.SET_FLOW_CTRL): _set_flow_ctrl,
    (_OUT, FtdiRequest.SET_BAUD_RATE): _set_baud_rate,
    (_OUT, FtdiRequest.SET_DATA): _set_data,
    (_IN, FtdiRequest.GET_MODEM_STATUS): _get_modem_status,
    (_OUT, FtdiRequest.SET_EVENT_CHAR): _set_character,
    (_OUT, FtdiRequest.SET_ERROR_CHAR): _set_character,
    (_OUT, FtdiRequest.SET_LATENCY_TIMER): _set_latency_timer,
    (_IN, FtdiRequest.GET_LATENCY_TIMER): _get_latency_timer,
    (_OUT, FtdiRequest.SET_BITMODE): _set_bitmode,
    (_IN, FtdiRequest.READ_EEPROM): _read_eeprom,
}
"""(bmRequestType, bRequest) -> handler."""
