"""Every hostile rule comes to what the table says, and the gadget recovers without a restart."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.hostile import ROWS, Row, filled, play
from usbip_vudc.injection import Injector, Plan, Transfer
from usbip_vudc.injection.actions import ACTIONS, AFTER, BEFORE, PacketSize
from usbip_vudc.usb.bot import Cbw, pack_csw
from usbip_vudc.usb.ch9 import Direction


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.rule}, {row.does.text}")
def test_outcome_and_recovery(row: Row) -> None:
    assert play(row) == (row.host, row.function)


def test_every_action_has_a_row_at_every_seam_where_it_acts() -> None:
    shown = {
        (rule.where.seam, type(rule.action)) for row in ROWS for rule in Plan.parse(row.rule).rules
    }
    possible = {
        (place.partition(".")[0], kind) for kind in ACTIONS.values() for place in kind.moments
    }
    assert shown == possible | {("function", PacketSize)}


def test_the_page_of_the_docs_is_as_the_tables_are_now() -> None:
    page = (Path(__file__).parent.parent / "docs/injection.md").read_text()
    assert page == filled(page), "python -m tests.hostile docs/injection.md"
    for plan in re.findall(r"--plan '(.*?)'", page):
        assert Plan.parse(plan)


def test_the_trace_line_of_the_docs_is_one() -> None:
    page = (Path(__file__).parent.parent / "docs/injection.md").read_text()
    injector = Injector(Plan.parse("mass_storage.in csw(tag=1)"), "function")
    for _ in range(3):
        transfer = Transfer(
            seam="function", function="mass_storage", role="in", address=0x81,
            direction=Direction.IN, length=13, data=pack_csw(1, 0, 0), phase="status",
        )  # fmt: skip
        cbw = Transfer(
            seam="function", function="mass_storage", role="out", address=0x01,
            direction=Direction.OUT, length=512, data=Cbw(1, 0, 0, 0, bytes(6)).pack(),
        )  # fmt: skip
        injector.actions(cbw, AFTER)
        injector.actions(transfer, BEFORE)
    assert injector.trace[-1] in page
