"""Conditions: when a rule acts. Pure.

Those that look at a transfer (`Cbw`, `Phase`, `Control`, `Contains`, `AtByte`) choose among the
transfers of the rule's place; what they let through is numbered from 1, and `Nth`, `Every`,
`Chance` and `Times` choose among those numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from usbip_vudc.injection.arguments import Arguments, read_call
from usbip_vudc.injection.transfer import PHASES, Transfer

__all__ = (
    "CONDITIONS",
    "AtByte",
    "Cbw",
    "Chance",
    "Condition",
    "Contains",
    "Control",
    "Count",
    "Every",
    "Nth",
    "Phase",
    "Times",
    "parse_condition",
)

_MOST: Final = (1 << 63) - 1
_ORDINALS: Final = {1: "st", 2: "nd", 3: "rd"}


class Condition(ABC):
    """One condition of a rule; ``usage`` is how it is written, ``counting`` whether it counts."""

    name: ClassVar[str]
    usage: ClassVar[str]
    counting: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def read(cls, arguments: Arguments) -> Self:
        """Make it of its arguments. Raises SchemeError."""

    def matches(self, transfer: Transfer) -> bool:
        """Whether the rule may act on this transfer at all."""
        return True

    def counts(self, count: Count) -> bool:
        """Whether it acts on the transfer of this number."""
        return True

    @abstractmethod
    def __str__(self) -> str:
        """As it is written."""

    @abstractmethod
    def explain(self) -> str:
        """In English, behind "transfers" or "of these"."""


@dataclass(frozen=True, slots=True)
class Count:
    """What the counting conditions see.

    The transfer's number, one throw of this rule's dice in [0, 1), and how often it has acted.
    """

    number: int
    dice: float
    fired: int


@dataclass(frozen=True, slots=True)
class Nth(Condition):
    """The transfers of these numbers."""

    numbers: tuple[int, ...]
    name: ClassVar[str] = "nth"
    counting: ClassVar[bool] = True
    usage: ClassVar[str] = "nth(N, ...), from 1"

    @classmethod
    def read(cls, arguments: Arguments) -> Self:
        return cls(arguments.integers("N", 1, _MOST))

    def counts(self, count: Count) -> bool:
        return count.number in self.numbers

    def __str__(self) -> str:
        return f"nth({', '.join(map(str, self.numbers))})"

    def explain(self) -> str:
        return f"number {' and '.join(map(str, self.numbers))}"


@dataclass(frozen=True, slots=True)
class Every(Condition):
    """Every n-th transfer."""

    step: int
    name: ClassVar[str] = "every"
    counting: ClassVar[bool] = True
    usage: ClassVar[str] = "every(N), from 1"

    @classmethod
    def read(cls, arguments: Arguments) -> Self:
        return cls(arguments.needed("N", 1, _MOST))

    def counts(self, count: Count) -> bool:
        return count.number % self.step == 0

    def __str__(self) -> str:
        return f"every({self.step})"

    def explain(self) -> str:
        if self.step == 1:
            return "every one"
        teen = 10 < self.step % 100 < 14
        return f"every {self.step}{'th' if teen else _ORDINALS.get(self.step % 10, 'th')}"


@dataclass(frozen=True, slots=True)
class Times(Condition):
    """At most so many times."""

    most: int
    name: ClassVar[str] = "times"
    counting: ClassVar[bool] = True
    usage: ClassVar[str] = "times(N), from 1"

    @classmethod
    def read(cls, arguments: Arguments) -> Self:
        return cls(arguments.needed("N", 1, _MOST))

    def counts(self, count: Count) -> bool:
        return count.fired < self.most

    def __str__(self) -> str:
        return f"times({self.most})"

    def explain(self) -> str:
        return f"at most {self.most} time(s)"


@dataclass(frozen=True, slots=True)
class Chance(Condition):
    """Each with a probability, under the plan's seed."""

    probability: float
    name: ClassVar[str] = "p"
    counting: ClassVar[bool] = True
    usage: ClassVar[str] = "p(PROBABILITY), from 0 to 1"

    @classmethod
    def read(cls, arguments: Arguments) -> Self:
        text = arguments.word()
        try:
            probability = float(text or "")
        except ValueError:
            raise arguments.error(f"{text!r} is no number") from None
        if not 0 <= probability <= 1:
            raise arguments.error(f"{text} is not from 0 to 1")
        return cls(probability)

    def counts(self, count: Count) -> bool:
        return count.dice < self.probability

    def __str__(self) -> str:
        return f"p({self._shown})"

    def explain(self) -> str:
        return f"each with probability {self._shown}"

    @property
    def _shown(self) -> str:
        return repr(self.probability).removesuffix(".0")


@dataclass(frozen=True, slots=True)
class AtByte(Condition):
    """The transfer that holds byte N of its endpoint's stream, from 0."""

    offset: int
    name: ClassVar[str] = "byte"
    usage: ClassVar[str] = "byte(N), from 0"

    @classmethod
    def read(cls, arguments: Arguments) -> Self:
        return cls(arguments.needed("N", 0, _MOST))

    def matches(self, transfer: Transfer) -> bool:
        return transfer.position <= self.offset < transfer.end

    def __str__(self) -> str:
        return f"byte({self.offset})"

    def explain(self) -> str:
        return f"that hold byte {self.offset} of the endpoint's stream"


