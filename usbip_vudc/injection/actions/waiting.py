"""STALL, NAK and time. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from usbip_vudc.injection.actions.base import AFTER, BEFORE, Action, Timed, at
from usbip_vudc.injection.arguments import NANO, Arguments, show_seconds

__all__ = (
    "Delay",
    "Nak",
    "Stall",
)

_MICROFRAME: Final = 125e-6
"""Seconds; a host asks an endpoint that NAKs again in each (USB 2.0 5.11.2)."""


@dataclass(frozen=True, slots=True)
class Stall(Action):
    """STALL in its place."""

    name: ClassVar[str] = "stall"
    usage: ClassVar[str] = "stall"
    moments: ClassVar[Mapping[str, str]] = at(BEFORE, "function", "host", "cable")

    def explain(self, seam: str) -> str:
        return {
            "function": "the endpoint halts; it moves once the host has cleared the halt",
            "host": "the host sets ENDPOINT_HALT before it",
            "cable": "its URB ends with -EPIPE, and the device never hears of it",
        }[seam]


@dataclass(frozen=True, slots=True)
class Nak(Timed):
    """NAK for a while: the other side waits."""

    name: ClassVar[str] = "nak"
    usage: ClassVar[str] = "nak(DURATION) such as nak(0.5s), or nak(N) for N microframes of 125 us"
    moments: ClassVar[Mapping[str, str]] = at(BEFORE, "function", "host")

    @classmethod
    def read(cls, arguments: Arguments) -> Self:
        if arguments.inside.strip().isdecimal():
            return cls(round(arguments.needed("N", 1, 1 << 20) * _MICROFRAME, NANO))
        return cls(arguments.seconds())

    def explain(self, seam: str) -> str:
        who = "the device answers NAK" if seam == "function" else "the host asks for nothing"
        return f"{who} for {show_seconds(self.seconds)} before it"


@dataclass(frozen=True, slots=True)
class Delay(Timed):
    """Its end is heard of late."""

    name: ClassVar[str] = "delay"
    usage: ClassVar[str] = "delay(DURATION), such as delay(20ms)"
    moments: ClassVar[Mapping[str, str]] = at(AFTER, "function", "host", "cable")

    def explain(self, seam: str) -> str:
        who = {"function": "the function", "host": "the host's caller", "cable": "the host"}[seam]
        return f"{who} hears of its end {show_seconds(self.seconds)} late"
