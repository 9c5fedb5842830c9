"""What a block device's queue allows in one command, and whether a layout is that. Pure.

The rules are the kernel's: a vector of O_DIRECT must be aligned (block/fops.c), and what does not
fit the queue is split into several commands (block/blk-merge.c), whose SG lists are then not the
one asked for. So both count as errors here, and each names the nearest layout that is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from usbip_vudc.errors import SchemeError
from usbip_vudc.injection.layout import Segment, layout_text

__all__ = ("BIO_MAX_VECS", "Limits", "Segments", "check", "nearest")

BIO_MAX_VECS: Final = 256
"""Segments of one bio (include/linux/bio.h): a longer vector becomes several of them."""

Segments = Sequence[Segment]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of a disk's queue, named as its files in sysfs; bytes but where kb is said.

    ``dma_alignment`` and ``virt_boundary_mask`` are masks of bits that must be 0. ``page_size``
    is the machine's, ``contiguous`` the longest physically contiguous memory that a program can
    ask for. ``assumed`` names the files that this kernel does not have.
    """

    disk: str
    logical_block_size: int = 512
    dma_alignment: int = 511
    max_sectors_kb: int
    max_hw_sectors_kb: int
    max_segments: int
    max_segment_size: int = 65_536
    virt_boundary_mask: int = 0
    page_size: int = 4096
    contiguous: int = 4096
    assumed: tuple[str, ...] = ()

    @property
    def max_bytes(self) -> int:
        """Bytes of the longest command."""
        return (self.max_sectors_kb << 10) // self.logical_block_size * self.logical_block_size

    @property
    def most_segments(self) -> int:
        """Segments of the longest command."""
        return min(self.max_segments, BIO_MAX_VECS)


def check(segments: Segments, limits: Limits) -> tuple[Segment, ...]:
    """The segments of one command, each with its place in a page; a free one ends at a page's end.

    Raises SchemeError where they cannot be one command on this disk: it names the limit, the
    segment and the nearest legal layout.
    """
    wrong = _problem(segments, limits)
    if wrong is None:
        return _placed(segments, limits)
    legal = nearest(segments, limits)
    advice = f"the nearest legal layout is {layout_text(legal)}" if legal else "no layout is legal"
    raise SchemeError(f"SG layout {layout_text(segments)!r}{wrong}; {advice}")


def _placed(segments: Segments, limits: Limits) -> tuple[Segment, ...]:
    """Every segment at an offset: a free one ends its page, or begins it where it must."""
    made = []
    for number, (length, offset) in enumerate(segments):
        if offset is None:
            offset = -length % limits.page_size
            if offset & limits.dma_alignment or (number and offset & limits.virt_boundary_mask):
                offset = 0
        made.append(Segment(length, offset))
    return tuple(made)


def _problem(segments: Segments, limits: Limits) -> str | None:
    """What forbids it, as the rest of a sentence that begins with the layout."""
    if not segments:
        return ": there is no segment"
    last = len(segments) - 1
    for number, segment in enumerate(_placed(segments, limits)):
        wrong = _problem_of_one(segment, limits, is_first=number == 0, is_last=number == last)
        if wrong is not None:
            return f", segment {number + 1} ({segments[number]}): {limits.disk}'s {wrong}"
    if len(segments) > limits.most_segments:
        name = "max_segments" if limits.max_segments <= BIO_MAX_VECS else "bio (BIO_MAX_VECS)"
        return (
            f", segment {limits.most_segments + 1}: {limits.disk}'s {name} is "
            f"{limits.most_segments}, and these are {len(segments)}"
        )
    total = 0
    for number, segment in enumerate(segments, 1):
        total += segment.length
        if total > limits.max_bytes:
            return f", segment {number} ({segment}): {_too_long(segments, limits)}"
    return None


def _too_long(segments: Segments, limits: Limits) -> str:
    total = sum(segment.length for segment in segments)
    more = ""
    if total <= limits.max_hw_sectors_kb << 10:
        more = f" (it may be raised to {limits.max_hw_sectors_kb}, its max_hw_sectors_kb)"
    return (
        f"{limits.disk}'s max_sectors_kb is {limits.max_sectors_kb}, {limits.max_bytes} bytes, "
        f"and these are {total}{more}"
    )


