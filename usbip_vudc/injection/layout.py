"""Layout: how the bytes of one transfer are laid out, as requests (or URBs) of SG segments. Pure.

    3584+7x4096              one request of eight segments
    [1,511][3,597][][2984]   four requests; ``[]`` is a ZLP
    straddle, odd, ...       a family (`FAMILIES`), which fits itself to every transfer
    each:3584+7x4096         each segment a request of its own: a host without SG
    512@3584+4096@0          segments at these offsets in a page of memory

What a layout does not cover of a transfer is one more segment of its last request; where the
transfer is shorter, the layout is cut. Whether it is benign is computed for a maxpacket and a
length (`Layout.verdict`), never declared.
"""

from __future__ import annotations

import difflib
import itertools
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from usbip_vudc.errors import SchemeError
from usbip_vudc.sglist import MAX_SEGMENTS

__all__ = ("FAMILIES", "PAGE", "Layout", "Requests", "Segment", "Verdict", "layout_text")

PAGE: Final = 4096
"""Bytes of a page of memory, on every machine that these layouts were made for."""

_MAX_MADE: Final = 4096
"""Segments that a family makes at most; what is left is the last one."""


class Segment(NamedTuple):
    """``length`` in bytes; ``page_offset`` where in a page it begins, None for wherever."""

    length: int
    page_offset: int | None = None

    def __str__(self) -> str:
        at = "" if self.page_offset is None else f"@{self.page_offset}"
        return f"{self.length}{at}"


Requests = tuple[tuple[Segment, ...], ...]
"""Requests in order, each of its segments in order; an empty one is a ZLP."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the other side cannot tell a layout from none; ``why`` says it in English."""

    benign: bool
    why: str


# --- families ----------------------------------------------------------------------------------


def _whole(_argument: int, _length: int, _maxp: int) -> Iterator[Segment]:
    """One segment."""
    return iter(())


