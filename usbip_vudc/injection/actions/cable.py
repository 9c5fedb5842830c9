"""What can go wrong on the USB/IP cable alone. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Self

from usbip_vudc.injection.actions.base import AFTER, LONGEST, Action, Timed, at
from usbip_vudc.injection.arguments import Arguments, show_seconds

__all__ = (
    "Actual",
    "Reorder",
    "Status",
    "TcpCut",
    "TcpReset",
    "TcpStall",
)


@dataclass(frozen=True, slots=True)
class Reorder(Action):
    """Its completion is overtaken by others."""

    count: int
    name: ClassVar[str] = "reorder"
    usage: ClassVar[str] = "reorder(N): N others first"
    moments: ClassVar[Mapping[str, str]] = at(AFTER, "cable")

    @classmethod
    def read(cls, arguments: Arguments) -> Self:
        return cls(arguments.needed("N", 1, 1024))

    def __str__(self) -> str:
        return f"reorder({self.count})"

    def explain(self, seam: str) -> str:
        return (
            f"its RET_SUBMIT waits until {self.count} other(s) have passed, which a host that has "
            f"one URB at a time waits for in vain"
        )


@dataclass(frozen=True, slots=True)
class Actual(Action):
    """A wrong actual_length in its RET_SUBMIT."""

    length: int
    name: ClassVar[str] = "actual"
    usage: ClassVar[str] = "actual(BYTES)"
    moments: ClassVar[Mapping[str, str]] = at(AFTER, "cable")

    @classmethod
    def read(cls, arguments: Arguments) -> Self:
        return cls(arguments.needed("BYTES", 0, LONGEST))

    def __str__(self) -> str:
        return f"actual({self.length})"

    def explain(self, seam: str) -> str:
        return (
            f"its RET_SUBMIT says actual_length {self.length} (vhci_hcd of Linux 6.1 kills its "
            f"caller where that is more than an IN URB asked for)"
        )


@dataclass(frozen=True, slots=True)
class Status(Action):
    """Another status in its RET_SUBMIT: 0 or a negative errno."""

    status: int
    name: ClassVar[str] = "status"
    usage: ClassVar[str] = "status(NEGATIVE ERRNO), such as status(-71), or status(0)"
    moments: ClassVar[Mapping[str, str]] = at(AFTER, "cable")

    @classmethod
    def read(cls, arguments: Arguments) -> Self:
        return cls(arguments.needed("ERRNO", -4095, 0))

    def __str__(self) -> str:
        return f"status({self.status})"

    def explain(self, seam: str) -> str:
        return f"its RET_SUBMIT says status {self.status}"


@dataclass(frozen=True, slots=True)
class TcpCut(Action):
    """From its reply on, bytes to the host leave in pieces."""

    sizes: tuple[int, ...] = field(default=(1,))
    name: ClassVar[str] = "tcp_cut"
    usage: ClassVar[str] = "tcp_cut(BYTES, ...), the sizes over and over"
    moments: ClassVar[Mapping[str, str]] = at(AFTER, "cable")

    @classmethod
    def read(cls, arguments: Arguments) -> Self:
        return cls(arguments.integers("BYTES", 1, LONGEST))

    def __str__(self) -> str:
        return f"tcp_cut({', '.join(map(str, self.sizes))})"

    def explain(self, seam: str) -> str:
        sizes = ", ".join(map(str, self.sizes))
        return f"from its reply on, bytes to the host go in writes of {sizes}"


@dataclass(frozen=True, slots=True)
class TcpStall(Timed):
    """The stream to the host stops in the middle of its reply."""

    name: ClassVar[str] = "tcp_stall"
    usage: ClassVar[str] = "tcp_stall(DURATION), such as tcp_stall(0.5s)"
    moments: ClassVar[Mapping[str, str]] = at(AFTER, "cable")

    def explain(self, seam: str) -> str:
        seconds = show_seconds(self.seconds)
        return f"the stream to the host stops in the middle of its reply for {seconds}"


@dataclass(frozen=True, slots=True)
class TcpReset(Action):
    """RST to both ends."""

    name: ClassVar[str] = "tcp_reset"
    usage: ClassVar[str] = "tcp_reset"
    moments: ClassVar[Mapping[str, str]] = at(AFTER, "cable")

    def explain(self, seam: str) -> str:
        return "the connection is reset (RST) to both ends in place of its reply"
