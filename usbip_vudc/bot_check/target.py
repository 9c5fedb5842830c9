"""Where the device under test is: at a USB/IP server, on this machine, or attached to it for this.

A device of this machine is opened through libusb, which takes it from usb-storage; it gets it back.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import usb.core
import usb.util

from usbip_vudc import vhci
from usbip_vudc.bot_check.initiator import bulk_only_interface
from usbip_vudc.carrier import libusb_device
from usbip_vudc.errors import SchemeError, UsbipVudcError
from usbip_vudc.pyusb_backend import get_backend
from usbip_vudc.settle import wait_until
from usbip_vudc.sysfs import SYSFS, nodes, read_attribute, usb_device, usb_devices

__all__ = ("DeviceInUse", "attached", "local", "remote")

_MOUNTS: Final = Path("/proc/self/mounts")
_SWAPS: Final = Path("/proc/swaps")


class DeviceInUse(UsbipVudcError):
    """Something on the disk is mounted, or swap, or held by device mapper or RAID."""


@contextmanager
def remote(host: str, port: int, busid: str) -> Iterator[usb.core.Device]:
    """A device of a USB/IP server, through our own backend: no kernel sees it.

    Raises SchemeError for a busid that the server does not list, USBError as pyusb does.
    """
    backend = get_backend(host, port)
    listed = next((each for each in backend.enumerate_devices() if each.busid == busid), None)
    if listed is None:
        raise SchemeError(f"busid {busid!r}: {host} port {port} exports no such device")
    device = usb.core.Device(listed, backend)
    try:
        yield device
    finally:
        usb.util.dispose_resources(device)


@contextmanager
def attached(host: str, port: int, busid: str, timeout: float = 10.0) -> Iterator[usb.core.Device]:
    """The same through vhci_hcd and libusb; it is detached afterwards. It needs root."""
    attachment = vhci.attach_remote(host, port, busid)
    try:
        directory = vhci.wait_device(attachment.port, timeout)
        wait_until(lambda: libusb_device(directory) is not None, timeout)
        with _opened(directory) as device:
            yield device
    finally:
        vhci.detach(attachment.port)


@contextmanager
def local(where: str, *, sysfs: Path = SYSFS) -> Iterator[usb.core.Device]:
    """A device of this machine, through libusb, by bus id or by ``VID:PID`` in hex.

    Raises SchemeError where there is no such one or, by VID:PID, several; DeviceInUse.
    """
    with _opened(_find(where, sysfs)) as device:
        yield device


def _find(where: str, sysfs: Path) -> Path:
    if not re.fullmatch(r"[0-9a-fA-F]{4}:[0-9a-fA-F]{4}", where):
        return usb_device(where, sysfs=sysfs)
    found = [device for device in usb_devices(sysfs=sysfs) if _ids(device) == where.lower()]
    if len(found) != 1:
        names = ", ".join(device.name for device in found) or "none"
        raise SchemeError(f"{where}: expected one device, found {names}; name one by its bus id")
    return found[0]


def _ids(device: Path) -> str:
    return ":".join(read_attribute(device / name) for name in ("idVendor", "idProduct"))


@contextmanager
def _opened(directory: Path) -> Iterator[usb.core.Device]:
    check_unused(nodes(directory))
    device = libusb_device(directory)
    if device is None:
        raise SchemeError(f"{directory.name}: libusb does not list it; is it still there?")
    found = bulk_only_interface(device)
    if found is None:
        raise SchemeError(f"{directory.name}: no interface of class 08/06/50")
    interface: int = found.bInterfaceNumber
    had_driver = device.is_kernel_driver_active(interface)
    if had_driver:
        device.detach_kernel_driver(interface)
    try:
        yield device
    finally:
        with contextlib.suppress(usb.core.USBError):  # it is gone: nobody needs it back
            usb.util.release_interface(device, interface)
            if had_driver:
                device.attach_kernel_driver(interface)
        usb.util.dispose_resources(device)


def check_unused(
    disk_nodes: tuple[str, ...], *, mounts: Path = _MOUNTS, swaps: Path = _SWAPS
) -> None:
    """Raises DeviceInUse where a disk among the nodes, or a partition of it, is in use."""
    disks = [node for node in disk_nodes if re.fullmatch(r"/dev/(sd[a-z]+|sr\d+)\d*", node)]
    for table in (mounts, swaps):
        for line in table.read_text().splitlines() if table.exists() else ():
            used, _, rest = line.partition(" ")
            if any(re.fullmatch(rf"{re.escape(disk)}\d*", used) for disk in disks):
                where = rest.split()[0] if table is mounts else "swap"
                raise DeviceInUse(f"{used} is in use ({where}): unmount it first")
    for disk in disks:
        try:
            # What mount, device mapper and RAID claim (block/bdev.c); the tables name mounts alone.
            os.close(os.open(disk, os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise DeviceInUse(
                    f"{disk} is in use: see `lsblk {disk}` for what holds it"
                ) from None
