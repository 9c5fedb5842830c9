"""The language of layouts: what is read, what is made of it, and what it says of itself."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbip_vudc.errors import SchemeError
from usbip_vudc.injection.layout import FAMILIES, PAGE, Layout, Segment

MAXPACKETS = (8, 64, 512, 1024)
LENGTHS = (1, 13, 31, 63, 64, 65, 512, 4095, 4096, 4097, 31744, 65536, 120 << 10)
WORDS = ("whole", "straddle", "odd", "page-offset:0", "page-offset:512", "page-offset:4095",
         "one-byte-head", "maxp-1", "maxp+1", "packets:1", "packets:7", "random:0",
         "random:2019")  # fmt: skip


def lengths(layout: str, length: int, maxp: int = 512) -> list[list[int]]:
    """Requests as lists of the lengths of their segments."""
    return [[s.length for s in request] for request in Layout.parse(layout).apply(length, maxp)]


# --- families ----------------------------------------------------------------------------------


def test_every_family_is_tried_here() -> None:
    assert {word.split(":")[0] for word in WORDS} == {name.split(":")[0] for name in FAMILIES}


@pytest.mark.parametrize("maxp", MAXPACKETS)
@pytest.mark.parametrize("word", WORDS)
def test_a_family_fits_every_transfer_in_one_request(word: str, maxp: int) -> None:
    layout = Layout.parse(word)
    for length in LENGTHS:
        (request,) = layout.apply(length, maxp)
        assert sum(segment.length for segment in request) == length
        assert all(segment.length for segment in request)
        assert layout.verdict(length, maxp).benign
    assert (layout.one_request, layout.length) == (True, 0)


@pytest.mark.parametrize(
    ("layout", "length", "made"),
    [
        ("whole", 1000, [1000]),
        ("straddle", 1600, [256, 512, 512, 320]),
        ("odd", 20, [1, 3, 5, 7, 4]),
        ("one-byte-head", 1000, [1, 999]),
        ("one-byte-head", 1, [1]),
        ("maxp-1", 1500, [511, 511, 478]),
        ("maxp+1", 1500, [513, 513, 474]),
        ("packets:2", 2500, [1024, 1024, 452]),
        ("page-offset:512", 10000, [3584, 4096, 2320]),
    ],
)
def test_what_a_family_makes_at_512(layout: str, length: int, made: list[int]) -> None:
    assert lengths(layout, length) == [made]


def test_odd_segments_are_odd_and_begin_anew_behind_two_packets() -> None:
    (made,) = lengths("odd", 10_000, 8)
    assert made[:9] == [1, 3, 5, 7, 9, 11, 13, 15, 17]
    assert made[9] == 1
    assert all(size % 2 for size in made[:-1])


@pytest.mark.parametrize("maxp", MAXPACKETS)
def test_straddle_has_every_boundary_of_packets_inside_a_segment(maxp: int) -> None:
    (made,) = lengths("straddle", 20 * maxp, maxp)
    ends = [sum(made[:n]) for n in range(1, len(made))]
    assert all(end % maxp for end in ends)
    assert all(b - a == maxp for a, b in pairwise(ends))


def test_pages_begin_where_the_layout_says() -> None:
    (request,) = Layout.parse("page-offset:512").apply(10_000, 512)
    assert [segment.page_offset for segment in request] == [512, 0, 0]
    assert Layout.parse("page-offset:0").placed
    (request,) = Layout.parse("512@3584+100").apply(700, 512)
    assert request == (Segment(512, 3584), Segment(100), Segment(88))
    assert Layout.parse("512@3584+100").placed
    assert not Layout.parse("512+100").placed


def test_random_is_a_function_of_its_seed_and_the_transfer() -> None:
    layout = Layout.parse("random:7")
    assert layout.apply(100_000, 512) == layout.apply(100_000, 512)
    assert layout.apply(100_000, 512) != Layout.parse("random:8").apply(100_000, 512)
    # On every Python alike.
    golden = [512, 513, 4096, 4096, 511, 511, 511, 1, 511, 512, 6, 2, 2, 216]
    assert lengths("random:7", 12_000) == [golden]


# --- what is written out -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "length", "made"),
    [
        ("3584+7x4096", 32256, [[3584, *[4096] * 7]]),
        ("3584+7x4096", 5000, [[3584, 1416]]),  # cut
        ("3584+7x4096", 3584, [[3584]]),
        ("3584+2x4096", 20000, [[3584, 4096, 4096, 8224]]),  # the rest is a segment more
        ("[1,511][3,597][][2984]", 4096, [[1, 511], [3, 597], [], [2984]]),
        ("[1,511][3,597][][2984]", 5000, [[1, 511], [3, 597], [], [2984, 904]]),
        ("[1,511][3,597][][2984]", 1112, [[1, 511], [3, 597], []]),
        ("[1,511][3,597][][2984]", 513, [[1, 511], [1]]),
        ("[1,511][3,597][][2984]", 512, [[1, 511]]),
        ("[512][]", 512, [[512], []]),
        ("[512][]", 300, [[300]]),
        ("[][512]", 512, [[], [512]]),
        ("[][]", 5, [[], [5]]),
        ("[]", 5, [[5]]),
        ("each:3584+2x4096", 9000, [[3584], [4096], [1320]]),
        ("each:[100,200][300]", 700, [[100], [200], [300], [100]]),
        ("each:straddle", 1600, [[256], [512], [512], [320]]),
        ("each:512", 512, [[512]]),
    ],
)
def test_what_is_laid_out(layout: str, length: int, made: list[list[int]]) -> None:
    assert lengths(layout, length) == made


@pytest.mark.parametrize("layout", ["3584+7x4096", "[1][]", "[][1]", "each:1+2", "odd", "each:odd"])
def test_a_transfer_of_nothing_stays_one_request_of_nothing(layout: str) -> None:
    assert Layout.parse(layout).apply(0, 512) == ((),)
    assert Layout.parse(layout).verdict(0, 512).benign


# --- benign or hostile, by hand ----------------------------------------------------------------

# (layout, length, maxpacket) -> benign, and a word of the reason
VERDICTS = [
    # The case of 2019: each SG entry a URB. Benign at high speed, hostile at SuperSpeed.
    ("each:3584+7x4096", 32256, 512, True, "end of a packet"),
    ("each:3584+7x4096", 32256, 1024, False, "request 1 of 8 has 3584 bytes"),
    ("each:3584+7x4096", 32256, 64, True, "end of a packet"),
    ("3584+7x4096", 32256, 1024, True, "one request"),
    ("odd", 65536, 1024, True, "one request"),
    ("each:odd", 65536, 1024, False, "has 1 bytes, no multiple of the maxpacket 1024"),
    ("each:odd", 1, 1024, True, "one request"),
    ("each:packets:3", 10_000, 1024, True, "end of a packet"),
    ("each:maxp-1", 2000, 512, False, "request 1 of 4 has 511 bytes"),
    ("each:maxp-1", 511, 512, True, "one request"),
    ("each:one-byte-head", 2, 64, False, "request 1 of 2 has 1 bytes"),
    ("[512][512]", 1024, 512, True, "end of a packet"),
    ("[512][511]", 1023, 512, True, "end of a packet"),
    ("[512][511]", 1025, 512, True, "end of a packet"),  # what is left joins the last request
    ("[511][513]", 1024, 512, False, "request 1 of 2 has 511 bytes"),
    ("[511][513]", 511, 512, True, "one request"),
    ("[512][][512]", 1024, 512, False, "request 2 of 3 is a ZLP"),
    ("[512][]", 512, 512, False, "a ZLP that nobody asked for"),
    ("[512][]", 500, 512, True, "one request"),
    ("[]", 5, 512, True, "one request"),
]


@pytest.mark.parametrize(("layout", "length", "maxp", "benign", "why"), VERDICTS)
def test_verdict(layout: str, length: int, maxp: int, benign: bool, why: str) -> None:
    verdict = Layout.parse(layout).verdict(length, maxp)
    assert verdict.benign == benign
    assert why in verdict.why


# --- errors point at the character -------------------------------------------------------------

ERRORS = [
    ("", 1, "'' is no family"),
    ("   ", 4, "'' is no family"),
    ("stradle", 1, "did you mean straddle?"),
    ("each:maxp+2", 6, "did you mean maxp+1?"),
    ("each:", 6, "'' is no family"),
    ("each:each:1", 6, "is no family"),
    ("odd:3", 5, "odd takes no argument"),
    ("page-offset", 12, "needs :OFFSET from 0 to 4095"),
    ("page-offset:4096", 13, "'4096' is no OFFSET from 0 to 4095"),
    ("each:page-offset:x", 18, "'x' is no OFFSET"),
    ("packets:0", 9, "'0' is no COUNT from 1 to 65536"),
    ("random:-1", 8, "'-1' is no SEED"),
    ("3584+x", 6, "'x' is no segment"),
    ("  7 + zz", 7, "'zz' is no segment"),
    ("1+", 3, "'' is no segment"),
    ("0", 1, "'0' is no segment"),
    ("0x5", 1, "'0x5' is no segment"),
    ("1 2", 1, "'1 2' is no segment"),
    ("1+[2]", 3, "'[2]' is no segment"),
    ("512@4096", 1, "an offset in a page is 0 to 4095"),
    ("100+512@4096", 5, "an offset in a page is 0 to 4095"),
    ("70000x1", 1, "more than 65536 segments"),
    ("60000x1+60000x1", 9, "more than 65536 segments"),
    ("[1", 1, "this '[' has no ']'"),
    ("[1][2", 4, "this '[' has no ']'"),
    ("[1]2", 4, "expected '['"),
    ("[1] [2]]", 8, "expected '['"),
    ("[1,2][3,q]", 9, "'q' is no segment"),
    ("each:[1][ 3, 0]", 14, "'0' is no segment"),
]


@pytest.mark.parametrize(("text", "column", "message"), ERRORS)
def test_an_error_points_at_the_character(text: str, column: int, message: str) -> None:
    with pytest.raises(SchemeError) as caught:
        Layout.parse(text)
    assert str(caught.value).startswith(f"layout {text!r}, column {column}: ")
    assert message in str(caught.value)
    assert "such as 3584+7x4096" in str(caught.value), "what would be right"


# --- text, repr and back -----------------------------------------------------------------------

segments = st.builds(
    lambda length, count, offset: (
        f"{f'{count}x' if count > 1 else ''}{length}{'' if offset is None else f'@{offset}'}"
    ),
    st.integers(1, 70_000),
    st.integers(1, 9),
    st.none() | st.integers(0, PAGE - 1),
)
one_request = st.lists(segments, min_size=1, max_size=6).map("+".join)
several = st.lists(st.lists(segments, max_size=4).map(",".join), min_size=1, max_size=5).map(
    lambda requests: "".join(f"[{request}]" for request in requests)
)
texts = st.builds(
    "".join,
    st.tuples(st.sampled_from(["", "each:"]), st.sampled_from(WORDS) | one_request | several),
)


@given(texts)
def test_round_trip_by_text_and_by_repr(text: str) -> None:
    layout = Layout.parse(text)
    assert Layout.parse(str(layout)) == layout
    assert eval(repr(layout), {"Layout": Layout}) == layout
    assert Layout.parse(f" {text} ") == layout
    assert str(Layout.parse(str(layout))) == str(layout), "one form"


@given(texts, st.integers(1, 1 << 18), st.sampled_from(MAXPACKETS))
def test_the_sum_is_the_transfer(text: str, length: int, maxp: int) -> None:
    layout = Layout.parse(text)
    requests = layout.apply(length, maxp)
    assert sum(s.length for request in requests for s in request) == length
    assert all(s.length > 0 for request in requests for s in request)
    if layout.one_request:
        assert len(requests) == 1
    if text.startswith("each:"):
        assert all(len(request) == 1 for request in requests)
    # The verdict against its own definition.
    hostile = any(
        not sum(s.length for s in request) or sum(s.length for s in request) % maxp
        for request in requests[:-1]
    )
    assert layout.verdict(length, maxp).benign == (not hostile and bool(requests[-1]))


def test_a_layout_has_one_form() -> None:
    assert str(Layout.parse(" 100 + 100,100 ")) == "3x100"
    assert str(Layout.parse("[1,511] [ ] [2*5]")) == "[1+511][][2x5]"
    assert str(Layout.parse("each: random:007")) == "each:random:7"
    assert Layout.parse("1+1") == Layout.parse("2x1")
