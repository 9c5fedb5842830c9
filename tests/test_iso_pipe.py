"""IsoPipe: a packet a service interval, per-packet lengths and statuses, and time that stands."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbip_vudc.errors import EndpointDisabled, LocalProtocolError, Overflow, TransferError
from usbip_vudc.function import Request
from usbip_vudc.iso_pipe import IsoPipe
from usbip_vudc.urb import Urb
from usbip_vudc.usb.ch9 import Direction
from usbip_vudc.wire.pdu import IsoPacket


@dataclass
class Bench:
    """A pipe of 1024 bytes an interval, with what completed on either side, in order."""

    direction: Direction
    paced: bool = False
    urbs: list[Urb] = field(default_factory=list)
    requests: list[tuple[Request, TransferError | None]] = field(default_factory=list)
    calls: int = 0

    def __post_init__(self) -> None:
        self.pipe = IsoPipe(
            self.direction,
            1024,
            on_urb=self.urbs.append,
            on_request=self._on_request,
            pace=self._pace if self.paced else None,
        )

    def _pace(self) -> None:
        self.calls += 1

    def _on_request(self, request: Request, error: TransferError | None) -> None:
        self.requests.append((request, error))
        request.complete(error)

    def urb(self, lengths: Sequence[int], data: bytes = b"") -> Urb:
        """Submit a URB whose packets lie one behind the other."""
        urb = Urb(len(self.urbs) + 100, self.direction | 3, sum(lengths))
        offsets = [sum(lengths[:i]) for i in range(len(lengths))]
        urb.number_of_packets = len(lengths)
        urb.iso_packets = b"".join(
            IsoPacket(offset=offset, length=length, status=-errno.EXDEV).pack()
            for offset, length in zip(offsets, lengths, strict=True)
        )
        urb.payload = data
        self.pipe.submit(urb)
        return urb

    def queue(self, data: bytes | int) -> Request:
        request = Request(bytearray(data) if isinstance(data, int) else data)
        self.pipe.queue(request)
        return request


def packets(urb: Urb) -> list[tuple[int, int]]:
    """What the reply says of each packet: actual_length and status."""
    size = IsoPacket.SIZE
    raw = urb.iso_packets
    parsed = [IsoPacket.parse(raw[i : i + size]) for i in range(0, len(raw), size)]
    return [(packet.actual_length, packet.status) for packet in parsed]


def test_each_packet_takes_one_request() -> None:
    bench = Bench(Direction.IN)
    for data in (b"a" * 64, b"", b"c" * 10):
        bench.queue(data)
    urb = bench.urb((64, 64, 64))
    assert (urb.status, urb.actual, urb.error_count) == (0, 74, 0)
    assert packets(urb) == [(64, 0), (0, 0), (10, 0)]
    assert b"".join(urb.data) == b"a" * 64 + b"c" * 10


def test_time_stands_still_until_the_device_is_ready() -> None:
    bench = Bench(Direction.IN)
    urb = bench.urb((8, 8))
    bench.queue(b"first")
    assert urb.status is None
    bench.queue(b"second")
    assert urb.status == 0
    assert packets(urb) == [(5, 0), (6, 0)]


def test_an_in_request_longer_than_its_packet_is_babble() -> None:
    bench = Bench(Direction.IN)
    long = bench.queue(b"x" * 100)
    bench.queue(b"y" * 8)
    urb = bench.urb((64, 8))
    assert packets(urb) == [(64, -errno.EOVERFLOW), (8, 0)]
    assert (urb.status, urb.error_count, urb.actual) == (0, 1, 72)
    assert (long.actual, long.error) == (64, None)


def test_what_an_in_packet_took_is_a_copy() -> None:
    bench = Bench(Direction.IN)
    memory = bytearray(b"a" * 16)
    request = Request(memory)
    bench.pipe.queue(request)
    urb = bench.urb((16, 16))
    memory[:] = b"b" * 16
    bench.pipe.queue(request)
    assert b"".join(urb.data) == b"a" * 16 + b"b" * 16


def test_out_packets_land_in_their_requests() -> None:
    bench = Bench(Direction.OUT)
    requests = [bench.queue(64) for _ in range(3)]
    urb = bench.urb((64, 0, 10), b"a" * 64 + b"c" * 10)
    assert [request.actual for request in requests] == [64, 0, 10]
    assert bytes(requests[2].sg.segments[0][:10]) == b"c" * 10
    assert packets(urb) == [(64, 0), (0, 0), (10, 0)]
    assert (urb.status, urb.actual) == (0, 74)


def test_an_out_packet_longer_than_its_request_is_an_overflow_of_the_function() -> None:
    bench = Bench(Direction.OUT)
    request = bench.queue(10)
    urb = bench.urb((64,), b"a" * 64)
    assert (request.actual, type(request.error)) == (10, Overflow)
    assert packets(urb) == [(64, 0)], "there is no handshake: the host hears nothing of it"


def test_a_urb_without_packets_is_refused() -> None:
    bench = Bench(Direction.IN)
    bench.queue(b"x")
    urb = Urb(1, 0x83, 64)
    bench.pipe.submit(urb)
    assert urb.status == -errno.EINVAL


def test_unlinked_in_the_middle_the_next_urb_begins_anew() -> None:
    bench = Bench(Direction.IN)
    first = bench.urb((4, 4))
    bench.queue(b"lost")
    assert bench.pipe.unlink(first)
    assert not bench.pipe.unlink(first)
    second = bench.urb((4,))
    bench.queue(b"kept")
    assert (first.status, second.status) == (None, 0)
    assert b"".join(second.data) == b"kept"


def test_the_end_of_the_configuration_says_which_packets_had_moved() -> None:
    bench = Bench(Direction.IN)
    urb = bench.urb((4, 4, 4))
    bench.queue(b"one")
    bench.pipe.disable()
    assert (urb.status, urb.actual, urb.error_count) == (-errno.ESHUTDOWN, 3, 0)
    assert packets(urb) == [(3, 0), (0, -errno.EXDEV), (0, -errno.EXDEV)]
    assert b"".join(urb.data) == b"one"
    late = bench.urb((4,))
    assert (late.status, packets(late)) == (-errno.EPROTO, [(0, -errno.EXDEV)])
    assert isinstance(bench.queue(b"x").error, EndpointDisabled)


def test_there_is_no_halt() -> None:
    pipe = Bench(Direction.IN).pipe
    assert not pipe.can_halt
    with pytest.raises(LocalProtocolError, match=r"USB 2\.0 5\.6\.5"):
        pipe.halt()


def test_in_bus_time_a_missed_in_packet_is_empty() -> None:
    bench = Bench(Direction.IN, paced=True)
    urb = bench.urb((8, 8, 8))
    bench.pipe.move(1024)
    bench.queue(b"data")
    assert urb.actual == 0, "it waits for its service interval"
    bench.pipe.move(1024)
    bench.pipe.move(1024)
    assert packets(urb) == [(0, 0), (4, 0), (0, 0)]
    assert urb.status == 0
    assert bench.pipe.move(1024) == 0


def test_in_bus_time_an_out_packet_that_nobody_waits_for_is_lost() -> None:
    bench = Bench(Direction.OUT, paced=True)
    urb = bench.urb((4, 4), b"lostkept")
    bench.pipe.move(1024)
    request = bench.queue(8)
    bench.pipe.move(1024)
    assert bytes(request.sg.segments[0][:4]) == b"kept"
    assert packets(urb) == [(4, 0), (4, 0)]


@given(
    st.lists(st.lists(st.integers(0, 64), min_size=1, max_size=8), min_size=1, max_size=5),
    st.lists(st.binary(max_size=80), max_size=40),
)
def test_every_packet_has_its_request_in_order(
    shapes: list[list[int]], offered: list[bytes]
) -> None:
    bench = Bench(Direction.IN)
    urbs = [bench.urb(shape) for shape in shapes]
    for data in offered:
        bench.queue(data)
    wanted = [length for shape in shapes for length in shape]
    taken = list(zip(wanted, offered, strict=False))
    expected = [
        (min(room, len(data)), -errno.EOVERFLOW if len(data) > room else 0) for room, data in taken
    ]
    done = [urb for urb in urbs if urb.status == 0]
    seen = [packet for urb in done for packet in packets(urb)]
    assert seen == expected[: len(seen)]
    assert len(bench.requests) == len(taken)
    rest = sum(len(shape) for shape in shapes) - len(seen)
    assert rest == 0 or len(offered) < len(wanted)
    assert b"".join(b"".join(urb.data) for urb in done) == b"".join(
        data[:room] for room, data in taken[: len(seen)]
    )
    assert [urb.error_count for urb in done] == [
        sum(status != 0 for _, status in packets(urb)) for urb in done
    ]
