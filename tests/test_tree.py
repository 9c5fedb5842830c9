"""tree: the paths and bytes that make a gadget in configfs, in the kernel's order, and back."""

from __future__ import annotations

import pytest

from configfs.tree import (
    Link,
    MakeDir,
    RemoveDir,
    Unlink,
    Write,
    dismantle,
    ffs_instance,
    plan,
    undo,
    userspace_functions,
)
from tests.devices import Scripted
from usbip_vudc.errors import SchemeError
from usbip_vudc.gadget import Config, Gadget, KernelFunction, OsDescriptors
from usbip_vudc.usb.ch9 import Speed

RNDIS = KernelFunction(
    driver="rndis",
    attributes={
        "qmult": "5",
        "os_desc/interface.rndis/compatible_id": "RNDIS",
        "os_desc/interface.rndis/sub_compatible_id": "5162001",
    },
)
DISK = KernelFunction(
    driver="mass_storage",
    instance="disk",
    attributes={"stall": "0", "lun.0/ro": "1", "lun.1/removable": "1", "lun.1/file": ""},
)


def gadget(*configs: Config, **more: object) -> Gadget:
    fields: dict[str, object] = {
        "name": "g", "idVendor": 0x1D6B, "idProduct": 0x0104, "configs": configs,
    }  # fmt: skip
    return Gadget(**{**fields, **more})  # type: ignore[arg-type]


def one(*functions: object) -> Config:
    return Config(functions=functions)  # type: ignore[arg-type]


def test_the_whole_tree_in_the_kernels_order() -> None:
    hid = KernelFunction(driver="hid", attributes={"report_desc": b"\x05\x01\n"})
    description = gadget(
        Config(functions=(RNDIS, DISK), name="main", max_power_ma=250, remote_wakeup=True),
        Config(functions=(hid, RNDIS), self_powered=False),
        bcdDevice=0x0200, device_class=(0xEF, 2, 1), max_speed=Speed.HIGH, serial="7",
        product={0x0407: "Ding", 0x0409: "Thing"},
        os_descriptors=OsDescriptors(vendor_code=0xCD, config=2),
    )  # fmt: skip
    assert plan(description) == (
        Write("max_speed", b"high-speed"),
        Write("idVendor", b"0x1d6b"),
        Write("idProduct", b"0x0104"),
        Write("bcdDevice", b"0x0200"),
        Write("bDeviceClass", b"0xef"),
        Write("bDeviceSubClass", b"0x02"),
        Write("bDeviceProtocol", b"0x01"),
        MakeDir("strings/0x407"),
        Write("strings/0x407/product", b"Ding"),
        Write("strings/0x407/serialnumber", b"7"),
        MakeDir("strings/0x409"),
        Write("strings/0x409/product", b"Thing"),
        Write("strings/0x409/serialnumber", b"7"),
        MakeDir("configs/c.1"),
        Write("configs/c.1/bmAttributes", b"0xe0"),
        Write("configs/c.1/MaxPower", b"250"),
        MakeDir("configs/c.1/strings/0x407"),
        Write("configs/c.1/strings/0x407/configuration", b"main"),
        MakeDir("configs/c.1/strings/0x409"),
        Write("configs/c.1/strings/0x409/configuration", b"main"),
        MakeDir("configs/c.2"),
        Write("configs/c.2/bmAttributes", b"0x80"),
        Write("configs/c.2/MaxPower", b"100"),
        MakeDir("functions/rndis.0"),
        Write("functions/rndis.0/qmult", b"5\n"),
        MakeDir("functions/rndis.0/os_desc", shared=True),
        MakeDir("functions/rndis.0/os_desc/interface.rndis", shared=True),
        Write("functions/rndis.0/os_desc/interface.rndis/compatible_id", b"RNDIS\n"),
        Write("functions/rndis.0/os_desc/interface.rndis/sub_compatible_id", b"5162001\n"),
        MakeDir("functions/mass_storage.disk"),
        Write("functions/mass_storage.disk/stall", b"0\n"),
        MakeDir("functions/mass_storage.disk/lun.0", shared=True),
        Write("functions/mass_storage.disk/lun.0/ro", b"1\n"),
        MakeDir("functions/mass_storage.disk/lun.1", shared=True),
        Write("functions/mass_storage.disk/lun.1/removable", b"1\n"),
        Write("functions/mass_storage.disk/lun.1/file", b"\n"),
        MakeDir("functions/hid.0"),
        Write("functions/hid.0/report_desc", b"\x05\x01\n"),
        Link("configs/c.1/rndis.0", "functions/rndis.0"),
        Link("configs/c.1/mass_storage.disk", "functions/mass_storage.disk"),
        Link("configs/c.2/hid.0", "functions/hid.0"),
        Link("configs/c.2/rndis.0", "functions/rndis.0"),
        Write("os_desc/use", b"1"),
        Write("os_desc/b_vendor_code", b"0xcd"),
        Write("os_desc/qw_sign", b"MSFT100"),
        Link("os_desc/c.2", "configs/c.2"),
    )


