"""What a machine lacks for a carrier, in the order in which it should be mended."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from usbip_vudc.carrier.udcs import DUMMY, OURS, USBIP, fastest
from usbip_vudc.registry import load_kernel_udc
from usbip_vudc.stub import DRIVER
from usbip_vudc.sysfs import SysfsError, read_attribute
from usbip_vudc.usb.ch9 import Speed

if TYPE_CHECKING:
    from usbip_vudc.carrier.carrier import Carrier

__all__ = ("lacking",)

_MODULES: Final = {
    USBIP: "modprobe usbip-vudc num={count}",
    DUMMY: "modprobe dummy_hcd is_super_speed=1 num={count}",
}
"""The name of a virtual UDC before its number -> what makes it."""


def lacking(carrier: Carrier, sysfs: Path) -> Iterator[str]:
    """Each thing that is missing, with the command that mends it."""
    yield from _impossible(carrier)
    if carrier.udc == OURS and carrier.host == "pyusb":
        return
    if os.geteuid():
        yield "the kernel's side of USB is root's alone: run as root"
    if carrier.udc != OURS:
        yield from _no_udc(carrier, sysfs)
        yield from _no_gadgets(sysfs)
    if carrier.host == "linux" and carrier.over_usbip:
        yield from _not_loaded(sysfs / "devices/platform/vhci_hcd.0", "vhci-hcd")
    if carrier.stub:
        yield from _not_loaded(sysfs / "bus/usb/drivers" / DRIVER, DRIVER)


def _impossible(carrier: Carrier) -> Iterator[str]:
    if carrier.stub and not carrier.on_own_bus:
        yield (
            f"the stub takes a device from a bus of this machine, and the one of {carrier.udc} "
            f"is on none: leave `stub` out"
        )
    if carrier.host == "pyusb" and not carrier.over_usbip:
        yield (
            f"the cable of {carrier.udc} leads to a bus of this machine, not to our own host: "
            f"write {carrier.udc},linux or {carrier.udc},stub,pyusb"
        )
    if carrier.speed == Speed.LOW and carrier.udc != OURS:
        # drivers/usb/gadget/composite.c; USB 2.0 5.5.3 allows 8.
        yield (
            f"the kernel gives every gadget an endpoint 0 of 64 bytes, which low speed forbids: "
            f"take --udc {OURS}"
        )


def _no_udc(carrier: Carrier, sysfs: Path) -> Iterator[str]:
    directory = sysfs / "class/udc" / carrier.udc
    if not directory.exists():
        yield f"there is no UDC {carrier.udc}; {_remedy(carrier.udc, sysfs)}"
        return
    limit = fastest(carrier.udc, sysfs=sysfs)
    if limit is not None and carrier.speed > limit:
        name, _, _ = carrier.udc.partition(".")
        hint = " (modprobe dummy_hcd is_super_speed=1 does more)" if name == DUMMY else ""
        yield (
            f"UDC {carrier.udc} goes up to {limit.word} speed, not {carrier.speed.word}{hint}: "
            f"write {carrier.udc},{limit.word}"
        )
    taken = _attribute(directory / "function")
    if taken:
        yield f"UDC {carrier.udc} is taken by gadget {taken}: usbip-vudc down {taken}"


def _remedy(udc: str, sysfs: Path) -> str:
    """How to get a UDC of this name."""
    kind, _, number = udc.rpartition(".")
    if kind in _MODULES and number.isdigit():
        return f"run: {_MODULES[kind].format(count=int(number) + 1)}"
    there = ", ".join(path.name for path in sorted((sysfs / "class/udc").glob("*")))
    return f"there are {there}" if there else "this machine has none; run: modprobe usbip-vudc"


def _no_gadgets(sysfs: Path) -> Iterator[str]:
    """What a gadget of the kernel's needs besides a UDC."""
    configfs = sysfs / "kernel/config"
    if not (configfs / "usb_gadget").is_dir():
        mounted = configfs.is_dir() and any(configfs.iterdir())
        mount = "" if mounted else f"mount -t configfs none {configfs}; "
        yield f"{configfs} has no gadgets; run: {mount}modprobe libcomposite"
    try:
        load_kernel_udc()
    except (ImportError, OSError) as error:
        missing = getattr(error, "name", None) or error
        yield f"{missing} is not installed; run: pip install 'usbip-vudc[kernel]'"


def _not_loaded(directory: Path, module: str) -> Iterator[str]:
    if not directory.is_dir():
        yield f"the module is not loaded; run: modprobe {module}"


def _attribute(path: Path) -> str:
    try:
        return read_attribute(path)
    except SysfsError:  # a kernel before 4.12 has no ``function``
        return ""
