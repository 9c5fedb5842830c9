"""transaction: a gadget is in configfs as a whole or not at all, and every refusal says why."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from configfs.transaction import ConfigfsError, ConfigfsGadget, gadgets
from tests.fake_configfs import FakeConfigfs, configfs
from usbip_vudc.errors import SchemeError
from usbip_vudc.gadget import Config, Gadget, KernelFunction, OsDescriptors
from usbip_vudc.usb.ch9 import Speed

__all__ = ("configfs",)

ACM = KernelFunction(driver="acm")
RNDIS = KernelFunction(
    driver="rndis", attributes={"os_desc/interface.rndis/compatible_id": "RNDIS"}
)
DISK = KernelFunction(driver="mass_storage", attributes={"lun.0/ro": "1", "lun.1/removable": "1"})


def gadget(*functions: KernelFunction, name: str = "g") -> Gadget:
    return Gadget(
        name=name, idVendor=0x1D6B, idProduct=0x0104, product="Thing",
        os_descriptors=OsDescriptors(vendor_code=0xCD),
        configs=(Config(functions=functions, name="c"), Config(functions=functions[:1])),
    )  # fmt: skip


def test_create_makes_all_of_it(configfs: FakeConfigfs) -> None:
    made = ConfigfsGadget.create(gadget(ACM, DISK, RNDIS), root=configfs.root)
    path = configfs.root / "g"
    assert made.path == path
    assert made.functions() == ["acm.0", "mass_storage.0", "rndis.0"]
    assert (path / "idProduct").read_text() == "0x0104"
    assert (path / "strings/0x409/product").read_text() == "Thing"
    assert (path / "functions/mass_storage.0/lun.1/removable").read_text() == "1\n"
    assert (
        path / "functions/rndis.0/os_desc/interface.rndis/compatible_id"
    ).read_text() == "RNDIS\n"
    assert (path / "configs/c.2/acm.0").resolve() == path / "functions/acm.0"
    assert (path / "os_desc/c.1").resolve() == path / "configs/c.1"
    assert [g.name for g in gadgets(root=configfs.root)] == ["g"]


def test_a_gadget_of_low_speed_is_refused_before_anything_is_made(configfs: FakeConfigfs) -> None:
    slow = replace(gadget(ACM), max_speed=Speed.LOW)
    with pytest.raises(SchemeError, match=r"max_speed low: .* takes only 8 at low speed"):
        ConfigfsGadget.create(slow, root=configfs.root)
    assert configfs.calls == []


def test_what_the_kernel_writes_over_is_said(
    configfs: FakeConfigfs, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = replace(gadget(ACM), bMaxPacketSize0={Speed.FULL: 8}, bcdUSB={Speed.HIGH: 0x0210})
    ConfigfsGadget.create(wanted, root=configfs.root)
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [line.partition(" is not kept")[0] for line in said] == [
        "gadget g: bcdUSB 0x0210 at high speed", "gadget g: bMaxPacketSize0 8 at full speed",
    ]  # fmt: skip


def test_remove_takes_all_of_it_away_and_is_idempotent(configfs: FakeConfigfs) -> None:
    made = ConfigfsGadget.create(gadget(ACM, DISK, RNDIS), root=configfs.root)
    made.bind("dummy_udc.0")
    assert made.udc == "dummy_udc.0"
    configfs.calls.clear()
    ConfigfsGadget(made.path).remove()
    assert not list(configfs.root.iterdir())
    assert configfs.calls[0] == ("write", "g/UDC"), "unbound before anything else"
    configfs.calls.clear()
    made.remove()
    made.unbind()
    assert (made.udc, made.functions(), configfs.calls) == ("", [], [])


def test_unbind_writes_only_where_it_is_bound(configfs: FakeConfigfs) -> None:
    made = ConfigfsGadget.create(gadget(ACM), root=configfs.root)
    configfs.calls.clear()
    made.unbind()
    assert configfs.calls == []
    made.bind("dummy_udc.0")
    made.unbind()
    assert made.udc == ""


def test_a_refusal_at_any_step_leaves_nothing(configfs: FakeConfigfs) -> None:
    description = gadget(ACM, DISK, RNDIS)
    ConfigfsGadget.create(description, root=configfs.root).remove()
    calls = [call for call in configfs.calls if call[0] in ("mkdir", "write", "link")]
    assert len(calls) == 33
    for verb, path in calls:
        configfs.refuse = {f"{verb} {path}": errno.EIO}
        with pytest.raises(ConfigfsError, match="EIO") as failure:
            ConfigfsGadget.create(description, root=configfs.root)
        assert failure.value.path == configfs.root / path
        assert not list(configfs.root.iterdir()), (verb, path)


def test_an_interrupt_in_the_middle_leaves_nothing(
    configfs: FakeConfigfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "symlink", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ConfigfsGadget.create(gadget(ACM, DISK), root=configfs.root)
    assert not list(configfs.root.iterdir())


def test_a_gadget_that_is_there_is_not_touched(configfs: FakeConfigfs) -> None:
    ConfigfsGadget.create(gadget(ACM), root=configfs.root)
    before = sorted(configfs.root.rglob("*"))
    reason = r"g: mkdir: .*EEXIST.*; there is a gadget of that name: usbip-vudc down g"
    with pytest.raises(ConfigfsError, match=reason):
        ConfigfsGadget.create(gadget(DISK), root=configfs.root)
    assert sorted(configfs.root.rglob("*")) == before


def test_what_cannot_be_taken_back_is_said_and_the_first_error_stands(
    configfs: FakeConfigfs, caplog: pytest.LogCaptureFixture
) -> None:
    configfs.refuse = {
        "link g/configs/c.1/acm.0": errno.EINVAL, "rmdir g/functions/acm.0": errno.EBUSY,
    }  # fmt: skip
    with pytest.raises(ConfigfsError, match=r"configs/c\.1/acm\.0: linking: .*EINVAL"):
        ConfigfsGadget.create(gadget(ACM), root=configfs.root)
    assert "functions/acm.0: rmdir: Device or resource busy (EBUSY)" in caplog.text


def refusal(function: KernelFunction, root: Path) -> str:
    with pytest.raises(ConfigfsError) as failure:
        ConfigfsGadget.create(gadget(function), root=root)
    return str(failure.value).removeprefix(f"{root}/")


def kernel(driver: str, **attributes: str | bytes) -> KernelFunction:
    return KernelFunction(driver=driver, attributes=attributes)


MESSAGES = [
    (
        kernel("tcm"),
        "g/functions/tcm.0: mkdir: No such file or directory (ENOENT); the kernel has no function "
        "tcm; modprobe usb_f_tcm",
    ),
    (
        kernel("mas_storage"),
        "g/functions/mas_storage.0: mkdir: No such file or directory (ENOENT); the kernel has no "
        "function 'mas_storage'; did you mean mass_storage?",
    ),
    (
        kernel("hid", report_lenght="8"),
        "g/functions/hid.0/report_lenght: writing '8': No such file or directory (ENOENT); there "
        "are protocol, report_desc, report_length, subclass; did you mean report_length?",
    ),
    (
        kernel("acm", port_num="3"),
        "g/functions/acm.0/port_num: writing '3': Permission denied (EACCES); the attribute is "
        "read-only",
    ),
]


@pytest.mark.parametrize(("function", "message"), MESSAGES)
def test_refusals_say_what_was_asked_and_what_mends_it(
    configfs: FakeConfigfs, function: KernelFunction, message: str
) -> None:
    assert refusal(function, configfs.root) == message


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EBUSY, "it can be changed only before the function is linked"),
        (errno.EINVAL, "the kernel refuses this value"),
        (errno.EOVERFLOW, "a string has at most 126 bytes"),
    ],
)
def test_refused_attributes_have_their_advice(
    configfs: FakeConfigfs, number: int, advice: str
) -> None:
    configfs.refuse = {"write g/functions/hid.0/report_desc": number}
    said = refusal(kernel("hid", report_desc=bytes(range(200))), configfs.root)
    assert f"{advice}" in said
    assert "writing '00 01 02 03 04 05 06" in said
    assert "(200 bytes)" in said


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EBUSY, "there is no such UDC, or it is bound already, or a function could not"),
        (errno.ENODEV, "there is no such UDC: usbip-vudc udc lists them"),
        (errno.EINVAL, "the gadget needs a configuration, with a function in it"),
    ],
)
def test_a_refused_bind_says_what_it_may_be(
    configfs: FakeConfigfs, number: int, advice: str
) -> None:
    made = ConfigfsGadget.create(gadget(ACM), root=configfs.root)
    configfs.refuse = {"write g/UDC": number}
    with pytest.raises(ConfigfsError, match=r"g/UDC: writing 'dummy_udc\.7': ") as failure:
        made.bind("dummy_udc.7")
    assert advice in str(failure.value)


def test_a_busy_bind_names_the_gadget_in_its_way(configfs: FakeConfigfs) -> None:
    other = ConfigfsGadget.create(gadget(ACM, name="other"), root=configfs.root)
    made = ConfigfsGadget.create(gadget(ACM), root=configfs.root)
    other.bind("dummy_udc.0")
    configfs.refuse = {"write g/UDC": errno.EBUSY, "write other/UDC": errno.EBUSY}
    with pytest.raises(ConfigfsError, match=r"dummy_udc\.0 is taken: usbip-vudc down other"):
        made.bind("dummy_udc.0")
    with pytest.raises(ConfigfsError, match=r"the gadget is bound to dummy_udc\.0 already"):
        other.bind("dummy_udc.1")


def test_no_configfs_names_the_module(tmp_path: Path) -> None:
    root = tmp_path / "usb_gadget"
    with pytest.raises(ConfigfsError, match=r"modprobe libcomposite"):
        ConfigfsGadget.create(gadget(ACM), root=root)
    assert gadgets(root=root) == ()
