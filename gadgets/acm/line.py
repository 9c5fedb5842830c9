"""The state of a serial line as CDC sees it (PSTN 1.2 6.3 to 6.5). Pure: no endpoint, no task.

`LineState.handle` takes a class request and says what to answer and what happened. The values
it speaks in, which a host packs and parses too, are in usbip_vudc/usb/cdc.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from usbip_vudc.errors import SchemeError
from usbip_vudc.usb.cdc import BREAK_ON, ControlLineState, LineCoding, LineRequest, SerialState
from usbip_vudc.usb.ch9 import SetupPacket

__all__ = (
    "BreakSent",
    "Connected",
    "ControlLinesSet",
    "Disconnected",
    "LineCodingSet",
    "LineEvent",
    "LineState",
    "Outcome",
)

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

    coding: LineCoding = LineCoding()  # noqa: RUF009 - a value
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
