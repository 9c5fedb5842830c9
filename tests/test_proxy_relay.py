"""proxy/relay and proxy/injected without a socket: what goes in, and what comes out."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbip_vudc.errors import RemoteProtocolError
from usbip_vudc.injection import Injector, Plan
from usbip_vudc.proxy.ends import End
from usbip_vudc.proxy.injected import InjectedRelay
from usbip_vudc.proxy.relay import Cut, Ending, Pause, Relay
from usbip_vudc.urb import URB_ZERO_PACKET
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.wire.connection import MAX_TRANSFER
from usbip_vudc.wire.pdu import (
    HEADER_SIZE,
    CmdSubmit,
    CmdUnlink,
    IsoPacket,
    RetSubmit,
    RetUnlink,
)

DEVID = 0x00010002


def feed(end: End, data: bytes, chunks: Iterable[int] = (1 << 30,)) -> None:
    """Deliver bytes as a socket would, in pieces of at most these sizes."""
    view = memoryview(data)
    sizes = iter(chunks)
    while view:
        size = next(sizes, 1 << 30)
        buffer = end.get_buffers()[0]
        count = min(len(buffer), len(view), size)
        buffer[:count] = view[:count]
        end.advance(count)
        view = view[count:]


def taken(queue: object) -> bytes:
    """The bytes that wait to be sent, without marks."""
    assert hasattr(queue, "__iter__")
    return b"".join(bytes(item) for item in queue if not isinstance(item, Cut | Pause))


def relay_with(plan: str, speed: Speed = Speed.SUPER) -> InjectedRelay:
    return InjectedRelay(Injector(Plan.parse(plan), "cable"), speed=speed)


def submit_in(seqnum: int, length: int, ep: int = 1) -> bytes:
    return CmdSubmit(
        seqnum=seqnum, devid=DEVID, direction=1, ep=ep, transfer_buffer_length=length
    ).pack()


def submit_out(seqnum: int, data: bytes, ep: int = 1, flags: int = 0) -> bytes:
    head = CmdSubmit(
        seqnum=seqnum, devid=DEVID, direction=0, ep=ep, transfer_buffer_length=len(data),
        transfer_flags=flags,
    )  # fmt: skip
    return head.pack() + data


def ret(seqnum: int, data: bytes = b"", status: int = 0, actual: int | None = None) -> bytes:
    length = len(data) if actual is None else actual
    return RetSubmit(seqnum=seqnum, status=status, actual_length=length).pack() + data


def submitted(stream: bytes) -> Iterator[tuple[CmdSubmit, bytes]]:
    """What a device would read: no iso, no unlinks."""
    while stream:
        head = CmdSubmit.parse(stream[:HEADER_SIZE])
        size = 0 if head.direction else head.transfer_buffer_length
        yield head, stream[HEADER_SIZE : HEADER_SIZE + size]
        stream = stream[HEADER_SIZE + size :]


# --- without a plan ----------------------------------------------------------------------------

Spoken = list[tuple[str, bytes]]


@st.composite
def conversations(draw: st.DrawFn) -> Spoken:
    """PDUs of both ends in an order that can happen, with fields that nobody looks at at random."""
    word = st.integers(0, 0xFFFFFFFF)
    pending: dict[int, tuple[bool, int]] = {}
    unlinks: list[tuple[int, int]] = []
    said: Spoken = []
    for seqnum in range(1, draw(st.integers(1, 12)) + 1):
        kind = draw(st.sampled_from(["in", "out", "iso", "unlink", "reply", "reply", "unlinked"]))
        if kind in ("in", "out", "iso"):
            is_in = kind == "in" or (kind == "iso" and draw(st.booleans()))
            data = draw(st.binary(max_size=200)) * draw(st.sampled_from([1, 1, 50]))
            packets = draw(st.integers(1, 3)) if kind == "iso" else draw(st.sampled_from([0, -1]))
            head = CmdSubmit(
                seqnum=seqnum, devid=draw(word), direction=int(is_in), ep=draw(st.integers(0, 15)),
                transfer_flags=draw(word), transfer_buffer_length=len(data),
                number_of_packets=packets, setup=draw(st.binary(min_size=8, max_size=8)),
            )  # fmt: skip
            iso = draw(st.binary(min_size=16, max_size=16)) * max(packets, 0)
            said.append((">", head.pack() + (b"" if is_in else data) + iso))
            pending[seqnum] = is_in, packets
        elif kind == "unlink":
            target = draw(st.sampled_from([*pending, 99]))
            unlinks.append((seqnum, target))
            raw = CmdUnlink(seqnum=seqnum, devid=0, unlink_seqnum=target).pack()
            said.append((">", raw[:24] + draw(st.binary(min_size=24, max_size=24))))
        elif kind == "reply" and pending:
            target = draw(st.sampled_from(sorted(pending)))
            is_in, packets = pending.pop(target)
            actual = draw(st.sampled_from([0, 0, 7, 64, 5000, -1]))
            echoed = packets if packets > 0 else draw(st.sampled_from([0, -1, 5]))
            raw = RetSubmit(
                seqnum=target, devid=draw(word), status=draw(st.integers(-200, 5)),
                actual_length=actual, number_of_packets=echoed, error_count=9,
            ).pack()  # fmt: skip
            payload = b"\x5a" * max(actual, 0) if is_in else b""
            iso = b"\xa5" * IsoPacket.SIZE * max(packets, 0)
            said.append(("<", raw[:40] + draw(st.binary(min_size=8, max_size=8)) + payload + iso))
        elif kind == "unlinked" and unlinks:
            number, target = unlinks.pop(0)
            raw = RetUnlink(seqnum=number, status=draw(st.sampled_from([0, -104]))).pack()
            said.append(("<", raw))
    return said


@given(said=conversations(), sizes=st.lists(st.integers(1, 300), min_size=1), lag=st.booleans())
def test_without_a_plan_every_byte_passes_in_any_chunks(
    said: Spoken, sizes: list[int], lag: bool
) -> None:
    relay = Relay()
    chunks = (size for _ in iter(int, 1) for size in sizes)
    held = b""
    for who, data in said:
        if who == ">":
            feed(relay.host, data, chunks)
        elif lag:
            held += data
        else:
            feed(relay.device, data, chunks)
    feed(relay.device, held, chunks)
    assert taken(relay.to_device) == b"".join(data for who, data in said if who == ">")
    assert taken(relay.to_host) == b"".join(data for who, data in said if who == "<")
    assert relay.host.at_boundary
    assert relay.device.at_boundary


def test_a_reply_after_the_unlink_was_answered_is_the_hosts_to_judge() -> None:
    relay = Relay()
    feed(relay.host, submit_in(1, 64) + CmdUnlink(seqnum=2, devid=0, unlink_seqnum=1).pack())
    wrong = RetUnlink(seqnum=2, status=-104).pack() + ret(1, b"late")
    feed(relay.device, wrong)
    assert taken(relay.to_host) == wrong


@pytest.mark.parametrize(
    ("host", "device", "match"),
    [
        (b"\0\0\0\x09" + bytes(44), b"", "the host sent command 0x9"),
        (submit_in(1, 8) * 2, b"", "the host sent CMD_SUBMIT seqnum 1, which is pending already"),
        (
            CmdSubmit(
                seqnum=1, devid=0, direction=0, ep=1, transfer_buffer_length=MAX_TRANSFER + 1
            ).pack(),
            b"",
            "the host sent CMD_SUBMIT seqnum 1 with direction 0 .0 or 1. and transfer_",
        ),
        (
            CmdSubmit(seqnum=1, devid=0, direction=1, ep=1, number_of_packets=1025).pack(),
            b"",
            "the host sent seqnum 1 with number_of_packets 1025",
        ),
        (b"", b"\0\0\0\x01" + bytes(44), "the device sent command 0x1"),
        (b"", ret(7), "the device sent RET_SUBMIT for seqnum 7, which is not pending"),
        (
            submit_in(1, 8),
            RetSubmit(seqnum=1, actual_length=MAX_TRANSFER + 1).pack(),
            "the device sent RET_SUBMIT seqnum 1 with actual_length",
        ),
    ],
)
def test_whoever_breaks_the_protocol_is_named(host: bytes, device: bytes, match: str) -> None:
    for relay in (Relay(), relay_with("cable nth(1000) stall")):
        with pytest.raises(RemoteProtocolError, match=match):
            feed(relay.host, host)
            feed(relay.device, device)


# --- with a plan -------------------------------------------------------------------------------


@given(said=conversations(), sizes=st.lists(st.integers(1, 300), min_size=1))
def test_a_plan_that_never_acts_changes_nothing_but_numbers(said: Spoken, sizes: list[int]) -> None:
    relay = relay_with("cable nth(1000000) stall")
    sent = b""
    for who, data in said:
        if who == ">" and data[3] == 1:
            feed(relay.host, data, sizes)
            sent += data
    raw = taken(relay.to_device)
    zeroed = _zero_numbers(raw), _zero_numbers(sent)
    assert zeroed[0] == zeroed[1]


def _zero_numbers(stream: bytes) -> bytes:
    out = b""
    while stream:
        head = CmdSubmit.parse(stream[:HEADER_SIZE])
        size = HEADER_SIZE + (0 if head.direction else head.transfer_buffer_length)
        size += max(head.number_of_packets, 0) * IsoPacket.SIZE
        out += stream[:4] + bytes(4) + stream[8:size]
        stream = stream[size:]
    return out


def test_an_untouched_reply_is_the_devices_own_under_the_hosts_number() -> None:
    relay = relay_with("cable nth(1000) stall")
    feed(relay.host, submit_in(77, 64))
    feed(relay.device, ret(1, b"data")[:40] + b"\x11" * 8 + b"data")
    assert taken(relay.to_host) == ret(77, b"data")[:40] + b"\x11" * 8 + b"data"


def test_an_out_urb_is_split_in_order_and_answered_once_with_the_sum() -> None:
    relay = relay_with("cable layout([3][4][][])")
    feed(relay.host, submit_out(50, b"abcdefghij", flags=URB_ZERO_PACKET))
    parts = list(submitted(taken(relay.to_device)))
    assert [data for _, data in parts] == [b"abc", b"defg", b"", b"hij"]
    assert [head.seqnum for head, _ in parts] == [1, 2, 3, 4]
    assert [head.transfer_flags for head, _ in parts] == [0, 0, 0, URB_ZERO_PACKET]
    for seqnum, actual in ((2, 4), (1, 3), (4, 3)):
        feed(relay.device, ret(seqnum, actual=actual))
        assert not relay.to_host
    feed(relay.device, ret(3))
    assert taken(relay.to_host) == ret(50, actual=10)


def test_in_data_of_the_parts_are_joined_and_the_first_error_counts() -> None:
    relay = relay_with("cable layout(each:3x4)")
    feed(relay.host, submit_in(50, 12))
    assert [head.transfer_buffer_length for head, _ in submitted(taken(relay.to_device))] == [4] * 3
    feed(relay.device, ret(3, b"C", status=-32) + ret(1, b"aaaa") + ret(2, b"bb", status=-75))
    assert taken(relay.to_host) == ret(50, b"aaaabbC", status=-75)


def test_iso_urbs_are_never_split() -> None:
    relay = relay_with("cable layout(each:2x4)")
    iso = CmdSubmit(
        seqnum=1, devid=0, direction=1, ep=2, transfer_buffer_length=8, number_of_packets=1
    )
    whole = iso.pack() + IsoPacket(offset=0, length=8).pack()
    feed(relay.host, whole)
    assert taken(relay.to_device) == whole, "it is the first of ours, too"


def unlink(seqnum: int, target: int) -> bytes:
    return CmdUnlink(seqnum=seqnum, devid=DEVID, unlink_seqnum=target).pack()


def unlinked(seqnum: int, status: int = -errno.ECONNRESET) -> bytes:
    return RetUnlink(seqnum=seqnum, status=status).pack()


def test_an_unlink_takes_all_parts_back_and_is_answered_once() -> None:
    relay = relay_with("cable layout(each:3x4)")
    feed(relay.host, submit_in(50, 12))
    relay.to_device.clear()
    feed(relay.device, ret(1, b"aaaa"))
    feed(relay.host, unlink(51, 50))
    assert taken(relay.to_device) == unlink(4, 2) + unlink(5, 3), "the first is over"
    feed(relay.device, unlinked(4))
    assert not relay.to_host
    feed(relay.device, unlinked(5))
    assert taken(relay.to_host) == unlinked(51), "and no RET_SUBMIT"
    feed(relay.device, ret(2, b"late"))
    assert taken(relay.to_host) == unlinked(51), "which would be fatal to vhci"


def test_an_unlink_that_comes_too_late_finds_the_reply_first() -> None:
    relay = relay_with("cable layout(each:2x4)")
    feed(relay.host, submit_in(50, 8) + unlink(51, 50))
    feed(relay.device, ret(1, b"aaaa") + ret(2, b"bbbb") + unlinked(3, 0) + unlinked(4, 0))
    assert taken(relay.to_host) == ret(50, b"aaaabbbb") + unlinked(51, 0)
    feed(relay.host, unlink(52, 50))
    assert taken(relay.to_host).endswith(unlinked(52, 0)), "it has had its reply"


def test_a_device_that_says_zero_without_a_reply_ends_the_urb() -> None:
    relay = relay_with("cable nth(1000) stall")
    feed(relay.host, submit_in(50, 8) + unlink(51, 50))
    feed(relay.device, unlinked(2, 0))
    assert taken(relay.to_host) == unlinked(51)
    feed(relay.device, ret(1, b"late"))
    assert taken(relay.to_host) == unlinked(51)


def test_every_unlink_of_one_urb_is_answered_and_one_says_that_it_did_it() -> None:
    relay = relay_with("cable nth(1000) stall")
    feed(relay.host, submit_in(50, 8) + unlink(51, 50) + unlink(52, 50))
    feed(relay.device, unlinked(2))
    assert taken(relay.to_host) == unlinked(51) + unlinked(52, 0)


def test_stall_is_answered_without_the_device() -> None:
    relay = relay_with("cable nth(1) stall")
    feed(relay.host, submit_out(50, b"data"))
    assert not relay.to_device
    assert taken(relay.to_host) == ret(50, status=-errno.EPIPE)


def test_drop_waits_for_the_unlink_which_is_answered_here() -> None:
    relay = relay_with("cable nth(1) drop")
    feed(relay.host, submit_out(50, b"data"))
    assert not relay.to_device
    assert not relay.to_host
    feed(relay.host, unlink(51, 50))
    assert not relay.to_device
    assert taken(relay.to_host) == unlinked(51)


@pytest.mark.parametrize(
    ("what", "asked", "said", "heard"),
    [
        ("short(2)", submit_in(5, 8), ret(1, b"abcd"), ret(5, b"ab")),
        ("short(9)", submit_in(5, 8), ret(1, b"abcd"), ret(5, b"abcd")),
        ("babble(1)", submit_in(5, 8), ret(1, b"abcd"), ret(5, b"abcd\0\0\0\0", status=-75)),
        ("status(-71)", submit_in(5, 8), ret(1, b"abcd"), ret(5, b"abcd", status=-71)),
        ("status(0)", submit_in(5, 8), ret(1, status=-32), ret(5)),
        ("actual(6)", submit_in(5, 8), ret(1, b"abcd"), ret(5, b"abcd\0\0")),
        ("actual(1)", submit_in(5, 8), ret(1, b"abcd"), ret(5, b"a")),
        ("actual(9)", submit_in(5, 8), ret(1, b"abcd"), ret(5, b"abcd\0\0\0\0\0")),
        ("actual(9)", submit_out(5, b"data"), ret(1, actual=4), ret(5, actual=9)),
        ("corrupt(1, 0x03)", submit_in(5, 8), ret(1, b"abcd"), ret(5, b"aacd")),
        ("corrupt(4)", submit_in(5, 8), ret(1, b"abcd"), ret(5, b"abcd")),
        ("stall", submit_in(5, 8), b"", ret(5, status=-32)),
    ],
)
def test_a_reply_is_rewritten(what: str, asked: bytes, said: bytes, heard: bytes) -> None:
    relay = relay_with(f"cable {what}")
    feed(relay.host, asked)
    feed(relay.device, said)
    assert taken(relay.to_host) == heard


@pytest.mark.parametrize(
    ("what", "sent"), [("short(3)", b"dat"), ("short(0)", b""), ("corrupt(0, 0x01)", b"eata")]
)
def test_an_out_payload_is_rewritten(what: str, sent: bytes) -> None:
    relay = relay_with(f"cable.out {what}")
    feed(relay.host, submit_out(5, b"data"))
    ((head, data),) = submitted(taken(relay.to_device))
    assert (head.transfer_buffer_length, data) == (len(sent), sent)
    feed(relay.device, ret(1, actual=len(sent)))
    assert taken(relay.to_host) == ret(5, actual=len(sent)), "the device's own word"


def test_a_delayed_reply_is_overtaken_until_its_time_comes() -> None:
    relay = relay_with("cable nth(1) delay(20ms)")
    feed(relay.host, submit_in(5, 8) + submit_in(6, 8))
    relay.timers.advance(100.0)
    feed(relay.device, ret(1, b"one") + ret(2, b"two"))
    assert taken(relay.to_host) == ret(6, b"two")
    assert relay.timers.deadline == pytest.approx(100.02)
    relay.timers.advance(100.01)
    assert taken(relay.to_host) == ret(6, b"two")
    relay.timers.advance(100.02)
    assert taken(relay.to_host) == ret(6, b"two") + ret(5, b"one")


@pytest.mark.parametrize("what", ["delay(1s)", "reorder(5)"])
def test_a_reply_that_is_held_back_can_be_unlinked(what: str) -> None:
    relay = relay_with(f"cable nth(1) {what}")
    feed(relay.host, submit_in(5, 8))
    feed(relay.device, ret(1, b"one"))
    feed(relay.host, unlink(6, 5))
    relay.timers.advance(1e6)
    assert taken(relay.to_host) == unlinked(6)


def test_an_unlink_under_way_finds_a_reply_held_back() -> None:
    relay = relay_with("cable nth(1) delay(1s)")
    feed(relay.host, submit_in(5, 8) + unlink(6, 5))
    feed(relay.device, ret(1, b"one") + unlinked(2, 0))
    relay.timers.advance(1e6)
    assert taken(relay.to_host) == unlinked(6)


def test_reorder_lets_so_many_pass() -> None:
    relay = relay_with("cable nth(1) reorder(2)")
    feed(relay.host, b"".join(submit_in(n, 8) for n in (5, 6, 7, 8)))
    feed(relay.device, b"".join(ret(n) for n in (1, 2, 3, 4)))
    assert taken(relay.to_host) == b"".join(ret(n) for n in (6, 7, 5, 8))


def test_unlink_takes_a_urb_back_that_nobody_asked_for() -> None:
    relay = relay_with("cable nth(1) unlink(10ms)")
    feed(relay.host, submit_in(5, 8))
    relay.to_device.clear()
    relay.timers.advance(0.01)
    assert taken(relay.to_device) == unlink(2, 1)
    feed(relay.device, unlinked(2))
    assert taken(relay.to_host) == ret(5, status=-errno.ECONNRESET)


def test_unlink_that_comes_too_late_changes_nothing() -> None:
    relay = relay_with("cable nth(1) unlink(10ms)")
    feed(relay.host, submit_in(5, 8))
    feed(relay.device, ret(1, b"data"))
    relay.to_device.clear()
    relay.timers.advance(1.0)
    assert not relay.to_device
    assert taken(relay.to_host) == ret(5, b"data")


def test_our_unlink_and_the_hosts_are_one_and_the_host_is_answered_by_its_own() -> None:
    relay = relay_with("cable nth(1) unlink(10ms)")
    feed(relay.host, submit_in(5, 8))
    relay.timers.advance(0.01)
    relay.to_device.clear()
    feed(relay.host, unlink(6, 5))
    assert not relay.to_device
    feed(relay.device, unlinked(2))
    assert taken(relay.to_host) == unlinked(6)


def test_bus_reset_is_a_urb_of_our_own_before_the_transfer() -> None:
    relay = relay_with("cable nth(1) bus_reset")
    feed(relay.host, submit_out(5, b"data"))
    (reset, _), (head, data) = submitted(taken(relay.to_device))
    assert (reset.ep, reset.direction, reset.devid) == (0, 0, DEVID)
    assert reset.setup == bytes.fromhex("2303040000000000")
    assert (head.ep, data) == (1, b"data")
    feed(relay.device, ret(reset.seqnum) + ret(head.seqnum, actual=4))
    assert taken(relay.to_host) == ret(5, actual=4)


def test_disconnect_says_for_how_long_and_passes_nothing_more() -> None:
    relay = relay_with("cable nth(2) disconnect(0.5s)")
    feed(relay.host, submit_out(5, b"one") + submit_out(6, b"two") + submit_out(7, b"three"))
    assert relay.ending == Ending(away=0.5)
    assert [data for _, data in submitted(taken(relay.to_device))] == [b"one"]


def test_tcp_reset_takes_the_replys_place() -> None:
    relay = relay_with("cable nth(1) tcp_reset")
    feed(relay.host, submit_out(5, b"one"))
    feed(relay.device, ret(1, actual=3))
    assert relay.ending == Ending(reset=True)
    assert not relay.to_host


def test_tcp_cut_stands_before_its_reply_once_and_tcp_stall_in_its_middle() -> None:
    relay = relay_with("cable tcp_cut(1, 47); cable nth(2) tcp_stall(0.5s)")
    feed(relay.host, submit_in(5, 8) + submit_in(6, 8))
    feed(relay.device, ret(1, b"one") + ret(2, b"four"))
    cut, head, data, first, pause, last = relay.to_host
    assert (cut, pause) == (Cut((1, 47)), Pause(0.5))
    assert (head, data) == (ret(5, b"one")[:HEADER_SIZE], b"one")
    whole = ret(6, b"four")
    assert (first, last) == (whole[:26], whole[26:])


# --- what the descriptors say ------------------------------------------------------------------


def configuration(max_packet_size: int) -> bytes:
    """A configuration with one bulk IN endpoint 0x81."""
    endpoint = bytes((7, 5, 0x81, 2, *max_packet_size.to_bytes(2, "little"), 0))
    interface = bytes((9, 4, 0, 0, 1, 255, 0, 0, 0))
    length = 9 + len(interface) + len(endpoint)
    return bytes((9, 2, length, 0, 1, 1, 0, 0x80, 50)) + interface + endpoint


def split_of(relay: InjectedRelay) -> list[int]:
    relay.to_device.clear()
    feed(relay.host, submit_in(900, 3000))
    return [head.transfer_buffer_length for head, _ in submitted(taken(relay.to_device))]


def test_packets_are_the_speeds_until_a_descriptor_says_otherwise() -> None:
    assert split_of(relay_with("cable layout(packets:1)")) == [3000], "segments do not travel"
    assert split_of(relay_with("cable layout(each:packets:1)")) == [1024, 1024, 952]
    relay = relay_with("cable layout(each:packets:1)", Speed.HIGH)
    asks = CmdSubmit(
        seqnum=1, devid=0, direction=1, ep=0, transfer_buffer_length=64,
        setup=bytes((0x80, 6, 0, 2, 0, 0, 64, 0)),
    )  # fmt: skip
    feed(relay.host, asks.pack())
    feed(relay.device, ret(1, configuration(1000)))
    assert split_of(relay) == [1000, 1000, 1000]


# --- whatever a plan does, the protocol holds ----------------------------------------------------

RULES = (
    "cable p(0.3) stall", "cable p(0.3) drop", "cable p(0.3) delay(2s)", "cable p(0.3) reorder(2)",
    "cable p(0.3) unlink(1s)", "cable p(0.4) layout(each:2x512)", "cable.in p(0.3) short(3)",
    "cable.out p(0.3) short(3)", "cable p(0.3) status(-71)", "cable p(0.3) bus_reset",
    "cable.in p(0.3) babble(1)", "cable p(0.3) corrupt(0)", "cable p(0.3) tcp_stall(1s)",
    "cable tcp_cut(7)",
)  # fmt: skip


class Honest:
    """A device that answers URBs whole, in whatever order, and unlinks as it should."""

    def __init__(self, relay: InjectedRelay) -> None:
        self.relay = relay
        self.pending: dict[int, CmdSubmit] = {}

    def listen(self) -> None:
        stream = taken(self.relay.to_device)
        self.relay.to_device.clear()
        while stream:
            if stream[3] == 2:
                head = CmdUnlink.parse(stream[:HEADER_SIZE])
                status = -104 if self.pending.pop(head.unlink_seqnum, None) else 0
                stream = stream[HEADER_SIZE:]
                feed(self.relay.device, unlinked(head.seqnum, status))
                continue
            submit = CmdSubmit.parse(stream[:HEADER_SIZE])
            self.pending[submit.seqnum] = submit
            size = 0 if submit.direction else submit.transfer_buffer_length
            stream = stream[HEADER_SIZE + size :]

    def answer(self, choice: int) -> None:
        if self.pending:
            seqnum = sorted(self.pending)[choice % len(self.pending)]
            head = self.pending.pop(seqnum)
            data = b"d" * head.transfer_buffer_length if head.direction else b""
            feed(self.relay.device, ret(seqnum, data, actual=head.transfer_buffer_length))


@given(
    rules=st.lists(st.sampled_from(RULES), max_size=5),
    seed=st.integers(0, 1000),
    steps=st.lists(
        st.tuples(st.sampled_from("ioooiuuaaat"), st.integers(0, 2000)), min_size=1, max_size=40
    ),
)
def test_every_urb_ends_exactly_once_and_every_unlink_is_answered(
    rules: list[str], seed: int, steps: list[tuple[str, int]]
) -> None:
    relay = InjectedRelay(Injector(Plan.parse("; ".join(rules), seed), "cable"), speed=Speed.SUPER)
    device = Honest(relay)
    lengths: dict[int, int | None] = {}
    unlinks: dict[int, int] = {}
    seqnum = 0
    for step, value in steps:
        seqnum += 1
        if step == "i":
            lengths[seqnum] = value
            feed(relay.host, submit_in(seqnum, value))
        elif step == "o":
            lengths[seqnum] = None
            feed(relay.host, submit_out(seqnum, b"o" * value))
        elif step == "u" and lengths:
            unlinks[seqnum] = sorted(lengths)[value % len(lengths)]
            feed(relay.host, unlink(seqnum, unlinks[seqnum]))
        elif step == "a":
            device.answer(value)
        else:
            relay.timers.advance(relay.timers.now + 1.0)
        device.listen()
    while device.pending:
        device.answer(0)
        device.listen()
    for target in lengths:
        seqnum += 1
        unlinks[seqnum] = target
        feed(relay.host, unlink(seqnum, target))
    relay.timers.advance(1e9)
    device.listen()
    check_ends(taken(relay.to_host), lengths, unlinks)


def check_ends(stream: bytes, lengths: dict[int, int | None], unlinks: dict[int, int]) -> None:
    """As vhci_hcd does: a reply to a URB that is over, or none at all, is fatal."""
    pending = dict(lengths)
    unanswered = dict(unlinks)
    while stream:
        head = stream[:HEADER_SIZE]
        if head[3] == 4:
            answer = RetUnlink.parse(head)
            target = unanswered.pop(answer.seqnum)
            if answer.status:
                del pending[target]
            else:
                assert target not in pending, "0 says that it has had its reply"
            stream = stream[HEADER_SIZE:]
            continue
        reply = RetSubmit.parse(head)
        length = pending.pop(reply.seqnum)
        if length is not None:
            assert 0 <= reply.actual_length <= length
            stream = stream[reply.actual_length :]
        stream = stream[HEADER_SIZE:]
    assert not pending
    assert not unanswered
