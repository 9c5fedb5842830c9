"""UDCs by their names: whose they are, where their cables lead, and how fast they are."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from usbip_vudc.sysfs import SYSFS, SysfsError, read_attribute
from usbip_vudc.usb.ch9 import Speed

__all__ = ("DUMMY", "OURS", "USBIP", "fastest", "on_own_bus")

OURS: Final = "vudc"
"""The userspace UDC; any other name is a kernel's, as /sys/class/udc has it."""

DUMMY: Final = "dummy_udc"
USBIP: Final = "usbip-vudc"
"""The kernel's virtual ones, before their numbers (drivers/usb/gadget/udc/dummy_hcd.c)."""


def on_own_bus(udc: str) -> bool:
    """Whether its cable leads to a bus of this machine (dummy_hcd's, or a port's)."""
    return udc != OURS and not udc.startswith(f"{USBIP}.")


def fastest(udc: str, *, sysfs: Path = SYSFS) -> Speed | None:
    """The maximum speed of a UDC, as far as it is known; it may not be there yet."""
    if udc == OURS:
        return Speed.SUPER
    try:
        word = read_attribute(sysfs / "class/udc" / udc / "maximum_speed")
    except SysfsError:
        # drivers/usb/usbip/vudc_dev.c
        return None if on_own_bus(udc) else Speed.HIGH
    return next((speed for speed in Speed if speed.word == word.replace("-speed", "")), None)
