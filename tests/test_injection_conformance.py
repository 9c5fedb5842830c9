"""The conformance suite once more, with plans that must not show: at every seam, on each speed.

Layouts that cut a transfer show in two places alone, which kernels have, too: a partial request
completes with its first part (`CUTS`, as on FunctionFS), and a read that times out keeps the URBs
that it had (`HOST_CUTS`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import usb.core

from tests.udc_bench import Bench, UserspaceBench, claimed
from tests.udc_conformance import CUTS, HOST_CUTS, ROWS
from tests.udc_lifecycle import LIFE_CLAIMS
from tests.udc_model import predict
from tests.udc_random import random_row
from tests.udc_row import Queue, Row, assert_played, play
from tests.udc_running import RUNNING_CLAIMS, Claim
from usbip_vudc.exportable import Export
from usbip_vudc.gadget import Gadget
from usbip_vudc.injection import Plan, injected, injected_connect
from usbip_vudc.proxy.export import InjectedExport
from usbip_vudc.pyusb_backend import get_backend
from usbip_vudc.serving import serving_in
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.vudc import UserspaceUDC

PLANS = {
    "packets": (Speed.HIGH, "function layout(each:packets:1)"),
    # A drop on OUT lets one request at a time wait; this one never happens, so all else is that
    # everything goes through the wrappers.
    "nothing": (Speed.FULL, "function.out nth(1000000) drop; cable nth(1000000) stall"),
    "the host's packets": (Speed.SUPER, "host layout(each:packets:1)"),
    "everywhere": (
        Speed.SUPER,
        "function layout(odd); host layout(random:7); cable tcp_cut(1, 47, 1448)",
    ),
}


class InjectedBench(UserspaceBench):
    """The userspace bench with a plan at all three seams."""

    def __init__(self, speed: Speed, plan: Plan) -> None:
        super().__init__(speed)
        self.plan = plan
        if "each:" in str(plan):
            self.traits |= {CUTS}
        if "each:" in str(plan.for_seam("host")):
            self.traits |= {HOST_CUTS}

    @property
    def gadget(self) -> Gadget:
        """The suite's device, wrapped where the plan says so."""
        return injected(super().gadget, self.plan)

    @contextmanager
    def controller(self) -> Iterator[None]:
        """A server that exports it through a relay, where the plan has rules for the cable."""
        export = Export(1, UserspaceUDC(self.gadget, speed=self.speed))
        through = InjectedExport(export, self.plan) if self.plan.for_seam("cable") else export
        with serving_in(self.portal, through) as self.port:
            yield

    @contextmanager
    def cable(self) -> Iterator[usb.core.Device]:
        """Imported by our backend, whose transfers go through the plan."""
        backend = get_backend(port=self.port, connect=injected_connect(self.plan))
        with claimed(usb.core.find(backend=backend)) as host:
            yield host


@pytest.fixture(scope="module", params=PLANS)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    speed, text = PLANS[request.param]
    with InjectedBench(speed, Plan.parse(text)) as bench:
        bench.plug()
        yield bench


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row(bench: Bench, row: Row) -> None:
    play(bench, row)


@pytest.mark.parametrize("claim", RUNNING_CLAIMS, ids=lambda claim: claim.__name__)
def test_running(bench: Bench, claim: Claim) -> None:
    with bench.ready():
        claim(bench)


@pytest.mark.parametrize("claim", LIFE_CLAIMS, ids=lambda claim: claim.__name__)
def test_life(bench: Bench, claim: Claim) -> None:
    with bench.ready():
        claim(bench)


def test_random_rows(bench: Bench) -> None:
    """What the model of the bus says without a plan is what comes of it with one."""
    cuts = CUTS in bench.traits
    for seed in range(2019, 2059):
        row = random_row(seed, bench.max_packet_size, zero_packets=True, late_bytes=False)
        steps = row.steps
        if cuts:
            steps = tuple(replace(s, partial=False) if isinstance(s, Queue) else s for s in steps)
        expected = predict(steps, row.packet)
        # What babbles is over as a whole; of a transfer that was cut it is one request.
        if not (cuts and "EOVERFLOW" in expected.transfers):
            assert_played(bench, steps, expected, str(row))
