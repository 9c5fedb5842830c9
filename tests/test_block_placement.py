from __future__ import annotations

import ctypes
import errno
import itertools
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbip_vudc.block import placement
from usbip_vudc.block.placement import PlacementError, choose_pages, place
from usbip_vudc.injection.layout import Segment
from usbip_vudc.sysfs import SysfsError

PAGE = mmap.PAGESIZE
WHOLE = Segment(PAGE, 0)


def physical(segments: Sequence[Segment], frames: Sequence[int]) -> list[tuple[int, int]]:
    """Where each segment begins and ends in physical memory."""
    made = []
    for segment, page in zip(segments, choose_pages(segments, frames), strict=True):
        begin = frames[page] * PAGE + (segment.page_offset or 0)
        made.append((begin, begin + segment.length))
    return made


def test_a_page_that_follows_the_one_before_in_memory_is_left_out() -> None:
    assert choose_pages([WHOLE] * 3, [7, 8, 9, 3, 4]) == [0, 2, 3]


def test_segments_that_do_not_touch_may_lie_in_neighbouring_pages() -> None:
    segments = [Segment(512, 512), Segment(512, 1024), Segment(512, PAGE - 512)]
    assert choose_pages(segments, [7, 8, 9]) == [0, 1, 2]


def test_a_long_segment_needs_frames_in_a_row() -> None:
    assert choose_pages([WHOLE, Segment(3 * PAGE, 512)], [5, 9, 7, 1, 2, 3, 4]) == [0, 3]


@pytest.mark.parametrize(
    ("frames", "segments", "reason"),
    [
        ([5, 7, 9], [Segment(2 * PAGE, 0)], "no 2 pages in a row in physical memory"),
        ([5, 6], [WHOLE, WHOLE], "segment 2 .*no page left that is apart"),
        ([0, 0], [WHOLE], "no page left"),  # a page that is not there has no frame
    ],
)
def test_memory_without_such_a_place_is_said(
    frames: list[int], segments: list[Segment], reason: str
) -> None:
    with pytest.raises(PlacementError, match=reason):
        choose_pages(segments, frames)


@given(
    st.lists(st.builds(Segment, st.integers(1, 3 * PAGE), st.integers(0, PAGE - 1)), max_size=12),
    st.integers(1, 1 << 40),
)
def test_in_a_huge_page_everything_finds_a_place_apart(segments: list[Segment], frame: int) -> None:
    places = physical(segments, range(frame, frame + 512))
    assert all(ends != begins for (_, ends), (begins, _) in itertools.pairwise(places))
    assert sorted(places) == places


def test_memory_lies_at_the_offsets_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "_frames", lambda _memory, _start, count: range(1, count + 1))
    segments = [Segment(1536, 512), Segment(2 * PAGE, 1024), Segment(512, 0)]
    views = place(segments)
    assert [len(view) for view in views] == [1536, 2 * PAGE, 512]
    begins = [ctypes.addressof(ctypes.c_char.from_buffer(view)) % PAGE for view in views]
    assert begins == [512, 1024, 0]
    for number, view in enumerate(views):
        view[:] = bytes([number]) * len(view)
    assert [set(view) for view in views] == [{0}, {1}, {2}]


def test_frames_that_are_hidden_are_said_to_need_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = tmp_path / "pagemap"
    hidden.touch()
    os.truncate(hidden, 1 << 40)  # every entry reads as 0, as to a program without CAP_SYS_ADMIN
    monkeypatch.setattr(placement, "_PAGEMAP", hidden)
    with pytest.raises(SysfsError, match="run as root") as refused:
        place([WHOLE])
    assert refused.value.errno == errno.EPERM


@pytest.mark.skipif(os.geteuid() != 0, reason="only root sees frames")
def test_the_kernel_that_runs_has_a_place_for_short_segments() -> None:
    views = place([Segment(3584, 512), *[WHOLE] * 7])
    assert [len(view) for view in views] == [3584, *[PAGE] * 7]
