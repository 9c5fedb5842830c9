"""OwnBus: where the device of a UDC appears on this machine, without USB/IP.

dummy_hcd has a bus of its own. A board's UDC appears where its cable leads back to this machine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from usbip_vudc.carrier.errors import PATIENCE
from usbip_vudc.carrier.udcs import DUMMY
from usbip_vudc.settle import NotReady, wait_until
from usbip_vudc.stub import DRIVER
from usbip_vudc.sysfs import (
    SYSFS,
    SysfsError,
    driver_of,
    interfaces,
    read_attribute,
    usb_devices,
)
from usbip_vudc.usb.ch9 import Speed

__all__ = ("OwnBus",)


class OwnBus:
    """The device of the gadget that is bound to ``udc``, wherever it is at the moment.

    It is known by its place on dummy_hcd's bus of that speed, elsewhere by ``ids``, which are
    its idVendor and its idProduct.
    """

    def __init__(
        self, udc: str, speed: Speed, ids: tuple[int, int], *, sysfs: Path = SYSFS
    ) -> None:
        self._udc = udc
        self._speed = speed
        self._ids = ids
        self._sysfs = sysfs

    def find(self) -> Path | None:
        """Its directory in sysfs, None where it is not there."""
        for device in self._candidates():
            with contextlib.suppress(SysfsError):  # it goes while it is looked at
                if self._is_it(device):
                    return device
        return None

    def wait(self, timeout: float = PATIENCE) -> Path:
        """Wait until it is configured, or usbip-host's. Raises NotReady."""
        found: list[Path] = []

        def ready() -> bool:
            device = self.find()
            if device is None or not _usable(device):
                return False
            found.append(device)
            return True

        if not wait_until(ready, timeout):
            where = "" if self._dummy else f": does a cable lead from {self._udc} to this machine?"
            what = "is not configured" if self.find() else "has not appeared"
            raise NotReady(
                f"the {self._speed.word}-speed device of {self._udc} {what} after "
                f"{timeout:g} s{where or '; see dmesg'}"
            )
        return found[0]

    def wait_gone(self, timeout: float = PATIENCE) -> None:
        """Wait until this machine has noticed that it left. Raises NotReady."""
        if not wait_until(lambda: self.find() is None, timeout):
            raise NotReady(f"{self.find()} is still there {timeout:g} s after it left; see dmesg")

    @property
    def _dummy(self) -> bool:
        return self._udc.startswith(f"{DUMMY}.")

    def _candidates(self) -> Iterator[Path]:
        if self._dummy:
            controller = self._udc.replace(DUMMY, "dummy_hcd")
            yield from (self._sysfs / "devices/platform" / controller).glob("usb*/*-1")
            return
        for device in usb_devices(sysfs=self._sysfs):
            if not any(part.startswith("vhci_hcd") for part in device.parts):
                yield device

    def _is_it(self, device: Path) -> bool:
        if self._dummy:  # it has two root hubs
            is_super = float(read_attribute(device.parent / "speed")) >= 5000
            return is_super == (self._speed == Speed.SUPER)
        names = ("idVendor", "idProduct")
        return self._ids == tuple(int(read_attribute(device / name), 16) for name in names)


def _usable(device: Path) -> bool:
    if driver_of(device) == DRIVER:
        return True
    with contextlib.suppress(SysfsError):
        expected = read_attribute(device / "bNumInterfaces")
        return bool(expected) and len(interfaces(device)) >= int(expected)
    return False
