"""Trees of files that look like /sys, for code that reads the real one."""

from __future__ import annotations

from pathlib import Path

__all__ = ("add_device", "add_interface", "add_node", "files")


def files(directory: Path, **attributes: str) -> Path:
    """Make a directory with attributes, each with the kernel's newline."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, value in attributes.items():
        (directory / name).write_text(f"{value}\n")
    return directory


def add_node(directory: Path, name: str) -> None:
    """Give a directory a device node of this name."""
    files(directory, dev="8:0", uevent=f"MAJOR=8\nMINOR=0\nDEVNAME={name}")


def add_device(sysfs: Path, path: str, **attributes: str) -> Path:
    """A USB device ``devices/PATH`` with its link in bus/usb/devices and its own node."""
    device = files(sysfs / "devices" / path, devnum="2", bDeviceClass="00", **attributes)
    add_node(device, "bus/usb/001/002")
    links = sysfs / "bus/usb/devices"
    links.mkdir(parents=True, exist_ok=True)
    (links / device.name).symlink_to(device)
    return device


def add_interface(device: Path, number: int, driver: str = "") -> Path:
    """An interface of a device, bound to a driver or to none."""
    interface = files(device / f"{device.name}:1.{number}", bInterfaceNumber=f"{number:02d}")
    if driver:
        (interface / "driver").symlink_to(f"/sys/bus/usb/drivers/{driver}")
    return interface
