"""Pipe: the ten conformance rows, NAK, unlink, halts, and invariants over random traffic."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbip_vudc.errors import (
    EndpointDisabled,
    LocalProtocolError,
    Overflow,
    RequestWithdrawn,
    TransferError,
)
from usbip_vudc.function import Request
from usbip_vudc.pipe import Pipe
from usbip_vudc.sglist import SGList
from usbip_vudc.urb import URB_ZERO_PACKET, Urb
from usbip_vudc.usb.ch9 import Direction

MAXPACKET = 512


@dataclass
class Bench:
    """A pipe with what completed on either side, in order."""

    direction: Direction
    max_packet_size: int = MAXPACKET
    urbs: list[Urb] = field(default_factory=list)
    requests: list[tuple[Request, TransferError | None]] = field(default_factory=list)
    seqnum: int = 0

    def __post_init__(self) -> None:
        self.pipe = Pipe(
            self.direction,
            self.max_packet_size,
            on_urb=self.urbs.append,
            on_request=self._on_request,
        )

    def _on_request(self, request: Request, error: TransferError | None) -> None:
        self.requests.append((request, error))
        request.complete(error)

    def urb(self, length: int = 0, *, data: bytes = b"", flags: int = 0) -> Urb:
        """Submit a URB: ``length`` bytes of room (IN), or ``data`` (OUT)."""
        self.seqnum += 1
        urb = Urb(self.seqnum, self.direction | 1, length or len(data), flags)
        if self.direction == Direction.OUT and data:
            landing = self.pipe.landing(urb)
            landing.put(memoryview(data))
        self.pipe.submit(urb)
        return urb

    def queue(self, data: bytes | bytearray | SGList | int, *, zero: bool = False) -> Request:
        """Queue a request: bytes to send, or a number of bytes of room."""
        request = Request(bytearray(data) if isinstance(data, int) else data, zero=zero)
        self.pipe.queue(request)
        return request


def pattern(length: int) -> bytes:
    return bytes(i % 251 for i in range(length))


def received(urb: Urb) -> bytes:
    return b"".join(urb.data)


def in_bench() -> Bench:
    return Bench(Direction.IN)


def out_bench() -> Bench:
    return Bench(Direction.OUT)


# --- the ten rows (maxpacket 512), as usbip-vudc and dummy_udc give them -----------------------


def test_row_sg_out_short() -> None:
    bench = out_bench()
    buffer = bytearray(1536)
    request = bench.queue(SGList.laid_out(buffer, (1, 511, 3, 600, 421)))
    urb = bench.urb(data=pattern(1000))
    assert (urb.status, urb.actual) == (0, 1000)
    assert (request.actual, request.error) == (1000, None)
    assert buffer[:1000] == pattern(1000)


def test_row_out_full_then_zlp() -> None:
    bench = out_bench()
    request = bench.queue(1536)
    first = bench.urb(data=pattern(1024))
    assert (first.status, request.done) == (0, False)
    zlp = bench.urb()
    assert (zlp.status, zlp.actual) == (0, 0)
    assert (request.actual, request.error) == (1024, None)


def test_row_sg_in_short() -> None:
    bench = in_bench()
    request = bench.queue(SGList.laid_out(pattern(1111), (1, 511, 3, 596)))
    urb = bench.urb(2048)
    assert (urb.status, urb.actual, received(urb)) == (0, 1111, pattern(1111))
    assert (request.actual, request.error) == (1111, None)


def test_row_in_then_zlp() -> None:
    bench = in_bench()
    bench.queue(pattern(512))
    bench.queue(b"")
    urb = bench.urb(2048)
    assert (urb.status, urb.actual) == (0, 512)


def test_row_two_requests_one_urb() -> None:
    bench = in_bench()
    bench.queue(pattern(512))
    bench.queue(pattern(100))
    urb = bench.urb(2048)
    assert (urb.status, urb.actual, received(urb)) == (0, 612, pattern(512) + pattern(100))


def test_row_short_splits() -> None:
    bench = in_bench()
    bench.queue(pattern(100))
    bench.queue(pattern(412))
    first, second = bench.urb(512), bench.urb(512)
    assert [(u.status, u.actual) for u in (first, second)] == [(0, 100), (0, 412)]


def test_row_halt_then_csw() -> None:
    bench = in_bench()
    bench.pipe.halt()
    csw = bench.queue(pattern(13))
    stalled = bench.urb(13)
    assert stalled.status == -errno.EPIPE
    assert not csw.done
    bench.pipe.clear_halt()
    urb = bench.urb(13)
    assert (urb.status, received(urb)) == (0, pattern(13))


def test_row_request_spans_urbs() -> None:
    bench = in_bench()
    request = bench.queue(pattern(1024))
    first, second = bench.urb(512), bench.urb(512)
    assert [(u.status, u.actual) for u in (first, second)] == [(0, 512), (0, 512)]
    assert received(first) + received(second) == pattern(1024)
    assert request.done


def test_row_request_larger_than_urb() -> None:
    bench = in_bench()
    bench.queue(pattern(600))
    first, second = bench.urb(512), bench.urb(512)
    assert [(u.status, u.actual) for u in (first, second)] == [(0, 512), (0, 88)]


def test_row_babble() -> None:
    bench = in_bench()
    request = bench.queue(pattern(100))
    urb = bench.urb(64)
    assert (urb.status, urb.actual) == (-errno.EOVERFLOW, 64)
    assert (request.actual, request.error, request.done) == (64, None, True)


# --- the thread of 2019 ------------------------------------------------------------------------


def test_sg_entry_that_is_no_multiple_of_maxpacket_babbles() -> None:
    bench = Bench(Direction.IN, max_packet_size=1024)
    bench.queue(pattern(32256))
    urb = bench.urb(3584)
    assert (urb.status, urb.actual) == (-errno.EOVERFLOW, 3584)


def test_whole_sg_list_in_one_urb_is_received() -> None:
    bench = Bench(Direction.IN, max_packet_size=1024)
    bench.queue(pattern(32256))
    urb = bench.urb(32256)
    assert (urb.status, received(urb)) == (0, pattern(32256))


# --- ZLPs, NAK, overflow -----------------------------------------------------------------------


def test_zero_flag_sends_zlp_to_the_next_urb() -> None:
    bench = in_bench()
    request = bench.queue(pattern(512), zero=True)
    first = bench.urb(512)
    assert (first.status, request.done) == (0, False)
    second = bench.urb(512)
    assert (second.status, second.actual, request.done) == (0, 0, True)


def test_zero_flag_after_a_short_packet_adds_nothing() -> None:
    bench = in_bench()
    request = bench.queue(pattern(600), zero=True)
    urb = bench.urb(2048)
    assert (urb.status, urb.actual, request.done) == (0, 600, True)


@pytest.mark.parametrize(("room", "takes_zlp"), [(1024, False), (512, True)])
def test_urb_zero_packet_completes_only_when_its_zlp_is_taken(room: int, takes_zlp: bool) -> None:
    bench = out_bench()
    request = bench.queue(room)
    urb = bench.urb(data=pattern(512), flags=URB_ZERO_PACKET)
    assert request.actual == 512
    assert (urb.status is None) == takes_zlp
    if takes_zlp:
        zlp = bench.queue(512)
        assert (urb.status, zlp.actual, zlp.done) == (0, 0, True)


def test_no_request_is_nak_a_pending_urb() -> None:
    bench = in_bench()
    urb = bench.urb(512)
    assert not bench.urbs
    bench.queue(b"late")
    assert bench.urbs == [urb]
    assert (urb.status, received(urb)) == (0, b"late")


@pytest.mark.parametrize(("room", "sent", "actual"), [(100, 512, 100), (700, 1024, 700)])
def test_out_request_too_small_overflows_and_the_rest_is_lost(
    room: int, sent: int, actual: int
) -> None:
    bench = out_bench()
    request = bench.queue(room)
    urb = bench.urb(data=pattern(sent))
    assert (urb.status, urb.actual) == (0, actual)
    assert isinstance(request.error, Overflow)
    assert request.actual == actual
    assert bytes(request.sg.gather()) == pattern(sent)[:actual]


def test_babble_on_a_urb_without_room() -> None:
    bench = in_bench()
    bench.queue(b"x")
    assert bench.urb(0).status == -errno.EOVERFLOW


def test_partial_request_completes_with_its_urb_on_whole_packets() -> None:
    bench = out_bench()
    request = Request(bytearray(4096), partial=True)
    bench.pipe.queue(request)
    bench.urb(data=pattern(1024))
    assert (request.done, request.actual) == (True, 1024)
    behind = Request(bytearray(4096), partial=True)
    bench.pipe.queue(behind)
    urb = bench.urb(data=pattern(512), flags=URB_ZERO_PACKET)
    assert (behind.actual, urb.status) == (512, None), "the ZLP is still owed"


# --- landing: payloads received straight into a request ----------------------------------------


def test_payload_lands_in_the_waiting_request() -> None:
    bench = out_bench()
    buffer = bytearray(1024)
    bench.queue(buffer)
    urb = bench.urb(data=pattern(1024))
    assert urb.landed
    assert buffer == pattern(1024)


def test_second_payload_lands_behind_the_first() -> None:
    bench = out_bench()
    request = bench.queue(2048)
    bench.urb(data=pattern(512))
    bench.urb(data=pattern(100))
    assert request.done
    assert request.sg.gather()[:612] == pattern(512) + pattern(100)


def test_request_posted_while_the_payload_arrives_completes_it() -> None:
    bench = out_bench()
    urb = Urb(1, 1, 600)
    landing = bench.pipe.landing(urb)
    landing.put(memoryview(pattern(600))[:200])
    request = bench.queue(1024)
    landing.put(memoryview(pattern(600))[200:])
    bench.pipe.submit(urb)
    assert (urb.status, request.actual) == (0, 600)
    assert request.sg.gather()[:600] == pattern(600)


def test_request_withdrawn_while_the_payload_arrives_loses_nothing() -> None:
    bench = out_bench()
    request = bench.queue(1024)
    urb = Urb(1, 1, 600)
    landing = bench.pipe.landing(urb)
    landing.put(memoryview(pattern(600))[:200])
    bench.pipe.withdraw(request)
    landing.put(memoryview(pattern(600))[200:])
    bench.pipe.submit(urb)
    assert isinstance(request.error, RequestWithdrawn)
    assert not bench.urbs
    second = bench.queue(1024)
    assert (urb.status, second.actual) == (0, 600)
    assert second.sg.gather()[:600] == pattern(600)


# --- halts, unlink, disable --------------------------------------------------------------------


def test_halt_ends_every_pending_urb() -> None:
    bench = in_bench()
    urbs = [bench.urb(512), bench.urb(512)]
    bench.pipe.halt()
    assert [u.status for u in urbs] == [-errno.EPIPE, -errno.EPIPE]


def test_halt_with_in_requests_queued_is_refused() -> None:
    bench = in_bench()
    bench.queue(b"data")
    with pytest.raises(LocalProtocolError, match="1 IN request"):
        bench.pipe.halt()


def test_out_requests_survive_a_halt() -> None:
    bench = out_bench()
    request = bench.queue(512)
    bench.pipe.halt()
    assert bench.urb(data=b"refused").status == -errno.EPIPE
    bench.pipe.clear_halt()
    bench.urb(data=b"accepted")
    assert request.sg.gather()[: request.actual] == b"accepted"


def test_a_wedge_survives_the_host_and_ends_with_a_halt_that_does_not() -> None:
    bench = in_bench()
    bench.pipe.wedge()
    for _ in range(2):
        bench.pipe.clear_halt()
        assert bench.pipe.halted
        assert bench.urb(512).status == -errno.EPIPE
    bench.queue(b"after")
    bench.pipe.clear_halt()
    assert bench.urb(512).status == -errno.EPIPE
    bench.pipe.withdraw(bench.pipe.requests[0])
    bench.pipe.halt()
    assert bench.pipe.halted
    bench.pipe.clear_halt()
    bench.queue(b"after")
    assert bench.urb(512).status == 0


def test_wedging_with_in_requests_queued_is_refused() -> None:
    bench = in_bench()
    bench.queue(b"data")
    with pytest.raises(LocalProtocolError, match="1 IN request"):
        bench.pipe.wedge()
    bench.pipe.set_halt()
    bench.pipe.clear_halt()
    assert bench.urb(512).status == 0


def test_unlink_forgets_a_pending_urb() -> None:
    bench = in_bench()
    urb = bench.urb(512)
    assert bench.pipe.unlink(urb)
    bench.queue(b"for the next")
    assert urb.status is None
    assert received(bench.urb(512)) == b"for the next"


def test_unlink_of_a_completed_urb_finds_nothing() -> None:
    bench = in_bench()
    bench.queue(b"done")
    assert not bench.pipe.unlink(bench.urb(512))


def test_disable_completes_both_sides_once() -> None:
    bench = in_bench()
    urb = bench.urb(512)
    bench.pipe.disable()
    request = bench.queue(b"too late")
    assert urb.status == -errno.ESHUTDOWN
    assert isinstance(request.error, EndpointDisabled)
    assert bench.urb(512).status == -errno.EPROTO


def test_disable_gives_queued_requests_back() -> None:
    bench = out_bench()
    request = bench.queue(512)
    bench.pipe.disable()
    assert isinstance(request.error, EndpointDisabled)


def test_a_request_is_queued_once_at_a_time_and_may_be_used_again() -> None:
    bench = in_bench()
    request = bench.queue(b"again")
    with pytest.raises(LocalProtocolError, match="queued already"):
        bench.pipe.queue(request)
    for _ in range(2):
        assert received(bench.urb(512)) == b"again"
        assert (request.done, request.actual) == (True, 5)
        bench.pipe.queue(request)
        assert (request.done, request.actual) == (False, 0)


def test_an_out_request_needs_memory_that_can_be_written_to() -> None:
    bench = out_bench()
    for data in (b"constant", SGList(bytearray(8), b"constant")):
        with pytest.raises(LocalProtocolError, match="read-only"):
            bench.queue(data)
    assert not bench.pipe.requests
    in_bench().queue(b"constant")


# --- invariants over random traffic ------------------------------------------------------------

packet_sizes = st.sampled_from([8, 64, 512, 1024])
lengths = st.integers(0, 3000)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("urb"), lengths, st.booleans()),
        st.tuples(st.just("request"), lengths, st.booleans()),
        st.tuples(st.just("unlink"), st.integers(0, 9), st.just(False)),
        st.tuples(st.just("withdraw"), st.integers(0, 9), st.just(False)),
        st.tuples(st.just("halt"), st.just(0), st.just(False)),
        st.tuples(st.just("clear"), st.just(0), st.just(False)),
    ),
    max_size=40,
)


def play(bench: Bench, script: list[tuple[str, int, bool]]) -> tuple[list[Urb], list[Request]]:
    """Run a script of actions; all URBs and requests, in the order of their submission."""
    urbs: list[Urb] = []
    requests: list[Request] = []
    sent = 0
    for action, number, flag in script:
        if action == "urb":
            data = bytes((sent + i) % 251 for i in range(number))
            is_out = bench.direction == Direction.OUT
            sent += number if is_out else 0
            flags = URB_ZERO_PACKET if flag and is_out else 0
            urbs.append(bench.urb(number, data=data if is_out else b"", flags=flags))
        elif action == "request":
            data = bytes((sent + i) % 251 for i in range(number))
            sent += number if bench.direction == Direction.IN else 0
            layout = [n for n in (number // 3, number - number // 3) if n]
            sg = SGList.laid_out(bytearray(data), layout)
            requests.append(bench.queue(sg, zero=flag))
        elif action == "unlink" and number < len(urbs):
            bench.pipe.unlink(urbs[number])
        elif action == "withdraw" and number < len(requests):
            bench.pipe.withdraw(requests[number])
        elif action == "halt" and not bench.pipe.requests:
            bench.pipe.halt()
        elif action == "clear":
            bench.pipe.clear_halt()
    return urbs, requests


@given(packet_sizes, actions)
def test_in_traffic_keeps_its_invariants(size: int, script: list[tuple[str, int, bool]]) -> None:
    bench = Bench(Direction.IN, max_packet_size=size)
    urbs, requests = play(bench, script)
    assert len(bench.urbs) == len({id(u) for u in bench.urbs}), "a URB completed twice"
    assert len(bench.requests) == len({id(r) for r, _ in bench.requests})
    for urb in urbs:
        assert urb.actual == len(received(urb)) <= urb.length
        if urb.status == -errno.EOVERFLOW:
            assert urb.actual == urb.length, "babble fills the URB first"
    # Bytes are conserved and in order: every byte that left a request is in exactly one URB.
    moved = b"".join(r.sg.gather()[: r.actual] for r in requests)
    assert b"".join(received(u) for u in urbs) == moved
    assert not (bench.pipe.urbs and bench.pipe.requests and not bench.pipe.halted)


@given(packet_sizes, actions)
def test_out_traffic_keeps_its_invariants(size: int, script: list[tuple[str, int, bool]]) -> None:
    bench = Bench(Direction.OUT, max_packet_size=size)
    urbs, requests = play(bench, script)
    assert len(bench.urbs) == len({id(u) for u in bench.urbs}), "a URB completed twice"
    assert len(bench.requests) == len({id(r) for r, _ in bench.requests})
    for urb in bench.urbs:
        if urb.status == 0 and not any(isinstance(e, Overflow) for _, e in bench.requests):
            assert urb.actual == urb.length
    for request in requests:
        assert request.actual <= request.length
        if request.done and request.error is None:
            full = request.actual == request.length
            assert full or any(u.actual % size or not u.length or u.flags for u in urbs)
    # Bytes are conserved and in order; only an unlink or an overflow may take some away.
    assert sum(u.actual for u in urbs) == sum(r.actual for r in requests)
    assert not (bench.pipe.urbs and bench.pipe.requests and not bench.pipe.halted)
