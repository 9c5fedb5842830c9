"""The function's seam on the kernel's UDCs: f_fs gets the layout that was asked for.

The kernel is asked, not us (ffs_trace.py). One gadget life serves all layouts: each is for a
transfer of its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

import pytest

from tests.kernel.benches import DummyBench, VudcBench
from tests.kernel.ffs_trace import ffs_trace
from tests.udc_bench import Bench
from usbip_vudc.function import Request
from usbip_vudc.gadget import Gadget
from usbip_vudc.injection import Layout, Plan, Segment, injected
from usbip_vudc.usb.ch9 import Speed

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module", autouse=True)
def modules(need_modules: Callable[..., None]) -> None:
    need_modules("vhci-hcd", "usbip-vudc", "dummy_hcd", "libcomposite", "usb_f_fs")


LAID_OUT: Final = {
    "3584+7x4096": 32256,
    "odd": 2000,
    "maxp-1": 5000,
    "page-offset:512": 9000,
    "512@3584+4096@0+1024@2048": 5632,
    "each:packets:1": 2048 + 7,
    "each:3584+4096": 7680,
}
"""Layout -> bytes of the transfer: for both directions at high speed."""

CUT: Final = "[1,511][3,597][][2984]"
"""For IN: a transfer that falls into a full packet, 600 bytes, a ZLP and the rest."""


def layout_plan() -> Plan:
    """Each layout for one transfer of either direction, in order."""
    rules = [
        f"scripted.{way} nth({number}) layout({text})"
        for way in ("in", "out")
        for number, text in enumerate((*LAID_OUT, CUT)[: None if way == "in" else -1], 1)
    ]
    return Plan.parse(";".join(rules))


class PlannedDummyBench(DummyBench):
    """dummy_hcd, with the suite's device behind the plan."""

    @property
    def gadget(self) -> Gadget:
        return injected(super().gadget, layout_plan())


class PlannedVudcBench(VudcBench):
    """usbip-vudc, the same."""

    @property
    def gadget(self) -> Gadget:
        return injected(super().gadget, layout_plan())


@pytest.mark.parametrize(
    "make",
    [lambda: PlannedDummyBench(Speed.HIGH), PlannedVudcBench],
    ids=["dummy_udc", "usbip-vudc"],
)
def test_f_fs_gets_the_segments_and_requests_of_the_layout(make: Callable[[], Bench]) -> None:
    expected: list[tuple[bool, tuple[Segment, ...]]] = []
    with make() as bench, ffs_trace() as trace:
        bench.plug()
        for text, length in LAID_OUT.items():
            data = random.Random(text).randbytes(length)
            for move in (give, take):
                assert move(bench, data, length) == data, text
                requests = Layout.parse(text).apply(length, bench.max_packet_size)
                expected += [(move is give, segments) for segments in requests]
        data = random.Random(CUT).randbytes(4096)
        assert give(bench, data, 4096, 512, 4096) == data
        made = trace.requests()
    assert [(r.is_in, r.lengths) for r in made[:-4]] == [
        (is_in, [segment.length for segment in segments]) for is_in, segments in expected
    ]
    for request, (_, segments) in zip(made, expected, strict=False):
        for (_, offset), segment in zip(request.segments, segments, strict=True):
            assert segment.page_offset in (None, offset)
    assert [r.lengths for r in made[-4:]] == [[1, 511], [3, 597], [], [2984]]
    assert [r.queued for r in made] == [sum(r.lengths) for r in made], "a usb_request for each"


def give(bench: Bench, data: bytes, *rooms: int) -> bytes:
    """The device sends; what the host reads into these rooms."""
    request = bench.queue("in", Request(data))
    read = [bench.read(room, 20_000) for room in rooms]
    bench.wait_done(request)
    assert (request.actual, request.error) == (len(data), None)
    return b"".join(piece for piece in read if isinstance(piece, bytes))


def take(bench: Bench, data: bytes, *rooms: int) -> bytes:
    """The host writes; what the device gets."""
    buffer = bytearray(sum(rooms))
    request = bench.queue("out", Request(buffer))
    assert bench.write(data, 20_000) == (len(data), 0)
    bench.wait_done(request)
    assert (request.actual, request.error) == (len(data), None)
    return bytes(buffer)
