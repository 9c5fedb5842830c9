"""Memory in which each segment of a vector lies where it is asked to, and next to no other.

The block layer makes one SG entry of two segments where the second follows the first in physical
memory. Where that is, /proc/self/pagemap says (Documentation/admin-guide/mm/pagemap.rst), to root
alone. A segment that is longer than a page needs pages in a row: those of a huge page are.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from usbip_vudc.errors import UsbipVudcError
from usbip_vudc.injection.layout import Segment
from usbip_vudc.sysfs import SysfsError

__all__ = ("PlacementError", "choose_pages", "place")

_PAGEMAP: Final = Path("/proc/self/pagemap")
_PAGE: Final = mmap.PAGESIZE
_HUGE: Final = _PAGE * _PAGE // 8
"""Bytes of a huge page: as many pages as a page of 8-byte entries names."""

_FRAME: Final = (1 << 55) - 1
_PRESENT: Final = 1 << 63


class PlacementError(UsbipVudcError):
    """Memory has no place for a segment as it was asked for."""


def place(segments: Sequence[Segment]) -> list[memoryview]:
    """New memory for each segment, at its offset in a page (0 where it says none).

    The kernel may move pages at any time, though it seldom does: what it made of them is for a
    trace to say. Raises SysfsError without the right to see frames, PlacementError where a
    segment finds no pages in a row.
    """
    pages = 2 * sum(_pages(segment) + 1 for segment in segments)
    size = -(-pages * _PAGE // _HUGE) * _HUGE
    # Private: shared memory has huge pages only where shmem_enabled says so.
    memory = mmap.mmap(-1, size + _HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(memory)) % _HUGE
    with suppress(OSError):  # a kernel without huge pages: then short segments have their place
        memory.madvise(mmap.MADV_HUGEPAGE, start, size)
    for page in range(start, start + size, _PAGE):
        memory[page] = 0xFF  # only what has been written to has a frame
    view = memoryview(memory)[start : start + size]
    begins = choose_pages(segments, _frames(memory, start, size // _PAGE))
    made = []
    for segment, page in zip(segments, begins, strict=True):
        begin = page * _PAGE + (segment.page_offset or 0)
        made.append(view[begin : begin + segment.length])
    return made


def _pages(segment: Segment) -> int:
    return -(-((segment.page_offset or 0) + segment.length) // _PAGE)


def _frames(memory: mmap.mmap, start: int, count: int) -> list[int]:
    """The physical page behind each page of this memory."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + start
    try:
        fd = os.open(_PAGEMAP, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.pread(fd, count * 8, address // _PAGE * 8)
        finally:
            os.close(fd)
    except OSError as error:
        raise SysfsError(error.errno or 0, _PAGEMAP) from error
    frames = [entry & _FRAME if entry & _PRESENT else 0 for entry in memoryview(data).cast("Q")]
    if not any(frames):
        # Without CAP_SYS_ADMIN every frame reads as 0.
        raise SysfsError(errno.EPERM, _PAGEMAP)
    return frames


def choose_pages(segments: Sequence[Segment], frames: Sequence[int]) -> list[int]:
    """The first page of each segment, as an index of ``frames``, in ascending order.

    The frames of a segment are in a row, and it does not begin where the one before ends.
    Raises PlacementError where there is no such place.
    """
    chosen: list[int] = []
    page, end_before = 0, -1
    for number, segment in enumerate(segments, 1):
        count, offset = _pages(segment), segment.page_offset or 0
        while not _fits(frames[page : page + count], count, offset, end_before):
            page += 1
            if page + count > len(frames):
                raise PlacementError(_no_place(number, segment, count))
        chosen.append(page)
        end_before = frames[page] * _PAGE + offset + segment.length
        page += count
    return chosen


def _fits(run: Sequence[int], count: int, offset: int, end_before: int) -> bool:
    if len(run) < count or not run[0]:
        return False
    in_a_row = all(frame == run[0] + number for number, frame in enumerate(run))
    return in_a_row and run[0] * _PAGE + offset != end_before


def _no_place(number: int, segment: Segment, count: int) -> str:
    if count == 1:
        return f"segment {number} ({segment}): no page left that is apart from the one before"
    return (
        f"segment {number} ({segment}): no {count} pages in a row in physical memory; the kernel "
        "gave no huge page (see /sys/kernel/mm/transparent_hugepage/enabled; echo 1 > "
        "/proc/sys/vm/compact_memory may help). Segments within a page need none"
    )
