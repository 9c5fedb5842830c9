"""Target: a device in the hands of usbtest, as sysfs shows it. It changes nothing."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from usbip_vudc.sysfs import SPEEDS, SysfsError, driver_of, nodes, read_attribute, read_bytes
from usbip_vudc.usb.ch9 import Direction, Speed, TransferType
from usbip_vudc.usb.descriptors import Configuration, DeviceDescriptor, Endpoint

__all__ = ("KNOWN", "Known", "Target")


@dataclass(frozen=True, slots=True)
class Known:
    """What usbtest does with the devices of one line of its table."""

    name: str
    vendor: bool = False
    iso: bool = False
    interrupt: bool = False


KNOWN: Final = {
    (0x0525, 0xA4A0): Known("Linux gadget zero", vendor=True, iso=True, interrupt=True),
    (0x0525, 0xA4A4): Known("Linux user mode test driver"),
    (0x0525, 0xA4A3): Known("Linux user mode ISO test driver", iso=True),
    (0xFFF0, 0xFFF0): Known("usb test device", vendor=True, iso=True),
    (0x04B4, 0x8613): Known("FX2 device"),
    (0x0547, 0x2235): Known("EZ-USB device"),
    (0x0547, 0x0080): Known("EZ-USB device"),
}
"""idVendor and idProduct -> drivers/usb/misc/usbtest.c, id_table."""

_ANY_SG: Final = ("vhci_hcd", "xhci")
"""Controllers that set no_sg_constraint: drivers/usb/usbip/vhci_hcd.c, drivers/usb/host/xhci.c."""

_BULK_SIZES: Final = {Speed.LOW: 8, Speed.FULL: 64, Speed.HIGH: 512}
"""Bytes: USB 2.0 5.8.3; at low speed usbtest takes interrupt endpoints, 5.7.3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A device of which usbtest has an interface.

    ``controller`` is the driver of the host controller; ``endpoints`` are those of ``setting``,
    the alternate setting that is in force.
    """

    busid: str
    node: str
    interface: int
    setting: int
    speed: Speed
    ids: tuple[int, int]
    controller: str = ""
    endpoints: tuple[Endpoint, ...] = ()

    @classmethod
    def of(cls, interface: Path) -> Self:
        """Read it of an interface's directory in sysfs. Raises SysfsError, SchemeError."""
        device = interface.resolve().parent
        number = int(read_attribute(interface / "bInterfaceNumber"), 16)
        setting = int(read_attribute(interface / "bAlternateSetting"))
        raw = read_bytes(device / "descriptors")
        header = DeviceDescriptor.parse(raw)
        value = int(read_attribute(device / "bConfigurationValue"))
        found = [
            i
            for i in _configuration(raw[DeviceDescriptor.SIZE :], value).interfaces
            if (i.descriptor.bInterfaceNumber, i.descriptor.bAlternateSetting) == (number, setting)
        ]
        own = nodes(device)
        if not own:
            raise SysfsError(errno.ENODEV, device)
        return cls(
            busid=device.name,
            node=own[0],
            interface=number,
            setting=setting,
            speed=SPEEDS.get(read_attribute(device / "speed"), Speed.UNKNOWN),
            ids=(header.idVendor, header.idProduct),
            controller=_controller(device),
            endpoints=found[0].endpoints if found else (),
        )

    def __str__(self) -> str:
        known = KNOWN.get(self.ids)
        name = f" ({known.name})" if known else ""
        return (
            f"{self.busid}, {self.ids[0]:04x}:{self.ids[1]:04x}{name}, {self.speed.word} speed "
            f"at {self.controller or 'a host controller without a driver'}"
        )

    def endpoint(self, transfer_type: TransferType, direction: Direction) -> Endpoint | None:
        """The first endpoint of this kind, which is the one that usbtest takes.

        At low speed its bulk tests use interrupt endpoints (usbtest_probe).
        """
        if self.speed == Speed.LOW and transfer_type == TransferType.BULK:
            transfer_type = TransferType.INTERRUPT
        for endpoint in self.endpoints:
            descriptor = endpoint.descriptor
            if (descriptor.transfer_type, descriptor.direction) == (transfer_type, direction):
                return endpoint
        return None

    def max_packet_size(self, transfer_type: TransferType, direction: Direction) -> int:
        """Bytes of a packet there; what bulk has at this speed where there is no endpoint."""
        endpoint = self.endpoint(transfer_type, direction)
        usual = _BULK_SIZES.get(self.speed, 1024)
        return (endpoint.descriptor.max_packet_size if endpoint else 0) or usual

    def bytes_per_interval(self, direction: Direction) -> int:
        """What usbtest asks of the isochronous endpoint in each interval (iso_alloc_urb)."""
        endpoint = self.endpoint(TransferType.ISOCHRONOUS, direction)
        if endpoint is None:
            return 1024
        size = endpoint.descriptor.max_packet_size or 1
        if self.speed < Speed.SUPER:  # USB 2.0 table 9-13: bits 12..11
            return size * (1 + (endpoint.descriptor.wMaxPacketSize >> 11 & 3))
        companion = endpoint.companion
        if companion is None:
            return size
        return size * (1 + companion.bMaxBurst) * (1 + (companion.bmAttributes & 3))

    @property
    def any_sg(self) -> bool:
        """Whether the host controller takes SG entries of any length.

        Another one refuses entries, but for the last, that are no whole packets
        (drivers/usb/core/urb.c, usb_submit_urb).
        """
        return self.controller.startswith(_ANY_SG)


def _configuration(raw: bytes, value: int) -> Configuration:
    """The configuration of this bConfigurationValue among all that a device has."""
    while True:
        found = Configuration.parse(raw)
        raw = raw[found.descriptor.wTotalLength :]
        if found.descriptor.bConfigurationValue == value or not raw:
            return found


def _controller(device: Path) -> str:
    """The driver of what the root hub above a device belongs to."""
    for directory in device.parents:
        if directory.name.startswith("usb") and directory.name[3:].isdigit():
            return driver_of(directory.parent) or ""
    return ""
