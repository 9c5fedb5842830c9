"""The bulk pair of a mass-storage interface, for a host: bytes and SG lists in and out, and halts.

No command and no SCSI here; usbip_vudc/host/storage.py knows what the bytes mean.
"""

from __future__ import annotations

import contextlib
import errno
from array import array
from typing import Any, Final

import usb.core
import usb.util

from usbip_vudc.errors import errno_name
from usbip_vudc.sglist import SGList
from usbip_vudc.usb.bot import BULK_ONLY, SCSI_TRANSPARENT
from usbip_vudc.usb.ch9 import UsbClass

__all__ = ("BulkPipes",)

_INTERFACE: Final = (UsbClass.MASS_STORAGE, SCSI_TRANSPARENT, BULK_ONLY)
"""bInterfaceClass, SubClass and Protocol (BOT 4.3)."""


class BulkPipes:
    """The bulk pair of a device's bulk-only interface, and how bytes get there.

    With our own backend they move straight between the device and the caller's memory. With
    another one they go through an array, since that is all that pyusb's public calls take.

    ``interface`` is another one with a bulk pair. Raises ValueError where the device has no
    bulk-only interface, and none is given. A stall is no error here: BOT uses it to end a stage.
    Any other usb.core.USBError goes through.
    """

    def __init__(
        self, device: usb.core.Device, interface: usb.core.Interface | None = None
    ) -> None:
        self._device = device
        self._array = array("B")
        interface = _find_interface(device) if interface is None else interface
        self.interface: int = interface.bInterfaceNumber
        for endpoint in interface:
            if usb.util.endpoint_type(endpoint.bmAttributes) == usb.util.ENDPOINT_TYPE_BULK:
                if endpoint.bEndpointAddress & usb.util.ENDPOINT_IN:
                    self.address_in: int = endpoint.bEndpointAddress
                else:
                    self.address_out: int = endpoint.bEndpointAddress
        with contextlib.suppress(NotImplementedError):  # libusb outside Linux
            if device.is_kernel_driver_active(self.interface):
                device.detach_kernel_driver(self.interface)
        if interface.bAlternateSetting:
            device.set_interface_altsetting(self.interface, interface.bAlternateSetting)

    def read(self, view: memoryview, timeout_ms: int) -> int | None:
        """Bytes received, None for a stall; the halt has then been cleared."""
        address = self.address_in
        try:
            if self._is_ours:
                return int(self._direct("bulk_read", address, view, timeout_ms))
            return self._read_array(view, timeout_ms)
        except usb.core.USBError as error:
            self._stalled(address, error)
            return None

    def write(self, view: memoryview, timeout_ms: int) -> int | None:
        """Bytes sent, None for a stall; the halt has then been cleared."""
        address = self.address_out
        try:
            if self._is_ours:
                return int(self._direct("bulk_write", address, view, timeout_ms))
            data = array("B")
            data.frombytes(view)
            return int(self._device.write(address, data, timeout_ms))
        except usb.core.USBError as error:
            self._stalled(address, error)
            return None

    def read_sg(self, sg: SGList, timeout_ms: int) -> int | None:
        """Receive into an SG list until it is full, or a short packet ends it.

        Bytes received, None for a stall; the halt has then been cleared.
        """
        if not self._is_ours:
            return self._read_each(sg, timeout_ms)
        return self._sg(self.address_in, sg, timeout_ms)

    def write_sg(self, sg: SGList, timeout_ms: int) -> int | None:
        """Send an SG list: bytes sent, None for a stall; the halt has then been cleared."""
        if not self._is_ours:
            return self._write_each(sg, timeout_ms)
        return self._sg(self.address_out, sg, timeout_ms)

    def _sg(self, address: int, sg: SGList, timeout_ms: int) -> int | None:
        result = self._direct("bulk_sg", address, sg, timeout_ms)
        status = result.status
        if status and status != -errno.EREMOTEIO:
            timed_out = status == -errno.ETIMEDOUT
            kind = usb.core.USBTimeoutError if timed_out else usb.core.USBError
            self._stalled(address, kind(errno_name(status), None, -status))
            return None
        return int(result.actual)

    def _write_each(self, sg: SGList, timeout_ms: int) -> int | None:
        total = 0
        for segment in sg.segments:
            count = self.write(segment, timeout_ms)
            if count is None:
                return None
            total += count
        return total

    def _read_each(self, sg: SGList, timeout_ms: int) -> int | None:
        total = 0
        for segment in sg.segments:
            count = self.read(segment, timeout_ms)
            if count is None:
                return None
            total += count
            if count < len(segment):
                break
        return total

    @property
    def _is_ours(self) -> bool:
        return hasattr(self._device.backend, "bulk_sg")

    def _direct(self, call: str, address: int, data: Any, timeout_ms: int) -> Any:
        """Call the backend itself: unlike Device.read it lets any memory be the buffer."""
        usb.util.claim_interface(self._device, self.interface)
        handle = self._device._ctx.handle  # noqa: SLF001 - pyusb has no public name for it
        return getattr(self._device.backend, call)(
            handle, address, self.interface, data, timeout_ms
        )

    def _read_array(self, view: memoryview, timeout_ms: int) -> int:
        if len(self._array) != len(view):
            self._array = usb.util.create_buffer(len(view))
        try:
            count = self._device.read(self.address_in, self._array, timeout_ms)
        except usb.core.USBError:
            view[:] = memoryview(self._array)  # what came before a stall counts too
            raise
        view[:count] = memoryview(self._array)[:count]
        return int(count)

    def _stalled(self, address: int, error: usb.core.USBError) -> None:
        if error.errno != errno.EPIPE:
            raise error
        self._device.clear_halt(address)


def _find_interface(device: usb.core.Device) -> usb.core.Interface:
    for interface in device.get_active_configuration():
        if (
            interface.bInterfaceClass,
            interface.bInterfaceSubClass,
            interface.bInterfaceProtocol,
        ) == _INTERFACE:
            return interface
    raise ValueError("the device has no interface of class 08/06/50, SCSI over bulk-only")
