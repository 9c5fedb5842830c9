"""Other bytes than were sent. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from usbip_vudc.injection.actions.base import AFTER, BEFORE, LONGEST, Action, at
from usbip_vudc.injection.arguments import Arguments
from usbip_vudc.injection.transfer import Transfer

__all__ = (
    "Corrupt",
    "Csw",
)


@dataclass(frozen=True, slots=True)
class Corrupt(Action):
    """One byte is changed on the way; a transfer that does not reach it is left alone."""

    offset: int
    xor: int = 0xFF
    name: ClassVar[str] = "corrupt"
    usage: ClassVar[str] = "corrupt(OFFSET) or corrupt(OFFSET, XOR)"
    moments: ClassVar[Mapping[str, str]] = at(BEFORE, "function.in", "host.out", "cable.out") | at(
        AFTER, "function.out", "host.in", "cable.in"
    )

    @classmethod
    def read(cls, arguments: Arguments) -> Self:
        offset = arguments.needed("OFFSET", 0, LONGEST)
        xor = arguments.integer("XOR", 1, 0xFF)
        return cls(offset, 0xFF if xor is None else xor)

    def __str__(self) -> str:
        return f"corrupt({self.offset}, {self.xor:#04x})"

    def explain(self, seam: str) -> str:
        return f"its byte {self.offset} is XORed with {self.xor:#04x}"


@dataclass(frozen=True, slots=True)
class Csw(Action):
    """Another CSW than the device meant (BOT 5.2): fields, length, or its packets.

    ``tag`` is added to dCSWTag; ``residue``, ``status`` and ``signature`` are put in; ``length``
    cuts or pads it; ``merged`` puts it behind the data in one request; ``split`` sends so many
    bytes of it first.
    """

    tag: int | None = None
    residue: int | None = None
    status: int | None = None
    signature: int | None = None
    length: int | None = None
    split: int | None = None
    merged: bool = False
    name: ClassVar[str] = "csw"
    usage: ClassVar[str] = (
        "csw(tag=ADD, residue=N, status=N, signature=N, length=BYTES, split=BYTES), any of them, "
        "or csw(merged)"
    )
    moments: ClassVar[Mapping[str, str]] = at(BEFORE, "function.in")

    @classmethod
    def read(cls, arguments: Arguments) -> Self:
        merged = arguments.flag("merged")
        tag, residue, signature = (
            arguments.integer(name, 0, 0xFFFF_FFFF, named=True)
            for name in ("tag", "residue", "signature")
        )
        action = cls(
            tag=tag,
            residue=residue,
            status=arguments.integer("status", 0, 0xFF, named=True),
            signature=signature,
            length=arguments.integer("length", 1, 1024, named=True),
            split=arguments.integer("split", 1, 12, named=True),
            merged=merged,
        )
        if action == cls():
            raise arguments.error("nothing is to be changed")
        if merged and action != cls(merged=True):
            raise arguments.error("merged goes alone; another rule may change the CSW")
        return action

    def __str__(self) -> str:
        names = ("tag", "residue", "status", "signature", "length", "split")
        given = [
            f"{name}={value:#010x}" if name == "signature" else f"{name}={value}"
            for name in names
            if (value := getattr(self, name)) is not None
        ]
        return f"csw({', '.join([*given, *(('merged',) if self.merged else ())])})"

    def applies(self, transfer: Transfer) -> bool:
        return transfer.phase == ("data" if self.merged else "status")

    def explain(self, seam: str) -> str:
        if self.merged:
            return "the data go with the CSW behind them, in one request"
        return f"a CSW goes out as {self} says"
