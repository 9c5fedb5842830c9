"""usb/descriptors: round trips of bytes read from devices of a Linux 6.1 kernel.

The gadget is the kernel's own f_acm and f_mass_storage on dummy_hcd, at high and super speed;
the hubs are dummy_hcd's root hubs.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbip_vudc.errors import SchemeError
from usbip_vudc.usb.ch9 import DescriptorType, Direction, SetupPacket, Speed, TransferType
from usbip_vudc.usb.descriptors import (
    BosDescriptor,
    Configuration,
    DeviceDescriptor,
    DeviceQualifierDescriptor,
    InterfaceAssociationDescriptor,
    RawCapability,
    SuperSpeedCapability,
    SuperSpeedEndpointCompanion,
    Usb20Extension,
    as_other_speed,
    langid_descriptor,
    parse_string_descriptor,
    string_descriptor,
    walk,
)

GADGET_SUPER = bytes.fromhex(
    "090280000301048000080b00020202010709040000010202010505240010010524010001042402020524060001"
    "070585030a000906300000000009040100020a0000060705810200040006300000000007050202000400063000"
    "0000000904020002080650090705860200040006300f0000000705070200040006300f000000"
)
GADGET_HIGH = bytes.fromhex(
    "090262000301048001080b00020202010709040000010202010505240010010524010001042402020524060001"
    "070585030a000909040100020a00000607058102000200070502020002000904020002080650090705860200020"
    "007050702000201"
)
OTHER_SPEED = bytes.fromhex(
    "090762000301048001080b00020202010709040000010202010505240010010524010001042402020524060001"
    "070585030a002009040100020a00000607058102400000070502024000000904020002080650090705860240000"
    "0070507024000 00"
)
HUB_HIGH = bytes.fromhex("09021900010100e0000904000001090000000705810304000c")
HUB_SUPER = bytes.fromhex("09021f00010100e0000904000001090000000705810302000c063000000200")
CONFIGURATIONS = {
    "gadget at super speed": GADGET_SUPER,
    "gadget at high speed": GADGET_HIGH,
    "high-speed hub": HUB_HIGH,
    "super-speed hub": HUB_SUPER,
}
DEVICES = {
    "gadget at super speed": "12012003000000096b1d06010106010203 01",
    "gadget at high speed": "12011002000000406b1d06010106010203 01",
    "high-speed hub": "12010002090001406b1d02000106030201 01",
    "super-speed hub": "12010003090003096b1d03000106030201 01",
}
BOS_GADGET = bytes.fromhex("050f160002071002060000000a1003000f000101f401")
BOS_HUB = bytes.fromhex("050f0f00010a100300080003000000")


@pytest.mark.parametrize("data", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_configuration_of_a_real_device_round_trips(data: bytes) -> None:
    parsed = Configuration.parse(data)
    assert parsed.pack() == data
    assert parsed.with_counts() == parsed


@pytest.mark.parametrize("text", DEVICES.values(), ids=DEVICES)
def test_device_descriptor_round_trips(text: str) -> None:
    data = bytes.fromhex(text)
    assert DeviceDescriptor.parse(data).pack() == data


@pytest.mark.parametrize("data", [BOS_GADGET, BOS_HUB], ids=["gadget", "hub"])
def test_bos_round_trips(data: bytes) -> None:
    assert BosDescriptor.parse(data).pack() == data


def test_what_the_gadget_says() -> None:
    parsed = Configuration.parse(GADGET_SUPER)
    assert (parsed.descriptor.bNumInterfaces, parsed.descriptor.wTotalLength) == (3, 128)
    iad = InterfaceAssociationDescriptor.parse(parsed.extra)
    assert (iad.bFirstInterface, iad.bInterfaceCount, iad.bFunctionClass) == (0, 2, 2)
    comm, data, storage = parsed.interfaces
    assert [raw[1] for raw in walk(comm.extra)] == [DescriptorType.CS_INTERFACE] * 4
    notify = comm.endpoints[0]
    assert notify.descriptor.transfer_type == TransferType.INTERRUPT
    assert notify.descriptor.direction == Direction.IN
    assert [e.descriptor.max_packet_size for e in data.endpoints] == [1024, 1024]
    companion = storage.endpoints[0].companion
    assert companion == SuperSpeedEndpointCompanion(bMaxBurst=15)
    assert Configuration.parse(GADGET_HIGH).interfaces[0].endpoints[0].companion is None


def test_bos_of_the_gadget() -> None:
    assert BosDescriptor.parse(BOS_GADGET).capabilities == (
        Usb20Extension(bmAttributes=6),
        SuperSpeedCapability(wSpeedsSupported=0x000F),
    )
    unknown = BosDescriptor((RawCapability(5, bytes(17)),))
    assert BosDescriptor.parse(unknown.pack()) == unknown


def test_other_speed_configuration_and_qualifier() -> None:
    as_configuration = OTHER_SPEED[:1] + b"\x02" + OTHER_SPEED[2:]
    assert as_other_speed(Configuration.parse(as_configuration).pack()) == OTHER_SPEED
    qualifier = bytes.fromhex("0a061002000000400100")
    assert DeviceQualifierDescriptor.parse(qualifier).pack() == qualifier


def test_strings_of_the_gadget() -> None:
    assert langid_descriptor([0x0409]) == bytes.fromhex("04030904")
    assert string_descriptor("acme") == bytes.fromhex("0a03610063006d006500")
    assert parse_string_descriptor(bytes.fromhex("0a03610063006d006500")) == "acme"


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60))
def test_strings_round_trip(text: str) -> None:
    assert parse_string_descriptor(string_descriptor(text)) == text


def test_a_string_that_does_not_fit_is_refused() -> None:
    string_descriptor("x" * 126)
    with pytest.raises(SchemeError, match="127 UTF-16 code units, at most 126"):
        string_descriptor("x" * 127)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "got nothing"),
        (GADGET_HIGH[:8], r"8 bytes\), expected bLength 9"),
        (GADGET_HIGH[:60], "wTotalLength 98, but 60 bytes came"),
        (bytes.fromhex("09020b00010100e000 0104"), "bLength 1"),
        (bytes.fromhex("09020b00010100e000 ff04"), "bLength 255"),
        (bytes.fromhex("0901190001 0100e000"), "bDescriptorType 0x02"),
    ],
)
def test_malformed_configuration_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(SchemeError, match=reason):
        Configuration.parse(data)


@given(st.binary(max_size=80))
def test_random_bytes_parse_or_are_refused(data: bytes) -> None:
    for parse in (Configuration.parse, BosDescriptor.parse, DeviceDescriptor.parse):
        try:
            parse(data)
        except SchemeError as error:
            assert str(error)


def test_setup_packet_round_trips() -> None:
    data = bytes.fromhex("a1 21 00 00 01 00 07 00")
    setup = SetupPacket.parse(data)
    assert setup == SetupPacket(0xA1, 0x21, 0, 1, 7)
    assert setup.pack() == data
    assert str(setup) == "a1 21 0000 0001 0007"
    with pytest.raises(SchemeError, match="7 bytes, expected 8"):
        SetupPacket.parse(data[:7])


@pytest.mark.parametrize("word", ["low", "full", "high", "super", "Super-Speed"])
def test_speed_words(word: str) -> None:
    assert Speed.parse(word).word == word.lower().removesuffix("-speed")


def test_unknown_speed_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SchemeError, match="'warp' is unknown; use low, full, high, super"):
        Speed.parse("warp")
