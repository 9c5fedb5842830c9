"""A small matrix on the kernel's UDCs: what is computed of a cell is what Linux shows.

The cells were chosen for their rules, one for each; `usbip-vudc matrix --udc ...` has the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.kernel.carriers import MODULES, prompt_scan
from usbip_vudc.matrix import Cell, examine
from usbip_vudc.matrix.results import AS_EXPECTED

pytestmark = pytest.mark.kernel

CELLS = {
    # The kernel's UDC, our own host: 2019 with and without SG, and a URB that ends in a packet.
    "storage/usbip-vudc.0/high/no-sg/straddle/none": "OUT TransportError, IN -EOVERFLOW, recovered",
    "storage/usbip-vudc.0/high/sg/straddle/stalled-csw": "OUT data equal, IN data equal",
    "storage/usbip-vudc.0/high/no-sg/3584+7x4096/sg-2019": "OUT data equal, IN data equal",
    "storage/usbip-vudc.0/high/sg/whole/olympus-signature": (
        "setup TransportError, OUT TransportError, IN TransportError, recovered"
    ),
    "serial/usbip-vudc.0/high/no-sg/straddle/none": "OUT data equal, IN -EOVERFLOW, recovered",
    "generic/usbip-vudc.0/high/sg/odd/odd-segments": "OUT data equal, IN data equal",
    # Linux is the host, and makes the SG list itself.
    "storage/dummy_udc.0/high/sg/3584+7x4096/odd-segments": "OUT data equal, IN data equal",
    "storage/dummy_udc.0/super/sg/packets:3/none": "OUT data equal, IN data equal",
    "serial/dummy_udc.0/super/sg/whole/none": "OUT data equal, IN data equal",
}


@pytest.fixture(scope="module", autouse=True)
def modules(need_modules: Callable[..., None]) -> Iterator[None]:
    need_modules(*MODULES, "usb-storage", "sd_mod", "cdc-acm")
    with prompt_scan():
        yield


@pytest.mark.parametrize("text", CELLS)
def test_the_kernel_shows_what_is_computed(text: str) -> None:
    result = examine(Cell.parse(text))
    assert result.status == AS_EXPECTED, f"{result.seen or result.why}: {result.replay}"
    assert result.expected == CELLS[text]
    assert result.seen == CELLS[text]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("storage/usbip-vudc.0/super/sg/whole/none", "vudc_dev.c"),
        ("storage/dummy_udc.0/super/sg/3584+7x4096/none", "no_sg_constraint"),
        ("storage/dummy_udc.0/high/no-sg/whole/none", "sg_tablesize"),
    ],
)
def test_what_this_kernel_cannot_do_says_why(text: str, rule: str) -> None:
    result = examine(Cell.parse(text))
    assert result.status == "cannot exist"
    assert rule in result.why
