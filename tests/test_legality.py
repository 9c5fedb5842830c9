"""legality: each rule refuses what it forbids and nothing else, and its page says what it says."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.legality_page import filled
from usbip_vudc.errors import SchemeError
from usbip_vudc.function import AltSetting, EndpointSpec, Function, InterfaceSpec
from usbip_vudc.gadget import RULES, Config, Gadget, WebUsb, legal_packet_sizes
from usbip_vudc.usb.ch9 import Direction, Speed, TransferType

LOW, FULL, HIGH, SUPER = Speed.LOW, Speed.FULL, Speed.HIGH, Speed.SUPER


class Described(Function):
    """A function of one interface that only describes itself: an alternate setting each."""

    name = "f"

    def __init__(self, *alternates: Iterable[EndpointSpec]) -> None:
        settings = tuple(AltSetting(endpoints=tuple(specs)) for specs in alternates)
        self.interfaces = (InterfaceSpec(role="i", bInterfaceClass=0xFF, alternates=settings),)

    async def run(self, endpoints: object) -> None:
        """Nothing is asked of it."""


def made(*alternates: Iterable[EndpointSpec], **fields: object) -> Gadget:
    config = Config(functions=(Described(*alternates),))
    return Gadget(name="g", idVendor=1, idProduct=1, configs=(config,), **fields)  # type: ignore[arg-type]


def sized(spec: EndpointSpec, size: int, mult: int = 0, max_burst: int = 0) -> EndpointSpec:
    sizes = dict.fromkeys(Speed, size)
    return replace(spec, max_packet_size=sizes, mult=mult, max_burst=max_burst)


BULK, INTERRUPT, ISO = (
    EndpointSpec.bulk_in("e"), EndpointSpec.interrupt_in("e"), EndpointSpec.iso_in("e"),
)  # fmt: skip
OUT = EndpointSpec.interrupt_out("o")


def second(*specs: EndpointSpec, **fields: object) -> Gadget:
    """A gadget with these endpoints in alternate setting 1, and none in the default one."""
    return made((), specs, **fields)


ILLEGAL: list[tuple[str, Speed, Gadget, str]] = [
    ("bulk-low", LOW, made([BULK]), "function f: endpoint e: a bulk endpoint at low speed"),
    ("iso-low", LOW, second(ISO), "an isochronous endpoint at low speed"),
    ("endpoints-low", LOW, made([INTERRUPT, OUT, replace(OUT, role="p")]),
     "configuration 1: 3 endpoints besides endpoint 0 at low speed: expected at most 2"),
    ("ep0-low", LOW, made(bMaxPacketSize0={LOW: 64}),
     "bMaxPacketSize0 of 64 bytes at low speed: expected 8"),
    ("ep0-full", FULL, made(bMaxPacketSize0={FULL: 10}), "expected 8 or 16 or 32 or 64"),
    ("ep0-high", HIGH, made(bMaxPacketSize0={HIGH: 8}), "of 8 bytes at high speed: expected 64"),
    ("ep0-super", SUPER, made(bMaxPacketSize0={SUPER: 64}), "at super speed: expected 512"),
    ("release-usb2", FULL, made(bcdUSB={FULL: 0x0300}), "bcdUSB 0x0300 at full speed"),
    ("release-usb2", LOW, made(bcdUSB={LOW: 0x020A}), "bcdUSB 0x020a at low speed"),
    ("release-high", HIGH, made(bcdUSB={HIGH: 0x0110}), "expected 0x0200 to 0x0210"),
    ("release-super", SUPER, made(bcdUSB={SUPER: 0x0200}), "expected 0x0300 to 0x0320"),
    ("release-bos", HIGH, made(bcdUSB={HIGH: 0x0200}, webusb=WebUsb(vendor_code=1)),
     "bcdUSB 0x0200 with Microsoft OS 2.0 descriptors or WebUSB at high speed: expected 0x0201"),
    ("power", HIGH,
     replace(made(), configs=(Config(functions=(), max_power_ma=901),)), "at most 900 mA"),
    ("bulk-size", FULL, made([sized(BULK, 512)]), "bulk wMaxPacketSize of 512 bytes at full"),
    ("bulk-size", HIGH, made([sized(BULK, 64)]), "of 64 bytes at high speed: expected 512"),
    ("bulk-size-super", SUPER, made([sized(BULK, 512)]), "at super speed: expected 1024"),
    ("interrupt-size", LOW, made([sized(INTERRUPT, 9)]), "expected 1 to 8 (USB 2.0 5.7.3)"),
    ("interrupt-size", FULL, made([sized(INTERRUPT, 65)]), "expected 1 to 64"),
    ("interrupt-size", HIGH, second(sized(INTERRUPT, 1025)), "expected 1 to 1024"),
    ("interrupt-size-super", SUPER, made([sized(INTERRUPT, 0)]), "expected 1 to 1024"),
    ("interrupt-default", HIGH, made([sized(INTERRUPT, 65)]), "in alternate setting 0 at high"),
    ("iso-size", FULL, second(sized(ISO, 1024)), "expected 0 to 1023 (USB 2.0 5.6.3)"),
    ("iso-size", HIGH, second(sized(ISO, 1025)), "expected 0 to 1024"),
    ("iso-size-super", SUPER, second(sized(ISO, 1025)), "expected 0 to 1024"),
    ("iso-default", FULL, made([sized(ISO, 1)]), "in alternate setting 0 at full speed"),
    ("iso-default", SUPER, made([ISO]), "expected 0 there"),
    ("interval", LOW, made([replace(INTERRUPT, bInterval={LOW: 9})]), "expected 10 to 255"),
    ("interval", FULL, made([replace(INTERRUPT, bInterval={FULL: 0})]), "expected 1 to 255"),
    ("interval", HIGH, made([replace(INTERRUPT, bInterval={HIGH: 17})]), "expected 1 to 16"),
    ("interval", FULL, second(replace(ISO, bInterval={FULL: 17})), "expected 1 to 16"),
    ("interval-super", SUPER, made([replace(INTERRUPT, bInterval={SUPER: 0})]), "bInterval 0"),
    ("mult-high", HIGH, made([replace(BULK, mult=1)]), "bulk mult 1 at high speed: expected 0"),
    ("mult-high", HIGH, second(replace(ISO, mult=3)), "mult 3 at high speed: expected 0 to 2"),
    ("mult-high", HIGH, second(sized(ISO, 512, mult=1)), "expected 513 to 1024"),
    ("burst-super", SUPER, made([replace(BULK, max_burst=16)]), "max_burst 16 at super speed"),
    ("burst-super", SUPER, second(sized(ISO, 512, max_burst=1)), "expected 1024"),
    ("mult-super", SUPER, made([replace(BULK, mult=1)]), "bulk mult 1 at super speed"),
    ("mult-super", SUPER, second(replace(ISO, mult=1)), "mult 1 without max_burst"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "speed", "gadget", "said"), ILLEGAL, ids=[f"{r[0]}-{r[1].word}" for r in ILLEGAL]
)
def test_what_usb_forbids_is_refused_by_its_rule_and_served_on_demand(
    name: str, speed: Speed, gadget: Gadget, said: str
) -> None:
    assert {violation.rule.name for violation in gadget.violations(speed)} == {name}
    assert not gadget.possible(speed)
    with pytest.raises(SchemeError) as refused:
        gadget.describe(speed)
    section = re.escape(gadget.violations(speed)[0].rule.section)
    assert said in str(refused.value)
    assert re.fullmatch(
        rf"gadget g: .* \({section}\).*; deliberately_illegal .*", str(refused.value)
    )
    assert replace(gadget, deliberately_illegal=True).describe(speed).speed == speed


def test_every_rule_has_a_row() -> None:
    assert {rule.name for rule in RULES} == {name for name, *_ in ILLEGAL}
    assert len({rule.name for rule in RULES}) == len(RULES)


@pytest.mark.parametrize(
    ("gadget", "speeds"),
    [
        (made([BULK]), (FULL, HIGH, SUPER)),
        (made([INTERRUPT, OUT]), (LOW, FULL, HIGH, SUPER)),
        (second(ISO), (FULL, HIGH, SUPER)),
        (made([ISO]), ()),
        (second(sized(ISO, 0)), (FULL, HIGH, SUPER)),
        (second(replace(ISO, mult=2, max_burst=15)), (FULL, HIGH, SUPER)),
        (second(replace(INTERRUPT, mult=2)), (LOW, FULL, HIGH, SUPER)),
        (made([BULK], max_speed=HIGH), (FULL, HIGH)),
        (made([BULK], max_speed=LOW), ()),
        (made([BULK], max_speed=FULL, deliberately_illegal=True), (LOW, FULL)),
    ],
    ids=["bulk", "interrupt", "iso", "iso by default", "empty iso", "largest iso", "mult",
         "not above high", "low only", "illegal"],
)  # fmt: skip
def test_illegal_at_one_speed_hinders_no_other(gadget: Gadget, speeds: tuple[Speed, ...]) -> None:
    assert gadget.speeds == speeds
    for speed in speeds:
        assert gadget.describe(speed)


SPECS = st.builds(
    EndpointSpec,
    role=st.just("e"),
    direction=st.sampled_from(Direction),
    transfer_type=st.sampled_from([TransferType.BULK, TransferType.INTERRUPT,
                                   TransferType.ISOCHRONOUS]),
    interval_ms=st.floats(0, 1e6),
    bInterval=st.dictionaries(st.sampled_from([LOW, FULL, HIGH, SUPER]), st.integers(0, 255)),
    max_packet_size=st.dictionaries(
        st.sampled_from([LOW, FULL, HIGH, SUPER]), st.integers(0, 0xFFFF)
    ),
    max_burst=st.integers(0, 255),
    mult=st.integers(0, 3),
)  # fmt: skip


@given(SPECS, st.sampled_from([LOW, FULL, HIGH, SUPER]))
def test_whatever_is_written_illegal_or_not_is_served_as_written(
    spec: EndpointSpec, speed: Speed
) -> None:
    gadget = replace(second(spec), deliberately_illegal=True)
    description = gadget.describe(speed)
    endpoint = description.configurations[0].interfaces[1].endpoints[0]
    given_size = spec.max_packet_size.get(speed)
    if given_size is not None:
        mult = spec.mult << 11 if speed == HIGH else 0
        assert endpoint.descriptor.wMaxPacketSize == given_size | mult
    if speed in spec.bInterval:
        assert endpoint.descriptor.bInterval == spec.bInterval[speed]
    if speed == SUPER:
        assert endpoint.companion is not None
        assert endpoint.companion.bMaxBurst == spec.max_burst
    slot = description.layouts[0].interfaces[0].alternates[1][0]
    assert 0 <= slot.max_packet_size <= 0x7FF
    assert (slot.bytes_per_interval == 0) or spec.transfer_type != TransferType.BULK


@given(SPECS, st.sampled_from([LOW, FULL, HIGH, SUPER]))
def test_what_no_rule_forbids_is_described_alike_with_and_without_the_licence(
    spec: EndpointSpec, speed: Speed
) -> None:
    gadget = second(spec)
    if gadget.possible(speed):
        legal = gadget.describe(speed).configurations[0].pack()
        licensed = replace(gadget, deliberately_illegal=True).describe(speed)
        assert licensed.configurations[0].pack() == legal
    else:
        assert gadget.violations(speed)


@pytest.mark.parametrize("speed", [LOW, FULL, HIGH, SUPER])
@pytest.mark.parametrize("spec", [BULK, INTERRUPT, ISO], ids=["bulk", "interrupt", "iso"])
def test_sizes_that_are_legal_are_those_that_are_served(spec: EndpointSpec, speed: Speed) -> None:
    sizes = legal_packet_sizes(spec.transfer_type, speed)
    served = [n for n in range(1026) if second(sized(spec, n)).possible(speed)]
    assert served == list(sizes)


def test_the_page_of_the_docs_is_as_the_rules_are_now() -> None:
    page = (Path(__file__).parent.parent / "docs/speeds.md").read_text()
    assert page == filled(page), "python -m tests.legality_page docs/speeds.md"
