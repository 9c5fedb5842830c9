"""Table: one table of a scheme, that knows where it stands, so that every error can say so.

``gadget.toml: configs[0].functions[1].luns[0].size = '12x': expected ...``. Pure.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePath
from typing import Final, TypeVar

from usbip_vudc.errors import SchemeError
from usbip_vudc.gadget import Text
from usbip_vudc.scheme.size import MOST, parse_size

__all__ = ("Table", "nearest")

_MISSING: Final = object()

_MOST_SHOWN: Final = 200
"""Characters of a value that an error shows."""

_E = TypeVar("_E")


def nearest(word: str, known: Iterable[str]) -> str:
    """``; did you mean X?``, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _short(text: str) -> str:
    """As much of it as a message can hold."""
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


class Table:
    """A table of a scheme.

    ``where`` names the file and ``path`` the table in it, for messages. Relative paths of images
    start from ``base``. With ``opens_files`` False nothing outside the scheme may be looked at:
    a function is then built to be described only. Every reader raises SchemeError.
    """

    def __init__(
        self,
        values: Mapping[str, object],
        *,
        where: str,
        path: str = "",
        base: PurePath | None = None,
        opens_files: bool = True,
    ) -> None:
        self.values = values
        self.where = where
        self.path = path
        self.base = base
        self.opens_files = opens_files

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def error(self, key: str, expected: str) -> SchemeError:
        """The error to raise for a key: its place, its value, and what would be right."""
        value = self.values.get(key, _MISSING)
        shown = "is missing" if value is _MISSING else f"= {_short(repr(value))}"
        return SchemeError(f"{self.where}: {self._place(key)} {shown}: expected {expected}")

    def expect(self, *known: str) -> None:
        """Refuse every key but these."""
        for key in self.values:
            if key not in known:
                raise SchemeError(
                    f"{self.where}: {self._place(key)}: unknown key{nearest(key, known)}; there "
                    f"are {', '.join(known)}"
                )

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Put this table's place before the message of a SchemeError that is raised within."""
        try:
            yield
        except SchemeError as error:
            if str(error).startswith(f"{self.where}: "):
                raise
            place = f"{self.where}: {self.path}" if self.path else self.where
            raise SchemeError(f"{place}: {error}") from None

    # --- readers -------------------------------------------------------------------------------

    def text(self, key: str, default: str | None = None) -> str:
        """A string. Without a default it must be there."""
        return self._one(key, str, default, "a string")

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        return self._one(key, bool, default, "true or false")

    def integer(self, key: str, default: int | None, low: int, high: int) -> int:
        """A number from ``low`` to ``high``. Without a default it must be there."""
        bounds = f"a number from {low} to {high if high < 1000 else hex(high)}"
        value = self._one(key, int, default, bounds)
        if isinstance(value, bool) or not low <= value <= high:
            raise self.error(key, bounds)
        return value

    def integers(self, key: str, count: int, high: int) -> tuple[int, ...] | None:
        """``count`` numbers from 0 to ``high``; None where they are not there."""
        if key not in self.values:
            return None
        expected = f"{count} numbers from 0 to {high:#x}"
        values: list[object] = self._one(key, list, None, expected)
        numbers = tuple(v for v in values if type(v) is int and 0 <= v <= high)
        if not len(numbers) == len(values) == count:
            raise self.error(key, expected)
        return numbers

    def by_speed(self, key: str, speeds: Mapping[str, _E], high: int) -> dict[_E, int]:
        """Numbers from 0 to ``high`` by speed, such as { full = 8 }; none where it is not there."""
        values = self.values.get(key, {})
        shown = f"{{ {next(iter(speeds))} = ... }}"
        expected = f"numbers from 0 to {high:#x} by speed ({', '.join(speeds)}), as {shown}"
        if not isinstance(values, dict):
            raise self.error(key, expected)
        for word, value in values.items():
            if word not in speeds or type(value) is not int or not 0 <= value <= high:
                raise self.error(key, expected)
        return {speeds[word]: value for word, value in values.items()}

    def size(self, key: str) -> int | None:
        """Bytes, as a number or as text like 64M; None where it is not there."""
        value = self.values.get(key)
        if value is None:
            return None
        expected = "bytes, or text with K, M, G or T such as '64M'"
        if type(value) is int and 0 < value <= MOST:
            return value
        if not isinstance(value, str):
            raise self.error(key, expected)
        try:
            return parse_size(value)
        except SchemeError:
            raise self.error(key, expected) from None

    def choice(self, key: str, choices: Mapping[str, _E], default: str | None = None) -> _E:
        """What a word stands for. Without a default it must be there."""
        word = self._one(key, str, default, f"one of {', '.join(choices)}")
        if word not in choices:
            raise self.error(key, f"one of {', '.join(choices)}{nearest(word, list(choices))}")
        return choices[word]

    def file(self, key: str) -> PurePath | None:
        """The path of a file, from the scheme's directory on; None where it is not there."""
        if key not in self.values:
            return None
        text = self.text(key)
        if not text:
            raise self.error(key, "the path of a file")
        return self.base / text if self.base is not None else PurePath(text)

    def strings(self, key: str) -> Text:
        """A string, or a table of them by language code; empty where it is not there."""
        value = self.values.get(key, "")
        if isinstance(value, str):
            return value
        expected = "a string, or a table of strings by language code such as { 0x0409 = '...' }"
        if not isinstance(value, dict) or not value:
            raise self.error(key, expected)
        texts: dict[int, str] = {}
        for code, text in value.items():
            # TOML keys are text; 0x is what USB_LANGIDs are written with.
            if not re.fullmatch(r"0[xX][0-9a-fA-F]{1,4}", code) or not isinstance(text, str):
                raise self.error(key, expected)
            texts[int(code, 16)] = text
        return texts

    def table(self, key: str) -> Table | None:
        """A table in this one; None where it is not there."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(key, "a table")
        return self._below(value, self._place(key))

    def tables(self, key: str) -> tuple[Table, ...]:
        """The tables of an array; none where it is not there."""
        values = self.values.get(key, [])
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            raise self.error(key, "an array of tables")
        return tuple(
            self._below(value, f"{self._place(key)}[{n}]") for n, value in enumerate(values)
        )

    def _below(self, values: Mapping[str, object], path: str) -> Table:
        return Table(
            values, where=self.where, path=path, base=self.base, opens_files=self.opens_files
        )

    def _place(self, key: str) -> str:
        shown = key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else f'"{key}"'
        return f"{self.path}.{shown}" if self.path else shown

    def _one(self, key: str, kind: Callable[..., _E], default: _E | None, expected: str) -> _E:
        value = self.values.get(key, default)
        if value is None or not isinstance(value, kind):  # type: ignore[arg-type]
            raise self.error(key, expected)
        return value  # type: ignore[return-value]
