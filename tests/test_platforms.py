"""What a gadget says to Windows and to browsers, on every UDC and in schemes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import functionfs
import pytest
import usb.core
import usb.util
from hypothesis import given, settings
from hypothesis import strategies as st

from configfs.advice import ConfigfsError
from configfs.ffs_descriptors import describe
from configfs.live import read_gadget
from configfs.summary import summary
from configfs.transaction import ConfigfsGadget
from configfs.tree import Write, plan
from configfs.udc import KernelUDC
from gadgets.acm.function import AcmFunction
from gadgets.mass_storage import MassStorageFunction, RamLun
from gadgets.serial.generic import GenericSerialFunction
from gadgets.serial.profiles import Echo
from tests.devices import Scripted
from tests.fake_configfs import FakeConfigfs, configfs
from tests.test_os_descriptors import (
    COMPOSITE,
    FEATURES,
    GUID,
    GUIDS,
    OS_STRING,
    PROPERTIES,
    WINUSB,
)
from usbip_vudc.errors import SchemeError
from usbip_vudc.gadget import Config, Gadget, KernelFunction, OsDescriptors, OsFeatures, WebUsb
from usbip_vudc.gadget.numbering import Strings
from usbip_vudc.pyusb_backend import get_backend
from usbip_vudc.scheme import dump_scheme, parse_scheme, template
from usbip_vudc.serving import serving
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.usb.descriptors import BosDescriptor
from usbip_vudc.usb.os_descriptors_1 import parse_compatible_ids
from usbip_vudc.usb.os_descriptors_2 import OsCapability, OsDescriptorSet
from usbip_vudc.usb.webusb import WebUsbCapability, parse_url_descriptor

__all__ = ("configfs",)

CODE = 0xCD
NAMED = OsFeatures(compatible_id="WINUSB", properties={"DeviceInterfaceGUID": GUID})


def gadget(*functions: object, **options: object) -> Gadget:
    config = Config(functions=functions or (Scripted(),))  # type: ignore[arg-type]
    options.setdefault("configs", (config,))
    return Gadget(name="g", idVendor=0x1D6B, idProduct=0x0104, serial="1", **options)  # type: ignore[arg-type]


def ours(*versions: int, **features: OsFeatures) -> OsDescriptors:
    """Descriptors about the functions at f0, f1..."""
    return OsDescriptors(
        vendor_code=CODE,
        versions=versions,
        features={int(key[1:]): value for key, value in features.items()},
    )


def serial_and_disk(*versions: int, **features: OsFeatures) -> Gadget:
    functions = (AcmFunction(Echo()), MassStorageFunction([RamLun(1 << 20)]), Scripted())
    return gadget(*functions, os_descriptors=ours(*versions, **features))


# --- on the wire -------------------------------------------------------------------------------


@contextmanager
def device(made: Gadget, speed: Speed = Speed.HIGH) -> Iterator[usb.core.Device]:
    with serving(made, speed=speed) as port:
        found = usb.core.find(backend=get_backend(port=port))
        try:
            yield found
        finally:
            usb.util.dispose_resources(found)


def ask(host: usb.core.Device, *fields: int, length: int = 4096) -> bytes | None:
    """What a control request brings, None for a stall."""
    try:
        return bytes(host.ctrl_transfer(*fields, length))
    except usb.core.USBError as error:
        assert error.errno == 32, error
        return None


def test_a_host_finds_version_1_through_the_string() -> None:
    made = gadget(os_descriptors=ours(1, f0=NAMED))
    with device(made) as host:
        assert ask(host, 0x80, 6, 0x03EE, 0) == OS_STRING
        assert ask(host, 0xC0, CODE, 0, 4) == bytes.fromhex(
            "28000000 0001 0400 01 00000000000000"
            "00 01 57494e5553420000 0000000000000000 000000000000"
        )
        assert ask(host, 0xC0, CODE, 0, 4, length=16) == bytes.fromhex(
            "28000000 0001 0400 01 00000000000000"
        ), "Windows asks for the header first"
        for bmRequestType in (0xC0, 0xC1):
            assert ask(host, bmRequestType, CODE, 0, 5, length=10) == PROPERTIES[:10]
            assert ask(host, bmRequestType, CODE, 0, 5) == PROPERTIES
        assert host.bcdUSB == 0x0200
        assert ask(host, 0x80, 6, 0x0F00, 0) is None, "version 1 needs no BOS"


def test_a_host_finds_version_2_through_the_bos() -> None:
    with device(serial_and_disk(2, f1=GUIDS)) as host:
        assert host.bcdUSB == 0x0210
        bos = BosDescriptor.parse(ask(host, 0x80, 6, 0x0F00, 0) or b"")
        assert OsCapability.find(bos) == OsCapability(vendor_code=CODE, total_length=178)
        assert ask(host, 0xC0, CODE, 0, 7) == COMPOSITE, "the disk begins at interface 2"
        assert ask(host, 0xC0, CODE, 0, 7, length=10) == COMPOSITE[:10]
        assert ask(host, 0x80, 6, 0x03EE, 0) is None, "nothing of version 1"
        assert ask(host, 0xC0, CODE, 0, 4) is None
        assert ask(host, 0x40, CODE, 0, 8, length=0) is None, "no alternate enumeration"


def test_both_versions_and_webusb_share_a_vendor_code() -> None:
    made = replace(
        serial_and_disk(1, 2, f0=WINUSB, f2=GUIDS),
        webusb=WebUsb(vendor_code=CODE, url="https://example.org/a"),
    )
    with device(made) as host:
        bos = BosDescriptor.parse(ask(host, 0x80, 6, 0x0F00, 0) or b"")
        capability = OsCapability.find(bos)
        said = ask(host, 0xC0, CODE, 0, 7) or b""
        assert capability is not None
        assert capability.total_length == len(said)
        assert OsDescriptorSet.parse(said).functions == {0: WINUSB, 3: GUIDS}
        assert parse_compatible_ids(ask(host, 0xC0, CODE, 0, 4) or b"") == {
            0: ("WINUSB", ""), 3: ("WINUSB", ""),
        }  # fmt: skip
        assert WebUsbCapability.find(bos) == WebUsbCapability(bVendorCode=CODE, iLandingPage=1)
        page = ask(host, 0xC0, CODE, 1, 2) or b""
        assert parse_url_descriptor(page) == "https://example.org/a"
        assert ask(host, 0xC0, CODE, 2, 2) is None, "there is one URL"


def test_without_a_landing_page_there_is_none_to_ask_for() -> None:
    with device(gadget(webusb=WebUsb(vendor_code=0x22))) as host:
        bos = BosDescriptor.parse(ask(host, 0x80, 6, 0x0F00, 0) or b"")
        assert WebUsbCapability.find(bos) == WebUsbCapability(bVendorCode=0x22)
        assert ask(host, 0xC0, 0x22, 1, 2) is None


def test_every_interface_has_properties_though_there_be_none() -> None:
    with device(serial_and_disk(1, f2=NAMED)) as host:
        empty = bytes.fromhex("0a000000 0001 0500 0000")
        found = [ask(host, 0xC1, CODE, number, 5) for number in range(5)]
        assert found == [empty, empty, empty, PROPERTIES, None]
        assert ask(host, 0xC1, CODE, 3 << 8, 5) == PROPERTIES
        assert ask(host, 0xC1, CODE, 0x0103, 5) is None, "a page that is not there"


def test_other_vendor_requests_reach_the_functions() -> None:
    function = Scripted()
    made = gadget(function, os_descriptors=ours(1, f0=NAMED))
    made = replace(made, os_descriptors=replace(made.os_descriptors, vendor_code=0x5C))  # type: ignore[type-var]
    with device(made) as host:
        assert host.ctrl_transfer(0x40, 0x5B, 0, 0, b"mine") == 4
        assert ask(host, 0xC0, 0x5C, 0, 0) == b"mine"
        assert ask(host, 0xC0, 0x5C, 0, 4) != b"mine", "this one is the gadget's own"
        assert ask(host, 0xC0, 0x5C, 1, 4) == b"mine"


@pytest.mark.parametrize("speed", [Speed.LOW, Speed.FULL, Speed.HIGH, Speed.SUPER])
def test_every_speed_says_the_same(speed: Speed) -> None:
    made = gadget(
        deliberately_illegal=speed == Speed.LOW,
        os_descriptors=ours(1, 2, f0=NAMED),
        webusb=WebUsb(vendor_code=0x22, url="https://example.org"),
    )
    described = made.describe(speed)
    assert described.device.bcdUSB == (0x0320 if speed == Speed.SUPER else 0x0210)
    assert described.vendor_replies == made.describe(Speed.HIGH).vendor_replies
    assert described.strings[0xEE, 0] == OS_STRING
    bos = BosDescriptor.parse(described.bos or b"")
    assert OsCapability.find(bos)
    assert WebUsbCapability.find(bos)


# --- the descriptor set ------------------------------------------------------------------------


def descriptor_set(made: Gadget) -> OsDescriptorSet:
    return OsDescriptorSet.parse(made.describe(Speed.HIGH).vendor_replies[0xC0, CODE, 0, 7])


def test_one_interface_is_not_taken_apart() -> None:
    assert descriptor_set(gadget(os_descriptors=ours(2, f0=GUIDS))) == OsDescriptorSet(device=GUIDS)
    assert descriptor_set(gadget(os_descriptors=ours(2))) == OsDescriptorSet()


def test_a_device_class_of_its_own_keeps_a_device_whole() -> None:
    made = replace(serial_and_disk(2, f1=GUIDS), device_class=(0xFF, 0, 0))
    assert descriptor_set(made) == OsDescriptorSet(device=GUIDS)


def test_the_second_configuration_is_index_1() -> None:
    configs = (Config(functions=(Scripted(),)), Config(functions=(Scripted(), Scripted())))
    said = replace(ours(2, f1=GUIDS), config=2)
    assert descriptor_set(gadget(configs=configs, os_descriptors=said)) == OsDescriptorSet(
        functions={1: GUIDS}, configuration=1
    )


def test_string_238_is_nobodys() -> None:
    """Index 0xEE: Windows asks every device for it, once."""
    names = [f"string {n}" for n in range(240)]
    strings = Strings()
    given = [strings.index(name) for name in names]
    assert given[236:239] == [237, 239, 240]
    assert (0xEE, 0x0409) not in strings.table()
    assert strings.index(names[-1]) == 241, "again, the same"


BAD = [
    ({"vendor_code": 256}, "vendor_code 256: expected 0 to 255"),
    ({"signature": "MSFT1000"}, "signature 'MSFT1000': expected at most 7 characters"),
    ({"versions": ()}, "versions []: expected [1], [2] or [1, 2]"),
    ({"versions": (2, 1)}, "versions [2, 1]: expected"),
    ({"windows_version": -1}, "windows_version -0x1: expected 0 to 0xffffffff"),
    ({"config": 2}, "os_descriptors: config 2: expected 1 to 1"),
    ({"features": {2: WINUSB}}, "function 2 of configuration 1: expected 0 to 1"),
    ({"features": {1: WINUSB}}, "function 1 of configuration 1 is the kernel's own: expected its"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "said"), BAD, ids=[row[1][:24] for row in BAD])
def test_what_cannot_be_said_is_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(SchemeError, match=re.escape(said)):
        gadget(
            Scripted(),
            KernelFunction(driver="acm"),
            os_descriptors=OsDescriptors(**{"vendor_code": 1, **options}),  # type: ignore[arg-type]
        )


def test_a_bcdUSB_without_a_bos_is_served_on_demand_only() -> None:
    made = gadget(webusb=WebUsb(vendor_code=1), bcdUSB={Speed.HIGH: 0x0200})
    with pytest.raises(SchemeError, match="expected 0x0201 or above, where hosts ask for a BOS"):
        made.describe(Speed.HIGH)
    described = replace(made, deliberately_illegal=True).describe(Speed.HIGH)
    assert (described.device.bcdUSB, described.bos) == (0x0200, None)
    with pytest.raises(SchemeError, match="webusb: vendor_code 256"):
        WebUsb(vendor_code=256)


# --- schemes -----------------------------------------------------------------------------------

SCHEME = f"""\
name = "g"
idVendor = 0x1d6b
idProduct = 0x0104
bcdDevice = 0x0100
serial = "1"
max_speed = "super"
webusb = {{ vendor_code = 0x22, url = "https://example.org" }}

