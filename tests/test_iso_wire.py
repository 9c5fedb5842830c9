"""Isochronous URBs on the wire: golden bytes as vhci sends them, packing, and bad peers."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_connection import DEVID, Recorder, device, feed, submit, taken
from usbip_vudc.errors import LocalProtocolError, RemoteProtocolError
from usbip_vudc.sglist import SGList
from usbip_vudc.urb import MAX_ISO_PACKETS, HostUrb, IsoPacket, IsoUrb, Urb
from usbip_vudc.wire.connection import DeviceConnection, HostConnection
from usbip_vudc.wire.iso import pack_packets, parse_packets, spread
from usbip_vudc.wire.pdu import RetSubmit, RetUnlink

EXDEV = -errno.EXDEV


def reply(urb: IsoUrb, *packets: IsoPacket, **fields: int) -> bytes:
    """RET_SUBMIT without the payload, whose numbers are right where nothing else is said."""
    moved = sum(packet.actual_length for packet in packets)
    fields = {"actual_length": moved, "number_of_packets": len(packets)} | fields
    return RetSubmit(seqnum=urb.seqnum, **fields).pack()


def pending(*lengths: int, endpoint: int = 0x81) -> tuple[HostConnection, IsoUrb]:
    connection = HostConnection(DEVID)
    urb = IsoUrb(endpoint, bytearray(b"\xee" * sum(lengths)), lengths)
    connection.submit(urb)
    taken(connection)
    return connection, urb


def came(urb: IsoUrb, *actual: int, status: int = 0) -> tuple[IsoPacket, ...]:
    """The URB's packets, of which so many bytes have moved."""
    return tuple(
        replace(packet, actual_length=length, status=status)
        for packet, length in zip(urb.packets, actual, strict=True)
    )


# --- golden bytes ------------------------------------------------------------------------------


def test_iso_in_is_submitted_as_vhci_does() -> None:
    connection = HostConnection(DEVID)
    connection.submit(IsoUrb(0x83, bytearray(200), (100, 100)))
    assert taken(connection) == bytes.fromhex(
        "00000001 00000001 00010002 00000001 00000003"  # CMD_SUBMIT, seqnum, devid, IN, ep 3
        "00000202 000000c8 00000000 00000002 00000001"  # DIR_IN|ISO_ASAP, 200, 0, 2 packets, 1
        "0000000000000000"  # setup
        "00000000 00000064 00000000 ffffffee"
        "00000064 00000064 00000000 ffffffee"
    )


def test_iso_out_is_submitted_with_its_data_before_the_descriptors() -> None:
    connection = HostConnection(DEVID)
    connection.submit(IsoUrb(0x02, b"abc--de", (3, 2), offsets=(0, 5), interval=8))
    assert taken(connection) == bytes.fromhex(
        "00000001 00000001 00010002 00000000 00000002"
        "00000002 00000007 00000000 00000002 00000008"
        "0000000000000000"
    ) + b"abc--de" + bytes.fromhex(
        "00000000 00000003 00000000 ffffffee"
        "00000005 00000002 00000000 ffffffee"
    )  # fmt: skip


def test_ret_submit_of_iso_in_is_packed_and_counts_errors() -> None:
    connection, sink = device()
    asked = [IsoPacket(offset=offset, length=4, status=EXDEV) for offset in (0, 4, 8)]
    head = submit(7, 3, 12, direction=1, number_of_packets=3, transfer_flags=0x202)
    feed(connection, head + pack_packets(asked))
    (urb,) = sink.urbs
    urb.data = [memoryview(b"ab"), memoryview(b"cdef")]
    urb.actual, urb.status, urb.error_count, urb.start_frame = 6, 0, 1, 9
    urb.iso_packets = pack_packets(
        replace(packet, actual_length=actual, status=status)
        for packet, actual, status in zip(asked, (2, 0, 4), (0, 0, -75), strict=True)
    )
    connection.ret_submit(urb)
    assert taken(connection) == bytes.fromhex(
        "00000003 00000007 00000000 00000000 00000000"  # RET_SUBMIT
        "00000000 00000006 00000009 00000003 00000001"  # status 0, 6 bytes, frame, 3 packets, 1
        "0000000000000000"
    ) + b"abcdef" + bytes.fromhex(
        "00000000 00000004 00000002 00000000"
        "00000004 00000004 00000000 00000000"
        "00000008 00000004 00000004 ffffffb5"
    )  # fmt: skip