@dataclass(frozen=True, slots=True)
class Cbw(Condition):
    """The transfers of a SCSI command: from its CBW to its CSW (BOT 5.1).

    ``lba`` is a range, both ends in it, that the blocks of the command touch.
    """

    opcode: int
    lba: tuple[int, int] | None = None
    name: ClassVar[str] = "cbw"
    usage: ClassVar[str] = "cbw(OPCODE) or cbw(OPCODE, lba=FIRST-LAST)"

    @classmethod
    def read(cls, arguments: Arguments) -> Self:
        opcode = arguments.needed("OPCODE", 0, 0xFF)
        text = arguments.word("lba")
        if text is None:
            return cls(opcode)
        first, _, last = text.partition("-")
        try:
            lba = int(first, 0), int(last or first, 0)
        except ValueError:
            raise arguments.error(f"lba {text!r} is no range") from None
        if not 0 <= lba[0] <= lba[1]:
            raise arguments.error(f"lba {text} does not begin before it ends")
        return cls(opcode, lba)

    def matches(self, transfer: Transfer) -> bool:
        command = transfer.command
        if command is None or command.opcode != self.opcode:
            return False
        if self.lba is None:
            return True
        blocks = command.blocks
        return blocks is not None and blocks[0] <= self.lba[1] and self.lba[0] < sum(blocks)

    def __str__(self) -> str:
        lba = f", lba={self.lba[0]}-{self.lba[1]}" if self.lba is not None else ""
        return f"cbw({self.opcode:#04x}{lba})"

    def explain(self) -> str:
        blocks = f" that touches blocks {self.lba[0]} to {self.lba[1]}" if self.lba else ""
        return f"that belong to a SCSI command {self.opcode:#04x}{blocks}"


@dataclass(frozen=True, slots=True)
class Phase(Condition):
    """The CBW, the data or the CSW of a Bulk-Only command (BOT figure 1)."""

    phase: str
    name: ClassVar[str] = "phase"
    usage: ClassVar[str] = "phase(command), phase(data) or phase(status)"

    @classmethod
    def read(cls, arguments: Arguments) -> Self:
        phase = arguments.word() or ""
        if phase not in PHASES:
            raise arguments.error(f"{phase!r} is no phase")
        return cls(phase)

    def matches(self, transfer: Transfer) -> bool:
        return transfer.phase == self.phase

    def __str__(self) -> str:
        return f"phase({self.phase})"

    def explain(self) -> str:
        return f"that are a command's {self.phase}"


@dataclass(frozen=True, slots=True)
class Control(Condition):
    """A control transfer. Only rules with this condition act on endpoint 0."""

    bRequest: int
    bmRequestType: int | None = None
    wValue: int | None = None
    name: ClassVar[str] = "control"
    usage: ClassVar[str] = (
        "control(bRequest) or control(bRequest, type=bmRequestType, value=wValue)"
    )

    @classmethod
    def read(cls, arguments: Arguments) -> Self:
        return cls(
            arguments.needed("bRequest", 0, 0xFF),
            arguments.integer("type", 0, 0xFF, named=True),
            arguments.integer("value", 0, 0xFFFF, named=True),
        )

    def matches(self, transfer: Transfer) -> bool:
        setup = transfer.setup
        return (
            setup is not None
            and setup.bRequest == self.bRequest
            and self.bmRequestType in (None, setup.bmRequestType)
            and self.wValue in (None, setup.wValue)
        )

    def __str__(self) -> str:
        kind = f", type={self.bmRequestType:#04x}" if self.bmRequestType is not None else ""
        value = f", value={self.wValue:#06x}" if self.wValue is not None else ""
        return f"control({self.bRequest:#04x}{kind}{value})"

    def explain(self) -> str:
        return f"that are control request {self}".replace("control(", "(", 1)


@dataclass(frozen=True, slots=True)
class Contains(Condition):
    """The payload contains these bytes; where it is not known yet the rule does not act."""

    pattern: bytes
    name: ClassVar[str] = "bytes"
    usage: ClassVar[str] = "bytes(HEX), such as bytes(55534243)"

    @classmethod
    def read(cls, arguments: Arguments) -> Self:
        text = arguments.word() or ""
        try:
            pattern = bytes.fromhex(text)
        except ValueError:
            raise arguments.error(f"{text!r} is not hexadecimal") from None
        if not pattern:
            raise arguments.error("no bytes are given")
        return cls(pattern)

    def matches(self, transfer: Transfer) -> bool:
        return self.pattern in bytes(transfer.data)

    def __str__(self) -> str:
        return f"bytes({self.pattern.hex()})"

    def explain(self) -> str:
        return f"that contain the bytes {self.pattern.hex(' ')}"


CONDITIONS: Final[Mapping[str, type[Condition]]] = {
    kind.name: kind for kind in (Nth, Every, Times, Chance, AtByte, Cbw, Phase, Control, Contains)
}
"""Every condition by the word it is written with."""


def parse_condition(text: str) -> Condition:
    """Read one condition. Raises SchemeError."""
    return read_call(text, "condition", CONDITIONS)
