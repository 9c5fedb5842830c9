"""Bus time: service intervals, the bandwidth of a frame, and fair shares of it."""

from __future__ import annotations

import pytest

from usbip_vudc.function import Request
from usbip_vudc.pace import Bus, period
from usbip_vudc.pipe import Pipe
from usbip_vudc.urb import Urb
from usbip_vudc.usb.ch9 import Direction, Speed, TransferType

INTERRUPT, ISO, BULK = TransferType.INTERRUPT, TransferType.ISOCHRONOUS, TransferType.BULK


@pytest.mark.parametrize(
    ("transfer_type", "bInterval", "speed", "microframes"),
    [
        (BULK, 1, Speed.HIGH, 0),
        (TransferType.CONTROL, 0, Speed.LOW, 0),
        (INTERRUPT, 10, Speed.LOW, 80),
        (INTERRUPT, 1, Speed.FULL, 8),
        (INTERRUPT, 255, Speed.FULL, 2040),
        (INTERRUPT, 1, Speed.HIGH, 1),
        (INTERRUPT, 7, Speed.HIGH, 64),
        (INTERRUPT, 16, Speed.SUPER, 32768),
        (INTERRUPT, 40, Speed.SUPER, 32768),
        (INTERRUPT, 0, Speed.HIGH, 1),
        (ISO, 1, Speed.FULL, 8),
        (ISO, 4, Speed.FULL, 64),
        (ISO, 4, Speed.SUPER, 8),
    ],
)
def test_period(
    transfer_type: TransferType, bInterval: int, speed: Speed, microframes: int
) -> None:
    assert period(transfer_type, bInterval, speed) == microframes


class Scene:
    """A bus whose clock stands, with pipes on it."""

    def __init__(self, speed: Speed) -> None:
        self.bus = Bus(speed, lambda: None, clock=lambda: 0.0)
        self.attentions = 0

    def pipe(
        self, size: int, microframes: int, length: int = 0, direction: Direction = Direction.IN
    ) -> Pipe:
        pipe = Pipe(
            direction,
            size,
            on_urb=lambda _urb: None,
            on_request=lambda request, error: request.complete(error),
            pace=self._attend,
        )
        self.bus.add(pipe, microframes, length)
        return pipe

    def _attend(self) -> None:
        self.attentions += 1
        self.bus.attend()


def offer(pipe: Pipe, length: int) -> Urb:
    """As many bytes on both sides."""
    urb = Urb(1, 0x81, length)
    pipe.submit(urb)
    pipe.queue(Request(bytearray(length)))
    return urb


def test_nothing_moves_before_its_frame() -> None:
    scene = Scene(Speed.LOW)
    pipe = scene.pipe(8, 80, 8)
    urb = offer(pipe, 8)
    assert (urb.status, urb.actual) == (None, 0)
    assert scene.attentions
    for number in range(1, 10):
        scene.bus.frame(number)
        assert urb.status is None
    scene.bus.frame(10)
    assert (urb.status, urb.actual) == (0, 8)


def test_an_interrupt_endpoint_moves_one_packet_an_interval() -> None:
    scene = Scene(Speed.FULL)
    urb = offer(scene.pipe(64, 16, 64), 640)
    moved = []
    for number in range(8):
        scene.bus.frame(number)
        moved.append(urb.actual)
    assert moved == [64, 64, 128, 128, 192, 192, 256, 256]


def test_a_microframe_interval_moves_eight_packets_a_frame() -> None:
    scene = Scene(Speed.HIGH)
    urb = offer(scene.pipe(64, 1, 64), 1024)
    scene.bus.frame(0)
    assert urb.actual == 8 * 64


def test_a_high_bandwidth_endpoint_moves_more_packets_an_interval() -> None:
    scene = Scene(Speed.HIGH)
    urb = offer(scene.pipe(1024, 8, 3072), 8192)
    scene.bus.frame(0)
    assert urb.actual == 3072


@pytest.mark.parametrize(
    ("speed", "size", "bytes_a_frame"),
    [
        (Speed.FULL, 64, 1216),
        (Speed.HIGH, 512, 53248),
        (Speed.SUPER, 1024, 490_000 // 1024 * 1024),
    ],
)
def test_a_bulk_endpoint_has_the_bandwidth_of_its_speed(
    speed: Speed, size: int, bytes_a_frame: int
) -> None:
    scene = Scene(speed)
    urb = offer(scene.pipe(size, 0), 2 << 20)
    scene.bus.frame(0)
    assert urb.actual == bytes_a_frame
    scene.bus.frame(1)
    assert urb.actual == 2 * bytes_a_frame


def test_bulk_endpoints_share_a_frame_and_take_what_others_leave() -> None:
    scene = Scene(Speed.HIGH)
    busy, quiet = (offer(scene.pipe(512, 0), length) for length in (1 << 20, 1024))
    other = offer(scene.pipe(512, 0), 1 << 20)
    scene.bus.frame(0)
    assert quiet.status == 0
    assert busy.actual + other.actual == 53248 - 1024
    assert abs(busy.actual - other.actual) <= 3 * 512


def test_periodic_packets_go_first() -> None:
    scene = Scene(Speed.FULL)
    bulk = offer(scene.pipe(64, 0), 4096)
    interrupt = offer(scene.pipe(64, 8, 64), 64)
    scene.bus.frame(0)
    assert interrupt.status == 0
    assert bulk.actual == 1216 - 64


def test_a_short_packet_and_a_zlp_take_the_time_of_whole_ones() -> None:
    scene = Scene(Speed.FULL)
    pipe = scene.pipe(64, 0)
    urbs = []
    for length in (0, 1) * 15:
        urb = Urb(1, 0x81, 64)
        pipe.submit(urb)
        pipe.queue(Request(bytearray(length)))
        urbs.append(urb)
    scene.bus.frame(0)
    assert sum(urb.status == 0 for urb in urbs) == 19


def test_withdrawn_in_the_middle_a_request_leaves_what_had_moved() -> None:
    scene = Scene(Speed.FULL)
    pipe = scene.pipe(64, 8, 64)
    urb = Urb(1, 0x81, 128)
    pipe.submit(urb)
    memory = bytearray(b"a" * 128)
    request = Request(memory)
    pipe.queue(request)
    scene.bus.frame(0)
    pipe.withdraw(request)
    memory[:] = b"b" * 128
    pipe.queue(Request(b"c" * 64))
    scene.bus.frame(1)
    assert b"".join(urb.data) == b"a" * 64 + b"c" * 64


def test_in_bus_time_a_payload_never_lands_in_a_request_that_may_be_withdrawn() -> None:
    scene = Scene(Speed.FULL)
    pipe = scene.pipe(64, 8, 64, Direction.OUT)
    memory = bytearray(64)
    request = Request(memory)
    pipe.queue(request)
    urb = Urb(1, 0x01, 64)
    pipe.landing(urb).put(memoryview(b"x" * 64))
    pipe.submit(urb)
    pipe.withdraw(request)
    assert not any(memory)
    taken = bytearray(64)
    pipe.queue(Request(taken))
    scene.bus.frame(0)
    assert taken == b"x" * 64


def test_a_removed_pipe_has_no_turn() -> None:
    scene = Scene(Speed.FULL)
    pipe = scene.pipe(64, 8, 64)
    urb = offer(pipe, 64)
    scene.bus.remove(pipe)
    scene.bus.frame(0)
    assert urb.status is None