[os_descriptors]
vendor_code = 0xcd
signature = "MSFT100"
config = 1
versions = [1, 2]
windows_version = 0x0a000000

[[os_descriptors.features]]
function = 0
compatible_id = "WINUSB"
sub_compatible_id = "X"

[os_descriptors.features.properties]
Number = 7
Bytes = {{ hex = "01 ff" }}
"A text" = "{GUID}"
Texts = ["a", "b"]

[[configs]]
max_power_ma = 100

[[configs.functions]]
type = "generic"
"""


def test_a_scheme_says_it_and_is_written_as_it_was_read() -> None:
    made = parse_scheme(SCHEME, where="g.toml")
    assert made.webusb == WebUsb(vendor_code=0x22, url="https://example.org")
    assert made.os_descriptors == OsDescriptors(
        vendor_code=0xCD,
        versions=(1, 2),
        windows_version=0x0A000000,
        features={
            0: OsFeatures(
                compatible_id="WINUSB",
                sub_compatible_id="X",
                properties={
                    "Number": 7, "Bytes": b"\x01\xff", "A text": GUID, "Texts": ("a", "b"),
                },
            )
        },
    )  # fmt: skip
    written = dump_scheme(made)
    assert written.startswith(SCHEME)
    again = parse_scheme(written, where="again")
    assert again.os_descriptors == made.os_descriptors


@settings(max_examples=50)
@given(
    st.dictionaries(st.integers(0, 1), FEATURES),
    st.sampled_from([(1,), (2,), (1, 2)]),
    st.none() | st.builds(WebUsb, vendor_code=st.integers(0, 255), url=st.just("https://x")),
)
def test_every_scheme_comes_back(
    features: dict[int, OsFeatures], versions: tuple[int, ...], webusb: WebUsb | None
) -> None:
    said = OsDescriptors(vendor_code=1, versions=versions, features=features)
    functions = (GenericSerialFunction(Echo()), GenericSerialFunction(Echo()))
    made = gadget(*functions, os_descriptors=said, webusb=webusb)
    for text in (dump_scheme(made), template(made)):
        again = parse_scheme(text, where="g.toml")
        assert (again.os_descriptors, again.webusb) == (said, webusb)


def test_what_the_template_shows_is_a_scheme() -> None:
    """Uncommented, and without the lines that stood for them before."""
    shown = template(gadget(GenericSerialFunction(Echo())))
    part = shown[shown.index("# webusb = ") : shown.index("# So are the values")]
    lines = [line.removeprefix("# ").removeprefix("#") for line in part.splitlines()]
    head = 'name = "g"\nidVendor = 1\nidProduct = 2\n'
    tail = '\n[[configs]]\n[[configs.functions]]\ntype = "generic"\n'
    made = parse_scheme(head + "\n".join(lines) + tail, where="template")
    assert made.os_descriptors is not None
    assert made.os_descriptors.features[0].compatible_id == "WINUSB"
    assert made.webusb == WebUsb(vendor_code=0x22, url="https://example.org/device")


WRONG = [
    ("versions = [1, 2]", "versions = [1, 3]", "os_descriptors.versions = [1, 3]: expected [1]"),
    ("versions = [1, 2]", "versions = [true]", "os_descriptors.versions = [True]: expected [1]"),
    ("versions = [1, 2]", "versions = 2", "os_descriptors.versions = 2: expected [1]"),
    ("Number = 7", "Number = 7.5", "os_descriptors.features[0].properties.Number = 7.5: expected"),
    ("Number = 7", "Number = true", "properties.Number = True: expected text, an array of texts"),
    ("Number = 7", "Number = { hex = 'xx' }", "expected text, an array of texts, a number, or {"),
    ("function = 0", "function = 1", "function 1 of configuration 1: expected 0 to 0"),
    ('"WINUSB"', '"winusb"', "os_descriptors.features[0]: compatible_id 'winusb': expected"),
    ("compatible_id", "compatible", "unknown key; did you mean compatible_id?"),
    ("url =", "page =", "webusb.page: unknown key; there are vendor_code, url"),
    ("[[os_descriptors.features]]", "[[os_descriptors.features]]\nfunction = 0\n"
     "[[os_descriptors.features]]", "features[1].function = 0: expected each function once"),
]  # fmt: skip


@pytest.mark.parametrize(("right", "wrong", "said"), WRONG, ids=[w[1][:20] for w in WRONG])
def test_mistakes_in_a_scheme_are_named(right: str, wrong: str, said: str) -> None:
    assert right in SCHEME
    with pytest.raises(SchemeError, match=re.escape(said)):
        parse_scheme(SCHEME.replace(right, wrong, 1), where="g.toml")


def test_check_shows_them() -> None:
    lines = list(summary(parse_scheme(SCHEME, where="g.toml")))
    assert lines[1:8] == [
        "Microsoft OS 1.0 and 2.0: vendor code 0xcd, config 1",
        "  generic: WINUSB X",
        "    Number = 7",
        "    Bytes = 01 ff",
        f"    A text = {GUID}",
        "    Texts = a, b",
        "WebUSB: vendor code 0x22, https://example.org",
    ]
    assert lines[8].startswith("super: bcdUSB 3.20")
    assert "high: bcdUSB 2.10" in "\n".join(lines)
    assert lines[-1].startswith("warning: gadget g: os_descriptors: versions [1, 2]: the kernel's")
    bare = list(
        summary(gadget(webusb=WebUsb(vendor_code=1), os_descriptors=ours(1, f0=OsFeatures())))
    )
    assert bare[1:4] == [
        "Microsoft OS 1.0: vendor code 0xcd, config 1",
        "  scripted: no compatible ID",
        "WebUSB: vendor code 0x01, no landing page",
    ]


# --- the kernel's UDCs -------------------------------------------------------------------------


def test_version_2_is_not_for_a_udc_of_the_kernel(configfs: FakeConfigfs) -> None:
    made = gadget(os_descriptors=ours(1, 2))
    said = "versions [1, 2]: the kernel's gadgets have no Microsoft OS 2.0 descriptors"
    with pytest.raises(SchemeError, match=re.escape(said)):
        KernelUDC(made, "dummy_udc.0")
    with pytest.raises(SchemeError, match=re.escape(said)):
        ConfigfsGadget.create(made, root=configfs.root)


def test_webusb_is_written_where_the_kernel_has_it() -> None:
    made = gadget(webusb=WebUsb(vendor_code=0x22, url="https://example.org"))
    written = [s for s in plan(made) if isinstance(s, Write) and s.path.startswith("webusb/")]
    assert written == [
        Write("webusb/bcdVersion", b"0x0100"),
        Write("webusb/bVendorCode", b"0x22"),
        Write("webusb/landingPage", b"https://example.org"),
        Write("webusb/use", b"1"),
    ]


def test_a_kernel_without_webusb_says_so(configfs: FakeConfigfs) -> None:
    made = gadget(KernelFunction(driver="acm"), webusb=WebUsb(vendor_code=0x22))
    with pytest.raises(ConfigfsError, match=r"no WebUSB in configfs .* since 6\.3\)") as refused:
        ConfigfsGadget.create(made, root=configfs.root)
    assert refused.value.path.name == "bcdVersion"
    assert list(configfs.root.iterdir()) == [], "nothing of it is left"


def test_webusb_of_a_live_gadget_is_read(configfs: FakeConfigfs) -> None:
    made = gadget(KernelFunction(driver="acm"))
    live = ConfigfsGadget.create(made, root=configfs.root)
    assert read_gadget(live).webusb is None
    webusb = live.path / "webusb"
    webusb.mkdir()
    values = {"use": "1", "bcdVersion": "0x0100", "bVendorCode": "0x22", "landingPage": "https://x"}
    for name, value in values.items():
        (webusb / name).write_text(f"{value}\n")
    assert read_gadget(live).webusb == WebUsb(vendor_code=0x22, url="https://x")
    (webusb / "use").write_text("0\n")
    assert read_gadget(live).webusb is None


OS_STRUCTURES = bytes.fromhex(
    "00 23000000 0100 0400 01 00"
    "00 01 57494e5553420000 0000000000000000 000000000000"
    "00 1f000000 0100 0500 0100 14000000 01000000 0200 4100 04000000 62636400"
    "00 1d000000 0100 0500 0100 12000000 03000000 0200 4200 02000000 0001"
)


def test_functionfs_is_told_version_1() -> None:
    features = OsFeatures(compatible_id="WINUSB", properties={"A": "bcd", "B": b"\0\1"})
    function = Scripted(alternates=1)
    plain = describe(function).descriptors
    told = describe(function, features=features).descriptors
    flags = int.from_bytes(told[8:12], "little") ^ int.from_bytes(plain[8:12], "little")
    assert flags == functionfs.HAS_MS_OS_DESC
    assert told.endswith(OS_STRUCTURES)
    # The count of them stands behind the three of the speeds.
    assert len(told) == len(plain) + 4 + len(OS_STRUCTURES)
    assert told[24:28] == b"\3\0\0\0"


@pytest.mark.parametrize(
    ("properties", "said"),
    [
        ({"A": ("x",)}, "property A = ('x',): the kernel's gadgets answer with text and bytes"),
        ({"A": 1}, "property A = 1: the kernel's gadgets"),
        ({"A": "ä"}, "property A: 'ä': expected ASCII"),
        ({"ä": "a"}, "property ä: 'ä': expected ASCII"),
    ],
)
def test_what_the_kernel_would_not_answer_is_refused(
    properties: dict[str, object], said: str
) -> None:
    features = OsFeatures(properties=properties)  # type: ignore[arg-type]
    made = gadget(Scripted(alternates=1), os_descriptors=ours(1, f0=features))
    with pytest.raises(SchemeError, match=re.escape(said)):
        KernelUDC(made, "dummy_udc.0")


def test_the_kernel_udc_tells_each_function_its_own() -> None:
    functions = (Scripted(alternates=1), Scripted(alternates=1))
    udc = KernelUDC(gadget(*functions, os_descriptors=ours(1, f1=WINUSB)), "dummy_udc.0")
    told = [bytes.fromhex("57494e555342") in d.descriptors for _, d in udc._described]
    assert told == [False, True]
