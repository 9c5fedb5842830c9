"""Transfers, and devices, that go away. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from usbip_vudc.injection.actions.base import AFTER, BEFORE, Action, Timed, at
from usbip_vudc.injection.arguments import Arguments, show_seconds

__all__ = (
    "BusReset",
    "Disconnect",
    "Drop",
    "Unlink",
)


@dataclass(frozen=True, slots=True)
class Drop(Action):
    """It is lost, and its sender does not know."""

    name: ClassVar[str] = "drop"
    usage: ClassVar[str] = "drop"
    moments: ClassVar[Mapping[str, str]] = at(BEFORE, "function.in", "cable") | at(
        AFTER, "function.out"
    )

    def explain(self, seam: str) -> str:
        if seam == "cable":
            return "its URB never reaches the device, and waits until the host unlinks it"
        return "it is lost on the way, and its sender does not know"


@dataclass(frozen=True, slots=True)
class Disconnect(Timed):
    """The device leaves the bus, and comes back."""

    name: ClassVar[str] = "disconnect"
    usage: ClassVar[str] = "disconnect or disconnect(DURATION)"
    moments: ClassVar[Mapping[str, str]] = at(BEFORE, "function", "host", "cable")

    @classmethod
    def read(cls, arguments: Arguments) -> Self:
        return cls(arguments.seconds(default=0.0))

    def explain(self, seam: str) -> str:
        if seam == "host":
            return "the host gives the device up"
        return f"the device disconnects, and may be had again after {show_seconds(self.seconds)}"


@dataclass(frozen=True, slots=True)
class BusReset(Action):
    """The host's port is reset before it."""

    name: ClassVar[str] = "bus_reset"
    usage: ClassVar[str] = "bus_reset"
    moments: ClassVar[Mapping[str, str]] = at(BEFORE, "host", "cable")

    def explain(self, seam: str) -> str:
        return "the bus is reset before it"


@dataclass(frozen=True, slots=True)
class Unlink(Timed):
    """The URB is taken back while it is under way."""

    name: ClassVar[str] = "unlink"
    usage: ClassVar[str] = "unlink(DURATION), such as unlink(0s) or unlink(10ms)"
    moments: ClassVar[Mapping[str, str]] = at(BEFORE, "host", "cable")

    def explain(self, seam: str) -> str:
        return f"its URB is unlinked {show_seconds(self.seconds)} after it was submitted"
