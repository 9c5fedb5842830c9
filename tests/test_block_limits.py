from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbip_vudc.block.limits import Limits, check, nearest
from usbip_vudc.errors import SchemeError
from usbip_vudc.injection.layout import Layout, Segment, layout_text

HIGH = Limits(
    disk="sda", max_sectors_kb=120, max_hw_sectors_kb=120, max_segments=32, contiguous=2 << 20
)
"""usb-storage at high speed behind vhci_hcd of Linux 6.1."""

SUPER = dataclasses.replace(HIGH, max_sectors_kb=1024, max_hw_sectors_kb=2048)
SMALL_PAGES = dataclasses.replace(HIGH, contiguous=4096)
NVME = dataclasses.replace(
    HIGH, disk="nvme0n1", dma_alignment=3, virt_boundary_mask=4095, max_segments=127
)


def segments(text: str) -> tuple[Segment, ...]:
    layout = Layout.parse(text)
    return layout.apply(layout.length, 512)[0]


@pytest.mark.parametrize(
    ("text", "placed"),
    [
        ("3584+7x4096", "3584@512+7x4096@0"),
        ("8x512", "8x512@3584"),
        ("512@512+1024", "512@512+1024@3072"),
        ("65536+512", "65536@0+512@3584"),
        ("4608", "4608@3584"),
    ],
)
def test_a_free_segment_ends_with_its_page(text: str, placed: str) -> None:
    assert layout_text(check(segments(text), HIGH)) == placed


def test_behind_a_virtual_boundary_a_free_segment_begins_its_page() -> None:
    assert layout_text(check(segments("512+4096+512"), NVME)) == "512@3584+4096@0+512@0"


REFUSED = [
    (HIGH, "3584+7x4090",
     "SG layout '3584+7x4090', segment 2 (4090): sda's logical_block_size is 512, and 4090 is no "
     "multiple of it; the nearest legal layout is 3584+7x4096"),
    (HIGH, "4096@100", "segment 1 (4096@100): sda's dma_alignment is 511: 100 is no multiple of "
     "512; the nearest legal layout is 4096@0"),
    (HIGH, "33x512", "segment 33: sda's max_segments is 32, and these are 33; the nearest legal "
     "layout is 32x512"),
    (HIGH, "69632", "sda's max_segment_size is 65536; the nearest legal layout is 65536+4096"),
    (HIGH, "31x4096", "segment 31 (4096): sda's max_sectors_kb is 120, 122880 bytes, and these "
     "are 126976; the nearest legal layout is 30x4096"),
    (dataclasses.replace(SUPER, max_sectors_kb=4), "512+4096",
     "max_sectors_kb is 4, 4096 bytes, and these are 4608 (it may be raised to 2048, its "
     "max_hw_sectors_kb); the nearest legal layout is 512+3584"),
    (SMALL_PAGES, "4096@512", "segments end with their page of 4096 bytes, as physically "
     "contiguous memory ends after 4096; the nearest legal layout is 3584@512+512"),
    (SMALL_PAGES, "10240", "the nearest legal layout is 2x4096+2048"),
    (NVME, "512@0+4096+512", "segment 1 (512@0): nvme0n1's virt_boundary_mask is 4095: it ends at "
     "512, inside 4096 bytes; the nearest legal layout is 512@3584+4096@0+512@0"),
    (NVME, "4096+512@512", "segment 2 (512@512): nvme0n1's virt_boundary_mask is 4095: it begins "
     "at 512, inside 4096 bytes; the nearest legal layout is 4096@0+512@0"),
    (dataclasses.replace(HIGH, max_segments=1000, max_sectors_kb=1024), "257x512",
     "sda's bio (BIO_MAX_VECS) is 256, and these are 257; the nearest legal layout is 256x512"),
    (dataclasses.replace(HIGH, logical_block_size=4096, dma_alignment=4095), "512+3584",
     "segment 1 (512): sda's logical_block_size is 4096, and 512 is no multiple of it; the "
     "nearest legal layout is 2x4096"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("limits", "text", "said"), REFUSED, ids=[f"{r[0].disk}-{r[1]}" for r in REFUSED]
)
def test_a_refused_layout_names_limit_segment_and_the_nearest_legal_one(
    limits: Limits, text: str, said: str
) -> None:
    with pytest.raises(SchemeError) as refused:
        check(segments(text), limits)
    assert said in str(refused.value)


def test_no_segments_are_no_command() -> None:
    with pytest.raises(SchemeError, match=r"there is no segment; no layout is legal$"):
        check((), dataclasses.replace(HIGH, max_sectors_kb=0))


def test_rounding_keeps_the_sum_where_every_segment_can_keep_a_block() -> None:
    assert layout_text(nearest(segments("1+4095"), HIGH)) == "512+3584"
    assert layout_text(nearest(segments("1000+1000+1000+1096"), HIGH)) == "4x1024"


POWERS = st.sampled_from
ANY_LIMITS = st.builds(
    Limits,
    disk=st.just("sda"),
    logical_block_size=POWERS([512, 1024, 2048, 4096]),
    dma_alignment=POWERS([0, 3, 511, 4095]),
    max_sectors_kb=st.integers(4, 1024),
    max_hw_sectors_kb=st.just(1024),
    max_segments=st.integers(1, 300),
    # The kernel allows no queue less than a page here (blk_queue_max_segment_size).
    max_segment_size=st.integers(4096, 65536),
    virt_boundary_mask=POWERS([0, 0, 511, 1023, 4095, 65535]),
    contiguous=POWERS([4096, 2 << 20]),
)
ANY_SEGMENTS = st.lists(
    st.builds(Segment, st.integers(1, 70_000), st.none() | st.integers(0, 4095)),
    min_size=1,
    max_size=40,
)


@given(ANY_SEGMENTS, ANY_LIMITS)
def test_the_nearest_legal_layout_is_legal(wanted: list[Segment], limits: Limits) -> None:
    legal = nearest(wanted, limits)
    assert check(legal, limits)
    assert nearest(legal, limits) == legal


@given(ANY_SEGMENTS, ANY_LIMITS)
def test_what_is_legal_is_placed_as_asked_and_is_its_own_nearest(
    wanted: list[Segment], limits: Limits
) -> None:
    near = nearest(wanted, limits)
    placed = check(near, limits)
    assert [segment.length for segment in placed] == [segment.length for segment in near]
    for asked, made in zip(near, placed, strict=True):
        assert asked.page_offset in (None, made.page_offset)
    assert check(placed, limits) == placed