def _problem_of_one(
    segment: Segment, limits: Limits, *, is_first: bool, is_last: bool
) -> str | None:
    length, begin = segment.length, segment.page_offset or 0
    end = begin + length
    if length < 1 or length % limits.logical_block_size:
        size = limits.logical_block_size
        return f"logical_block_size is {size}, and {length} is no multiple of it"
    if begin & limits.dma_alignment:
        step = limits.dma_alignment + 1
        return f"dma_alignment is {limits.dma_alignment}: {begin} is no multiple of {step}"
    if length > limits.max_segment_size:
        return f"max_segment_size is {limits.max_segment_size}"
    if end > max(limits.page_size, limits.contiguous):
        return (
            f"segments end with their page of {limits.page_size} bytes, as physically contiguous "
            f"memory ends after {limits.contiguous}"
        )
    mask = limits.virt_boundary_mask
    for name, where, matters in (("begins", begin, not is_first), ("ends", end, not is_last)):
        if matters and where & mask:
            return f"virt_boundary_mask is {mask}: it {name} at {where}, inside {mask + 1} bytes"
    return None


# --- the nearest legal layout -------------------------------------------------------------------


def nearest(segments: Segments, limits: Limits) -> tuple[Segment, ...]:
    """These segments where they are legal, else some near them; empty where none are legal.

    Lengths and offsets are rounded, segments cut where memory or max_segment_size ends, and the
    list where max_segments or max_sectors_kb does.
    """
    attempts: tuple[Callable[[Segments, Limits], Segments], ...] = (
        lambda same, _limits: same,
        _bounded if limits.virt_boundary_mask else _rounded,
        _on_boundaries,
        lambda _segments, limits: (Segment(limits.logical_block_size, 0),),
    )
    for attempt in attempts:
        made = attempt(segments, limits)
        if made and _problem(made, limits) is None:
            return tuple(made)
    return ()


def _nearest_multiple(number: int, step: int) -> int:
    return (number + step // 2) // step * step


class _Cutter:
    """Segments in the making: none too long, not too many, not too many bytes."""

    def __init__(self, limits: Limits, unit: int) -> None:
        self.made: list[Segment] = []
        self._limits = limits
        self._unit = unit
        self._room = limits.max_bytes

    def add(self, length: int, offset: int | None) -> None:
        """One segment, rounded to the unit and cut; what does not fit at all is left out."""
        limits, unit = self._limits, self._unit
        left = max(_nearest_multiple(length, unit), unit)
        memory = max(limits.contiguous, limits.page_size)
        while left and len(self.made) < limits.most_segments:
            size = min(left, self._room, limits.max_segment_size, memory - (offset or 0))
            size = size // unit * unit
            if size:
                self.made.append(Segment(size, offset))
            elif offset is None:
                return
            left -= size
            self._room -= size
            # What is cut off, or finds no place behind this offset, lies wherever it may.
            offset = None


def _rounded(segments: Segments, limits: Limits) -> Segments:
    """Ends to the next multiple of a block, which keeps the sum; offsets to the alignment."""
    cutter = _Cutter(limits, limits.logical_block_size)
    step = limits.dma_alignment + 1
    last = (limits.page_size - 1) // step * step
    asked = made = 0
    for length, offset in segments:
        asked += length
        end = max(_nearest_multiple(asked, limits.logical_block_size), made + 1)
        near = None if offset is None else min(_nearest_multiple(offset, step), last)
        cutter.add(end - made, near)
        made = max(end, made + limits.logical_block_size)
    return cutter.made


def _bounded(segments: Segments, limits: Limits) -> Segments:
    """No gap at a virtual boundary: the first ends at one, the last begins at one."""
    boundary = limits.virt_boundary_mask + 1
    block = limits.logical_block_size
    lengths = [segment.length for segment in segments]
    if len(lengths) < 2:
        return _rounded(segments, limits)
    first = max(_nearest_multiple(lengths[0], block), block)
    made = [Segment(first, -first % limits.page_size)]
    made += [Segment(max(_nearest_multiple(n, boundary), boundary), 0) for n in lengths[1:-1]]
    made.append(Segment(max(_nearest_multiple(lengths[-1], block), block), 0))
    del made[limits.most_segments :]
    return made


def _on_boundaries(segments: Segments, limits: Limits) -> Segments:
    """Whole multiples of all that must be aligned, each at the beginning of a page."""
    unit = math.lcm(
        limits.logical_block_size, limits.dma_alignment + 1, limits.virt_boundary_mask + 1
    )
    cutter = _Cutter(limits, unit)
    for segment in segments:
        cutter.add(segment.length, 0)
    return [Segment(segment.length, 0) for segment in cutter.made]
