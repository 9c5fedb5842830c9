"""Arguments: reads ``name(1, 20ms, lba=100-200)``, the words that rules are made of. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import ClassVar, Final, Protocol, Self, TypeVar

from usbip_vudc.errors import SchemeError
from usbip_vudc.scheme.table import nearest

__all__ = ("NANO", "Arguments", "parse_call", "read_call", "show_seconds", "split_words")

_CALL = re.compile(r"(?P<name>[a-z][a-z0-9_]*)(?:\((?P<inside>.*)\))?$", re.DOTALL)
_DURATION = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>us|ms|s)$")
_UNITS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_LONGEST: Final = 3600.0
NANO: Final = 9
"""Digits of a second that a duration has."""

_PAIRS: Final = {"(": ")", "[": "]"}


def split_words(text: str, separators: str) -> Iterator[str]:
    """The parts of a text between separators that stand outside of every bracket; none is empty.

    Raises SchemeError, pointing at the character, where brackets do not match.
    """
    word, open_at = "", []
    for column, character in enumerate(text):
        if character in "([":
            open_at.append((character, column))
        elif character in ")]" and (not open_at or _PAIRS[open_at.pop()[0]] != character):
            raise SchemeError(f"{text!r}, column {column + 1}: {character!r} closes nothing")
        if character in separators and not open_at:
            if word.strip():
                yield word.strip()
            word = ""
        else:
            word += character
    if open_at:
        raise SchemeError(
            f"{text!r}, column {open_at[-1][1] + 1}: {open_at[-1][0]!r} is not closed"
        )
    if word.strip():
        yield word.strip()


def parse_call(text: str) -> tuple[str, str | None]:
    """``name`` or ``name(inside)``. Raises SchemeError for anything else."""
    match = _CALL.match(text)
    if match is None:
        raise SchemeError(f"{text!r}: expected NAME or NAME(ARGUMENTS)")
    return match["name"], match["inside"]


def show_seconds(seconds: float) -> str:
    """A duration as rules write it: 20ms, 0.5s, 375us. Reading it gives the same number."""
    fits = (unit for unit in ("s", "ms") if seconds >= _UNITS[unit])
    unit = next(fits, "us") if seconds else "s"
    return f"{seconds / _UNITS[unit]:.15g}{unit}"


class _Word(Protocol):
    """What a call can make: a class of conditions or of actions."""

    usage: ClassVar[str]

    @classmethod
    def read(cls, arguments: Arguments) -> Self:
        """Make it of its arguments. Raises SchemeError."""


_W = TypeVar("_W", bound=_Word)


def read_call(text: str, what: str, known: Mapping[str, type[_W]]) -> _W:
    """Make what a call names; ``what`` it is stands in the SchemeError of a call that is none."""
    name, inside = parse_call(text)
    kind = known.get(name)
    if kind is None:
        raise SchemeError(
            f"{text!r} is no {what}; there are {', '.join(known)}{nearest(name, known)}"
        )
    arguments = Arguments(name, inside, kind.usage)
    made = kind.read(arguments)
    arguments.finish()
    return made


class Arguments:
    """The arguments of one call, taken one after the other; `finish` refuses what is left.

    ``usage`` is what is right, for messages. Every reader raises SchemeError.
    """

    def __init__(self, name: str, inside: str | None, usage: str) -> None:
        self.name = name
        self.inside = inside or ""
        self._usage = usage
        self._positional: list[str] = []
        self._named: dict[str, str] = {}
        for word in split_words(self.inside, ","):
            key, equals, value = word.partition("=")
            if not equals:
                self._positional.append(word)
            elif key.strip() in self._named:
                raise self.error(f"{key.strip()} is given twice")
            else:
                self._named[key.strip()] = value.strip()

    def error(self, what: str) -> SchemeError:
        """The error to raise, with the whole call in it."""
        inside = f"({self.inside})" if self.inside else ""
        return SchemeError(f"{self.name}{inside}: {what}; expected {self._usage}")

    def flag(self, word: str) -> bool:
        """Whether this bare word is among them."""
        if word not in self._positional:
            return False
        self._positional.remove(word)
        return True

    def word(self, name: str = "") -> str | None:
        """The value of ``name=``, or without a name the next one; None where there is none."""
        if name:
            return self._named.pop(name, None)
        return self._positional.pop(0) if self._positional else None

    def integer(self, name: str, low: int, high: int, *, named: bool = False) -> int | None:
        """A number, 0x too; None where it is not there."""
        text = self.word(name if named else "")
        if text is None:
            return None
        try:
            value = int(text, 0)
        except ValueError:
            raise self.error(f"{name} {text!r} is no number") from None
        if not low <= value <= high:
            raise self.error(f"{name} {text} is not from {low} to {high}")
        return value

    def needed(self, name: str, low: int, high: int) -> int:
        """A number that must be there."""
        value = self.integer(name, low, high)
        if value is None:
            raise self.error(f"{name} is missing")
        return value

    def integers(self, name: str, low: int, high: int) -> tuple[int, ...]:
        """One number or more, to the end."""
        numbers = [self.needed(name, low, high)]
        while self._positional:
            numbers.append(self.needed(name, low, high))
        return tuple(numbers)

    def seconds(self, *, default: float | None = None) -> float:
        """A duration with its unit, such as 20ms."""
        text = self.word()
        if text is None and default is not None:
            return default
        match = _DURATION.match(text or "")
        if match is not None:
            seconds = round(float(match["number"]) * _UNITS[match["unit"]], NANO)
            if seconds <= _LONGEST:
                return seconds
        given = "a duration is missing" if text is None else f"{text!r} is no duration"
        raise self.error(f"{given} such as 20ms or 0.5s, at most an hour")

    def finish(self) -> None:
        """Nothing may be left."""
        left = [*self._positional, *(f"{key}={value}" for key, value in self._named.items())]
        if left:
            raise self.error(f"{', '.join(left)} means nothing here")
