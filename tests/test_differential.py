"""Random rows: the userspace UDC and its Pipe do as a naive model of the bus does (udc_model.py).

tests/kernel/test_differential.py plays such rows on the kernel's UDCs.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator
from typing import Final

import pytest

from tests.kernel.test_differential import BENCHES, rows_of
from tests.udc_bench import Bench, UserspaceBench
from tests.udc_conformance import ROWS
from tests.udc_model import DONE, QUIRKS, Load, Quirk, Wire, predict, quirks_of
from tests.udc_random import random_row
from tests.udc_row import Row, Seen, assert_played, shown
from usbip_vudc.errors import Overflow, RequestWithdrawn, TransferError
from usbip_vudc.function import Request
from usbip_vudc.pipe import Pipe
from usbip_vudc.sglist import SGList
from usbip_vudc.urb import URB_ZERO_PACKET, Urb
from usbip_vudc.usb.ch9 import Direction, Speed

# --- the model itself --------------------------------------------------------------------------

WORLDS: Final = (
    frozenset[str](),
    frozenset(("FunctionFS", "usbip-vudc")),
    frozenset(("FunctionFS", "dummy_udc")),
)
"""Traits of the kinds of benches."""


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_model_gives_every_row_of_the_conformance_suite(row: Row) -> None:
    for traits in WORLDS:
        # dummy_udc's FIFO takes a row's short packets at full speed, where nobody plays it.
        for packet in (512, 1024) if traits else (64, 512, 1024):
            assert_row(row.seen_on(traits), row, packet, traits)


def assert_row(seen: Seen, row: Row, packet: int, traits: frozenset[str]) -> None:
    played = predict(row.steps, packet, quirks_of(traits))
    assert list(played.requests) == [shown(outcome, packet) for outcome in seen.requests]
    assert list(played.transfers) == [shown(outcome, packet) for outcome in seen.transfers]
    assert (played.read != played.given or played.taken != played.written) == seen.lost


def test_every_quirk_is_met_by_the_rows_that_a_kernel_plays() -> None:
    met: set[Quirk] = set()
    for name, make in BENCHES.items():
        for row in rows_of(name):
            plain = predict(row.steps, row.packet)
            quirks = quirks_of(make().traits)
            met |= {quirk for quirk in quirks if predict(row.steps, row.packet, (quirk,)) != plain}
    assert met == set(QUIRKS)


# --- the generator -----------------------------------------------------------------------------


def test_the_same_seed_makes_the_same_row() -> None:
    rows = [random_row(seed, 512) for seed in range(20)]
    assert rows == [random_row(seed, 512) for seed in range(20)]
    assert len({row.steps for row in rows}) == 20


def test_a_row_prints_as_text_that_pastes_back() -> None:
    words = vars(__import__("tests.udc_row", fromlist=["*"]))
    for seed in range(40):
        row = random_row(seed, 512, zero_packets=True)
        assert eval(str(row), {**words}) == row.steps
        assert eval(row.call) == row


# --- over the cable ----------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[Speed.FULL, Speed.HIGH, Speed.SUPER], ids=lambda s: s.word)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with UserspaceBench(request.param) as bench:
        bench.plug()
        yield bench


@pytest.mark.parametrize(("seeds", "late_bytes"), [(range(12), True), (range(100, 180), False)])
def test_random_rows_give_what_the_model_says(bench: Bench, seeds: range, late_bytes: bool) -> None:
    for seed in seeds:
        row = random_row(seed, bench.max_packet_size, zero_packets=True, late_bytes=late_bytes)
        assert_played(bench, row.steps, predict(row.steps, row.packet), str(row))


# --- the pipe alone, in any order --------------------------------------------------------------


class Pair:
    """A Pipe and a Wire, to which the same is done."""

    def __init__(self, rng: random.Random, packet: int) -> None:
        self.rng = rng
        self.packet = packet
        self.is_in = rng.random() < 0.5
        self.wire = Wire(self.is_in, packet)
        self.pipe = Pipe(
            Direction.IN if self.is_in else Direction.OUT,
            packet,
            on_urb=lambda _urb: None,
            on_request=lambda request, error: request.complete(error),
        )
        self.requests: list[tuple[Request, Load]] = []
        self.urbs: list[tuple[Urb, Load]] = []

    def length(self) -> int:
        near = self.rng.randrange(4) * self.packet
        return max(near + self.rng.choice((-1, 0, 0, 0, 1, self.rng.randrange(self.packet))), 0)

    def queue(self) -> None:
        length, zero = self.length(), self.is_in and self.rng.random() < 0.3
        partial = not self.is_in and self.rng.random() < 0.3
        data = self.rng.randbytes(length) if self.is_in else bytes(length)
        cuts = sorted(self.rng.randint(0, length) for _ in range(3))
        lengths = [b - a for a, b in zip((0, *cuts), (*cuts, length), strict=True) if b > a]
        sg = SGList.laid_out(bytearray(data), lengths)
        request = Request(sg, zero=zero, partial=partial)
        load = Load(length, bytearray(data if self.is_in else b""), zero, partial)
        self.requests.append((request, load))
        self.pipe.queue(request)
        self.wire.queue(load)

    def submit(self) -> None:
        length, zero = self.length(), not self.is_in and self.rng.random() < 0.3
        data = b"" if self.is_in else self.rng.randbytes(length)
        urb = Urb(len(self.urbs), 0x81 if self.is_in else 1, length, URB_ZERO_PACKET if zero else 0)
        load = Load(length, bytearray(data), zero)
        self.urbs.append((urb, load))
        if data:
            self.pipe.landing(urb).put(memoryview(data))
        self.pipe.submit(urb)
        self.wire.submit(load)

    def unlink(self) -> None:
        if self.urbs:
            urb, load = self.rng.choice(self.urbs)
            assert self.pipe.unlink(urb) == (load.end is None)
            self.wire.take_back(load, "unlinked")

    def withdraw(self) -> None:
        if self.requests:
            request, load = self.rng.choice(self.requests)
            self.pipe.withdraw(request)
            self.wire.take_back(load, "withdrawn")

    def halt(self) -> None:
        self.pipe.set_halt()
        self.wire.halt()

    def clear(self) -> None:
        self.pipe.clear_halt()
        self.wire.clear()

    def assert_same(self) -> None:
        for request, load in self.requests:
            assert (request.done, request.actual) == (load.end is not None, load.moved)
            if request.done:
                assert type(request.error) is ENDS[load.end], load
            if not self.is_in:
                assert request.sg.gather()[: load.moved] == load.data
        for urb, load in self.urbs:
            ended = None if load.end in (None, "unlinked") else self.status(load)
            assert (urb.status, urb.actual) == (ended, load.moved)
            if self.is_in:
                assert b"".join(urb.data) == load.data

    def status(self, load: Load) -> int:
        if load.end == "EPIPE":
            return -errno.EPIPE
        return -errno.EOVERFLOW if load.end == "too much" and self.is_in else 0


ENDS: Final[dict[str | None, type[TransferError | None]]] = {
    DONE: type(None),
    "too much": Overflow,
    "withdrawn": RequestWithdrawn,
}


@pytest.mark.parametrize("packet", [8, 64, 512])
def test_a_pipe_does_as_the_wire_in_any_order(packet: int) -> None:
    for seed in range(150):
        pair = Pair(random.Random(f"{seed}/{packet}"), packet)
        acts = (pair.queue, pair.submit, pair.unlink, pair.withdraw, pair.halt, pair.clear)
        done = []
        for act in pair.rng.choices(acts, (8, 8, 1, 1, 1, 2), k=30):
            done.append(act.__name__)
            act()
            try:
                pair.assert_same()
            except AssertionError as error:
                error.add_note(f"seed {seed}, packet {packet}: {' '.join(done)}")
                raise
