"""The usbtest driver: loaded, its module's parameters, and the interface that it is to have.

What is changed here is changed back: parameters, a binding, an id that it was given. Only the
module stays loaded.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from usbip_vudc.errors import UsbipVudcError
from usbip_vudc.settle import wait_until
from usbip_vudc.sysfs import (
    SYSFS,
    SysfsError,
    driver_of,
    interfaces,
    nodes,
    read_attribute,
    usb_device,
    usb_devices,
    write_attribute,
)
from usbip_vudc.usbtest.child import hanging
from usbip_vudc.usbtest.target import KNOWN, Target

__all__ = (
    "DRIVER",
    "UsbtestError",
    "bound",
    "held",
    "load",
    "load_driver",
    "parameter",
    "read_parameter",
)

DRIVER: Final = "usbtest"

_BIND_TIME: Final = 10.0
"""Seconds for a device that has just come: udev may be loading the module."""


class UsbtestError(UsbipVudcError):
    """There is nothing that usbtest could test, or no usbtest. Says what mends it."""


def load(*words: str) -> None:
    """Load a module, with the words of its command line, unless it is loaded.

    Raises UsbtestError with what modprobe said.
    """
    try:
        done = subprocess.run(("modprobe", *words), capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UsbtestError(f"modprobe {words[0]}: no such program; apt install kmod") from None
    if not done.returncode:
        return
    if os.geteuid():
        raise UsbtestError(f"module {words[0]} is not loaded, and only root can: run as root")
    raise UsbtestError(
        f"modprobe {' '.join(words)}: {done.stderr.strip()}; Debian's linux-image-amd64 has it, "
        f"its cloud kernels do not; `usbip-vudc lab -- COMMAND` runs a command where it is"
    )


def load_driver(*, sysfs: Path = SYSFS) -> Path:
    """The driver's directory in sysfs, its module loaded. Raises UsbtestError."""
    directory = sysfs / "bus/usb/drivers" / DRIVER
    if not directory.is_dir():
        load(DRIVER)
    if not directory.is_dir():
        raise UsbtestError(f"{directory} is not there although its module is loaded; see dmesg")
    return directory


def held(*, sysfs: Path = SYSFS) -> tuple[Path, ...]:
    """The interfaces that usbtest has, by bus id."""
    return tuple(
        interface
        for device in usb_devices(sysfs=sysfs)
        for interface in interfaces(device)
        if driver_of(interface) == DRIVER
    )


def read_parameter(name: str, *, sysfs: Path = SYSFS) -> int:
    """A parameter of the module. Raises SysfsError."""
    return int(read_attribute(sysfs / "module" / DRIVER / "parameters" / name))


@contextmanager
def parameter(name: str, value: int | None, *, sysfs: Path = SYSFS) -> Iterator[None]:
    """Give the module's parameter a value for a while; None leaves it alone. Raises SysfsError."""
    if value is None:
        yield
        return
    before = read_parameter(name, sysfs=sysfs)
    path = sysfs / "module" / DRIVER / "parameters" / name
    write_attribute(path, str(value))
    try:
        yield
    finally:
        write_attribute(path, str(before))


@contextmanager
def bound(
    device: str | None = None, *, alt: int | None = None, sysfs: Path = SYSFS
) -> Iterator[Target]:
    """A device with usbtest on its interface: that of a bus id or node, or the first there is.

    ``alt`` makes usbtest use this alternate setting, whatever it would choose; it is bound anew
    for that, and once more afterwards, unless a test hangs. Raises UsbtestError, SysfsError.
    """
    directory = load_driver(sysfs=sysfs)
    interface = _find(device, sysfs)
    with _with_driver(directory, interface):
        if alt is None:
            yield Target.of(interface)
            return
        try:
            with parameter("alt", alt, sysfs=sysfs):
                _rebind(directory, interface)
                yield Target.of(interface)
        finally:
            if _is_free(interface):
                _rebind(directory, interface)


def _find(device: str | None, sysfs: Path) -> Path:
    if device is not None:
        return _first_interface(_device(device, sysfs))
    there = held(sysfs=sysfs)
    if there:
        return there[0]
    for path in usb_devices(sysfs=sysfs):
        if _ids(path) in KNOWN and interfaces(path):
            return interfaces(path)[0]
    raise UsbtestError(
        "usbtest has no device, and there is none that it knows: attach one, or bring one along, "
        "as by --on vudc,super"
    )


def _device(text: str, sysfs: Path) -> Path:
    """The device of a bus id, or of a node in /dev/bus/usb."""
    if "/" not in text:
        return usb_device(text, sysfs=sysfs)
    wanted = os.path.normpath(text)
    for path in usb_devices(sysfs=sysfs):
        if wanted in nodes(path)[:1]:
            return path
    raise UsbtestError(f"{text}: no USB device has this node; expected /dev/bus/usb/BBB/DDD")


def _first_interface(device: Path) -> Path:
    """Its interface that usbtest has, else its first."""
    if not wait_until(lambda: bool(interfaces(device)), _BIND_TIME):
        raise UsbtestError(f"{device.name} has no interfaces: it is not configured")
    found = interfaces(device)
    return next((path for path in found if driver_of(path) == DRIVER), found[0])


def _ids(device: Path) -> tuple[int, int]:
    names = ("idVendor", "idProduct")
    idVendor, idProduct = (int(read_attribute(device / name), 16) for name in names)
    return idVendor, idProduct


@contextmanager
def _with_driver(directory: Path, interface: Path) -> Iterator[None]:
    """See to it that usbtest has an interface, and give back afterwards what it did not have."""
    other = driver_of(interface)
    if other == DRIVER:
        yield
        return
    if other is not None:
        raise UsbtestError(
            f"{interface.name} belongs to driver {other}: "
            f"echo {interface.name} > /sys/bus/usb/drivers/{other}/unbind"
        )
    with _with_id(directory, _ids(interface.parent)):
        if driver_of(interface) != DRIVER:  # a new id binds what it fits by itself
            write_attribute(directory / "bind", interface.name)
        try:
            yield
        finally:
            if _is_free(interface):
                write_attribute(directory / "unbind", interface.name)


def _is_free(interface: Path) -> bool:
    """Whether its driver can be changed: behind a test that hangs that would never end."""
    return interface.exists() and not hanging()


@contextmanager
def _with_id(directory: Path, ids: tuple[int, int]) -> Iterator[None]:
    if ids in KNOWN:
        yield
        return
    text = f"{ids[0]:04x} {ids[1]:04x}"
    if not (directory / "new_id").exists():
        # drivers/usb/misc/usbtest.c: no_dynamic_id, which a kernel of one's own may lack.
        known = ", ".join(f"{vendor:04x}:{product:04x}" for vendor, product in KNOWN)
        raise UsbtestError(
            f"usbtest takes no new ids, and {text.replace(' ', ':')} is none of {known}; for "
            f"tests 0, 9 and 10: modprobe -r usbtest; "
            f"modprobe usbtest vendor={ids[0]:#06x} product={ids[1]:#06x}"
        )
    # With the ids of a device that the driver knows: without them it has no driver_info, and
    # reads through a null pointer.
    write_attribute(directory / "new_id", f"{text} 0 0525 a4a0")
    try:
        yield
    finally:
        write_attribute(directory / "remove_id", text)


def _rebind(directory: Path, interface: Path) -> None:
    if driver_of(interface) == DRIVER:
        write_attribute(directory / "unbind", interface.name)
    try:
        write_attribute(directory / "bind", interface.name)
    except SysfsError as error:
        raise UsbtestError(f"{error}; has that setting endpoints for usbtest?") from error
