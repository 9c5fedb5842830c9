"""The conformance suite on the userspace UDC, with our own host: no kernel takes part."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.udc_bench import Bench, UserspaceBench
from tests.udc_conformance import ROWS
from tests.udc_lifecycle import LIFE_CLAIMS
from tests.udc_row import Row, play
from tests.udc_running import RUNNING_CLAIMS, Claim
from usbip_vudc.usb.ch9 import Speed


@pytest.fixture(scope="module", params=[Speed.FULL, Speed.HIGH, Speed.SUPER], ids=lambda s: s.word)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with UserspaceBench(request.param) as bench:
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