# --- the host's role ---------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 15, 47, 48, 49, 1000])
def test_packets_come_to_their_offsets_however_the_stream_is_cut(chunk: int) -> None:
    connection, urb = pending(4, 4, 4)
    later = HostUrb(0x82, bytearray(4))
    connection.submit(later)
    packets = came(urb, 2, 0, 3)
    stream = reply(urb, *packets, error_count=2, start_frame=41) + b"abcde" + pack_packets(packets)
    feed(connection, stream + RetSubmit(seqnum=2, actual_length=4).pack() + b"next", chunk)
    assert urb.sg.gather() == b"ab\xee\xee\xee\xee\xee\xeecde\xee"
    assert (urb.status, urb.actual, urb.error_count, urb.start_frame) == (0, 5, 2, 41)
    assert urb.received == (b"ab", b"", b"cde")
    assert urb.packets == packets
    assert later.sg.gather() == b"next"
    assert connection.pending == 0


def test_a_full_buffer_is_taken_as_it_comes() -> None:
    # usbip_pad_iso does not look at the offsets then; servers that leave them 0 work with vhci.
    connection, urb = pending(2, 2)
    packets = [replace(packet, offset=0) for packet in came(urb, 2, 2)]
    feed(connection, reply(urb, *packets) + b"abcd" + pack_packets(packets))
    assert urb.sg.gather() == b"abcd"


def test_packets_of_a_failed_urb_keep_what_they_were() -> None:
    connection, urb = pending(4, 4)
    packets = came(urb, 3, 0, status=-errno.EILSEQ)
    feed(connection, reply(urb, *packets, status=-errno.EXDEV) + b"abc" + pack_packets(packets))
    assert (urb.status, urb.received) == (-errno.EXDEV, (b"abc", b""))


def test_a_urb_that_fails_as_a_whole_needs_no_descriptors() -> None:
    connection, urb = pending(4, 4)
    feed(connection, RetSubmit(seqnum=urb.seqnum, status=-errno.EPROTO).pack())
    assert (urb.status, urb.actual) == (-errno.EPROTO, 0)
    assert [packet.status for packet in urb.packets] == [EXDEV, EXDEV]


def test_out_reply_brings_descriptors_alone() -> None:
    connection, urb = pending(3, 3, endpoint=0x01)
    packets = came(urb, 3, 3)
    feed(connection, reply(urb, *packets) + pack_packets(packets))
    assert (urb.status, urb.actual, urb.packets) == (0, 6, packets)
    assert urb.sg.gather() == b"\xee" * 6


def test_unlinked_and_lost_iso_urbs_end_once() -> None:
    connection, urb = pending(4)
    other = IsoUrb(0x81, bytearray(4), (4,))
    connection.submit(other)
    connection.unlink(urb)
    feed(connection, RetUnlink(seqnum=3, status=-errno.ECONNRESET).pack())
    assert urb.status == -errno.ECONNRESET
    connection.unlink(urb)
    taken(connection)
    assert connection.pending == 1
    connection.lost(-errno.ENODEV)
    assert (other.status, connection.pending) == (-errno.ENODEV, 0)


def test_a_reply_that_overtakes_its_unlink_counts() -> None:
    connection, urb = pending(4)
    connection.unlink(urb)
    packets = came(urb, 4)
    feed(connection, reply(urb, *packets) + b"data" + pack_packets(packets))
    feed(connection, RetUnlink(seqnum=2, status=0).pack())
    assert (urb.status, urb.received) == (0, (b"data",))


BAD_PACKETS = [
    ((), "RET_SUBMIT seqnum 1: number_of_packets 0, but 2 were asked for", {"actual_length": 1}),
    ((1,), "number_of_packets 1, but 2 were asked for", {}),
    ((1, 1, 1), "number_of_packets 3, but 2 were asked for", {}),
    ((4, 4), "actual_length 9, but 8 bytes were asked for", {"actual_length": 9}),
    ((4, 4), "actual_length -1, but 8 bytes", {"actual_length": -1}),
    ((5, 3), "seqnum 1: packet 0 has actual_length 5, above its length 4", {}),
    ((1, 2), "packets have an actual_length of 3 in all, but the URB has 4", {"actual_length": 4}),
]