def _straddle(_argument: int, _length: int, maxp: int) -> Iterator[Segment]:
    """Every boundary between two packets lies inside a segment."""
    yield Segment(max(maxp // 2, 1))
    while True:
        yield Segment(maxp)


def _odd(_argument: int, _length: int, maxp: int) -> Iterator[Segment]:
    """Segments of odd lengths, no two neighbours alike: 1, 3, 5 ... up to two packets."""
    size = 1
    while True:
        yield Segment(size)
        size = size + 2 if size < 2 * maxp else 1


def _page_offset(offset: int, _length: int, _maxp: int) -> Iterator[Segment]:
    """The first segment begins N bytes into its page, as a user's buffer does; then whole pages."""
    yield Segment(PAGE - offset, offset)
    while True:
        yield Segment(PAGE, 0)


def _one_byte_head(_argument: int, _length: int, _maxp: int) -> Iterator[Segment]:
    """One byte, and the rest."""
    yield Segment(1)


def _packet_less_one(_argument: int, _length: int, maxp: int) -> Iterator[Segment]:
    """Segments one byte shorter than a packet."""
    while True:
        yield Segment(max(maxp - 1, 1))


def _packet_and_one(_argument: int, _length: int, maxp: int) -> Iterator[Segment]:
    """Segments one byte longer than a packet."""
    while True:
        yield Segment(maxp + 1)


def _packets(count: int, _length: int, maxp: int) -> Iterator[Segment]:
    """Segments of N whole packets."""
    while True:
        yield Segment(count * maxp)


def _random(seed: int, length: int, maxp: int) -> Iterator[Segment]:
    """Random lengths near 1, a packet, a page and their multiples, by this seed and the length."""
    # A str seeds by its own bytes, on every Python alike.
    dice = random.Random(f"{seed}/{length}/{maxp}")
    while True:
        base = dice.choice((1, maxp, maxp, PAGE, dice.randint(1, 3 * maxp)))
        yield Segment(max(base + dice.choice((-1, 0, 0, 1)), 1))


_Family = Callable[[int, int, int], Iterator[Segment]]
"""(argument, length in bytes, maxpacket) -> segments without end, or fewer than are needed."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """A family: what makes its segments, and the bounds of its argument if it takes one."""

    make: _Family
    argument: str = ""
    low: int = 0
    high: int = 0

    @property
    def expected(self) -> str:
        return f"{self.argument} from {self.low} to {self.high}"


_KINDS: Final[Mapping[str, _Kind]] = {
    "whole": _Kind(_whole),
    "straddle": _Kind(_straddle),
    "odd": _Kind(_odd),
    "page-offset": _Kind(_page_offset, "OFFSET", 0, PAGE - 1),
    "one-byte-head": _Kind(_one_byte_head),
    "maxp-1": _Kind(_packet_less_one),
    "maxp+1": _Kind(_packet_and_one),
    "packets": _Kind(_packets, "COUNT", 1, 1 << 16),
    "random": _Kind(_random, "SEED", 0, (1 << 64) - 1),
}

FAMILIES: Final[Mapping[str, str]] = {
    f"{name}:{kind.argument}" if kind.argument else name: (kind.make.__doc__ or "")
    for name, kind in _KINDS.items()
}
"""How each family is written -> what it does."""


# --- the layout --------------------------------------------------------------------------------

_EACH: Final = "each:"
_TERM = re.compile(r"(?:(?P<count>\d+)[xX*])?(?P<length>\d+)(?:@(?P<offset>\d+))?$")
_WORD = re.compile(r"(?P<name>[a-z][a-z0-9+-]*)(?::(?P<argument>.*))?$")


@dataclass(frozen=True, slots=True)
class Layout:
    """A layout by its text, in the one form that it is written in. Made by `parse`.

    >>> Layout.parse("3584 + 7x4096")
    Layout.parse('3584+7x4096')
    """

    text: str
    _requests: Requests = ()
    _family: str = ""
    _argument: int = 0
    _each: bool = False

    @classmethod
    def parse(cls, text: str) -> Layout:
        """Read a layout. Raises SchemeError that points at the character it stumbled over."""
        return _Reader(text).layout()

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Layout.parse({self.text!r})"

    @property
    def length(self) -> int:
        """Bytes that it writes out, 0 for a family: that fits itself to any length."""
        return sum(segment.length for request in self._requests for segment in request)

    @property
    def one_request(self) -> bool:
        """Whether every transfer stays one request, whose segments alone are laid out."""
        return not self._each and (bool(self._family) or len(self._requests) == 1)

    @property
    def placed(self) -> bool:
        """Whether some segment says where in a page it lies."""
        if self._family:
            return self._family == "page-offset"
        return any(s.page_offset is not None for request in self._requests for s in request)

    def apply(self, length: int, max_packet_size: int) -> Requests:
        """Lay out ``length`` bytes: requests of segments that add up to it.

        ``max_packet_size`` in bytes is what families of packets measure with.
        """
        if not length:
            return ((),)
        if self._family:
            kind = _KINDS[self._family]
            wanted = kind.make(self._argument, length, max_packet_size)
            requests = _fit(length, (wanted,))
        else:
            requests = _fit(length, self._requests)
        if self._each:
            return tuple((segment,) for request in requests for segment in request)
        return requests

    def verdict(self, length: int, max_packet_size: int) -> Verdict:
        """Whether this layout of a transfer changes anything that the other side can see.

        Segments never do. A request that ends inside a packet does: to the host a short packet
        ends the transfer, and a URB or OUT request that ends there overflows (USB 2.0 5.8.3).
        """
        requests = self.apply(length, max_packet_size)
        for number, request in enumerate(requests[:-1], 1):
            size = sum(segment.length for segment in request)
            if not size:
                return Verdict(False, f"request {number} of {len(requests)} is a ZLP")
            if size % max_packet_size:
                return Verdict(
                    False,
                    f"request {number} of {len(requests)} has {size} bytes, no multiple of the "
                    f"maxpacket {max_packet_size}",
                )
        if length and not requests[-1]:
            return Verdict(False, "the last request is a ZLP that nobody asked for")
        if len(requests) == 1:
            return Verdict(True, "it stays one request")
        return Verdict(True, f"each of {len(requests)} requests ends at the end of a packet")


def _fit(length: int, wanted: Iterable[Iterable[Segment]]) -> Requests:
    """Cut requests to ``length`` bytes; what they leave is a segment more of the last one."""
    requests: list[list[Segment]] = []
    left = length
    was_cut = False
    for request in wanted:
        made: list[Segment] = []
        for segment in request:
            if not left or len(made) == _MAX_MADE:
                was_cut = True
                break
            size = min(segment.length, left)
            was_cut = size < segment.length
            made.append(Segment(size, segment.page_offset))
            left -= size
        if not made and was_cut:
            break  # the transfer ended before this request
        requests.append(made)
    if left:
        requests[-1].append(Segment(left))
    return tuple(map(tuple, requests))


# --- reading -----------------------------------------------------------------------------------

_SHOWN: Final = "such as 3584+7x4096, [1,511][3,597][][2984], each:512+31744, or a family"


class _Reader:
    """Reads one layout; every error points at a character, columns from 1."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._segments = 0

    def layout(self) -> Layout:
        text = self._text
        start = len(text) - len(text.lstrip())
        each = text.startswith(_EACH, start)
        if each:
            start += len(_EACH)
        prefix = _EACH if each else ""
        body = text[start:].strip()
        word = _WORD.match(body)
        if word is not None and word["name"] in _KINDS:
            argument = self._argument(
                word["name"], word["argument"], start + word.start("argument")
            )
            shown = f"{word['name']}:{argument}" if word["argument"] else word["name"]
            return Layout(prefix + shown, (), word["name"], argument, each)
        if not body or body[0].isalpha():
            near = difflib.get_close_matches(body.partition(":")[0], _KINDS, n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise self._error(start, f"{body!r} is no family ({', '.join(FAMILIES)}){meant}")
        requests = self._bracketed(start) if body[0] == "[" else (self._terms(start, len(text)),)
        shown = _shown(requests, brackets=body[0] == "[")
        return Layout(prefix + shown, requests, "", 0, each)

    def _argument(self, name: str, text: str | None, column: int) -> int:
        kind = _KINDS[name]
        if not kind.argument:
            if text is not None:
                raise self._error(column, f"{name} takes no argument")
            return 0
        if text is None:
            raise self._error(len(self._text), f"{name} needs :{kind.expected}")
        if not text.isdecimal() or not kind.low <= int(text) <= kind.high:
            raise self._error(column, f"{text!r} is no {kind.expected}")
        return int(text)

    def _bracketed(self, start: int) -> Requests:
        requests: list[tuple[Segment, ...]] = []
        column, text = start, self._text
        while column < len(text):
            if text[column].isspace():
                column += 1
                continue
            if text[column] != "[":
                raise self._error(column, "expected '[', the beginning of a request")
            end = text.find("]", column)
            if end < 0:
                raise self._error(column, "this '[' has no ']'")
            inside = text[column + 1 : end]
            requests.append(self._terms(column + 1, end) if inside.strip() else ())
            column = end + 1
        return tuple(requests)

    def _terms(self, start: int, end: int) -> tuple[Segment, ...]:
        segments: list[Segment] = []
        column = start
        for piece in re.split("[+,]", self._text[start:end]):
            term = piece.strip()
            at = column + len(piece) - len(piece.lstrip())
            match = _TERM.match(term)
            count, length = (int(match["count"] or 1), int(match["length"])) if match else (0, 0)
            if match is None or count < 1 or length < 1:
                raise self._error(
                    at,
                    f"{term!r} is no segment; write LENGTH, COUNTxLENGTH or LENGTH@OFFSET, bytes",
                )
            offset = int(match["offset"]) if match["offset"] is not None else None
            if offset is not None and offset >= PAGE:
                raise self._error(at, f"{term!r}: an offset in a page is 0 to {PAGE - 1}")
            self._segments += count
            if self._segments > MAX_SEGMENTS:
                raise self._error(at, f"more than {MAX_SEGMENTS} segments")
            segments.extend([Segment(length, offset)] * count)
            column += len(piece) + 1
        return tuple(segments)

    def _error(self, column: int, what: str) -> SchemeError:
        return SchemeError(f"layout {self._text!r}, column {column + 1}: {what}; {_SHOWN}")


def _shown(requests: Requests, *, brackets: bool) -> str:
    joined = map(layout_text, requests)
    return "".join(f"[{request}]" for request in joined) if brackets else "".join(joined)


def layout_text(segments: Sequence[Segment]) -> str:
    """The segments of one request as a layout is written.

    >>> layout_text([Segment(3584, 512), Segment(4096), Segment(4096)])
    '3584@512+2x4096'
    """
    runs = ((str(segment), len(tuple(run))) for segment, run in itertools.groupby(segments))
    return "+".join(text if count == 1 else f"{count}x{text}" for text, count in runs)
