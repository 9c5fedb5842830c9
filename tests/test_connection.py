"""wire/connection: both roles, chopped at every byte, and peers that break the protocol."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usbip_vudc.errors import LocalProtocolError, RemoteProtocolError
from usbip_vudc.sglist import SGList
from usbip_vudc.urb import URB_SHORT_NOT_OK, HostUrb, IsoUrb, Landing, Urb
from usbip_vudc.usb.ch9 import Direction, SetupPacket
from usbip_vudc.wire.connection import (
    MAX_ISO_PACKETS,
    MAX_TRANSFER,
    Connection,
    DeviceConnection,
    HostConnection,
)
from usbip_vudc.wire.pdu import CmdSubmit, CmdUnlink, IsoPacket, RetSubmit, RetUnlink

DEVID = 0x00010002


@dataclass
class Recorder:
    """A UrbSink that keeps what it is given; ``answer`` replies to each URB at once."""

    connection: DeviceConnection | None = None
    urbs: list[Urb] = field(default_factory=list)
    unlinked: list[int] = field(default_factory=list)
    pending: set[int] = field(default_factory=set)

    def landing(self, urb: Urb) -> Landing:
        return Landing.private(urb)

    def submit(self, urb: Urb) -> None:
        urb.payload = bytes(urb.payload)  # it is only lent
        self.urbs.append(urb)

    def submit_iso(self, urb: Urb) -> None:
        self.submit(urb)

    def unlink(self, seqnum: int) -> bool:
        self.unlinked.append(seqnum)
        return seqnum in self.pending


def device() -> tuple[DeviceConnection, Recorder]:
    recorder = Recorder()
    return DeviceConnection(recorder), recorder


def feed(connection: Connection, data: bytes, chunk: int = 1 << 30) -> None:
    """Deliver bytes as a socket would, at most ``chunk`` at a time."""
    view = memoryview(data)
    while view:
        for buffer in connection.get_buffers():
            count = min(len(buffer), len(view), chunk)
            buffer[:count] = view[:count]
            break
        connection.advance(count)
        view = view[count:]


def taken(connection: Connection) -> bytes:
    """All of ``outgoing``, as if it had been sent."""
    data = b"".join(connection.outgoing)
    connection.outgoing = []
    return data


def submit(seqnum: int, ep: int, length: int, *, direction: int = 0, **more: int) -> bytes:
    pdu = CmdSubmit(
        seqnum=seqnum, devid=DEVID, direction=direction, ep=ep,
        transfer_buffer_length=length, **more,  # type: ignore[arg-type]
    )  # fmt: skip
    return pdu.pack()


# --- the device's role -------------------------------------------------------------------------


def test_in_urb_arrives() -> None:
    connection, sink = device()
    feed(connection, submit(1, 1, 4096, direction=1))
    [urb] = sink.urbs
    assert (urb.seqnum, urb.endpoint, urb.length) == (1, 0x81, 4096)


def test_setup_packet_arrives_with_its_data() -> None:
    setup = SetupPacket(0x21, 0x20, 0, 0, 7)
    pdu = CmdSubmit(
        seqnum=1, devid=DEVID, direction=0, ep=0, transfer_buffer_length=7, setup=setup.pack()
    )
    connection, sink = device()
    feed(connection, pdu.pack() + b"1234567")
    assert (sink.urbs[0].setup, bytes(sink.urbs[0].payload)) == (setup.pack(), b"1234567")


STREAM = (
    submit(1, 2, 5)
    + b"hello"
    + submit(2, 1, 512, direction=1)
    + CmdUnlink(seqnum=3, devid=DEVID, unlink_seqnum=2).pack()
    + submit(4, 2, 0)
    + submit(5, 2, 200)
    + bytes(range(200))
)


@pytest.mark.parametrize("chunk", range(1, 50))
def test_device_reads_the_same_however_the_stream_is_cut(chunk: int) -> None:
    connection, sink = device()
    sink.pending = {2}
    feed(connection, STREAM, chunk)
    assert [(u.seqnum, bytes(u.payload)) for u in sink.urbs] == [
        (1, b"hello"), (2, b""), (4, b""), (5, bytes(range(200))),
    ]  # fmt: skip
    assert sink.unlinked == [2]
    assert taken(connection) == RetUnlink(seqnum=3, status=-errno.ECONNRESET).pack()
    assert connection.at_boundary


def test_every_cut_into_two_pieces_reads_the_same() -> None:
    for cut in range(1, len(STREAM)):
        connection, sink = device()
        feed(connection, STREAM[:cut])
        feed(connection, STREAM[cut:])
        assert [u.seqnum for u in sink.urbs] == [1, 2, 4, 5], f"cut at byte {cut}"
        assert bytes(sink.urbs[-1].payload) == bytes(range(200)), f"cut at byte {cut}"


def test_payload_larger_than_the_receive_buffer() -> None:
    connection, sink = device()
    payload = bytes(range(256)) * 1200
    feed(connection, submit(1, 2, len(payload)) + payload + submit(2, 2, 0))
    assert bytes(sink.urbs[0].payload) == payload
    assert [u.seqnum for u in sink.urbs] == [1, 2]


@pytest.mark.parametrize("length", [0, 13, 256, 257, 100_000])
def test_ret_submit_carries_the_data_of_an_in_urb(length: int) -> None:
    connection, sink = device()
    feed(connection, submit(1, 1, 100_000, direction=1))
    urb = sink.urbs[0]
    data = bytes(i % 251 for i in range(length))
    urb.data, urb.actual, urb.status = [memoryview(data)], length, 0
    connection.ret_submit(urb)
    assert taken(connection) == RetSubmit(seqnum=1, actual_length=length).pack() + data


def test_ret_submit_delivers_data_whatever_the_status() -> None:
    connection, sink = device()
    feed(connection, submit(1, 1, 8, direction=1))
    urb = sink.urbs[0]
    urb.data, urb.actual, urb.status = [memoryview(b"12345678")], 8, -errno.EOVERFLOW
    connection.ret_submit(urb)
    expected = RetSubmit(seqnum=1, status=-75, actual_length=8).pack() + b"12345678"
    assert taken(connection) == expected


def test_unlink_of_what_is_not_pending_says_zero() -> None:
    connection, _ = device()
    feed(connection, CmdUnlink(seqnum=2, devid=DEVID, unlink_seqnum=99).pack())
    assert taken(connection) == RetUnlink(seqnum=2, status=0).pack()


@pytest.mark.parametrize("length", [0, 3, 100_000], ids=["none", "lent", "landed"])
def test_an_unlink_that_overtook_its_urb_waits_for_it(length: int) -> None:
    connection, sink = device()
    sink.pending.add(2)
    feed(connection, submit(1, 2, 0) + CmdUnlink(seqnum=3, devid=DEVID, unlink_seqnum=2).pack())
    assert (sink.unlinked, taken(connection)) == ([], b"")
    feed(connection, submit(2, 2, length) + bytes(length))
    assert [urb.seqnum for urb in sink.urbs] == [1, 2]
    assert taken(connection) == RetUnlink(seqnum=3, status=-errno.ECONNRESET).pack()


def test_of_two_unlinks_that_overtook_their_urb_each_is_answered() -> None:
    connection, sink = device()
    unlinks = [CmdUnlink(seqnum=seqnum, devid=DEVID, unlink_seqnum=2).pack() for seqnum in (3, 4)]
    feed(connection, submit(1, 2, 0) + b"".join(unlinks))
    assert taken(connection) == RetUnlink(seqnum=4, status=0).pack()
    sink.pending.add(2)
    feed(connection, submit(2, 2, 0))
    assert taken(connection) == RetUnlink(seqnum=3, status=-errno.ECONNRESET).pack()


def test_an_unlink_for_the_last_connection_is_answered_at_once() -> None:
    connection, _ = device()
    feed(connection, CmdUnlink(seqnum=678, devid=DEVID, unlink_seqnum=677).pack())
    assert taken(connection) == RetUnlink(seqnum=678, status=0).pack()


def test_an_unlink_whose_urb_was_passed_over_is_answered_with_the_next() -> None:
    connection, _ = device()
    feed(connection, submit(1, 2, 0) + CmdUnlink(seqnum=3, devid=DEVID, unlink_seqnum=2).pack())
    feed(connection, submit(4, 2, 0))
    assert taken(connection) == RetUnlink(seqnum=3, status=0).pack()


def test_an_unlink_of_an_unlink_waits_for_nothing() -> None:
    connection, _ = device()
    feed(connection, submit(1, 2, 0) + CmdUnlink(seqnum=2, devid=DEVID, unlink_seqnum=1).pack())
    taken(connection)
    feed(connection, CmdUnlink(seqnum=3, devid=DEVID, unlink_seqnum=2).pack())
    assert taken(connection) == RetUnlink(seqnum=3, status=0).pack()


def test_reply_echoes_number_of_packets_and_start_frame() -> None:
    connection, sink = device()
    feed(connection, submit(1, 1, 8, direction=1, number_of_packets=-1, start_frame=77))
    sink.urbs[0].status = 0
    connection.ret_submit(sink.urbs[0])
    expected = RetSubmit(seqnum=1, number_of_packets=-1, start_frame=77)
    assert RetSubmit.parse(taken(connection)) == expected


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_isochronous_descriptors_follow_the_payload(chunk: int) -> None:
    packets = [IsoPacket(offset=0, length=100), IsoPacket(offset=100, length=92)]
    tail = b"".join(p.pack() for p in packets)
    connection, sink = device()
    feed(connection, submit(1, 3, 192, number_of_packets=2) + bytes(192) + tail, chunk)
    feed(connection, submit(2, 3, 192, direction=1, number_of_packets=2) + tail, chunk)
    assert [bytes(u.iso_packets) for u in sink.urbs] == [tail, tail]
    assert [len(u.payload) for u in sink.urbs] == [192, 0]
    sink.urbs[1].status = -errno.EPROTO
    connection.ret_submit(sink.urbs[1])
    reply = RetSubmit(seqnum=2, status=-errno.EPROTO, number_of_packets=2)
    assert taken(connection) == reply.pack() + tail


BAD_COMMANDS = [
    ("unknown command", b"\0\0\0\x09" + bytes(44), "command 0x9"),
    ("a reply from a host", RetSubmit(seqnum=1).pack(), "command 0x3"),
    ("direction", submit(1, 1, 0, direction=5), "direction 5"),
    ("endpoint", submit(1, 16, 0), "ep 16"),
    ("negative length", submit(1, 1, -1), "transfer_buffer_length -1"),
    ("oversized", submit(1, 1, MAX_TRANSFER + 1), f"0 to {MAX_TRANSFER}"),
    ("iso", submit(1, 1, 0, number_of_packets=MAX_ISO_PACKETS + 1), "number_of_packets 1025"),
]


@pytest.mark.parametrize(("data", "reason"), [row[1:] for row in BAD_COMMANDS],
                         ids=[row[0] for row in BAD_COMMANDS])  # fmt: skip
def test_malformed_command_is_named(data: bytes, reason: str) -> None:
    connection, _ = device()
    with pytest.raises(RemoteProtocolError, match=reason):
        feed(connection, data)


# --- the host's role ---------------------------------------------------------------------------


def host() -> HostConnection:
    return HostConnection(DEVID)


def test_host_submits_as_vhci_does() -> None:
    connection = host()
    connection.submit(HostUrb(0x81, bytearray(512)))
    connection.submit(HostUrb(0x02, b"payload"))
    expected = submit(1, 1, 512, direction=1, transfer_flags=0x200) + submit(2, 2, 7) + b"payload"
    assert taken(connection) == expected


def test_sg_list_sets_the_flag_and_travels_flat() -> None:
    connection = host()
    data = bytes(range(200)) * 2
    connection.submit(HostUrb(0x02, SGList.laid_out(data, (100, 300))))
    assert taken(connection) == submit(1, 2, 400, transfer_flags=0x40000) + data


@pytest.mark.parametrize("chunk", [1, 47, 48, 49, 1000])
def test_replies_complete_their_urbs_in_any_order(chunk: int) -> None:
    connection = host()
    first, second = HostUrb(0x81, SGList(bytearray(3), bytearray(509))), HostUrb(0x82, bytearray(4))
    connection.submit(first)
    connection.submit(second)
    stream = RetSubmit(seqnum=2, actual_length=4).pack() + b"four"
    stream += RetSubmit(seqnum=1, status=-75, actual_length=5).pack() + b"hello"
    feed(connection, stream, chunk)
    assert (second.status, second.actual, second.sg.gather()) == (0, 4, b"four")
    assert (first.status, first.actual, first.sg.gather()[:5]) == (-75, 5, b"hello")
    assert connection.pending == 0


def test_short_packet_where_none_is_allowed() -> None:
    connection = host()
    urb = HostUrb(0x81, bytearray(512), flags=URB_SHORT_NOT_OK)
    connection.submit(urb)
    feed(connection, RetSubmit(seqnum=1, actual_length=1).pack() + b"x")
    assert (urb.status, urb.actual) == (-errno.EREMOTEIO, 1)


def test_unlinked_urb_completes_with_the_status_of_ret_unlink() -> None:
    connection = host()
    urb = HostUrb(0x81, bytearray(8))
    connection.submit(urb)
    taken(connection)
    connection.unlink(urb)
    assert taken(connection) == CmdUnlink(seqnum=2, devid=DEVID, unlink_seqnum=1).pack()
    feed(connection, RetUnlink(seqnum=2, status=-errno.ECONNRESET).pack())
    assert urb.status == -errno.ECONNRESET


def test_reply_that_wins_the_race_against_its_unlink_counts() -> None:
    connection = host()
    urb = HostUrb(0x81, bytearray(8))
    connection.submit(urb)
    connection.unlink(urb)
    feed(connection, RetSubmit(seqnum=1, actual_length=4).pack() + b"data")
    feed(connection, RetUnlink(seqnum=2, status=0).pack())
    assert (urb.status, urb.actual) == (0, 4)


def test_reply_after_its_unlink_is_fatal_as_in_vhci() -> None:
    connection = host()
    urb = HostUrb(0x81, bytearray(8))
    connection.submit(urb)
    connection.unlink(urb)
    feed(connection, RetUnlink(seqnum=2, status=-errno.ECONNRESET).pack())
    with pytest.raises(RemoteProtocolError, match="seqnum 1, which is not pending"):
        feed(connection, RetSubmit(seqnum=1).pack())


def test_more_data_than_asked_for_is_refused() -> None:
    connection = host()
    urb = HostUrb(0x81, bytearray(8))
    connection.submit(urb)
    with pytest.raises(RemoteProtocolError, match="actual_length 9, but 8 bytes"):
        feed(connection, RetSubmit(seqnum=1, actual_length=9).pack())
    connection.lost(-errno.EPROTO)
    assert urb.status == -errno.EPROTO


def test_connection_lost_in_the_middle_of_a_payload_ends_its_urb() -> None:
    connection = host()
    urb = HostUrb(0x81, bytearray(100))
    connection.submit(urb)
    feed(connection, RetSubmit(seqnum=1, actual_length=100).pack() + b"partial")
    assert not connection.at_boundary
    connection.lost(-errno.ENODEV)
    assert urb.status == -errno.ENODEV
    late = HostUrb(0x81, b"")
    connection.submit(late)
    assert late.status == -errno.ENODEV


def test_an_in_urb_needs_memory_that_can_be_written_to() -> None:
    connection = host()
    for data in (bytes(8), SGList(bytearray(8), bytes(8))):
        with pytest.raises(LocalProtocolError, match="read-only"):
            connection.submit(HostUrb(0x81, data))
    with pytest.raises(LocalProtocolError, match="read-only"):
        connection.submit(IsoUrb(0x81, bytes(8), (8,)))
    assert (connection.pending, taken(connection)) == (0, b"")
    connection.submit(HostUrb(0x01, bytes(8)))


@pytest.mark.parametrize("length", [0, 3, 9])
def test_an_out_data_stage_has_wlength_bytes(length: int) -> None:
    setup = SetupPacket(0x21, 0x20, 0, 0, 7)
    with pytest.raises(LocalProtocolError, match=f"stage of {length} bytes, expected wLength 7"):
        HostUrb.control(setup, bytes(length))
    assert HostUrb.control(setup, bytes(7)).length == 7
    assert HostUrb.control(SetupPacket(0x80, 6, 0x0100, 0, 18)).length == 18


def test_unsolicited_ret_unlink_is_harmless() -> None:
    connection = host()
    feed(connection, RetUnlink(seqnum=5, status=0).pack())
    assert connection.at_boundary


def test_a_urb_is_submitted_once_and_not_too_long() -> None:
    connection = host()
    urb = HostUrb(0x81, b"")
    connection.submit(urb)
    with pytest.raises(LocalProtocolError, match="submitted before"):
        connection.submit(urb)
    with pytest.raises(LocalProtocolError, match="at most"):
        connection.submit(HostUrb(0x02, bytearray(MAX_TRANSFER + 1)))


def test_unknown_command_from_a_device_is_named() -> None:
    connection = host()
    with pytest.raises(RemoteProtocolError, match="command 0x7"):
        feed(connection, b"\0\0\0\x07" + bytes(44))


# --- both, against each other ------------------------------------------------------------------


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 70_000)), min_size=1, max_size=8),
    st.lists(st.integers(1, 90_000), min_size=1, max_size=6),
)
def test_two_ends_agree_however_the_stream_is_cut(
    transfers: list[tuple[bool, int]], cuts: list[int]
) -> None:
    hosts_end = host()
    devices_end, sink = device()
    urbs = []
    for is_in, length in transfers:
        data = bytearray(length) if is_in else bytearray(i % 251 for i in range(length))
        urb = HostUrb(Direction.IN | 1 if is_in else 2, data)
        urbs.append(urb)
        hosts_end.submit(urb)
    deliver(taken(hosts_end), devices_end, cuts)
    for seen in sink.urbs:
        if seen.endpoint & Direction.IN:
            seen.data = [memoryview(bytes(i % 249 for i in range(seen.length)))]
        seen.actual, seen.status = seen.length, 0
        devices_end.ret_submit(seen)
    deliver(taken(devices_end), hosts_end, cuts)
    for urb, seen in zip(urbs, sink.urbs, strict=True):
        assert (urb.status, urb.actual) == (0, urb.length)
        if urb.is_in:
            assert urb.sg.gather() == bytes(i % 249 for i in range(urb.length))
        else:
            assert bytes(seen.payload) == urb.sg.gather()


def deliver(data: bytes, connection: Connection, cuts: list[int]) -> None:
    offset = 0
    while offset < len(data):
        for cut in cuts:
            feed(connection, data[offset : offset + cut])
            offset += cut
