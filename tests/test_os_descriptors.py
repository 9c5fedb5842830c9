"""Microsoft OS descriptors 1.0 and 2.0 and WebUSB: their layouts, byte for byte, both ways."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbip_vudc.errors import SchemeError
from usbip_vudc.usb.descriptors import BosDescriptor, Usb20Extension
from usbip_vudc.usb.os_descriptors_1 import (
    OsString,
    compatible_ids,
    parse_compatible_ids,
    parse_properties,
    properties,
)
from usbip_vudc.usb.os_descriptors_2 import OsCapability, OsDescriptorSet
from usbip_vudc.usb.os_features import OsFeatures, PropertyValue, decode_property
from usbip_vudc.usb.platform import PlatformCapability
from usbip_vudc.usb.webusb import WEBUSB, WebUsbCapability, parse_url_descriptor, url_descriptor

GUID = "{01234567-89AB-CDEF-0123-456789ABCDEF}"
GUID_BYTES = GUID.encode("utf-16-le")
WINUSB = OsFeatures(compatible_id="WINUSB")

# --- version 1.0 -------------------------------------------------------------------------------

OS_STRING = bytes.fromhex("12 03 4d00 5300 4600 5400 3100 3000 3000 cd 00")


def test_the_os_string() -> None:
    assert OsString(vendor_code=0xCD).pack() == OS_STRING
    assert OsString.parse(OS_STRING) == OsString(vendor_code=0xCD)
    assert OsString(vendor_code=1, signature="X").pack().hex() == "12035800" + "00" * 12 + "0100"
    with pytest.raises(SchemeError, match="signature 'MSFT1000': expected at most 7 characters"):
        OsString(vendor_code=1, signature="MSFT1000")
    for cut in (b"", OS_STRING[:17], OS_STRING[:1] + b"\x04" + OS_STRING[2:]):
        with pytest.raises(SchemeError, match="OS string: got"):
            OsString.parse(cut)


COMPATIBLE = bytes.fromhex(
    "40000000 0001 0400 02 00000000000000"
    "00 01 57494e5553420000 0000000000000000 000000000000"
    "02 01 524e444953000000 3531363230303100 000000000000"
)


def test_compatible_ids_by_first_interface() -> None:
    rndis = OsFeatures(compatible_id="RNDIS", sub_compatible_id="5162001")
    assert compatible_ids({2: rndis, 0: WINUSB}) == COMPATIBLE
    assert parse_compatible_ids(COMPATIBLE) == {0: ("WINUSB", ""), 2: ("RNDIS", "5162001")}
    assert compatible_ids({}) == bytes.fromhex("10000000 0001 0400 00 00000000000000")


PROPERTIES = (
    bytes.fromhex("8e000000 0001 0500 0100 84000000 01000000 2800")
    + "DeviceInterfaceGUID\0".encode("utf-16-le")
    + bytes.fromhex("4e000000")
    + GUID_BYTES
    + b"\0\0"
)


def test_the_property_that_winusb_wants() -> None:
    assert properties({"DeviceInterfaceGUID": GUID}) == PROPERTIES
    assert parse_properties(PROPERTIES) == {"DeviceInterfaceGUID": GUID}


KINDS: list[tuple[PropertyValue, str]] = [
    ("é", "01000000 0400 41000000 04000000 e9000000"),
    (b"\x01\x02\x03", "03000000 0400 41000000 03000000 010203"),
    (0x12345678, "04000000 0400 41000000 04000000 78563412"),
    (("a", "b"), "07000000 0400 41000000 0a000000 61000000 62000000 0000"),
]


@pytest.mark.parametrize(("value", "hexes"), KINDS, ids=["sz", "binary", "dword", "multi_sz"])
def test_a_property_has_the_type_of_its_value(value: PropertyValue, hexes: str) -> None:
    body = bytes.fromhex(hexes)
    packed = properties({"A": value})
    assert packed[10:14] == (4 + len(body)).to_bytes(4, "little")
    assert packed[14:] == body
    assert parse_properties(packed) == {"A": value}


def test_other_types_are_read() -> None:
    assert decode_property(2, "%X%\0".encode("utf-16-le")) == "%X%"
    assert decode_property(5, b"\x12\x34\x56\x78") == 0x12345678
    assert decode_property(6, "l\0".encode("utf-16-le")) == "l"
    for kind, data in ((0, b""), (8, b"\0\0"), (4, b"\0\0\0")):
        with pytest.raises(SchemeError, match=f"property of type {kind} with"):
            decode_property(kind, data)


def test_version_1_replies_that_are_cut_or_wrong_are_refused() -> None:
    for data in (b"", COMPATIBLE[:-1], PROPERTIES, COMPATIBLE + b"\0"):
        with pytest.raises(SchemeError, match="OS descriptor"):
            parse_compatible_ids(data)
    short = COMPATIBLE[:8] + b"\x03" + COMPATIBLE[9:]
    with pytest.raises(SchemeError, match="3 sections, but 64 bytes came"):
        parse_compatible_ids(short)
    with pytest.raises(SchemeError, match=re.escape("dwSize 133 does not fit")):
        parse_properties(PROPERTIES[:10] + b"\x85" + PROPERTIES[11:])
    with pytest.raises(SchemeError, match="property at byte 142"):
        parse_properties(PROPERTIES[:8] + b"\x02" + PROPERTIES[9:])


# --- version 2.0 -------------------------------------------------------------------------------

OS_CAPABILITY = bytes.fromhex(
    "1c 10 05 00 df60ddd8 8945 c74c 9cd2 659d9e648a9f 00000306 b200 cd 00"
)
COMPOSITE = (
    bytes.fromhex("0a00 0000 00000306 b200")
    + bytes.fromhex("0800 0100 00 00 a800")
    + bytes.fromhex("0800 0200 02 00 a000")
    + bytes.fromhex("1400 0300 57494e5553420000 0000000000000000")
    + bytes.fromhex("8400 0400 0700 2a00")
    + "DeviceInterfaceGUIDs\0".encode("utf-16-le")
    + bytes.fromhex("5000")
    + GUID_BYTES
    + bytes(4)
)
GUIDS = OsFeatures(compatible_id="WINUSB", properties={"DeviceInterfaceGUIDs": (GUID,)})


def test_the_capability_names_the_set() -> None:
    capability = OsCapability(vendor_code=0xCD, total_length=0xB2)
    bos = BosDescriptor((Usb20Extension(), capability.capability().capability()))
    assert bos.pack()[12:] == OS_CAPABILITY
    assert OsCapability.find(BosDescriptor.parse(bos.pack())) == capability
    assert OsCapability.find(BosDescriptor((Usb20Extension(),))) is None
    short = PlatformCapability(capability.capability().uuid, b"\0\0").capability()
    with pytest.raises(SchemeError, match="00 00: expected 8 bytes"):
        OsCapability.find(BosDescriptor((short,)))


def test_a_function_of_a_composite_device_has_a_subset() -> None:
    made = OsDescriptorSet(functions={2: GUIDS})
    assert made.pack() == COMPOSITE
    assert OsDescriptorSet.parse(COMPOSITE) == made


def test_a_device_of_one_function_has_no_subsets() -> None:
    made = OsDescriptorSet(windows_version=0x0A000000, device=WINUSB)
    assert made.pack() == bytes.fromhex(
        "0a00 0000 0000000a 1e00 1400 0300 57494e5553420000 0000000000000000"
    )
    assert OsDescriptorSet.parse(made.pack()) == made


def test_descriptors_that_we_do_not_write_are_passed_over() -> None:
    # Minimum resume time, and a CCGP device (both features of the whole device).
    more = bytes.fromhex("0600 0500 0a01") + bytes.fromhex("0400 0700")
    total = (len(COMPOSITE) + len(more)).to_bytes(2, "little")
    data = COMPOSITE[:8] + total + more + COMPOSITE[10:]
    assert OsDescriptorSet.parse(data) == OsDescriptorSet(functions={2: GUIDS})


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x0a\0", "2 bytes, expected at least 10"),
        (COMPOSITE[:-1], "wTotalLength 178: expected 10, 0 and 177"),
        (b"\x0b" + COMPOSITE[1:], "wLength 11"),
        (COMPOSITE[:10] + b"\x02" + COMPOSITE[11:], "wLength 2 at byte 10: expected 4 to 168"),
        (COMPOSITE[:10] + b"\xff" + COMPOSITE[11:], "wLength 255 at byte 10"),
        (COMPOSITE[:96] + b"\x51" + COMPOSITE[97:], "wPropertyDataLength 81, 80 bytes"),
        (COMPOSITE[:10] + b"\x09" + COMPOSITE[11:], "descriptor set: "),
    ],
)
def test_a_set_that_is_cut_or_wrong_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(SchemeError, match=re.escape(said)):
        OsDescriptorSet.parse(data)


def test_a_set_has_at_most_65535_bytes() -> None:
    most = 0xFFFF - 10 - 4 - 6 - 4
    made = OsDescriptorSet(device=OsFeatures(properties={"A": bytes(most)}))
    assert len(made.pack()) == 0xFFFF
    larger = OsDescriptorSet(device=OsFeatures(properties={"A": bytes(most + 1)}))
    with pytest.raises(SchemeError, match="set of 65536 bytes: expected at most 65535"):
        larger.pack()
    with pytest.raises(SchemeError, match="property A of 65536 bytes"):
        OsDescriptorSet(device=OsFeatures(properties={"A": bytes(most + 11)})).pack()


# --- what a registry holds ---------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
VALUES: st.SearchStrategy[PropertyValue] = (
    TEXT
    | st.binary(max_size=20)
    | st.integers(0, 0xFFFFFFFF)
    | st.lists(TEXT.filter(bool), max_size=3).map(tuple)
)
IDS = st.from_regex(r"[A-Z0-9_]{0,8}", fullmatch=True)
FEATURES = st.builds(
    OsFeatures,
    compatible_id=IDS,
    sub_compatible_id=IDS,
    properties=st.dictionaries(TEXT.filter(bool), VALUES, max_size=3),
)


@given(FEATURES, st.dictionaries(st.integers(0, 255), FEATURES, max_size=3), st.integers(0, 7))
def test_whatever_is_said_comes_back(
    device: OsFeatures, functions: dict[int, OsFeatures], configuration: int
) -> None:
    made = OsDescriptorSet(
        device=device,
        functions=functions,
        configuration=configuration if functions else 0,
    )
    assert OsDescriptorSet.parse(made.pack()) == made
    assert parse_properties(properties(device.properties)) == device.properties
    assert parse_compatible_ids(compatible_ids(functions)) == {
        first: (each.compatible_id, each.sub_compatible_id) for first, each in functions.items()
    }


@given(st.binary(max_size=80))
def test_bytes_of_anybody_are_read_or_refused(junk: bytes) -> None:
    head = bytes.fromhex("0a00 0000 00000306") + (10 + len(junk)).to_bytes(2, "little")
    total = (10 + len(junk)).to_bytes(4, "little")
    for read, data in (
        (OsDescriptorSet.parse, head + junk),
        (parse_properties, total + bytes.fromhex("0001 0500 0200") + junk),
        (OsString.parse, junk),
        (parse_url_descriptor, junk),
    ):
        with contextlib.suppress(SchemeError):
            read(data)


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ({"compatible_id": "winusb"}, "compatible_id 'winusb': expected at most 8 of A to Z"),
        ({"sub_compatible_id": "123456789"}, "sub_compatible_id '123456789': expected"),
        ({"properties": {"": 1}}, "property '': expected a name"),
        ({"properties": {"A\0": 1}}, "expected a name"),
        ({"properties": {"A": -1}}, "property A: -1: expected 0 to 0xffffffff"),
        ({"properties": {"A": 1 << 32}}, "expected 0 to 0xffffffff"),
        ({"properties": {"A": "a\0b"}}, "expected no NUL"),
        ({"properties": {"A": ("a", "")}}, "property A: ['a', '']: expected no empty text"),
    ],
)
def test_what_no_registry_holds_is_refused(features: dict[str, object], said: str) -> None:
    with pytest.raises(SchemeError, match=re.escape(said)):
        OsFeatures(**features)  # type: ignore[arg-type]


# --- WebUSB ------------------------------------------------------------------------------------


def test_the_capability_of_webusb() -> None:
    capability = WebUsbCapability(bVendorCode=0x22, iLandingPage=1)
    bos = BosDescriptor((capability.capability().capability(),))
    assert bos.pack()[5:] == bytes.fromhex(
        "18 10 05 00 38b60834 a909 a047 8bfd a0768815b665 0001 22 01"
    )
    assert WebUsbCapability.find(BosDescriptor.parse(bos.pack())) == capability
    assert WebUsbCapability.find(BosDescriptor(())) is None
    with pytest.raises(SchemeError, match="WebUSB: 00: expected 4 bytes"):
        WebUsbCapability.find(BosDescriptor((PlatformCapability(WEBUSB, b"\0").capability(),)))


@pytest.mark.parametrize(
    ("url", "packed"),
    [
        ("https://example.org/a", b"\x10\x03\x01example.org/a"),
        ("http://example.org", b"\x0e\x03\x00example.org"),
        ("HTTPS://x.org", b"\x08\x03\x01x.org"),
        ("chrome://about", b"\x11\x03\xffchrome://about"),
        ("https://ä.de", b"\x08\x03\x01\xc3\xa4.de"),
    ],
)
def test_a_url_leaves_its_scheme_in_one_byte(url: str, packed: bytes) -> None:
    assert url_descriptor(url) == packed
    assert parse_url_descriptor(packed) == url.replace("HTTPS", "https")


def test_a_url_has_252_bytes_behind_its_scheme() -> None:
    assert len(url_descriptor("https://" + "x" * 252)) == 255
    with pytest.raises(SchemeError, match="253 bytes after https://: expected at most 252"):
        url_descriptor("https://" + "x" * 253)
    for data in (b"", b"\x03\x02\x01", b"\x05\x03\x01", b"\x02\x03\x01"):
        with pytest.raises(SchemeError, match="WebUSB URL: got"):
            parse_url_descriptor(data)
    with pytest.raises(SchemeError, match="bScheme 2: expected one of 0, 1 and 255"):
        parse_url_descriptor(b"\x03\x03\x02")
