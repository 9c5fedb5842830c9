"""Random rows give the same on the kernel's UDCs as on the userspace one, to the byte.

Each row is played on both in this process. Where the model of the bus knows that a kernel does
otherwise (tests/udc_model.py says what, and where in Linux), it says what must come instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest

from tests.kernel.benches import DummyBench, VudcBench, VudcServerBench
from tests.udc_bench import OUR_HOST, Bench, UserspaceBench
from tests.udc_model import predict, quirks_of
from tests.udc_random import RandomRow, random_row
from tests.udc_row import assert_played
from usbip_vudc.usb.ch9 import Speed

pytestmark = pytest.mark.kernel

ROWS: Final = 32

BENCHES: Final[dict[str, Callable[[], Bench]]] = {
    "dummy_udc-high": lambda: DummyBench(Speed.HIGH),
    "dummy_udc-super": lambda: DummyBench(Speed.SUPER),
    "usbip-vudc-vhci": VudcBench,
    "usbip-vudc-server": VudcServerBench,
}


def rows_of(name: str) -> list[RandomRow]:
    """The rows of a bench: other ones on each."""
    bench = BENCHES[name]()
    packet = {Speed.HIGH: 512, Speed.SUPER: 1024}[bench.speed]
    first = 1000 + ROWS * [*BENCHES].index(name)
    return [
        random_row(seed, packet, zero_packets=OUR_HOST in bench.traits)
        for seed in range(first, first + ROWS)
    ]


@pytest.mark.parametrize("name", BENCHES)
def test_random_rows_are_the_userspace_udcs(name: str, need_modules: Callable[..., None]) -> None:
    """A failure prints the row, to be pasted into udc_conformance.py."""
    need_modules("vhci-hcd", "usbip-vudc", "dummy_hcd", "libcomposite", "usb_f_fs")
    failures: list[Exception] = []
    same = 0
    with BENCHES[name]() as bench, UserspaceBench(bench.speed) as userspace:
        bench.plug()
        userspace.plug()
        quirks = quirks_of(bench.traits)
        for row in rows_of(name):
            ours = predict(row.steps, row.packet)
            theirs = predict(row.steps, row.packet, quirks)
            same += ours == theirs
            try:
                assert_played(userspace, row.steps, ours, str(row))
                assert_played(bench, row.steps, theirs, str(row))
            except Exception as error:
                failures.append(error)
    if failures:
        raise ExceptionGroup(f"{len(failures)} of {ROWS} rows", failures)
    assert same > ROWS // 2, "or there is nothing left to compare"
