"""live: a gadget read back says what makes it again."""

from __future__ import annotations

import pytest

from configfs.live import read_gadget
from configfs.transaction import ConfigfsGadget
from tests.devices import Scripted
from tests.fake_configfs import FakeConfigfs, configfs
from usbip_vudc.errors import SchemeError
from usbip_vudc.function import Function
from usbip_vudc.gadget import Config, Gadget, KernelFunction, OsDescriptors
from usbip_vudc.scheme import dump_scheme, parse_scheme
from usbip_vudc.usb.ch9 import Speed

__all__ = ("configfs",)


def gadget(*functions: Function | KernelFunction, **more: object) -> Gadget:
    fields: dict[str, object] = {
        "name": "g", "idVendor": 1, "idProduct": 2, "configs": (Config(functions=functions),),
    }  # fmt: skip
    return Gadget(**{**fields, **more})  # type: ignore[arg-type]


def created(configfs: FakeConfigfs, description: Gadget) -> ConfigfsGadget:
    return ConfigfsGadget.create(description, root=configfs.root)


DISK = KernelFunction(
    driver="mass_storage",
    attributes={
        "stall": "1", "lun.0/cdrom": "0", "lun.0/nofua": "0", "lun.0/removable": "0",
        "lun.0/ro": "1", "lun.0/file": "/disk.img", "lun.1/cdrom": "0", "lun.1/nofua": "1",
        "lun.1/removable": "1", "lun.1/ro": "0",
    },
)  # fmt: skip
RNDIS = KernelFunction(
    driver="rndis", attributes={"qmult": "7", "os_desc/interface.rndis/compatible_id": "RNDIS"}
)
HID = KernelFunction(
    driver="hid",
    attributes={
        "protocol": "1", "report_desc": b"\x05\0\n", "report_length": "8", "subclass": "1",
    },
)  # fmt: skip


def test_everything_that_was_written_comes_back(configfs: FakeConfigfs) -> None:
    description = gadget(
        idVendor=0x1D6B, bcdDevice=0x0200, device_class=(0xEF, 2, 1), max_speed=Speed.FULL,
        product={0x0407: "Ding", 0x0409: "Thing"}, manufacturer={0x0409: "Acme"},
        os_descriptors=OsDescriptors(vendor_code=0xCD),
        configs=(
            Config(functions=(RNDIS,), name={0x0407: "eins", 0x0409: "one"}, self_powered=False,
                   remote_wakeup=True, max_power_ma=2),
            Config(functions=(DISK,)),
            Config(functions=(HID,)),
        ),
    )  # fmt: skip
    live = created(configfs, description)
    assert read_gadget(live) == description
    assert parse_scheme(dump_scheme(read_gadget(live)), where="g.toml") == description


def test_a_file_is_written_after_what_it_makes_unchangeable(configfs: FakeConfigfs) -> None:
    disk = KernelFunction(driver="mass_storage", attributes={"lun.0/file": "/disk.img"})
    [read] = read_gadget(created(configfs, gadget(disk))).configs[0].functions
    assert isinstance(read, KernelFunction)
    assert list(read.attributes) == [
        "stall", "lun.0/cdrom", "lun.0/nofua", "lun.0/removable", "lun.0/ro", "lun.0/file",
    ]  # fmt: skip


def test_what_the_kernel_chose_or_alone_may_write_is_not_saved(configfs: FakeConfigfs) -> None:
    for driver, attributes in (("acm", {}), ("ncm", {"qmult": "5"})):
        live = created(configfs, gadget(KernelFunction(driver=driver)))
        [read] = read_gadget(live).configs[0].functions
        assert isinstance(read, KernelFunction)
        assert read.attributes == attributes
        live.remove()


def test_only_english_is_plain_and_another_language_is_named(configfs: FakeConfigfs) -> None:
    for text in ("Thing", {0x0407: "Ding"}):
        live = created(configfs, gadget(KernelFunction(driver="acm"), product=text))
        assert read_gadget(live).product == text
        live.remove()


def test_a_fresh_kernel_gadget_is_superspeed(configfs: FakeConfigfs) -> None:
    live = created(configfs, gadget(KernelFunction(driver="acm")))
    (live.path / "max_speed").write_text("super-speed-plus\n")
    assert read_gadget(live).max_speed == Speed.SUPER
    (live.path / "max_speed").unlink()
    assert read_gadget(live).max_speed == Speed.SUPER, "an old kernel"


def test_what_no_scheme_can_say(configfs: FakeConfigfs) -> None:
    live = created(configfs, gadget(Scripted()))
    with pytest.raises(SchemeError, match=r"ffs\.g-0: what it does lives in a program"):
        read_gadget(live)
    live.remove()
    live = created(configfs, gadget(KernelFunction(driver="hid")))
    (live.path / "functions/hid.0/link").symlink_to(live.path)
    with pytest.raises(SchemeError, match=r"hid\.0/link: a link below a function"):
        read_gadget(live)
    (live.path / "functions/hid.0/link").unlink()
    (live.path / "configs/c.1").rename(live.path / "configs/c.3")
    with pytest.raises(SchemeError, match=r"configurations \[3\]: a scheme numbers them from 1"):
        read_gadget(live)
    with pytest.raises(SchemeError, match="there is no gadget nobody in configfs"):
        read_gadget(ConfigfsGadget(configfs.root / "nobody"))
