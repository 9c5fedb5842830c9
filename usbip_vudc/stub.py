"""usbip-host, the stub driver, through sysfs: take a USB device for export, and give it back.

It does what usbip's bind and unbind do (drivers/usb/usbip/stub_main.c). The export itself is
`usbip_vudc.kernel_export`'s.
"""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path
from typing import Final

from usbip_vudc.errors import UsbipVudcError
from usbip_vudc.sysfs import (
    SYSFS,
    SysfsError,
    driver_of,
    read_attribute,
    usb_device,
    usb_devices,
    write_attribute,
)
from usbip_vudc.usb.ch9 import UsbClass

__all__ = ("DRIVER", "StubError", "bind", "bound", "forget", "unbind")

DRIVER: Final = "usbip-host"


class StubError(UsbipVudcError):
    """A device cannot be bound to usbip-host, or unbound; the message says what would help."""


def bind(busid: str, *, sysfs: Path = SYSFS) -> None:
    """Take a device from its driver and give it to usbip-host.

    Raises StubError where it cannot be exported, SysfsError where the kernel refuses; the device
    then has its own driver again.
    """
    device = _device(busid, sysfs)
    stub = _stub(sysfs)
    _check(device, busid)
    driver = driver_of(device)
    if driver is not None:
        write_attribute(sysfs / "bus/usb/drivers" / driver / "unbind", busid)
    try:
        write_attribute(stub / "match_busid", f"add {busid}")
        write_attribute(stub / "bind", busid)
    except SysfsError as error:
        # Not usbip-host's own `rebind`: it follows a pointer that only a bind has set.
        with contextlib.suppress(SysfsError):
            forget(busid, sysfs=sysfs)
        write_attribute(sysfs / "bus/usb/drivers_probe", busid)
        if error.errno == errno.ENOMEM:
            raise StubError(f"{busid}: usbip-host holds 16 devices already, all it can") from error
        raise


def unbind(busid: str, *, sysfs: Path = SYSFS) -> None:
    """Give a device back to its own driver; a host that has imported it loses it.

    Raises StubError where usbip-host does not hold it, SysfsError where the kernel refuses.
    """
    device = _device(busid, sysfs)
    stub = _stub(sysfs)
    driver = driver_of(device)
    if driver != DRIVER:
        raise StubError(f"{busid} is not bound to usbip-host, but to {driver or 'no driver'}")
    write_attribute(stub / "unbind", busid)
    forget(busid, sysfs=sysfs)
    try:
        write_attribute(stub / "rebind", busid)
    except SysfsError as error:
        if error.errno != errno.ENODEV:  # usbip-host forgot it before, and cannot probe it anew
            raise
        write_attribute(sysfs / "bus/usb/drivers_probe", busid)


def bound(*, sysfs: Path = SYSFS) -> tuple[str, ...]:
    """The bus ids of the devices that usbip-host holds."""
    return tuple(path.name for path in usb_devices(sysfs=sysfs) if driver_of(path) == DRIVER)


def forget(busid: str, *, sysfs: Path = SYSFS) -> None:
    """Take a bus id out of usbip-host's table, where that of a device that left stays.

    Nothing happens where it is not there. Raises StubError, SysfsError.
    """
    try:
        write_attribute(_stub(sysfs) / "match_busid", f"del {busid}")
    except SysfsError as error:
        if error.errno != errno.ENODEV:  # it is not in the table
            raise


def _stub(sysfs: Path) -> Path:
    directory = sysfs / "bus/usb/drivers" / DRIVER
    if not directory.is_dir():
        raise StubError(
            f"{directory} is not there: the module is not loaded; run: modprobe usbip-host"
        )
    return directory


def _device(busid: str, sysfs: Path) -> Path:
    try:
        return usb_device(busid, sysfs=sysfs)
    except SysfsError:
        here = ", ".join(p.name for p in usb_devices(sysfs=sysfs) if not p.name.startswith("usb"))
        raise StubError(f"there is no USB device {busid!r}; there are: {here or 'none'}") from None


def _check(device: Path, busid: str) -> None:
    if driver_of(device) == DRIVER:
        raise StubError(f"{busid} is bound to usbip-host already")
    if int(read_attribute(device / "bDeviceClass"), 16) == UsbClass.HUB:
        raise StubError(f"{busid} is a hub: usbip-host takes the devices behind it, not itself")
    if any(part.startswith("vhci_hcd") for part in device.parts):
        raise StubError(
            f"{busid} came through vhci_hcd: export it where it is plugged in, not a second time"
        )