def test_the_least_gadget_has_no_strings_and_may_meet_a_kernel_without_max_speed() -> None:
    steps = plan(gadget(one(KernelFunction(driver="gser"))))
    assert steps[0] == Write("max_speed", b"super-speed", optional=True)
    assert not [step for step in steps if "strings" in step.path]
    assert Write("bDeviceClass", b"0x00") in steps


@pytest.mark.parametrize(
    ("function", "device_class"),
    [(KernelFunction(driver="acm"), b"0xef"), (KernelFunction(driver="hid"), b"0x00")],
)
def test_an_association_makes_the_device_class(
    function: KernelFunction, device_class: bytes
) -> None:
    assert Write("bDeviceClass", device_class) in plan(gadget(one(function)))


def test_a_string_in_one_language_only_is_left_out_of_the_others() -> None:
    steps = plan(gadget(one(), product={0x0407: "Ding"}, serial={0x0409: "7"}))
    assert [step for step in steps if step.path.startswith("strings")] == [
        MakeDir("strings/0x407"),
        Write("strings/0x407/product", b"Ding"),
        MakeDir("strings/0x409"),
        Write("strings/0x409/serialnumber", b"7"),
    ]


def test_userspace_functions_are_functionfs_instances() -> None:
    first, second = Scripted(), Scripted()
    description = gadget(one(first, KernelFunction(driver="acm"), second), one(second))
    assert userspace_functions(description) == (first, second)
    assert ffs_instance(description, second) == "g-1"
    steps = plan(description)
    assert [s.path for s in steps if isinstance(s, MakeDir) and "functions" in s.path] == [
        "functions/ffs.g-0", "functions/acm.0", "functions/ffs.g-1",
    ]  # fmt: skip
    assert Link("configs/c.2/ffs.g-1", "functions/ffs.g-1") in steps


def test_instances_of_long_names_fit_and_differ() -> None:
    instances = []
    for name in ("x" * 60, "x" * 59 + "y"):
        function = Scripted()
        instances.append(ffs_instance(gadget(one(function), name=name), function))
    assert all(len(f"ffs.{instance}") <= 39 for instance in instances)
    assert instances[0] != instances[1]


def test_undo_is_the_exact_reverse() -> None:
    steps = plan(gadget(Config(functions=(DISK,), name="c")))
    assert undo(steps) == (
        Unlink("configs/c.1/mass_storage.disk"),
        RemoveDir("functions/mass_storage.disk/lun.1"),
        RemoveDir("functions/mass_storage.disk/lun.0"),
        RemoveDir("functions/mass_storage.disk"),
        RemoveDir("configs/c.1/strings/0x409"),
        RemoveDir("configs/c.1"),
    )


def test_a_foreign_tree_goes_links_first_and_leaves_before_branches() -> None:
    directories = [
        "configs", "configs/a.1", "configs/a.1/strings", "configs/a.1/strings/0x409", "functions",
        "functions/uvc.0", "functions/uvc.0/streaming", "functions/uvc.0/streaming/header",
        "functions/uvc.0/streaming/header/h", "os_desc", "strings", "strings/0x409",
    ]  # fmt: skip
    links = ["os_desc/a.1", "configs/a.1/uvc.0", "functions/uvc.0/streaming/header/h/u"]
    assert dismantle(directories, links) == (
        Unlink("configs/a.1/uvc.0"),
        Unlink("functions/uvc.0/streaming/header/h/u"),
        Unlink("os_desc/a.1"),
        RemoveDir("configs/a.1/strings/0x409"),
        RemoveDir("configs/a.1/strings"),
        RemoveDir("configs/a.1"),
        RemoveDir("functions/uvc.0/streaming/header/h"),
        RemoveDir("functions/uvc.0/streaming/header"),
        RemoveDir("functions/uvc.0/streaming"),
        RemoveDir("functions/uvc.0"),
        RemoveDir("strings/0x409"),
    )


OTHER_DISK = KernelFunction(driver="mass_storage", instance="disk")

BAD = [
    (gadget(one(), name="../x"), r"gadget name '\.\./x': expected 1 to 64 letters"),
    (gadget(one(), name=""), "gadget name ''"),
    (gadget(one(), name="x" * 65), "expected 1 to 64"),
    (gadget(one(RNDIS, RNDIS)), r"configs\[0\]: function rndis\.0 is in it twice"),
    (gadget(one(DISK), one(OTHER_DISK)), "two functions are called mass_storage.disk"),
    (gadget(one(KernelFunction(driver="acm", instance="x" * 36))), "40 characters, expected at"),
    (
        gadget(one(KernelFunction(driver="hid", attributes={"report_desc": b"\0" * 4096}))),
        "attribute report_desc: 4096 bytes, expected at most 4095",
    ),
]


@pytest.mark.parametrize(("description", "reason"), BAD)
def test_what_configfs_has_no_place_for(description: Gadget, reason: str) -> None:
    with pytest.raises(SchemeError, match=reason):
        plan(description)


def test_a_function_of_another_gadget_has_no_instance() -> None:
    with pytest.raises(SchemeError, match="function scripted is not in it"):
        ffs_instance(gadget(one()), Scripted())
