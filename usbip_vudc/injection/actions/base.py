"""What an action is, and when at which seam it acts. Pure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from usbip_vudc.injection.arguments import Arguments, show_seconds
from usbip_vudc.injection.transfer import Transfer

__all__ = ("AFTER", "BEFORE", "LONGEST", "Action", "Timed", "at")

BEFORE: Final = "before"
AFTER: Final = "after"

LONGEST: Final = 16 << 20
"""Bytes of a transfer at most (usbip_vudc/wire/connection.py)."""


_ON_FUNCTION_CONTROL: Final = frozenset(("stall", "short", "corrupt", "drop", "disconnect"))
"""What a function's answer to a control request can be made to do; it is given at once."""

_NOT_ON_HOST_CONTROL: Final = frozenset(("stall", "zlp"))
"""Endpoint 0 has no halt that outlives a transfer, and no transfers without a setup packet."""

_NOT_ON_ISO: Final = {
    "function": frozenset(("stall", "zlp")),
    "host": frozenset(("stall", "zlp", "layout")),
    "cable": frozenset(("stall", "babble", "layout")),
}
"""No handshake, so no halt and no ZLP (USB 2.0 5.6.5); a URB's packets are what the host made them,
and babble is a packet's status, not the URB's."""


def at(moment: str, *places: str) -> dict[str, str]:
    """``"function host.in"`` -> each seam and direction it names, all at this moment."""
    return {
        f"{place.partition('.')[0]}.{way}": moment
        for place in places
        for way in ((place.partition(".")[2],) if "." in place else ("in", "out"))
    }


class Action(ABC):
    """One action; ``usage`` is how it is written."""

    name: ClassVar[str]
    usage: ClassVar[str]
    moments: ClassVar[Mapping[str, str]]

    @classmethod
    def read(cls, arguments: Arguments) -> Self:
        """Make it of its arguments. Raises SchemeError."""
        return cls()

    def __str__(self) -> str:
        """As it is written."""
        return self.name

    def applies(self, transfer: Transfer) -> bool:
        """Whether this kind of transfer can be acted on at all."""
        return True

    def on_control(self, seam: str) -> bool:
        """Whether it can act on control transfers at this seam."""
        if seam == "function":
            return self.name in _ON_FUNCTION_CONTROL
        return seam != "host" or self.name not in _NOT_ON_HOST_CONTROL

    def on_iso(self, seam: str) -> bool:
        """Whether it can act on isochronous transfers at this seam."""
        return self.name not in _NOT_ON_ISO[seam]

    @abstractmethod
    def explain(self, seam: str) -> str:
        """In English: what happens to the transfer."""


@dataclass(frozen=True, slots=True)
class Timed(Action):
    """An action with a duration."""

    seconds: float

    @classmethod
    def read(cls, arguments: Arguments) -> Self:
        return cls(arguments.seconds())

    def __str__(self) -> str:
        return f"{self.name}({show_seconds(self.seconds)})"
