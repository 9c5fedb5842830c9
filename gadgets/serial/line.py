"""The state of a serial line and what can happen on it, whatever protocol carries it. Pure.

CDC-ACM speaks of it in class requests (gadgets/acm/line.py); other serial functions in their own.
The values are those of usbip_vudc/usb/cdc.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from usbip_vudc.usb.cdc import ControlLineState, LineCoding, SerialState

__all__ = (
    "BreakSent",
    "BytesDropped",
    "Connected",
    "ControlLinesSet",
    "Disconnected",
    "FarEndClosed",
    "FarEndOpened",
    "Line",
    "LineCodingSet",
    "LineEvent",
)

# --- what the host did -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connected:
    """The host has configured the device; bytes can flow."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The configuration is over. DTR and RTS have fallen, as when a plug is pulled."""


@dataclass(frozen=True, slots=True)
class LineCodingSet:
    """The host set the line coding, also where it says what was set already."""

    coding: LineCoding


@dataclass(frozen=True, slots=True)
class ControlLinesSet:
    """The host set DTR and RTS, also where nothing changed."""

    dtr: bool
    rts: bool


@dataclass(frozen=True, slots=True)
class BreakSent:
    """A break for ``duration_ms`` milliseconds; None: until one of 0, which ends it."""

    duration_ms: int | None


# --- what happened behind the port -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FarEndOpened:
    """The bytes have somewhere to go: ``where`` names it, such as /dev/pts/4."""

    where: str


@dataclass(frozen=True, slots=True)
class FarEndClosed:
    """They have not any more, or could not: ``why``. No byte that was not given to it is lost."""

    why: str


@dataclass(frozen=True, slots=True)
class BytesDropped:
    """The port has begun to drop bytes, as its back-pressure policy says.

    ``total`` is how many it has dropped in its life so far. Told once until the bytes flow again.
    """

    total: int


LineEvent = (
    Connected
    | Disconnected
    | LineCodingSet
    | ControlLinesSet
    | BreakSent
    | FarEndOpened
    | FarEndClosed
    | BytesDropped
)
"""What an application can hear of its line."""


@dataclass(slots=True)
class Line:
    """One line. ``coding`` and ``serial`` outlive a disconnect; DTR, RTS and a break do not."""

    coding: LineCoding = LineCoding()  # noqa: RUF009 - a value
    control: ControlLineState = ControlLineState(0)  # noqa: RUF009 - a value
    serial: SerialState = SerialState(0)  # noqa: RUF009 - a value
    breaking: bool = False
    """A break of unlimited time is on. One of so many ms is the event's business alone."""

    def disconnect(self) -> None:
        """Let fall what the host holds up."""
        self.control = ControlLineState(0)
        self.breaking = False

    def change_serial(self, changes: Mapping[SerialState, bool]) -> SerialState:
        """Set or clear bits of the serial state: what the host must now be told.

        Of the bits given only DCD and DSR stay; the others are told once.
        """
        state = self.serial
        for bit, value in changes.items():
            state = state | bit if value else state & ~bit
        self.serial = state.lasting
        return state