@pytest.mark.parametrize(("actual", "reason", "fields"), BAD_PACKETS)
def test_packets_that_do_not_fit_are_named(
    actual: tuple[int, ...], reason: str, fields: dict[str, int]
) -> None:
    connection, urb = pending(4, 4)
    packets = [IsoPacket(offset=0, length=4, actual_length=length) for length in actual]
    with pytest.raises(RemoteProtocolError, match=reason):
        head = reply(urb, *packets, **fields)
        payload = bytes(max(RetSubmit.parse(head).actual_length, 0))
        feed(connection, head + payload + pack_packets(packets))
    assert urb.status is None
    assert urb.sg.gather() == b"\xee" * 8
    connection.lost(-errno.EPROTO)
    assert connection.pending == 0


@pytest.mark.parametrize("offset", [5, 0xFFFF_FFFF])
def test_an_offset_outside_of_the_buffer_is_named(offset: int) -> None:
    connection, urb = pending(4, 4)
    packets = [urb.packets[0], IsoPacket(offset=offset, length=4, actual_length=4)]
    with pytest.raises(RemoteProtocolError, match=f"packet 1 has offset {offset} and actual_l"):
        feed(connection, reply(urb, *packets) + b"data" + pack_packets(packets))
    assert urb.sg.gather() == b"\xee" * 8


@pytest.mark.parametrize(
    ("lengths", "offsets", "reason"),
    [
        ((), None, "0 packets, expected 1 to 1024"),
        ((0,) * (MAX_ISO_PACKETS + 1), None, "1025 packets, expected 1 to 1024"),
        ((3, 2), None, "packet 1 with offset 3 and length 2, outside of the 4 bytes"),
        ((-1,), None, "packet 0 with offset 0 and length -1"),
        ((1,), (4,), "packet 0 with offset 4 and length 1"),
        ((1,), (0, 1), "1 lengths, but 2 offsets"),
    ],
)
def test_packets_that_cannot_be_asked_for(
    lengths: tuple[int, ...], offsets: tuple[int, ...] | None, reason: str
) -> None:
    with pytest.raises(LocalProtocolError, match=reason):
        IsoUrb(0x81, bytearray(4), lengths, offsets=offsets)


# --- the device's role -------------------------------------------------------------------------


def iso_submit(
    *packets: IsoPacket, length: int, ep: int = 3, number_of_packets: int | None = None
) -> bytes:
    count = len(packets) if number_of_packets is None else number_of_packets
    head = submit(5, ep, length, direction=1, number_of_packets=count)
    return head + pack_packets(packets)


@pytest.mark.parametrize("number_of_packets", [0, -1])
def test_both_ways_to_say_that_there_are_no_packets(number_of_packets: int) -> None:
    connection, sink = device()
    feed(connection, submit(1, 1, 8, direction=1, number_of_packets=number_of_packets))
    assert [(urb.length, urb.iso_packets) for urb in sink.urbs] == [(8, b"")]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (iso_submit(length=0, number_of_packets=-2), "seqnum 5: number_of_packets -2, at most"),
        (iso_submit(length=0, number_of_packets=1025), "seqnum 5: number_of_packets 1025"),
        (iso_submit(IsoPacket(offset=0, length=1), length=1, ep=0), "1 on endpoint 0, which is"),
        (
            iso_submit(IsoPacket(offset=0, length=4), IsoPacket(offset=4, length=5), length=8),
            "packet 1 of 2 has offset 4 and length 5, outside of transfer_buffer_length 8",
        ),
        (
            iso_submit(*[IsoPacket(offset=0, length=8)] * 3, length=8),
            "its packets have 24 bytes in all, above transfer_buffer_length 8",
        ),
        (
            iso_submit(IsoPacket(offset=0xFFFF_FFFF, length=1), length=8),
            "packet 0 of 1 has offset 4294967295 and length 1",
        ),
    ],
)
@pytest.mark.parametrize("chunk", [1, 1000])
def test_packets_of_a_bad_host_are_named(data: bytes, reason: str, chunk: int) -> None:
    connection, sink = device()
    with pytest.raises(RemoteProtocolError, match=reason):
        feed(connection, data, chunk)
    assert sink.urbs == []


