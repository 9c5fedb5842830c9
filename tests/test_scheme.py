"""scheme: the TOML form says everything a Gadget can, and every mistake in it has its place."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configfs.tree import plan
from gadgets.acm.function import AcmFunction
from gadgets.mass_storage.function import MassStorageFunction
from gadgets.mass_storage.lun import FileLun, RamLun
from gadgets.serial.profiles import Sink, Stream
from tests.devices import Scripted
from usbip_vudc.errors import SchemeError
from usbip_vudc.function import Function
from usbip_vudc.gadget import Config, Gadget, KernelFunction, OsDescriptors, Text, WebUsb
from usbip_vudc.registry import FUNCTIONS, GADGETS, GadgetOptions, load_gadget
from usbip_vudc.scheme import dump_scheme, load_scheme, parse_scheme, template
from usbip_vudc.usb.ch9 import Speed

HEAD = "name = 'g'\nidVendor = 0x1d6b\nidProduct = 0x0104\n"
SPEEDS = (Speed.FULL, Speed.HIGH, Speed.SUPER)


def parse(text: str, *, base: Path | None = None, opens_files: bool = True) -> Gadget:
    return parse_scheme(text, where="g.toml", base=base, opens_files=opens_files)


def bytes_of(gadget: Gadget) -> list[object]:
    """Everything a host can read of it."""
    described = [gadget.describe(speed) for speed in SPEEDS if speed <= gadget.max_speed]
    return [
        (d.device, [c.pack() for c in d.configurations], d.qualifier, d.other_speed, d.strings)
        for d in described
    ]


def functions_of(gadget: Gadget) -> list[Function]:
    return [f for c in gadget.configs for f in c.functions if isinstance(f, Function)]


# --- what it says ------------------------------------------------------------------------------


def test_everything_a_scheme_can_say(tmp_path: Path) -> None:
    gadget = parse(
        """
        name = "disk"
        idVendor = 0x0525
        idProduct = 0xa4a5
        bcdDevice = 0x0212
        device_class = [0xef, 2, 1]
        manufacturer = "Acme"
        product = { 0x0409 = "Thing", 0x0407 = "Ding" }
        serial = "0042"
        max_speed = "high"
        bcdUSB = { high = 0x0210, full = 0x0201 }
        bMaxPacketSize0 = { full = 8 }
        deliberately_illegal = true
        os_descriptors = { vendor_code = 0xcd, config = 2 }

        [[configs]]
        name = "main"
        self_powered = false
        remote_wakeup = true
        max_power_ma = 250

        [[configs.functions]]
        type = "acm"
        profile = "sink"
        dsr_follows_dtr = true

        [[configs.functions]]
        type = "mass_storage"
        luns = [
          { image = "disk.img", size = "1M", read_only = false, vendor = "Acme" },
          { size = 8192, block_size = 4096, removable = true },
          { removable = true },
        ]

        [[configs]]

        [[configs.functions]]
        same_as = "configs[0].functions[0]"

        [[configs.functions]]
        kernel = "mass_storage"
        instance = "k"

        [configs.functions.attributes]
        stall = false
        "lun.0/ro" = true
        "lun.0/nofua" = 1
        "lun.0/inquiry_string" = "x"
        "lun.0/file" = "disk.img"
        report_desc = [5, 1, 255]
        guid = { hex = "05 01 ff" }
        """,
        base=tmp_path,
    )
    acm, disk = functions_of(gadget)[:2]
    assert isinstance(acm, AcmFunction)
    assert isinstance(disk, MassStorageFunction)
    with_image, memory, empty = disk.luns
    kernel = KernelFunction(
        driver="mass_storage", instance="k",
        attributes={
            "stall": "0", "lun.0/ro": "1", "lun.0/nofua": "1", "lun.0/inquiry_string": "x",
            "lun.0/file": str(tmp_path / "disk.img"), "report_desc": b"\x05\x01\xff",
            "guid": b"\x05\x01\xff",
        },
    )  # fmt: skip
    try:
        assert gadget == Gadget(
            name="disk", idVendor=0x0525, idProduct=0xA4A5, bcdDevice=0x0212,
            device_class=(0xEF, 2, 1), manufacturer="Acme",
            product={0x0409: "Thing", 0x0407: "Ding"}, serial="0042", max_speed=Speed.HIGH,
            bcdUSB={Speed.HIGH: 0x0210, Speed.FULL: 0x0201}, bMaxPacketSize0={Speed.FULL: 8},
            deliberately_illegal=True,
            os_descriptors=OsDescriptors(vendor_code=0xCD, config=2),
            configs=(
                Config(functions=(acm, disk), name="main", self_powered=False, remote_wakeup=True,
                       max_power_ma=250),
                Config(functions=(acm, kernel)),
            ),
        )  # fmt: skip
        assert isinstance(acm.profile, Sink)
        assert acm.dsr_follows_dtr
        assert isinstance(with_image, FileLun)
        assert (with_image.path, with_image.size) == (tmp_path / "disk.img", 1 << 20)
        assert with_image.vendor == "Acme"
        assert isinstance(memory, RamLun)
        assert (memory.size, memory.block_size, memory.removable) == (8192, 4096, True)
        assert isinstance(empty, FileLun)
        assert not empty.medium_present
    finally:
        with_image.close()


def test_what_is_not_said_is_as_in_gadget() -> None:
    gadget = parse(HEAD + "[[configs]]\n[[configs.functions]]\nkernel = 'acm'\n")
    assert gadget == Gadget(
        name="g", idVendor=0x1D6B, idProduct=0x0104,
        configs=(Config(functions=(KernelFunction(driver="acm"),)),),
    )  # fmt: skip


def test_a_described_gadget_opens_and_makes_no_image(tmp_path: Path) -> None:
    text = (
        HEAD + "[[configs]]\n[[configs.functions]]\ntype = 'mass_storage'\n"
        "luns = [{ image = 'new.img', size = '1M' }, { size = '1T' }]\n"
    )
    gadget = parse(text, base=tmp_path, opens_files=False)
    assert not list(tmp_path.iterdir())
    assert bytes_of(gadget)


def test_load_scheme_looks_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(bytes(4096))
    scheme = tmp_path / "g.toml"
    scheme.write_text(
        HEAD + "[[configs]]\n[[configs.functions]]\ntype = 'mass_storage'\n"
        "luns = [{ image = 'disk.img' }]\n"
    )
    [disk] = functions_of(load_scheme(scheme))
    assert isinstance(disk, MassStorageFunction)
    [lun] = disk.luns
    assert lun.size == 4096
    lun.close()


# --- there and back ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", GADGETS)
def test_ready_made_gadgets_survive(name: str) -> None:
    gadget = load_gadget(name, GadgetOptions())
    assert gadget.name == name, "its name is what `up` and `down` are given"
    for text in (dump_scheme(gadget), template(gadget)):
        again = parse(text)
        assert bytes_of(again) == bytes_of(gadget)
        assert dump_scheme(again) == dump_scheme(gadget)


def test_every_type_is_the_name_of_its_function() -> None:
    for kind in FUNCTIONS:
        luns = "luns = [{ size = '1M' }]" if kind == "mass_storage" else ""
        text = f"{HEAD}[[configs]]\n[[configs.functions]]\ntype = '{kind}'\n{luns}\n"
        [function] = functions_of(parse(text))
        assert function.name == kind


def test_a_template_says_every_key_once_with_what_it_is_for() -> None:
    text = template(load_gadget("composite", GadgetOptions()))
    for key in ("name", "idVendor", "max_power_ma", "type", "profile", "luns"):
        assert text.count(f"# {key}: ") == 1
    assert all(len(line) <= 100 for line in text.splitlines())


def test_a_shared_function_stays_one(tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(bytes(512))
    with FileLun(tmp_path / "disk.img", read_only=True) as lun:
        disk = MassStorageFunction([lun])
        configs = (Config(functions=(disk,)), Config(functions=(AcmFunction(), disk)))
        text = dump_scheme(Gadget(name="g", idVendor=1, idProduct=2, configs=configs))
        again = parse(text)
        first, _, second = functions_of(again)
        assert first is second
        assert isinstance(first, MassStorageFunction)
        first.luns[0].close()


def test_luns_survive(tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(bytes(8192))
    with FileLun(tmp_path / "disk.img", block_size=4096, read_only=True, serial="7") as lun:
        luns = [lun, RamLun(1536, product="odd"), FileLun(removable=True)]
        config = Config(functions=(MassStorageFunction(luns),))
        text = dump_scheme(Gadget(name="g", idVendor=1, idProduct=2, configs=(config,)))
    assert tomllib.loads(text)["configs"][0]["functions"][0]["luns"] == [
        {"image": str(tmp_path / "disk.img"), "read_only": True, "block_size": 4096, "serial": "7"},
        {"size": 1536, "product": "odd"},
        {"removable": True, "serial": "00000001"},
    ]
    [disk] = functions_of(parse(text))
    assert isinstance(disk, MassStorageFunction)
    assert disk.luns[0].read_only
    disk.luns[0].close()


WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
TEXTS: st.SearchStrategy[Text] = WORDS | st.dictionaries(
    st.integers(1, 0xFFFF), WORDS.filter(bool), min_size=1, max_size=3
)
PATHS = st.from_regex(r"[A-Za-z_. =#'\"]{1,9}(/[a-z_.0-9]{1,9})?", fullmatch=True).filter(
    lambda path: not {"", ".", ".."} & set(path.split("/"))
)
KERNEL = st.builds(
    KernelFunction,
    driver=st.sampled_from(["acm", "hid", "uac2"]),
    instance=st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True),
    attributes=st.dictionaries(PATHS, WORDS | st.binary(max_size=40), max_size=6),
)
KERNEL_GADGETS = st.builds(
    Gadget,
    name=st.from_regex(r"[a-z0-9_]{1,12}", fullmatch=True),
    idVendor=st.integers(0, 0xFFFF),
    idProduct=st.integers(0, 0xFFFF),
    bcdDevice=st.integers(0, 0xFFFF),
    device_class=st.none() | st.tuples(*[st.integers(0, 255)] * 3),
    manufacturer=TEXTS,
    product=TEXTS,
    serial=TEXTS,
    max_speed=st.sampled_from([Speed.LOW, *SPEEDS]),
    bcdUSB=st.dictionaries(st.sampled_from(SPEEDS), st.integers(0, 0xFFFF)),
    bMaxPacketSize0=st.dictionaries(st.sampled_from(SPEEDS), st.integers(0, 255)),
    deliberately_illegal=st.booleans(),
    os_descriptors=st.none()
    | st.builds(
        OsDescriptors,
        vendor_code=st.integers(0, 255),
        signature=st.text("MSFT100äx\U0001f4be", max_size=3),
        versions=st.sampled_from([(1,), (2,), (1, 2)]),
        windows_version=st.integers(0, 0xFFFFFFFF),
    ),
    webusb=st.none() | st.builds(WebUsb, vendor_code=st.integers(0, 255), url=WORDS),
    configs=st.lists(
        st.builds(
            Config,
            functions=st.lists(KERNEL, max_size=3).map(tuple),
            name=TEXTS,
            self_powered=st.booleans(),
            remote_wakeup=st.booleans(),
            max_power_ma=st.integers(0, 2040),
        ),
        min_size=1,
        max_size=3,
    ).map(tuple),
)


@given(KERNEL_GADGETS)
def test_gadgets_of_kernel_functions_come_back_equal(gadget: Gadget) -> None:
    again = parse(dump_scheme(gadget))
    assert again == gadget
    attributes = [
        [
            list(f.attributes)
            for c in g.configs
            for f in c.functions
            if isinstance(f, KernelFunction)
        ]
        for g in (again, gadget)
    ]
    assert attributes[0] == attributes[1], "in the order to write them"


def test_equal_kernel_functions_make_one_tree() -> None:
    kernel = KernelFunction(driver="rndis", attributes={"qmult": "5"})
    gadget = Gadget(
        name="g", idVendor=1, idProduct=2,
        configs=(Config(functions=(kernel,)), Config(functions=(kernel,))),
    )  # fmt: skip
    assert plan(parse(dump_scheme(gadget))) == plan(gadget)


def test_what_belongs_to_a_program_has_no_scheme() -> None:
    for function, reason in (
        (Scripted(), "function type 'scripted' is unknown to schemes; there are acm, generic"),
        (AcmFunction(Stream()), "function acm: profile Stream belongs to a program; a scheme has"),
    ):
        gadget = Gadget(
            name="g", idVendor=1, idProduct=2, configs=(Config(functions=(function,)),)
        )  # fmt: skip
        with pytest.raises(SchemeError, match=reason):
            dump_scheme(gadget)


# --- what is wrong, and where ------------------------------------------------------------------

CONFIG = HEAD + "[[configs]]\n"
FUNCTION = CONFIG + "[[configs.functions]]\n"
DISK = FUNCTION + "type = 'mass_storage'\n"
KERNEL_HID = FUNCTION + "kernel = 'hid'\n[configs.functions.attributes]\n"

BAD = [
    ("name = ", "not TOML: Invalid value (at end of document)"),
    (f"name = {'[' * 5000}", "arrays or tables in one another, too many of them"),
    (HEAD, "configs is missing: expected at least one [[configs]]"),
    (HEAD + "configs = 1", "configs = 1: expected an array of tables"),
    ("name = 'g'\n[[configs]]", "idVendor is missing: expected a number from 0 to 0xffff"),
    ("name = 7\n[[configs]]", "name = 7: expected a string"),
    ("name = ''\n[[configs]]", "name = '': expected one word"),
    ("name = 'my disk'\n[[configs]]", "name = 'my disk': expected one word"),
    (f"name = '{'long ' * 2000}'\n[[configs]]", "long...: expected one word"),
    (HEAD + "os_descriptors = { vendor_code = 1, versions = [{}, [1]] }\n[[configs]]",
     "os_descriptors.versions = [{}, [1]]: expected [1], [2] or [1, 2]"),
    (HEAD + "os_descriptors = { vendor_code = 1, versions = [true] }\n[[configs]]",
     "os_descriptors.versions = [True]: expected [1], [2] or [1, 2]"),
    (HEAD + "idVendr = 1\n[[configs]]", "idVendr: unknown key; did you mean idVendor?; there are "
     "name, idVendor, idProduct, bcdDevice, device_class, manufacturer, product, serial, "
     "max_speed, bcdUSB, bMaxPacketSize0, deliberately_illegal, os_descriptors, webusb, "
     "configs"),
    (HEAD + "bcdUSB = 0x0210\n[[configs]]", "bcdUSB = 528: expected numbers from 0 to 0xffff by "
     "speed (low, full, high, super), as { low = ... }"),
    (HEAD + "bMaxPacketSize0 = { warp = 8 }\n[[configs]]",
     "bMaxPacketSize0 = {'warp': 8}: expected numbers"),
    (HEAD + "bMaxPacketSize0 = { full = 512 }\n[[configs]]",
     "gadget g: bMaxPacketSize0 512 at full speed: expected 0 to 255"),
    (HEAD + "deliberately_illegal = 'yes'\n[[configs]]",
     "deliberately_illegal = 'yes': expected true or false"),
    (HEAD + "bcdDevice = 65536\n[[configs]]",
     "bcdDevice = 65536: expected a number from 0 to 0xffff"),
    (HEAD + "bcdDevice = true\n[[configs]]",
     "bcdDevice = True: expected a number from 0 to 0xffff"),
    (HEAD + "device_class = [1, 2]\n[[configs]]",
     "device_class = [1, 2]: expected 3 numbers from 0 to 0xff"),
    (HEAD + "device_class = [1, 2, 256]\n[[configs]]", "expected 3 numbers from 0 to 0xff"),
    (HEAD + "max_speed = 'hihg'\n[[configs]]",
     "max_speed = 'hihg': expected one of low, full, high, super; did you mean high?"),
    (HEAD + "product = { en = 'x' }\n[[configs]]", "product = {'en': 'x'}: expected a string, or "
     "a table of strings by language code such as { 0x0409 = '...' }"),
    (HEAD + "serial = 7\n[[configs]]", "serial = 7: expected a string, or a table"),
    (HEAD + "os_descriptors = 1\n[[configs]]", "os_descriptors = 1: expected a table"),
    (HEAD + "os_descriptors = { vendor_code = 300 }\n[[configs]]",
     "os_descriptors.vendor_code = 300: expected a number from 0 to 255"),
    (HEAD + "os_descriptors = { vendor_code = 3, config = 2 }\n[[configs]]",
     "gadget g: os_descriptors: config 2: expected 1 to 1"),
    (CONFIG + "max_power_ma = 2041",
     "configs[0].max_power_ma = 2041: expected a number from 0 to 0x7f8"),
    (CONFIG + "self_powered = 1", "configs[0].self_powered = 1: expected true or false"),
    (CONFIG + "function = []", "configs[0].function: unknown key; did you mean functions?"),
    (FUNCTION, f"configs[0].functions[0] has no function: expected one of type "
     f"({', '.join(FUNCTIONS)}), kernel (a function of the kernel), same_as"),
    (FUNCTION + "type = 'acm'\nkernel = 'acm'",
     "configs[0].functions[0] has type and kernel: expected one of"),
    (FUNCTION + "type = 'amc'", f"configs[0].functions[0].type = 'amc': expected one of "
     f"{', '.join(FUNCTIONS)}; did you mean acm?"),
    (FUNCTION + "type = 'acm'\nprofil = 'echo'",
     "configs[0].functions[0].profil: unknown key; did you mean profile?; there are type, "
     "profile, back_pressure, zlp, baud_paced, wait_for_dtr, dsr_follows_dtr"),
    (FUNCTION + "type = 'acm'\nprofile = 'moden:1'",
     "configs[0].functions[0].profile = 'moden:1': expected one of echo, sink[:SEED], source"),
    (FUNCTION + "type = 'acm'\nback_pressure = 'block'",
     "configs[0].functions[0].back_pressure = 'block': expected one of nak, drop-oldest, drop-new"),
    (FUNCTION + "type = 'generic'\nwait_for_dtr = true",
     "configs[0].functions[0].wait_for_dtr: unknown key"),
    (FUNCTION + "type = 'generic'\nluns = []", "functions[0].luns: unknown key; there are type, "
     "profile"),
    (FUNCTION + "same_as = 'configs[1].functions[0]'",
     "configs[0].functions[0].same_as = 'configs[1].functions[0]': expected one of "),
    (DISK, "configs[0].functions[0].luns is missing: expected 1 to 16 tables, such as "
     "[{ size = '64M' }]"),
    (DISK + "luns = []", "configs[0].functions[0].luns = []: expected 1 to 16 tables"),
    (DISK + "luns = [1]", "configs[0].functions[0].luns = [1]: expected an array of tables"),
    (DISK + "luns = [{ size = '1M' }, { size = '12x' }]", "configs[0].functions[0].luns[1].size "
     "= '12x': expected bytes, or text with K, M, G or T such as '64M'"),
    (DISK + "luns = [{ size = '8388608T' }]", "luns[0].size = '8388608T': expected bytes"),
    (DISK + "luns = [{ size = 9223372036854775808 }]", "size = 9223372036854775808: expected"),
    (DISK + "luns = [{ size = true }]", "luns[0].size = True: expected bytes, or text"),
    (DISK + "luns = [{ size = 513 }]",
     "luns[0].size = 513: expected a multiple of block_size 512"),
    (DISK + "luns = [{}]",
     "luns[0].size is missing: expected a size, an image, or removable = true to start empty"),
    (DISK + "luns = [{ image = '/nowhere/disk.img' }]",
     "luns[0].image = '/nowhere/disk.img': expected a file that exists, or a size to create it"),
    (DISK + "luns = [{ image = '' }]", "luns[0].image = '': expected the path of a file"),
    (DISK + "luns = [{ size = '1M', block_size = 1024 }]",
     "configs[0].functions[0].luns[0]: block_size 1024: expected 512 or 4096 bytes"),
    (DISK + "luns = [{ size = '1M', vendor = 'much too long' }]",
     "luns[0]: vendor 'much too long': expected at most 8 printable ASCII characters"),
    (FUNCTION + "kernel = 'a/b'", "configs[0].functions[0]: kernel function a/b.0: driver 'a/b': "
     "expected letters"),
    (FUNCTION + "kernel = 'acm'\nattributes = 1",
     "configs[0].functions[0].attributes = 1: expected a table"),
    (KERNEL_HID + "report_desc = [1, 256]", "configs[0].functions[0].attributes.report_desc = "
     "[1, 256]: expected text, a number, true or false, an array of bytes, or { hex ="),
    (KERNEL_HID + "report_desc = { hex = '0' }", "attributes.report_desc = {'hex': '0'}: expected"),
    (KERNEL_HID + "report_desc = { hex = '00', x = 1 }", "attributes.report_desc = {'hex': "),
    (KERNEL_HID + '"lun.0/file" = 1.5',
     'configs[0].functions[0].attributes."lun.0/file" = 1.5: expected text'),
    (KERNEL_HID + '"../UDC" = 1', "configs[0].functions[0]: kernel function hid.0: attribute "
     "'../UDC': expected a path below functions/hid.0, such as lun.0/file"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "reason"), BAD, ids=[reason[:50] for _, reason in BAD])
def test_mistakes_name_file_key_value_and_what_is_right(text: str, reason: str) -> None:
    with pytest.raises(SchemeError) as failure:
        parse(text)
    said = str(failure.value)
    assert said.startswith("g.toml: ")
    assert said.count("g.toml") == 1
    assert reason in said
    assert "\n" not in said


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "g.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SchemeError, match=r"g\.toml: not a text file in UTF-8"):
        load_scheme(path)
    with pytest.raises(FileNotFoundError):
        load_scheme(tmp_path / "none.toml")


def test_units_opened_before_a_mistake_are_closed(tmp_path: Path) -> None:
    text = DISK + "luns = [{ image = 'a.img', size = '1M' }, { size = 1 }]"
    with pytest.raises(SchemeError, match="multiple of block_size"):
        parse(text, base=tmp_path)
    FileLun(tmp_path / "a.img").close()
