"""Waiting for a USB device to be usable: its drivers bound, its nodes in /dev.

sysfs tells nobody when it has changed, and a disk is scanned for after its driver is bound, so
this looks again and again, up to a deadline. It knows nothing of where the device comes from.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from usbip_vudc.errors import UsbipVudcError
from usbip_vudc.sysfs import driver_of, interfaces, nodes

__all__ = ("POLL", "NotReady", "wait_nodes", "wait_until")

UDEV: Final = Path("/run/udev")

POLL: Final = 0.03
"""Seconds between two looks."""

_QUIET: Final = 0.5
"""Seconds without a change after which no more nodes are expected."""

_DRIVERLESS: Final = 2.0
"""The same where an interface has no driver: its module may yet be loaded by udev."""

_STORAGE_DRIVERS: Final = frozenset(("usb-storage", "uas"))
_STORAGE_NODES: Final = ("sd", "sr", "st")
"""What a disk, a CD or a tape is called. They are scanned for 1 s after probe (delay_use)."""


class NotReady(UsbipVudcError):
    """A device went away, or did not become in time what was waited for."""


def wait_until(done: Callable[[], bool], timeout: float) -> bool:
    """Look until it is done; False after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not done():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL)
    return True


def wait_nodes(device: Path, timeout: float = 30, *, udev: Path = UDEV) -> tuple[str, ...]:
    """Wait until the interfaces of a device have their drivers and nodes; all of its nodes.

    It is over when udev is idle, each storage interface has its disk, and nothing has changed
    for half a second (2 s where an interface has no driver). Raises NotReady where the device
    goes away, or after ``timeout`` seconds, naming what is missing.
    """
    deadline = time.monotonic() + timeout
    last: object = None
    since = 0.0
    while True:
        # First what is missing, then what there is: a disk that comes in between is then seen as
        # a change, where the other way around the list returned would be without it.
        missing = _missing(device, udev)
        found = nodes(device)
        drivers = tuple(driver_of(interface) for interface in interfaces(device))
        now = time.monotonic()
        if (found, drivers) != last:
            last, since = (found, drivers), now
        quiet = _DRIVERLESS if None in drivers else _QUIET
        if missing is None and drivers and now - since >= quiet:
            return found
        if not device.exists():
            raise NotReady(f"{device.name} went away while its nodes were waited for")
        if now >= deadline:
            missing = missing or "its nodes go on changing"
            raise NotReady(f"{device.name}: {missing} after {timeout:g} s; see dmesg")
        time.sleep(POLL)


def _missing(device: Path, udev: Path) -> str | None:
    for interface in interfaces(device):
        driver = driver_of(interface)
        if driver in _STORAGE_DRIVERS and not any(
            Path(node).name.startswith(_STORAGE_NODES) for node in nodes(interface)
        ):
            return f"{driver} has found no disk on interface {interface.name}"
    if (udev / "queue").exists():
        return "udev is still busy"
    return None
