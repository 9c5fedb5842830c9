"""Layouts over memory: the caller's, or at chosen offsets in pages where a layout says so."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from usbip_vudc.injection.layout import PAGE, Layout, Segment
from usbip_vudc.sglist import SGList

__all__ = ("Laid", "lay_out")


@dataclass(frozen=True, slots=True)
class Laid:
    """A request of a layout: ``sg`` is the caller's memory, or stands for ``home``, which is."""

    sg: SGList
    home: SGList | None = None

    def bring_back(self, length: int) -> None:
        """Copy the first ``length`` bytes to the caller's memory, where they are not there yet."""
        if self.home is None:
            return
        taken = 0
        for piece in self.sg.cut(0, length):
            self.home.scatter(piece, taken)
            taken += len(piece)


def lay_out(layout: Layout, sg: SGList, max_packet_size: int, *, copy_in: bool) -> Iterator[Laid]:
    """The requests of a layout over this memory, or over memory of the kind that it asks for.

    With ``copy_in`` such memory has the bytes of ``sg`` already.
    """
    offset = 0
    for segments in layout.apply(sg.length, max_packet_size):
        pieces: list[memoryview] = []
        start = offset
        for segment in segments:
            pieces.extend(sg.cut(offset, offset + segment.length))
            offset += segment.length
        if layout.placed:
            yield _place(segments, SGList(*sg.cut(start, offset)), copy_in=copy_in)
        else:
            yield Laid(SGList(*pieces))


def _place(segments: Sequence[Segment], home: SGList, *, copy_in: bool) -> Laid:
    """Memory for the segments, each in pages of its own."""
    starts = []
    size = 0
    for segment in segments:
        start = size + (segment.page_offset or 0)
        starts.append(start)
        size = -(-(start + segment.length) // PAGE) * PAGE
    memory = memoryview(mmap.mmap(-1, max(size, PAGE)))
    views = [memory[s : s + segment.length] for s, segment in zip(starts, segments, strict=True)]
    placed = SGList(*views)
    if copy_in:
        placed.scatter(home.gather())
    return Laid(placed, home)
