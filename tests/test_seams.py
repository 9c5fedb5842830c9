"""Seams: one plan at work at all three seams at once, and what it says of that."""

from __future__ import annotations

import pytest

from usbip_vudc.carrier import Carrier
from usbip_vudc.errors import SchemeError
from usbip_vudc.host.storage import UsbStorage
from usbip_vudc.injection import Plan
from usbip_vudc.registry import GadgetOptions, load_gadget
from usbip_vudc.seams import Seams, out_of_reach

DATA = "cbw(0x28) phase(data)"


def read_a_block(plan: Plan) -> Seams:
    seams = Seams(plan)
    gadget = load_gadget("storage", GadgetOptions(size=1 << 20))
    with seams.carried(gadget, Carrier()) as way:
        disk = UsbStorage(way.device())
        disk.wait_ready()
        assert disk.read(0, 2) == bytes(1024)
    return seams


def test_the_rules_of_every_seam_act_and_are_told_in_their_order() -> None:
    seams = read_a_block(
        Plan.parse(
            f"cable.in {DATA} delay(0s); host.in {DATA} nak(1);"
            f"mass_storage.in {DATA} layout(odd); acm.in stall"
        )
    )
    assert seams.trace() == (
        "function: 1 firing(s)",
        "  3: mass_storage.in 0x81 IN 1024 B #1: layout(odd)",
        "host: 1 firing(s)",
        "  2: host 0x81 IN 1024 B #1: nak(125us)",
        "cable: 1 firing(s)",
        "  1: cable 0x81 IN 1024 B #1: delay(0s)",
    )
    assert seams.fired() == {1: 1, 2: 1, 3: 1}


def test_the_trace_can_be_cut_to_its_end() -> None:
    seams = read_a_block(Plan.parse("host.out nak(1)"))
    whole = seams.trace()
    assert len(whole) > 3
    assert seams.trace(2) == (f"{whole[0]}, the last 2", *whole[-2:])
    assert seams.trace(0) == (f"{whole[0]}, the last 0",)


def test_without_a_plan_nothing_is_wrapped_and_nothing_told() -> None:
    seams = read_a_block(Plan())
    assert seams.trace() == ()
    assert seams.host is not None
    assert type(seams.host).__name__ == "BlockingHost"


@pytest.mark.parametrize(
    ("rules", "carrier", "why"),
    [
        ("host.in stall", "vudc,linux", "needs a host of ours"),
        ("acm.in stall; cable drop", "dummy_udc.0", "'cable drop' needs a USB/IP cable"),
        ("host.in stall", "dummy_udc.0,stub,pyusb", None),
        ("function stall", "dummy_udc.0", None),
    ],
)
def test_a_rule_without_its_seam_is_out_of_reach(rules: str, carrier: str, why: str | None) -> None:
    told = out_of_reach(Plan.parse(rules), Carrier.parse(carrier))
    assert (told is None) if why is None else (told is not None and why in told)


def test_a_plan_that_is_out_of_reach_is_not_carried() -> None:
    seams = Seams(Plan.parse("host.in stall"))
    gadget = load_gadget("serial", GadgetOptions())
    with (
        pytest.raises(SchemeError, match="needs a host of ours"),
        seams.carried(gadget, Carrier.parse("vudc,linux")),
    ):
        pass
