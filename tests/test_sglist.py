"""sglist: the text form, and cutting without copying."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbip_vudc.errors import SchemeError
from usbip_vudc.sglist import Buffer, SGList, drop_front, format_layout, parse_layout


def test_the_layout_of_the_thread() -> None:
    lengths = parse_layout("3584+7x4096")
    assert lengths == (3584, *[4096] * 7)
    assert sum(lengths) == 32256 == 63 * 512
    assert format_layout(lengths) == "3584+7x4096"


@pytest.mark.parametrize(
    ("text", "column"),
    [("", 1), ("3584+", 6), ("0", 1), ("1+0x4", 3), ("4096-1", 1), ("2x", 1), ("999999x1", 1)],
)
def test_a_bad_layout_is_shown_where_it_is_bad(text: str, column: int) -> None:
    with pytest.raises(SchemeError, match=rf"column {column}\b.*COUNTxLENGTH"):
        parse_layout(text)


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=30))
def test_text_form_round_trips(lengths: list[int]) -> None:
    assert parse_layout(format_layout(lengths)) == tuple(lengths)


def test_lengths_must_add_up() -> None:
    with pytest.raises(SchemeError, match="holds 7 bytes, but the transfer has 8"):
        SGList.laid_out(bytearray(8), (3, 4))


def test_empty_buffers_are_no_segments() -> None:
    assert [bytes(s) for s in SGList(b"", bytearray(3), b"")] == [bytes(3)]
    assert len(SGList()) == 0


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.data())
def test_cut_is_the_slice_of_the_whole(lengths: list[int], data: st.DataObject) -> None:
    total = sum(lengths)
    whole = bytes(i % 251 for i in range(total))
    start = data.draw(st.integers(0, total))
    stop = data.draw(st.integers(start, total))
    pieces = SGList.laid_out(whole, lengths).cut(start, stop)
    assert b"".join(pieces) == whole[start:stop]
    assert all(len(piece) for piece in pieces)


def test_scatter_writes_through_to_the_buffer() -> None:
    buffer = bytearray(10)
    sg = SGList.laid_out(buffer, (3, 3, 4))
    sg.scatter(b"abcdef", 2)
    assert buffer == b"\0\0abcdef\0\0"
    with pytest.raises(ValueError, match="do not fit"):
        sg.scatter(b"xxx", 8)


@given(st.lists(st.binary(max_size=9), max_size=6), st.data())
def test_drop_front_leaves_the_rest(buffers: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(buffers)
    count = data.draw(st.integers(0, len(whole)))
    rest: list[Buffer] = list(buffers)
    drop_front(rest, count)
    assert b"".join(rest) == whole[count:]
