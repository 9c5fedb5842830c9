"""The carriers of the kernel lane by name, and what its tests need besides (usbip_vudc/carrier).

One gadget, six ways: on the userspace UDC or on one of the kernel's, straight or through USB/IP,
and each ends as a USB device in this machine's sysfs, with its drivers and nodes.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import pytest

from usbip_vudc.carrier import OURS, PATIENCE, Carrier, OwnBus
from usbip_vudc.sysfs import read_attribute, write_attribute
from usbip_vudc.usb.ch9 import Speed

__all__ = (
    "DUMMY_HIGH",
    "DUMMY_SUPER",
    "EVERY",
    "MODULES",
    "ON_KERNEL_UDCS",
    "PATIENCE",
    "STUB",
    "USERSPACE_HIGH",
    "USERSPACE_SUPER",
    "VUDC",
    "dummy_device",
    "name_of",
    "need_program",
    "on_carriers",
    "on_dummy",
    "prompt_scan",
    "wait_for",
)

MODULES: Final = (
    "vhci-hcd", "usbip-vudc", "usbip-host", "dummy_hcd", "libcomposite", "usb_f_fs",
)  # fmt: skip

USERSPACE_HIGH: Final = Carrier(OURS, Speed.HIGH, "linux")
USERSPACE_SUPER: Final = Carrier(OURS, Speed.SUPER, "linux")
VUDC: Final = Carrier("usbip-vudc.0", Speed.HIGH, "linux")  # it does no SuperSpeed
DUMMY_HIGH: Final = Carrier("dummy_udc.0", Speed.HIGH, "linux")
DUMMY_SUPER: Final = Carrier("dummy_udc.0", Speed.SUPER, "linux")
STUB: Final = Carrier("dummy_udc.0", Speed.SUPER, "linux", stub=True)

_NAMES: Final = {
    USERSPACE_HIGH: "userspace-high",
    USERSPACE_SUPER: "userspace-super",
    VUDC: "vudc",
    DUMMY_HIGH: "dummy-high",
    DUMMY_SUPER: "dummy-super",
    STUB: "stub",
}
EVERY: Final = tuple(_NAMES)
ON_KERNEL_UDCS: Final = tuple(carrier for carrier in EVERY if carrier.udc != OURS)

_DELAY: Final = Path("/sys/module/usb_storage/parameters/delay_use")

_T = TypeVar("_T")


def name_of(carrier: Carrier) -> str:
    """What a carrier is called in the ids of tests."""
    return _NAMES[carrier]


def on_carriers(*carriers: Carrier) -> pytest.MarkDecorator:
    """Run a test with argument ``carrier`` on each of them."""
    return pytest.mark.parametrize("carrier", carriers, ids=name_of)


def dummy_device(carrier: Carrier) -> Path:
    """The device on dummy_hcd's root hub of the carrier's speed, configured."""
    return on_dummy(carrier).wait()


def on_dummy(carrier: Carrier) -> OwnBus:
    """The place of that device, whatever it is."""
    return OwnBus(carrier.udc, carrier.speed, (0, 0))


def need_program(name: str, package: str) -> str:
    """The path of a program; fails the test where Debian's package of it is not installed."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None:
        pytest.fail(f"{name} is not installed; run: apt install {package}")
    return found


@contextmanager
def prompt_scan() -> Iterator[None]:
    """Usb-storage looks for its disk at once, instead of a second after the device appeared."""
    before = read_attribute(_DELAY)
    write_attribute(_DELAY, "0")
    try:
        yield
    finally:
        write_attribute(_DELAY, before)


def wait_for(look: Callable[[], _T | None], what: str, timeout: float = PATIENCE) -> _T:
    """Look until there is something; fails the test after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {timeout:g} s")
        time.sleep(0.01)