def test_packets_may_lie_anywhere_in_the_buffer() -> None:
    connection, sink = device()
    packets = [IsoPacket(offset=8, length=0), IsoPacket(offset=4, length=4)]
    feed(connection, iso_submit(*packets, length=8))
    assert parse_packets(sink.urbs[0].iso_packets) == tuple(packets)


# --- properties --------------------------------------------------------------------------------

packet_lists = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 9)), min_size=1, max_size=12
).map(lambda rows: [(max(a, b), min(a, b), gap) for a, b, gap in rows])
"""Length, bytes that came, and a gap behind it."""


class Answering(Recorder):
    """Answers each URB with what ``moves`` says of its packets."""

    moves: list[tuple[int, int]]

    def submit(self, urb: Urb) -> None:
        super().submit(urb)
        assert self.connection is not None
        asked = parse_packets(urb.iso_packets)
        done = [
            replace(packet, actual_length=actual, status=status)
            for packet, (actual, status) in zip(asked, self.moves, strict=True)
        ]
        urb.iso_packets = pack_packets(done)
        urb.actual = sum(packet.actual_length for packet in done)
        urb.error_count = sum(packet.status != 0 for packet in done)
        if urb.endpoint & 0x80:
            urb.data = [memoryview(bytes([1 + i] * p.actual_length)) for i, p in enumerate(done)]
        urb.status = 0
        self.connection.ret_submit(urb)


@settings(max_examples=60, deadline=None)
@given(
    rows=packet_lists,
    status=st.sampled_from((0, -errno.EILSEQ, -errno.EOVERFLOW)),
    endpoint=st.sampled_from((0x81, 0x01)),
    chunk=st.integers(1, 200),
    pieces=st.integers(1, 3),
)
def test_what_a_device_says_of_its_packets_the_host_hears(
    rows: list[tuple[int, int, int]], status: int, endpoint: int, chunk: int, pieces: int
) -> None:
    lengths = [length for length, _, _ in rows]
    offsets, size = [], 0
    for length, _, gap in rows:
        offsets.append(size)
        size += length + gap
    data = bytearray(b"\xee" * size)
    cut = size * (pieces - 1) // pieces
    urb = IsoUrb(endpoint, SGList(memoryview(data)[:cut], memoryview(data)[cut:]), lengths,
                 offsets=offsets)  # fmt: skip
    sink = Answering()
    sink.moves = [(actual, status if actual < length else 0) for length, actual, _ in rows]
    host, sink.connection = HostConnection(DEVID), DeviceConnection(sink)
    host.submit(urb)
    feed(sink.connection, taken(host), chunk)
    feed(host, taken(sink.connection), chunk)
    assert urb.status == 0
    assert [(p.actual_length, p.status) for p in urb.packets] == sink.moves
    assert urb.error_count == sum(status != 0 for _, status in sink.moves)
    expected = bytearray(b"\xee" * size)
    if endpoint & 0x80:
        for number, (offset, (_, actual, _)) in enumerate(zip(offsets, rows, strict=True), 1):
            expected[offset : offset + actual] = bytes([number] * actual)
    assert data == expected
    if endpoint == 0x01:
        assert bytes(sink.urbs[0].payload) == data


@settings(max_examples=60, deadline=None)
@given(rows=packet_lists)
def test_spread_undoes_packing(rows: list[tuple[int, int, int]]) -> None:
    packets, size = [], 0
    for length, actual, gap in rows:
        packets.append(IsoPacket(offset=size, length=length, actual_length=actual))
        size += length + gap
    whole = bytes(1 + i % 255 for i in range(size))
    packed = b"".join(whole[p.offset : p.offset + p.actual_length] for p in packets)
    buffer = bytearray(size)
    spread(SGList(buffer), packed, packets)
    for packet in packets:
        place = slice(packet.offset, packet.offset + packet.actual_length)
        assert buffer[place] == whole[place]
    assert sum(map(bool, buffer)) == len(packed)


def test_descriptors_read_back() -> None:
    packets = (IsoPacket(offset=1, length=2, actual_length=3, status=-4),) * 3
    assert parse_packets(pack_packets(packets)) == packets
    assert parse_packets(b"") == ()
