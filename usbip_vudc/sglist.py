"""SGList: the ordered segments of one transfer, and the text form in which people write them.

A segment is a writable (or at least readable) flat ``memoryview`` of bytes. The list owns no
memory: it points into buffers of the caller, who keeps them alive and unchanged until the
transfer is done. No segment is empty. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from usbip_vudc.errors import SchemeError

__all__ = ("Buffer", "SGList", "drop_front", "format_layout", "parse_layout")

Buffer = bytes | bytearray | memoryview

MAX_SEGMENTS: Final = 65_536
"""More entries than any block queue has (dummy_hcd allows 2048)."""

_TERM = re.compile(r"(?:(?P<count>\d+)[xX*])?(?P<length>\d+)$")


def parse_layout(text: str) -> tuple[int, ...]:
    """Read a layout such as ``3584+7x4096`` into segment lengths in bytes.

    Raises SchemeError, pointing at the character, for anything that is not a sum of ``LENGTH``
    or ``COUNTxLENGTH`` with both positive.

    >>> parse_layout("3584+2x4096")
    (3584, 4096, 4096)
    """
    lengths: list[int] = []
    column = 0
    for term in text.split("+"):
        match = _TERM.match(term.strip())
        count = int(match["count"] or 1) if match else 0
        length = int(match["length"]) if match else 0
        if count < 1 or length < 1 or len(lengths) + count > MAX_SEGMENTS:
            raise SchemeError(
                f"SG layout {text!r}, column {column + 1}: {term.strip()!r} is no segment; "
                f"write LENGTH or COUNTxLENGTH in bytes, joined by '+', such as 3584+7x4096 "
                f"(at most {MAX_SEGMENTS} segments)"
            )
        lengths.extend([length] * count)
        column += len(term) + 1
    return tuple(lengths)


def format_layout(lengths: Iterable[int]) -> str:
    """Write segment lengths in bytes in the form that `parse_layout` reads.

    >>> format_layout([3584, 4096, 4096])
    '3584+2x4096'
    """
    terms: list[tuple[int, int]] = []
    for length in lengths:
        if terms and terms[-1][1] == length:
            terms[-1] = (terms[-1][0] + 1, length)
        else:
            terms.append((1, length))
    return "+".join(str(length) if n == 1 else f"{n}x{length}" for n, length in terms)


def drop_front(buffers: list[Buffer], length: int) -> None:
    """Take ``length`` bytes from the front of a list of buffers, which a sendmsg has sent."""
    done = 0
    for buffer in buffers:
        if length < len(buffer):
            break
        length -= len(buffer)
        done += 1
    del buffers[:done]
    if length:
        buffers[0] = memoryview(buffers[0])[length:]


class SGList:
    """Ordered segments of one transfer; ``length`` is their sum in bytes."""

    __slots__ = ("length", "segments")

    segments: Sequence[memoryview]
    length: int

    def __init__(self, *buffers: Buffer) -> None:
        """Wrap each buffer as one segment, in order; empty buffers are left out."""
        if len(buffers) == 1:
            # The common case, made for every request and URB.
            view = memoryview(buffers[0])
            if view.itemsize != 1 or view.ndim != 1:
                view = view.cast("B")
            self.length = len(view)
            self.segments = (view,) if self.length else ()
            return
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        self.segments = [view for view in views if len(view)]
        self.length = sum(map(len, self.segments))

    @classmethod
    def laid_out(cls, buffer: Buffer, layout: Iterable[int]) -> SGList:
        """Cut one buffer into segments of the given lengths in bytes.

        Raises SchemeError if the lengths do not add up to the buffer's.
        """
        view = memoryview(buffer).cast("B")
        lengths = tuple(layout)
        if sum(lengths) != len(view) or min(lengths, default=1) < 1:
            raise SchemeError(
                f"SG layout {format_layout(lengths)!r} holds {sum(lengths)} bytes, "
                f"but the transfer has {len(view)}"
            )
        segments = []
        offset = 0
        for length in lengths:
            segments.append(view[offset : offset + length])
            offset += length
        return cls._of(segments, offset)

    @classmethod
    def _of(cls, segments: Sequence[memoryview], length: int) -> SGList:
        self = cls.__new__(cls)
        self.segments = segments
        self.length = length
        return self

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[memoryview]:
        return iter(self.segments)

    def __repr__(self) -> str:
        return f"<SGList {format_layout(map(len, self.segments)) or 'empty'}>"

    @property
    def readonly(self) -> bool:
        """Whether there is a segment that nothing can be received into."""
        for segment in self.segments:  # noqa: SIM110 - asked for every URB; any() takes thrice as long
            if segment.readonly:
                return True
        return False

    def cut(self, start: int, stop: int) -> list[memoryview]:
        """The segments of bytes [start, stop) of the list, clipped at both ends; no copy."""
        segments = self.segments
        if len(segments) == 1:
            return [segments[0][start:stop]] if start < stop else []
        pieces = []
        for segment in segments:
            size = len(segment)
            if start < size and stop > 0:
                piece = segment[max(start, 0) : stop]
                if len(piece):
                    pieces.append(piece)
            start -= size
            stop -= size
        return pieces

    def gather(self) -> bytes:
        """A copy of all the bytes, in order."""
        return b"".join(self.segments)

    def scatter(self, data: Buffer, offset: int = 0) -> None:
        """Copy ``data`` into the segments from byte ``offset`` of the list on.

        Raises ValueError if it does not fit; nothing is then written.
        """
        length = len(data)
        if offset + length > self.length:
            raise ValueError(f"{length} bytes at offset {offset} do not fit in {self.length} bytes")
        segments = self.segments
        if len(segments) == 1:
            segments[0][offset : offset + length] = data
            return
        source = memoryview(data)
        taken = 0
        for piece in self.cut(offset, offset + length):
            piece[:] = source[taken : taken + len(piece)]
            taken += len(piece)
