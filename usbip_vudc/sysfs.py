"""The USB side of sysfs: devices by bus id, their attributes, their nodes in /dev.

It reads and writes attributes once each, and says which path, which value and what the kernel
said when that fails. It waits for nothing and knows no driver.
"""

from __future__ import annotations

import errno as _errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from usbip_vudc.errors import UsbipVudcError
from usbip_vudc.usb.ch9 import Speed

__all__ = (
    "SPEEDS",
    "SYSFS",
    "SysfsError",
    "driver_of",
    "interfaces",
    "life_of",
    "nodes",
    "read_attribute",
    "read_bytes",
    "usb_device",
    "usb_devices",
    "write_attribute",
)

SYSFS: Final = Path("/sys")
DEV: Final = Path("/dev")

SPEEDS: Final = {
    "1.5": Speed.LOW,
    "12": Speed.FULL,
    "480": Speed.HIGH,
    "5000": Speed.SUPER,
    "10000": Speed.SUPER_PLUS,
    "20000": Speed.SUPER_PLUS,
}
"""Mbit/s as sysfs writes them (drivers/usb/core/sysfs.c)."""

_PAGE: Final = 4096
"""Bytes: no text attribute of sysfs is longer."""


class SysfsError(UsbipVudcError, OSError):
    """The kernel refused an access to a file of sysfs, configfs or /proc.

    ``errno`` and ``filename`` are as in OSError; ``written`` is the value, None for a read.
    """

    def __init__(self, errno: int, path: Path, written: str | bytes | None = None) -> None:
        what = "reading" if written is None else f"writing {_shown(written)}"
        name = _errno.errorcode.get(errno, str(errno))
        advice = ""
        if errno in (_errno.EACCES, _errno.EPERM):
            advice = "; run as root"
        super().__init__(errno, f"{what}: {os.strerror(errno)} ({name}){advice}", str(path))
        self.written = written

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


def _shown(value: str | bytes) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(value)} in all)"


def read_bytes(path: Path, size: int = _PAGE) -> bytes:
    """At most ``size`` bytes of an attribute, in one read. Raises SysfsError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, size)
        finally:
            os.close(fd)
    except OSError as error:
        raise SysfsError(error.errno or 0, path) from error


def read_attribute(path: Path) -> str:
    """The text of an attribute without the white space at its ends. Raises SysfsError."""
    return read_bytes(path).decode(errors="backslashreplace").strip()


def write_attribute(path: Path, value: str | bytes) -> None:
    """Give an attribute a value in one write(2). Raises SysfsError; the kernel then kept the old.

    Never through a file object: it reports the error late or not at all, and may write twice.
    """
    data = value.encode() if isinstance(value, str) else value
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)
    except OSError as error:
        raise SysfsError(error.errno or 0, path, value) from error


def usb_device(busid: str, *, sysfs: Path = SYSFS) -> Path:
    """The directory of a USB device, ``1-1`` or ``usb1``, without symbolic links on its way.

    Raises SysfsError (ENODEV) where there is none.
    """
    link = sysfs / "bus/usb/devices" / busid
    if "/" in busid or not (link / "devnum").exists():
        raise SysfsError(_errno.ENODEV, link)
    return link.resolve()


def usb_devices(*, sysfs: Path = SYSFS) -> tuple[Path, ...]:
    """Every USB device of this machine, root hubs too, by bus id."""
    try:
        found = sorted((sysfs / "bus/usb/devices").iterdir())
    except FileNotFoundError:
        return ()
    return tuple(link.resolve() for link in found if (link / "devnum").exists())


def life_of(device: Path) -> tuple[Path, int] | None:
    """What no two lives of a device share; None where it is not there.

    A device that has left and come back to its place has a directory of the same name, but made
    anew, with another number (fs/kernfs/dir.c counts them up).
    """
    try:
        return device, device.stat().st_ino
    except FileNotFoundError:
        return None


def interfaces(device: Path) -> tuple[Path, ...]:
    """The interfaces of a device's active configuration, in the order of their names."""
    try:
        below = sorted(device.iterdir())
    except FileNotFoundError:
        return ()
    return tuple(path for path in below if (path / "bInterfaceNumber").exists())


def driver_of(directory: Path) -> str | None:
    """The driver that a device or an interface is bound to, None for none."""
    try:
        return (directory / "driver").readlink().name
    except OSError:
        return None


def nodes(device: Path, *, dev: Path = DEV) -> tuple[str, ...]:
    """The device nodes that belong to a USB device: its own, then the others by name.

    They are found below its directory (a ``dev`` file, and DEVNAME in ``uevent``); devices
    behind it, where it is a hub, are not its own. What vanishes meanwhile is left out.
    """
    own = _node(device, dev)
    others = {name for path in _below(device) if (name := _node(path, dev)) is not None}
    return (*(() if own is None else (own,)), *sorted(others))


def _below(directory: Path) -> Iterator[Path]:
    try:
        entries = [entry for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for entry in entries:
        path = Path(entry.path)
        if not (path / "devnum").exists():
            yield path
            yield from _below(path)


def _node(directory: Path, dev: Path) -> str | None:
    if not (directory / "dev").exists():
        return None
    try:
        lines = read_attribute(directory / "uevent").splitlines()
    except SysfsError:
        return None
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    return str(dev / values["DEVNAME"]) if "DEVNAME" in values else None
