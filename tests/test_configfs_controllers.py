"""controllers: what UDCs there are, what is on them, and which one a command may take."""

from __future__ import annotations

from pathlib import Path

import pytest

from configfs.controllers import Controller, NoController, choose, controllers
from configfs.transaction import ConfigfsGadget
from tests.fake_configfs import FakeConfigfs, add_udc, configfs
from usbip_vudc.gadget import Config, Gadget

__all__ = ("configfs",)


def test_controllers_are_read_from_sysfs(configfs: FakeConfigfs, tmp_path: Path) -> None:
    root = tmp_path / "udc"
    add_udc(root, "usbip-vudc.0", "usbip-vudc")
    add_udc(root, "fe980000.usb", "dwc2", state="configured", current_speed="high-speed")
    add_udc(root, "dummy_udc.0", "dummy_udc", function="Linux File-Backed Storage")
    made = ConfigfsGadget.create(
        Gadget(name="g", idVendor=1, idProduct=2, configs=(Config(functions=()),)),
        root=configfs.root,
    )
    made.bind("fe980000.usb")
    assert controllers(root=root, configfs=configfs.root) == (
        Controller(
            name="dummy_udc.0", driver="dummy_udc", virtual=True, current_speed="UNKNOWN",
            maximum_speed="super-speed", state="not attached", gadget="Linux File-Backed Storage",
        ),
        Controller(
            name="fe980000.usb", driver="dwc2", virtual=False, current_speed="high-speed",
            maximum_speed="super-speed", state="configured", gadget="g",
        ),
        Controller(
            name="usbip-vudc.0", driver="usbip-vudc", virtual=True, current_speed="UNKNOWN",
            maximum_speed="super-speed", state="not attached", gadget="",
        ),
    )  # fmt: skip
    assert choose(root=root, configfs=configfs.root).name == "fe980000.usb", "the only real one"
    assert choose("dummy_udc.0", root=root, configfs=configfs.root).virtual, "as asked for"


CASES = [
    ((), None, "this machine has no UDC; modprobe usbip-vudc .*, or modprobe dummy_hcd"),
    ((), "x", "UDC x: this machine has none; modprobe usbip-vudc"),
    (("dummy_udc",), "x", r"UDC x: there is no such UDC; there are:\n  0 \(dummy_udc, virtual\)"),
    (
        ("dummy_udc",), None,
        r"only virtual UDCs, which must be named; write --udc 0, or one of:\n  0 \(dummy_udc, virt",
    ),
    (
        ("dwc2", "dwc3", "dummy_udc"), None,
        r"this machine has several UDCs; write --udc 0, or one of:\n  0 \(dwc2\)\n  1 \(dwc3\)$",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("drivers", "name", "reason"), CASES)
def test_a_udc_is_never_guessed(
    tmp_path: Path, drivers: tuple[str, ...], name: str | None, reason: str
) -> None:
    root = tmp_path / "udc"
    for number, driver in enumerate(drivers):
        add_udc(root, str(number), driver)
    with pytest.raises(NoController, match=reason):
        choose(name, root=root, configfs=tmp_path / "none")
