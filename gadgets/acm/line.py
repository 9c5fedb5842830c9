"""The requests of a serial line as CDC makes them (PSTN 1.2 6.3). Pure: no endpoint, no task.

`LineState.handle` takes a class request and says what to answer and what happened. What can
happen is in gadgets/serial/line.py, the values that it speaks in are in usbip_vudc/usb/cdc.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from gadgets.serial.line import BreakSent, ControlLinesSet, Line, LineCodingSet, LineEvent
from usbip_vudc.errors import SchemeError
from usbip_vudc.usb.cdc import (
    BREAK_ON,
    ControlLineState,
    LineCoding,
    LineRequest,
    SerialState,
)
from usbip_vudc.usb.ch9 import SetupPacket

__all__ = ("LineState", "Outcome")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a request came to: ``reply`` as `Function.setup` returns it (None stalls)."""

    reply: bytes | None = None
    event: LineEvent | None = None


_STALL: Final = Outcome()


@dataclass(slots=True)
class LineState(Line):
    """One line, with the requests that a CDC host makes of it.

    With ``dsr_follows_dtr`` a plug in it shows the host its own DTR as DSR.
    """

    dsr_follows_dtr: bool = False

    def disconnect(self) -> None:
        """Let fall what the host holds up, and what the plug made of it."""
        Line.disconnect(self)
        if self.dsr_follows_dtr:
            self.change_serial({SerialState.DSR: False})

    def refuses(self, setup: SetupPacket) -> bool:
        """Whether `handle` stalls an OUT request with data, whatever they are."""
        key = setup.bmRequestType, setup.bRequest
        return key != _SET_LINE_CODING or setup.wLength != LineCoding.SIZE

    def handle(self, setup: SetupPacket, data: bytes = b"") -> Outcome:
        """Act on a class request to the communications interface. What is not known stalls."""
        handler = _HANDLERS.get((setup.bmRequestType, setup.bRequest))
        return handler(self, setup, data) if handler is not None else _STALL


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


_SET_LINE_CODING: Final = (0x21, LineRequest.SET_LINE_CODING)
"""The one request that brings data."""

_Handler = Callable[[LineState, SetupPacket, bytes], Outcome]

_HANDLERS: Final[Mapping[tuple[int, int], _Handler]] = {
    _SET_LINE_CODING: _set_line_coding,
    (0xA1, LineRequest.GET_LINE_CODING): _get_line_coding,
    (0x21, LineRequest.SET_CONTROL_LINE_STATE): _set_control_line_state,
    (0x21, LineRequest.SEND_BREAK): _send_break,
}
"""(bmRequestType, bRequest) -> handler."""
