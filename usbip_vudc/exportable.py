"""What a server can export: the contract, and the userspace UDC that fulfils it.

`Exportable` is all that the server knows of a device. What the kernel has, a vudc or a device
bound to usbip-host, is in `usbip_vudc.kernel_export`.
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final

from usbip_vudc.errors import UsbipVudcError
from usbip_vudc.vudc import UserspaceUDC
from usbip_vudc.wire.pdu import OpStatus, UsbDevice, UsbInterface

__all__ = ("BUSNUM", "Export", "Exportable", "NotExportable")

BUSNUM: Final = 1
"""The bus that userspace devices say they are on."""


class NotExportable(UsbipVudcError):
    """A device cannot be had just now; ``status`` is what its importer is told."""

    def __init__(self, status: OpStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


class Exportable(ABC):
    """What a server can hand out: a device that a socket is plugged into.

    ``busid`` names it to hosts, ``name`` to people.
    """

    @property
    @abstractmethod
    def busid(self) -> str:
        """At most 31 bytes."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The gadget or the product."""

    @abstractmethod
    def device(self) -> UsbDevice:
        """What DEVLIST and IMPORT say of it. Raises NotExportable where it is not there now."""

    @abstractmethod
    def interfaces(self) -> tuple[UsbInterface, ...]:
        """As many interfaces as `device` announces."""

    @property
    @abstractmethod
    def plugged(self) -> bool:
        """Whether a host holds the device."""

    @abstractmethod
    def host_has_left(self) -> bool:
        """Whether the host has closed its end, though that has not been acted on yet."""

    @abstractmethod
    async def wait_unplugged(self) -> None:
        """Wait until no host holds the device."""

    @abstractmethod
    async def plug(self, sock: socket.socket, greeting: bytes) -> None:
        """Send the greeting and be a device on this socket until the host leaves; then close it.

        Raises LocalProtocolError where a host holds the device already and NotExportable where
        it cannot be had: nothing was sent then. Whatever else goes wrong is an OSError or a
        RemoteProtocolError. Cancelling it unplugs the device.
        """


@dataclass(frozen=True, slots=True)
class Export(Exportable):
    """A userspace UDC under its bus id, for as long as the server lives."""

    number: int
    udc: UserspaceUDC

    @property
    def busid(self) -> str:
        """The number-th device of the only bus."""
        return f"{BUSNUM}-{self.number}"

    @property
    def name(self) -> str:
        """The gadget's."""
        return self.udc.gadget.name

    def device(self) -> UsbDevice:
        """What DEVLIST and IMPORT say of it. Raises NotExportable while it has left the bus."""
        if not self.udc.connected:
            # As with a kernel's vudc between unbind and bind: no list has it, and whoever imports
            # it is told that it is not there, ENODEV in libusb's words. To wait instead would
            # hold a host that has no timeout (usbip attach) for as long as the firmware likes.
            raise NotExportable(OpStatus.NODEV, f"{self.name} has left the bus for a while")
        description = self.udc.description
        device = description.device
        return UsbDevice(
            path=f"/sys/devices/usbip-vudc/{self.busid}",
            busid=self.busid,
            busnum=BUSNUM,
            devnum=self.number + 1,
            speed=description.speed,
            idVendor=device.idVendor,
            idProduct=device.idProduct,
            bcdDevice=device.bcdDevice,
            bDeviceClass=device.bDeviceClass,
            bDeviceSubClass=device.bDeviceSubClass,
            bDeviceProtocol=device.bDeviceProtocol,
            bConfigurationValue=self.udc.configuration or 1,
            bNumConfigurations=device.bNumConfigurations,
            bNumInterfaces=len(self.interfaces()),
        )

    def interfaces(self) -> tuple[UsbInterface, ...]:
        """The interfaces of the first configuration, each once."""
        layout = self.udc.description.layouts[0]
        return tuple(
            UsbInterface(
                slot.spec.bInterfaceClass,
                slot.spec.bInterfaceSubClass,
                slot.spec.bInterfaceProtocol,
            )
            for slot in layout.interfaces.values()
        )

    @property
    def plugged(self) -> bool:
        """Whether a host holds the device."""
        return self.udc.plugged

    def host_has_left(self) -> bool:
        """Whether the end of the stream is the next thing to be received."""
        return self.udc.host_has_left()

    async def wait_unplugged(self) -> None:
        """Wait until no host holds the device."""
        await self.udc.wait_unplugged()

    async def plug(self, sock: socket.socket, greeting: bytes) -> None:
        """Run the gadget on this socket until the host leaves."""
        await self.udc.plug(sock, greeting)
