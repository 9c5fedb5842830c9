"""How the bytes of a serial port travel: back-pressure policies, ZLPs, baud pacing, DTR."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest
import trio
import trio.testing

from gadgets.acm.function import AcmFunction
from gadgets.serial.dropping import KEPT_SIZE
from gadgets.serial.flow import BACK_PRESSURE, DROP_NEW, DROP_OLDEST, Flow
from gadgets.serial.generic import GenericSerialFunction
from gadgets.serial.line import BytesDropped
from gadgets.serial.metered import MeteredEndpoint, MeteredIn, MeteredOut, UartClock
from gadgets.serial.packets import RING_SLOTS
from gadgets.serial.profiles import Echo, Sink, Source, Stream, pattern
from tests.serial_bench import (
    SET_LINE_CODING,
    attached,
    control_lines,
    exported,
    noise,
    plugged,
    read,
    read_all,
    write,
)
from usbip_vudc.errors import EndpointDisabled, LocalProtocolError, SchemeError, UrbError
from usbip_vudc.function import Endpoint, Request
from usbip_vudc.host.client import Host
from usbip_vudc.usb.cdc import LineCoding
from usbip_vudc.usb.ch9 import Direction, Speed, TransferType

anyio_test = pytest.mark.anyio

MIB = 1 << 20


async def flood(host: Host, data: bytes) -> None:
    """Write it all: a host that would have to wait fails the test."""
    for start in range(0, len(data), 8192):
        await write(host, data[start : start + 8192])


# --- what becomes of bytes that nobody takes ----------------------------------------------------


@anyio_test
@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        (DROP_OLDEST, slice(MIB - KEPT_SIZE, MIB)),
        (DROP_NEW, slice(KEPT_SIZE)),
    ],
)
async def test_a_drop_policy_keeps_64_kib_and_the_host_never_waits(
    policy: str, kept: slice
) -> None:
    stream = Stream()
    function = AcmFunction(stream, flow=Flow(back_pressure=policy))
    events = function.events()
    data = noise(MIB)
    async with plugged(function) as host:
        await anext(events)
        await flood(host, data)
        received = b""
        while len(received) < KEPT_SIZE:
            received += await stream.receive()
        assert received == data[kept]
        assert function.dropped == MIB - KEPT_SIZE
        first = await anext(events)
        assert isinstance(first, BytesDropped)
        assert 0 < first.total <= function.dropped
        # Once bytes were taken they flow again, and the next loss is told again.
        await flood(host, data[:100])
        assert await stream.receive() == data[:100]
        await flood(host, data)
        assert isinstance(await anext(events), BytesDropped)


@anyio_test
async def test_a_drop_policy_drops_nothing_of_what_is_taken_in_time() -> None:
    sink = Sink(seed=5)
    function = AcmFunction(sink, flow=Flow(back_pressure=DROP_OLDEST))
    async with plugged(function) as host:
        await flood(host, pattern(5, 2 * MIB))
        await sink.wait_received(2 * MIB)
        assert sink.first_wrong is None
        assert function.dropped == 0


@anyio_test
async def test_an_echo_whose_host_reads_late_sends_what_the_policy_kept() -> None:
    function = AcmFunction(Echo(), flow=Flow(back_pressure=DROP_OLDEST))
    data = noise(MIB)
    async with plugged(function) as host:
        await flood(host, data)
        kept = MIB - function.dropped
        received = await read_all(host, kept)
        assert received.endswith(data[-KEPT_SIZE:]), "the newest"
        assert len(received) == kept <= 4 * KEPT_SIZE, "bounded"


@anyio_test
async def test_what_a_drop_policy_kept_outlives_a_reconnect_as_any_byte_of_a_stream() -> None:
    stream = Stream()
    function = AcmFunction(stream, flow=Flow(back_pressure=DROP_NEW))
    async with exported(function) as port:
        async with attached(port) as host:
            await write(host, b"before")
        await function.wait_connected(False)
        assert await stream.receive() == b"before"


@anyio_test
async def test_nak_holds_one_ring_of_a_sink_that_is_a_stream_nobody_reads() -> None:
    function = GenericSerialFunction(Stream(), flow=Flow())
    taken = 0

    async def write_on(host: Host) -> None:
        nonlocal taken
        for _ in range(100):
            taken += await write(host, bytes(8192), None)

    async with plugged(function) as host, anyio.create_task_group() as tasks:
        tasks.start_soon(write_on, host)
        while taken < RING_SLOTS * 8192:
            await anyio.sleep(0.01)
        await anyio.sleep(0.1)
        assert taken == RING_SLOTS * 8192
        tasks.cancel_scope.cancel()


def test_a_policy_that_there_is_not_is_refused() -> None:
    with pytest.raises(SchemeError, match=f"'block': expected one of {', '.join(BACK_PRESSURE)}"):
        Flow(back_pressure="block")


@pytest.mark.parametrize("flow", [Flow(baud_paced=True), Flow(wait_for_dtr=True)])
def test_a_port_without_a_line_has_neither_rate_nor_dtr(flow: Flow) -> None:
    with pytest.raises(SchemeError, match="a generic serial port has no line"):
        GenericSerialFunction(flow=flow)


# --- ZLP ---------------------------------------------------------------------------------------


@anyio_test
@pytest.mark.parametrize(("zlp", "next_transfer"), [(True, b""), (False, b"y")])
async def test_a_write_of_exactly_one_packet_ends_with_a_zlp_unless_told_not_to(
    zlp: bool, next_transfer: bytes
) -> None:
    stream = Stream()
    async with plugged(AcmFunction(stream, flow=Flow(zlp=zlp))) as host:
        await stream.send(b"x" * 512)
        assert await read(host, 512) == b"x" * 512
        await stream.send(b"y")
        assert await read(host, 512) == next_transfer


@anyio_test
async def test_without_a_zlp_a_larger_read_waits_for_more() -> None:
    stream = Stream()
    transfers: list[bytes] = []

    async def read_one(host: Host) -> None:
        transfers.append(await read(host, 4096))

    function = AcmFunction(stream, flow=Flow(zlp=False))
    async with plugged(function) as host, anyio.create_task_group() as tasks:
        tasks.start_soon(read_one, host)
        await stream.send(b"x" * 1024)
        await stream.drain()
        assert transfers == []
        await stream.send(b"more")
        await stream.drain()
        while not transfers:
            await anyio.sleep(0.01)
    assert transfers == [b"x" * 1024 + b"more"]


# --- DTR ---------------------------------------------------------------------------------------


@anyio_test
@pytest.mark.parametrize("speed", [Speed.FULL, Speed.SUPER], ids=lambda speed: speed.word)
async def test_a_port_that_waits_for_dtr_sends_only_then_and_no_byte_twice_or_never(
    speed: Speed,
) -> None:
    function = AcmFunction(Source(seed=4), flow=Flow(wait_for_dtr=True))
    received = b""
    async with plugged(function, speed) as host:
        for _ in range(5):
            with pytest.raises(UrbError) as caught:
                await read(host, 4096, timeout=0.05)
            assert caught.value.actual_length == 0
            await host.control(control_lines(1))
            received += await read_all(host, 40_000, urb_length=10_240)
            await host.control(control_lines(0))
    assert received == pattern(4, len(received))


@anyio_test
async def test_a_port_that_waits_for_dtr_listens_without_it() -> None:
    sink = Sink()
    async with plugged(AcmFunction(sink, flow=Flow(wait_for_dtr=True))) as host:
        await write(host, b"hello")
        await sink.wait_received(5)


@anyio_test
async def test_by_default_nobody_waits_for_dtr() -> None:
    async with plugged(AcmFunction(Source(seed=4))) as host:
        assert await read_all(host, 1000, urb_length=512) == pattern(4, 1024)


# --- pace --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "bits"),
    [("9600 8N1", 10), ("9600 7E1", 10), ("9600 8E2", 12), ("9600 5N1.5", 7.5), ("9600 7N2", 10)],
)
def test_a_character_has_start_data_parity_and_stop_bits(text: str, bits: float) -> None:
    assert LineCoding.from_text(text).characters_per_second == pytest.approx(9600 / bits)


class Wire(Endpoint):
    """An endpoint whose host takes and gives whatever there is, at once."""

    role, transfer_type, address, interface = "in", TransferType.BULK, 0x81, 0
    max_packet_size = 64

    def __init__(self, direction: Direction, data: bytes = b"") -> None:
        self.direction = direction
        self.moved = bytearray()
        self.zlps = 0
        self.pieces: list[int] = []
        self.data = data
        self.withdrawn: list[Request] = []

    def queue(self, request: Request) -> Request:
        request.queued, request.done = True, False
        trio.lowlevel.current_trio_token().run_sync_soon(self._move, request)
        return request

    def _move(self, request: Request) -> None:
        if self.direction == Direction.IN:
            self.moved += request.sg.gather()
            self.zlps += request.zero and request.length % self.max_packet_size == 0
            self.pieces.append(request.length)
            request.actual = request.length
        else:
            piece, self.data = self.data[: request.length], self.data[request.length :]
            if not piece:
                return  # NAK
            request.sg.scatter(piece)
            self.moved += piece
            request.actual = len(piece)
        request.complete()

    def withdraw(self, request: Request) -> None:
        self.withdrawn.append(request)

    def halt(self) -> None:
        raise NotImplementedError


def in_virtual_time(meter: MeteredEndpoint, body: Callable[[], Awaitable[None]]) -> float:
    """Run a meter and a test of it: how many seconds that took by a clock that skips waiting."""

    async def main() -> float:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(meter.run)
            start = trio.current_time()
            await body()
            taken = trio.current_time() - start
            nursery.cancel_scope.cancel()
        return taken

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_bytes_to_the_host_take_the_time_that_a_uart_needs() -> None:
    wire = Wire(Direction.IN)
    meter = MeteredIn(wire, UartClock(lambda: 960.0), None)
    data = noise(1920)

    async def body() -> None:
        await meter.submit(data[:1000])
        await meter.submit(data[1000:])

    assert in_virtual_time(meter, body) == pytest.approx(2.0)
    assert wire.moved == data


@pytest.mark.parametrize(
    ("length", "zero", "zlps"),
    [(164, False, 1), (64, True, 1), (64, False, 0), (640, True, 0), (100, False, 0)],
)
def test_the_last_piece_ends_a_transfer_where_the_request_would(
    length: int, zero: bool, zlps: int
) -> None:
    wire = Wire(Direction.IN)
    # Pieces of 100 bytes: the last of 164 is a full packet of 64, though the request's is short.
    meter = MeteredIn(wire, UartClock(lambda: 10_000.0), None)

    async def body() -> None:
        await meter.submit(Request(bytes(length), zero=zero))

    in_virtual_time(meter, body)
    assert (sum(wire.pieces), wire.zlps) == (length, zlps)
    if zero or length % wire.max_packet_size:
        assert wire.zlps or wire.pieces[-1] % wire.max_packet_size, "a transfer ends"


def test_bytes_from_the_host_are_taken_no_faster_than_a_uart_moves_them() -> None:
    wire = Wire(Direction.OUT, noise(1920))
    meter = MeteredOut(wire, UartClock(lambda: 960.0))
    taken = bytearray()

    async def body() -> None:
        while len(taken) < 1920:
            room = bytearray(16384)
            count = await meter.submit(Request(room, partial=True))
            assert count <= wire.max_packet_size, "no more than a packet at this rate"
            taken.extend(room[:count])

    assert in_virtual_time(meter, body) == pytest.approx(2.0)
    assert taken == noise(1920)


def test_a_rate_that_changes_counts_from_the_next_piece_on() -> None:
    rate = 960.0
    wire = Wire(Direction.IN)
    meter = MeteredIn(wire, UartClock(lambda: rate), None)

    async def body() -> None:
        nonlocal rate
        await meter.submit(bytes(960))
        rate = 96_000.0
        await meter.submit(bytes(96_000))

    assert in_virtual_time(meter, body) == pytest.approx(2.0)


def test_a_metered_request_ends_with_its_configuration_and_says_how_far_it_came() -> None:
    wire = Wire(Direction.OUT, bytes(10))
    meter = MeteredOut(wire, UartClock(lambda: 1.0))
    request = Request(bytearray(64), partial=True)

    async def body() -> None:
        meter.queue(request)
        with pytest.raises(LocalProtocolError):
            meter.queue(request)
        await anyio.sleep(1)  # the bytes have come; their time has not passed
        meter.end()

    in_virtual_time(meter, body)
    assert isinstance(request.error, EndpointDisabled)
    assert request.actual == 10
    late = meter.queue(Request(b"late"))
    assert isinstance(late.error, EndpointDisabled)


@anyio_test
async def test_a_paced_echo_at_a_high_rate_loses_nothing() -> None:
    data = noise(200_000)
    async with plugged(AcmFunction(Echo(), flow=Flow(baud_paced=True))) as host:
        await host.control(SET_LINE_CODING, LineCoding(8_000_000).pack())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(flood, host, data)
            assert await read_all(host, len(data), 65_536) == data


@anyio_test
async def test_what_a_paced_port_took_before_the_host_left_is_not_lost() -> None:
    stream = Stream()
    function = AcmFunction(stream, flow=Flow(baud_paced=True), line_coding=LineCoding(50))
    async with exported(function) as port:
        async with attached(port) as host:
            await write(host, b"slow")
        await function.wait_connected(False)
        assert await stream.receive() == b"slow"
