"""Memory at chosen offsets in its pages, for layouts that say where a segment begins."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass

from usbip_vudc.injection.layout import PAGE, Segment
from usbip_vudc.sglist import SGList

__all__ = ("Placed", "place")


@dataclass(frozen=True, slots=True)
class Placed:
    """``sg`` lies where it was asked for; ``home`` is the caller's memory that it stands for."""

    sg: SGList
    home: SGList

    def bring_back(self, length: int) -> None:
        """Copy the first ``length`` bytes to the caller's memory."""
        taken = 0
        for piece in self.sg.cut(0, length):
            self.home.scatter(piece, taken)
            taken += len(piece)


def place(segments: Sequence[Segment], home: Sequence[memoryview], *, copy_in: bool) -> Placed:
    """Memory for the segments, each in pages of its own; with ``copy_in`` it has home's bytes."""
    source = SGList(*home)
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
        taken = 0
        for view in placed:
            view[:] = b"".join(source.cut(taken, taken + len(view)))
            taken += len(view)
    return Placed(placed, source)
