"""The plugin's fixtures on the kernel's own UDCs, with plans at the seams that each of them has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import usb.core

from usbip_vudc.carrier import Carrier
from usbip_vudc.injection import Plan
from usbip_vudc.pytest_support import SerialGadget, StorageGadget
from usbip_vudc.usb.ch9 import Speed

pytestmark = [pytest.mark.kernel, pytest.mark.needs_root]

MODULES = ("vhci-hcd", "usbip-vudc", "dummy_hcd", "libcomposite", "usb_f_fs")
VUDC = Carrier("usbip-vudc.0", Speed.HIGH, "pyusb")
VUDC_LINUX = Carrier("usbip-vudc.0", Speed.HIGH, "linux")
DUMMY = Carrier("dummy_udc.0", Speed.HIGH, "linux")

READ = "cbw(0x28) phase(data)"


@pytest.fixture(autouse=True)
def modules(need_modules: Callable[..., None]) -> None:
    need_modules(*MODULES)


def on(*cells: tuple[Carrier, str]) -> pytest.MarkDecorator:
    """A test's UDC and plan, in the place of the fixtures' own."""
    return pytest.mark.parametrize(
        ("udc", "plan"),
        [(carrier, Plan.parse(rules)) for carrier, rules in cells],
        ids=[carrier.udc for carrier, _ in cells],
    )


@on(
    (VUDC, f"mass_storage.in {READ} corrupt(0); host.in {READ} corrupt(1); "
           f"cable.in {READ} corrupt(2)"),
    (DUMMY, f"mass_storage.in {READ} corrupt(0)"),
)  # fmt: skip
@pytest.mark.gadget("storage", size="1M")
def test_the_plan_acts_at_every_seam_of_a_kernel_udc(
    storage_gadget: StorageGadget, usb_device: usb.core.Device, plan: Plan
) -> None:
    data = bytes(range(256)) * 16
    storage_gadget.disk.write(5, data)
    changed = bytearray(data)
    for byte in range(len(plan.rules)):  # each seam changes one of its own
        changed[byte] ^= 0xFF
    assert storage_gadget.disk.read(5, 8) == changed
    assert storage_gadget.disk.device is usb_device


@on((VUDC_LINUX, "acm.in delay(1ms); cable.in delay(1ms)"), (DUMMY, "acm.in delay(1ms)"))
def test_a_port_has_its_tty_on_linux(serial_gadget: SerialGadget) -> None:
    assert Path(serial_gadget.node()).is_char_device()
    serial_gadget.port.write(b"to and fro")
    assert serial_gadget.port.read(64) == b"to and fro"
