"""The conformance suite on every UDC that Linux has a hand in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import pytest

from tests.kernel.benches import DummyBench, UserspaceVhciBench, VudcBench, VudcServerBench
from tests.udc_bench import Bench
from tests.udc_conformance import OTHER_ROWS, TEN_ROWS
from tests.udc_lifecycle import LIFE_CLAIMS
from tests.udc_row import Row, play, play_all
from tests.udc_running import RUNNING_CLAIMS, Claim
from usbip_vudc.usb.ch9 import Speed

pytestmark = pytest.mark.kernel

BENCHES: Final[dict[str, Callable[[], Bench]]] = {
    "dummy_udc-high": lambda: DummyBench(Speed.HIGH),
    "dummy_udc-super": lambda: DummyBench(Speed.SUPER),
    "usbip-vudc-vhci": VudcBench,
    "usbip-vudc-server": VudcServerBench,
    "userspace-vhci-super": lambda: UserspaceVhciBench(Speed.SUPER),
    "userspace-vhci-high": lambda: UserspaceVhciBench(Speed.HIGH),
}

on_every_bench = pytest.mark.parametrize("bench", BENCHES, indirect=True)

on_all_but_the_last = pytest.mark.parametrize("bench", tuple(BENCHES)[:-1], indirect=True)
"""What the userspace UDC has shown at one speed under vhci_hcd, and at each without."""


@pytest.fixture(scope="module")
def bench(request: pytest.FixtureRequest, need_modules: Callable[..., None]) -> Iterator[Bench]:
    need_modules("vhci-hcd", "usbip-vudc", "dummy_hcd", "libcomposite", "usb_f_fs")
    with BENCHES[request.param]() as bench:
        bench.plug()
        yield bench


@pytest.mark.parametrize("row", TEN_ROWS, ids=lambda row: row.name)
@on_every_bench
def test_row(bench: Bench, row: Row) -> None:
    play(bench, row)


@on_all_but_the_last
def test_other_rows(bench: Bench) -> None:
    # In one test: under emulation pytest takes longer for one than a row does.
    play_all(bench, OTHER_ROWS)


@pytest.mark.parametrize("claim", RUNNING_CLAIMS, ids=lambda claim: claim.__name__)
@on_all_but_the_last
def test_running(bench: Bench, claim: Claim) -> None:
    with bench.ready():
        claim(bench)


@pytest.mark.parametrize("claim", LIFE_CLAIMS, ids=lambda claim: claim.__name__)
@on_every_bench
def test_life(bench: Bench, claim: Claim) -> None:
    with bench.ready():
        claim(bench)
