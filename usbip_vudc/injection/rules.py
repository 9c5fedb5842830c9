"""Rule: where, when and what, in one line of text. Pure.

    mass_storage.in cbw(0x28) phase(status) nth(3) csw(tag=1)

Where is ``function``, a function's name, ``host`` or ``cable``; behind a dot may stand a
direction (``in``, ``out``), a role of the function's endpoints, or an address (``0x81``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from usbip_vudc.errors import SchemeError
from usbip_vudc.injection.actions import ACTIONS, Action, PacketSize, parse_action
from usbip_vudc.injection.arguments import split_words
from usbip_vudc.injection.conditions import CONDITIONS, Condition, Control, parse_condition
from usbip_vudc.injection.transfer import SEAMS, Transfer
from usbip_vudc.usb.ch9 import Direction

__all__ = ("Rule", "Where")

_WHERE = re.compile(
    r"(?P<place>[A-Za-z_][\w-]*)(?:\.(?:(?P<address>0[xX][0-9a-fA-F]{1,2})|(?P<role>[A-Za-z_][\w-]*)))?$"
)
_WAYS: Final = {"in": Direction.IN, "out": Direction.OUT}


@dataclass(frozen=True, slots=True)
class Where:
    """The transfers that a rule looks at. Empty, or None, means any."""

    seam: str
    function: str = ""
    role: str = ""
    address: int | None = None
    direction: Direction | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read it. Raises SchemeError."""
        match = _WHERE.match(text)
        if match is None:
            raise SchemeError(
                f"{text!r} is no place; expected function, a function's name, host or cable, "
                f"and behind a dot in, out, a role or an address such as 0x81"
            )
        place, role = match["place"], match["role"] or ""
        seam = place if place in SEAMS else "function"
        direction = _WAYS.get(role)
        if role and direction is None and seam != "function":
            raise SchemeError(
                f"{text!r}: the {seam} knows no role {role!r} of a function; expected in, out or "
                f"an address such as {seam}.0x81"
            )
        return cls(
            seam,
            "" if place in SEAMS else place,
            "" if direction is not None else role,
            int(match["address"], 16) if match["address"] else None,
            direction,
        )

    def __str__(self) -> str:
        place = self.function or self.seam
        if self.address is not None:
            return f"{place}.{self.address:#04x}"
        behind = self.role or ("" if self.direction is None else self.direction.name.lower())
        return f"{place}.{behind}" if behind else place

    def matches(self, transfer: Transfer) -> bool:
        """Whether a transfer of this seam is at this place."""
        return (
            self.function in ("", transfer.function)
            and self.role in ("", transfer.role)
            and self.address in (None, transfer.address)
            and self.direction in (None, transfer.direction)
        )

    def explain(self) -> str:
        """In English."""
        who = {
            "function": f"function {self.function}" if self.function else "every function",
            "host": "the host",
            "cable": "the cable",
        }[self.seam]
        if self.role:
            return f"endpoint {self.role} of {who}"
        if self.address is not None:
            return f"endpoint {self.address:#04x} of {who}"
        if self.direction is not None:
            return f"{self.direction.name} endpoints of {who}"
        return who


@dataclass(frozen=True, slots=True)
class Rule:
    """At a place, on the transfers that every condition lets through, an action."""

    where: Where
    conditions: tuple[Condition, ...]
    action: Action

    def __post_init__(self) -> None:
        where, action = self.where, self.action
        if isinstance(action, PacketSize):
            if where.seam != "function" or self.conditions:
                raise SchemeError(
                    f"rule '{self}': packet sizes are a function's for its life: no condition"
                )
            if where.address is not None:
                raise SchemeError(
                    f"rule '{self}': an address is chosen once the packet sizes are known; name a "
                    f"role or a direction, such as {where.function or 'function'}.in"
                )
        elif not self._ways():
            places = ", ".join(sorted({_place(key, action) for key in action.moments}))
            raise SchemeError(f"rule '{self}': {action.name} acts at {places}")
        elif self.is_control and not action.on_control(where.seam):
            raise SchemeError(
                f"rule '{self}': {action.name} does not act on control transfers at the "
                f"{where.seam}"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read one line. Raises SchemeError that names what is wrong in it."""
        try:
            words = list(split_words(text, " \t\n"))
            if len(words) < 2:
                raise SchemeError("expected WHERE [WHEN...] WHAT, such as mass_storage.in stall")
            where = Where.parse(words[0])
            _check_order(words[1:])
            conditions = tuple(parse_condition(word) for word in words[1:-1])
            action = parse_action(words[-1])
        except SchemeError as error:
            raise SchemeError(f"rule {text!r}: {error}") from None
        return cls(where, conditions, action)

    def __str__(self) -> str:
        return " ".join(map(str, (self.where, *self.conditions, self.action)))

    def __repr__(self) -> str:
        return f"Rule.parse({str(self)!r})"

    @property
    def is_control(self) -> bool:
        """Whether it speaks of endpoint 0."""
        return any(isinstance(condition, Control) for condition in self.conditions)

    def moment(self, direction: Direction) -> str | None:
        """When it acts on a transfer of this direction: before it moves, after, or never."""
        if self.where.direction not in (None, direction):
            return None
        return self.action.moments.get(f"{self.where.seam}.{direction.name.lower()}")

    def matches(self, transfer: Transfer) -> bool:
        """Whether place and contents let it act, whatever the count."""
        return (
            (transfer.setup is not None) == self.is_control
            and self.where.matches(transfer)
            and self.action.applies(transfer)
            and (not transfer.is_iso or self.action.on_iso(transfer.seam))
            and all(condition.matches(transfer) for condition in self.conditions)
        )

    def explain(self) -> str:
        """In English, one sentence."""
        at = self.where.explain()
        what = self.action.explain(self.where.seam)
        if isinstance(self.action, PacketSize):
            return f"Of {at}: {what}."
        looks = [c.explain() for c in self.conditions if not c.counting]
        counts = [c.explain() for c in self.conditions if c.counting]
        which = f"transfers {' and '.join(looks)}" if looks else "every transfer"
        of_these = f", of these {' and '.join(counts)}" if counts else ""
        return f"At {at}, on {which}{of_these}: {what}."

    def _ways(self) -> list[Direction]:
        return [way for way in (Direction.IN, Direction.OUT) if self.moment(way) is not None]


def _check_order(words: Sequence[str]) -> None:
    *before, last = words
    for word in before:
        if _name(word) in ACTIONS:
            raise SchemeError(f"{word!r} is an action; only the last word is one")
    if _name(last) in CONDITIONS:
        raise SchemeError(f"{last!r} is a condition; the action comes last")


def _name(word: str) -> str:
    return word.partition("(")[0]


def _place(key: str, action: Action) -> str:
    seam, _, way = key.partition(".")
    other = "out" if way == "in" else "in"
    return seam if f"{seam}.{other}" in action.moments else key
