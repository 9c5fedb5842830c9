"""What shape a transfer has: its layout, its packets, its length. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from usbip_vudc.injection.actions.base import AFTER, BEFORE, LONGEST, Action, at
from usbip_vudc.injection.arguments import Arguments
from usbip_vudc.injection.layout import Layout
from usbip_vudc.usb.ch9 import Speed

__all__ = (
    "Babble",
    "PacketSize",
    "Short",
    "UseLayout",
    "Zlp",
)

_BUS_SPEEDS: Final = {s.word: s for s in (Speed.LOW, Speed.FULL, Speed.HIGH, Speed.SUPER)}


@dataclass(frozen=True, slots=True)
class UseLayout(Action):
    """Lay the transfer out: SG segments, and requests or URBs."""

    layout: Layout
    name: ClassVar[str] = "layout"
    usage: ClassVar[str] = "layout(LAYOUT), such as layout(each:3584+7x4096)"
    moments: ClassVar[Mapping[str, str]] = at(BEFORE, "function", "host", "cable")

    @classmethod
    def read(cls, arguments: Arguments) -> Self:
        inside, arguments.inside = arguments.inside, ""
        while arguments.word():
            pass  # commas are the layout's own
        return cls(Layout.parse(inside))

    def __str__(self) -> str:
        return f"layout({self.layout})"

    def on_control(self, seam: str) -> bool:
        return False  # a data stage is one transfer

    def explain(self, seam: str) -> str:
        what = {"function": "requests", "host": "URBs", "cable": "URBs towards the device"}[seam]
        if self.layout.one_request:
            return f"its memory is laid out as {self.layout}; it stays one of the {what}"
        return f"it is cut into {what} as {self.layout} says"


@dataclass(frozen=True, slots=True)
class PacketSize(Action):
    """Other wMaxPacketSize in the endpoint descriptor, in bytes by speed. For a whole life."""

    sizes: tuple[tuple[Speed, int], ...]
    illegal: bool = False
    name: ClassVar[str] = "packet_size"
    usage: ClassVar[str] = (
        "packet_size(full=8, high=512, super=1024) or packet_size(high=64, illegal)"
    )
    moments: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def read(cls, arguments: Arguments) -> Self:
        illegal = arguments.flag("illegal")
        sizes = tuple(
            (speed, size)
            for word, speed in _BUS_SPEEDS.items()
            if (size := arguments.integer(word, 1, 1024, named=True)) is not None
        )
        if not sizes:
            raise arguments.error("no size is given")
        return cls(sizes, illegal)

    def __str__(self) -> str:
        sizes = ", ".join(f"{speed.word}={size}" for speed, size in self.sizes)
        return f"packet_size({sizes}{', illegal' if self.illegal else ''})"

    def explain(self, seam: str) -> str:
        sizes = " and ".join(f"{size} at {speed.word} speed" for speed, size in self.sizes)
        return f"its descriptor says wMaxPacketSize {sizes}, and packets have that size"


@dataclass(frozen=True, slots=True)
class Short(Action):
    """Only the first bytes of the transfer move."""

    length: int
    name: ClassVar[str] = "short"
    usage: ClassVar[str] = "short(BYTES)"
    moments: ClassVar[Mapping[str, str]] = at(BEFORE, "function", "host", "cable.out") | at(
        AFTER, "cable.in"
    )

    @classmethod
    def read(cls, arguments: Arguments) -> Self:
        return cls(arguments.needed("BYTES", 0, LONGEST))

    def __str__(self) -> str:
        return f"short({self.length})"

    def explain(self, seam: str) -> str:
        if seam == "host":
            return f"its URB is only {self.length} bytes long"
        return f"it ends after {self.length} bytes"


@dataclass(frozen=True, slots=True)
class Zlp(Action):
    """A ZLP goes before it."""

    name: ClassVar[str] = "zlp"
    usage: ClassVar[str] = "zlp"
    moments: ClassVar[Mapping[str, str]] = at(BEFORE, "function.in", "host.out")

    def explain(self, seam: str) -> str:
        return "a ZLP goes before it"


@dataclass(frozen=True, slots=True)
class Babble(Action):
    """More bytes than were asked for."""

    length: int
    name: ClassVar[str] = "babble"
    usage: ClassVar[str] = "babble(BYTES), from 1"
    moments: ClassVar[Mapping[str, str]] = at(BEFORE, "function.in") | at(AFTER, "cable.in")

    @classmethod
    def read(cls, arguments: Arguments) -> Self:
        return cls(arguments.needed("BYTES", 1, 1 << 20))

    def __str__(self) -> str:
        return f"babble({self.length})"

    def explain(self, seam: str) -> str:
        if seam == "cable":
            return "its URB ends with -EOVERFLOW, its room full"
        return f"{self.length} bytes too many follow it in the same request"
