"""A pyusb backend whose bus is a USB/IP server, so that a pyusb program runs over it unchanged.

It does what Linux and libusb do between such a program and a device: it reads the descriptors,
selects the first configuration, keeps claims, and restores a device after a reset. No kernel
module, no libusb, no root.

    device = usb.core.find(backend=get_backend(port=3240), idVendor=0x1d6b)
"""

from __future__ import annotations

import errno
import logging
from array import array
from collections.abc import Iterator
from dataclasses import asdict
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, Final, NoReturn, TypeAlias

import usb.backend
from usb.core import USBError

from usbip_vudc.errors import UrbError, UsbipVudcError
from usbip_vudc.host.blocking import BlockingHost
from usbip_vudc.host.enumeration import (
    DeviceDescriptors,
    alternates_of,
    clear_halt,
    set_configuration,
    set_interface,
)
from usbip_vudc.host.handshake import Listed, list_devices
from usbip_vudc.host.iso import find_endpoint
from usbip_vudc.host.iso import split as split_iso
from usbip_vudc.host.session import Connect, Handle, Sessions
from usbip_vudc.host.sg import SgResult
from usbip_vudc.pyusb_errors import LIBUSB, translated, usb_error, usb_errors
from usbip_vudc.sglist import SGList
from usbip_vudc.urb import HostUrb
from usbip_vudc.usb.ch9 import SetupPacket, Speed
from usbip_vudc.usb.descriptors import Configuration

# ruff: noqa: ARG002 - pyusb's contract passes more than this backend needs

__all__ = ("UsbipBackend", "get_backend")

log = logging.getLogger(__name__)

_SPEEDS: Final = {Speed.LOW: 1, Speed.FULL: 2, Speed.HIGH: 3, Speed.SUPER: 4, Speed.SUPER_PLUS: 5}
"""Our numbers are the kernel's, pyusb's are libusb's (enum libusb_speed)."""


def get_backend(
    host: str = "127.0.0.1",
    port: int = 3240,
    *,
    scatter_gather: bool = True,
    connect: Connect = BlockingHost,
) -> UsbipBackend:
    """A backend for the devices that one USB/IP server exports.

    ``scatter_gather`` is whether `UsbipBackend.bulk_sg` acts as a host controller with SG does.
    ``connect`` makes the host of each import. Nothing is connected before the backend is used.
    """
    return UsbipBackend(host, port, scatter_gather=scatter_gather, connect=connect)


Data: TypeAlias = "array[int]"


class _Device:
    """What `enumerate_devices` yields: a line of DEVLIST, and the descriptors once read."""

    def __init__(self, listed: Listed) -> None:
        self.listed = listed.device
        self.busid = listed.device.busid
        self.descriptors: DeviceDescriptors | None = None


class UsbipBackend(usb.backend.IBackend):  # type: ignore[misc]  # pyusb has no types
    """The devices of one USB/IP server, for pyusb. All methods may be called from any thread.

    A device is imported while at least one handle of it is open. Errors are those of pyusb's
    libusb backend: USBTimeoutError (110), USBError with errno 32 for a stall, 75 for babble, 19
    for a device that is gone, 16 for one that another client holds.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        scatter_gather: bool = True,
        connect: Connect = BlockingHost,
    ) -> None:
        super().__init__()
        self.host = host
        self.port = port
        self.scatter_gather = scatter_gather
        self._sessions = Sessions(host, port, connect=connect)

    def _finalize_object(self) -> None:
        self._sessions.close_all()

    # --- finding -------------------------------------------------------------------------------

    def enumerate_devices(self) -> Iterator[_Device]:
        """Ask the server for its list. Raises USBError where it cannot be reached."""
        try:
            listed = list_devices(self.host, self.port)
        except OSError as error:
            self._unreachable(error)
        except UsbipVudcError as error:
            raise translated(error) from error
        return map(_Device, listed)

    def get_parent(self, dev: _Device) -> None:
        """USB/IP tells of no hubs."""
        return

    def get_device_descriptor(self, dev: _Device) -> SimpleNamespace:
        """The device descriptor, or what DEVLIST says of it where it cannot be read now."""
        listed = dev.listed
        descriptors = self._describe(dev)
        if descriptors is not None:
            fields = asdict(descriptors.device)
        else:
            names = (
                "idVendor idProduct bcdDevice bDeviceClass bDeviceSubClass bDeviceProtocol "
                "bNumConfigurations"
            )
            unknown = ("bcdUSB", "bMaxPacketSize0", "iManufacturer", "iProduct", "iSerialNumber")
            fields = {name: getattr(listed, name) for name in names.split()}
            fields |= dict.fromkeys(unknown, 0)
        ports = _ports(dev.busid)
        return SimpleNamespace(
            bLength=18,
            bDescriptorType=1,
            **fields,
            bus=listed.busnum,
            address=listed.devnum,
            port_number=ports[-1] if ports else 0,
            port_numbers=ports or None,
            speed=_SPEEDS.get(listed.speed, 0),
        )

    def get_configuration_descriptor(self, dev: _Device, config: int) -> SimpleNamespace:
        """By index. Raises IndexError, or USBError where it cannot be read."""
        configuration = self._configuration(dev, config)
        return _namespace(configuration.descriptor, configuration.extra)

    def get_interface_descriptor(
        self, dev: _Device, intf: int, alt: int, config: int
    ) -> SimpleNamespace:
        """By indices, not numbers. Raises IndexError where there is no such one."""
        interface = alternates_of(self._configuration(dev, config), intf)[alt]
        return _namespace(interface.descriptor, interface.extra)

    def get_endpoint_descriptor(
        self, dev: _Device, ep: int, intf: int, alt: int, config: int
    ) -> SimpleNamespace:
        """By indices. bRefresh and bSynchAddress, an audio class matter, are always 0."""
        endpoint = alternates_of(self._configuration(dev, config), intf)[alt].endpoints[ep]
        namespace = _namespace(endpoint.descriptor, endpoint.extra)
        namespace.bRefresh = namespace.bSynchAddress = 0
        return namespace

    def _configuration(self, dev: _Device, config: int) -> Configuration:
        descriptors = self._describe(dev)
        if descriptors is None:
            raise usb_error(errno.EBUSY, f"the descriptors of {dev.busid} are not known")
        configuration = descriptors.configurations[config]
        if configuration is None:
            raise usb_error(errno.EIO, f"configuration {config} of {dev.busid} is not readable")
        return configuration

    def _describe(self, dev: _Device) -> DeviceDescriptors | None:
        """Read the descriptors once, importing the device for it; None where that is refused."""
        if dev.descriptors is None:
            try:
                dev.descriptors = self._sessions.describe(dev.busid)
            except (OSError, UsbipVudcError) as error:
                log.info("%s: descriptors not read: %s", dev.busid, error)
        return dev.descriptors

    # --- opening -------------------------------------------------------------------------------

    def open_device(self, dev: _Device) -> Handle:
        """Import the device, or share the import that this backend holds already."""
        with usb_errors():
            try:
                handle = self._sessions.open(dev.busid, dev.descriptors)
            except OSError as error:
                self._unreachable(error)
        if dev.descriptors is None:
            dev.descriptors = handle.session.descriptors
        return handle

    def close_device(self, handle: Handle) -> None:
        """Close a handle; with the last one the device is given back."""
        self._sessions.close(handle)

    def _unreachable(self, error: OSError) -> NoReturn:
        raise USBError(
            f"no USB/IP server at {self.host} port {self.port} ({error.strerror or error}): "
            f"start one there, or give get_backend the host and port of yours",
            LIBUSB[errno.EIO][0],
            error.errno,
        ) from error

    # --- configuration -------------------------------------------------------------------------

    def set_configuration(self, handle: Handle, config_value: int) -> None:
        """SET_CONFIGURATION. As Linux: errno 16 while an interface is claimed by anyone."""
        if handle.session.claims:
            raise usb_error(errno.EBUSY)
        with usb_errors():  # libusb: -1 unconfigures
            handle.session.tell(set_configuration(max(config_value, 0)))

    def get_configuration(self, handle: Handle) -> int:
        """The configuration that was selected last; no request is sent, as with libusb."""
        return handle.session.selection.configuration

    def set_interface_altsetting(self, handle: Handle, intf: int, altsetting: int) -> None:
        """SET_INTERFACE."""
        with usb_errors():
            handle.session.tell(set_interface(intf, altsetting))

    def claim_interface(self, handle: Handle, intf: int) -> None:
        """Bookkeeping. errno 16 where another handle has it, 2 where there is no such one."""
        if not handle.session.has_interface(intf):
            raise usb_error(errno.ENOENT)
        if not self._sessions.claim(handle, intf):
            raise usb_error(errno.EBUSY)

    def release_interface(self, handle: Handle, intf: int) -> None:
        """Bookkeeping, and alternate setting 0 again, as usbfs does. errno 2 where not claimed."""
        if not self._sessions.release(handle, intf):
            raise usb_error(errno.ENOENT)

    def clear_halt(self, handle: Handle, ep: int) -> None:
        """CLEAR_FEATURE(ENDPOINT_HALT)."""
        with usb_errors():
            handle.session.tell(clear_halt(ep))

    def reset_device(self, handle: Handle) -> None:
        """Reset the device; its configuration and alternate settings are restored."""
        with usb_errors():
            handle.session.reset()

    def is_kernel_driver_active(self, handle: Handle, intf: int) -> bool:
        """False: no kernel sees the device."""
        return False

    def detach_kernel_driver(self, handle: Handle, intf: int) -> None:
        """Nothing to do."""

    attach_kernel_driver = detach_kernel_driver

    # --- transfers -----------------------------------------------------------------------------

    def bulk_write(self, handle: Handle, ep: int, intf: int, data: Data, timeout: int) -> int:
        """Send ``data`` in one URB: bytes sent. ``timeout`` in ms, 0 for none; no ZLP is added."""
        return _transfer(handle, HostUrb(ep, memoryview(data)), timeout)

    def bulk_read(self, handle: Handle, ep: int, intf: int, buff: Data, timeout: int) -> int:
        """Receive into ``buff`` itself, in one URB: bytes received. ``timeout`` as above."""
        return _transfer(handle, HostUrb(ep, memoryview(buff)), timeout)

    intr_write = bulk_write
    intr_read = bulk_read

    def bulk_sg(self, handle: Handle, ep: int, intf: int, sg: SGList, timeout: int) -> SgResult:
        """An SG transfer as Linux's usb_sg_wait does it, with or without SG (`scatter_gather`).

        An extension: pyusb has no such call. ``timeout`` in ms, 0 for none. A failed URB raises
        nothing: look at the result's ``status``.
        """
        with usb_errors():
            return handle.host.transfer_sg(
                ep, sg, scatter_gather=self.scatter_gather, timeout=_seconds(timeout)
            )

    def iso_write(self, handle: Handle, ep: int, intf: int, data: Data, timeout: int) -> int:
        """Send ``data``, in packets of the endpoint's service interval: bytes sent.

        Otherwise as `iso_read`.
        """
        return self._iso(handle, ep, intf, data, timeout)

    def iso_read(self, handle: Handle, ep: int, intf: int, buff: Data, timeout: int) -> int:
        """Receive into ``buff``, in packets of the endpoint's service interval: bytes received.

        As with libusb, a packet lies where it would with all before it full, so that a short one
        leaves a gap, and one that failed is only missing in the count. ``timeout`` in ms, 0 for
        none; when it is up what has come is lost. errno 2 for an endpoint that the selected
        alternate setting does not have or an interface that is not claimed, 16 where another
        handle has claimed it.
        """
        return self._iso(handle, ep, intf, buff, timeout)

    def _iso(self, handle: Handle, ep: int, intf: int, data: Data, timeout: int) -> int:
        session = handle.session
        claimed = session.claims.get(intf)
        if claimed is not handle:
            number = errno.ENOENT if claimed is None else errno.EBUSY
            raise usb_error(number, f"interface {intf} is not claimed")
        if session.descriptors is None:
            raise usb_error(errno.EIO, f"the descriptors of {handle.busid} are not known")
        endpoint = find_endpoint(session.descriptors, session.selection, intf, ep)
        if endpoint is None:
            raise usb_error(errno.ENOENT, f"interface {intf} has no endpoint {ep:#04x} now")
        with usb_errors():
            urbs = split_iso(endpoint, memoryview(data))
            return handle.host.transfer_each(urbs, _seconds(timeout))

    def ctrl_transfer(
        self,
        handle: Handle,
        bmRequestType: int,
        bRequest: int,
        wValue: int,
        wIndex: int,
        data: Data,
        timeout: int,
    ) -> int:
        """A control transfer: bytes of the data stage, sent from or received into ``data``."""
        view = memoryview(data)
        setup = _setup(bmRequestType, bRequest, wValue, wIndex, view.nbytes)
        count = _transfer(handle, HostUrb(0, view, setup=setup), timeout)
        if bmRequestType <= 1:
            handle.session.selection.note(setup)
        return count


def _transfer(handle: Handle, urb: HostUrb, timeout_ms: int) -> int:
    try:
        return handle.host.transfer(urb, _seconds(timeout_ms))
    except UsbipVudcError as error:
        timed_out = isinstance(error, UrbError) and error.errno == errno.ETIMEDOUT
        if timed_out and urb.actual:
            return urb.actual  # as libusb: some data and no time left is no error
        raise translated(error) from error


@lru_cache(maxsize=256)
def _setup(
    bmRequestType: int, bRequest: int, wValue: int, wIndex: int, wLength: int
) -> SetupPacket:
    """Programs repeat a few requests without end; the value is frozen, so it can be shared.

    Numbers too large for their fields are cut, as ctypes cuts them on the way to libusb.
    """
    if wLength > 0xFFFF:
        raise usb_error(errno.EINVAL, f"{wLength} bytes, wLength holds at most 65535")
    return SetupPacket(
        bmRequestType & 0xFF, bRequest & 0xFF, wValue & 0xFFFF, wIndex & 0xFFFF, wLength
    )


def _seconds(timeout_ms: int) -> float | None:
    return timeout_ms / 1000 if timeout_ms else None


def _ports(busid: str) -> tuple[int, ...]:
    """The port numbers in a kernel bus id: ``1-2.3`` is port 3 behind port 2 of bus 1."""
    _, _, path = busid.partition("-")
    numbers = path.split(".")
    return tuple(map(int, numbers)) if all(n.isdecimal() for n in numbers) else ()


def _namespace(descriptor: Any, extra: bytes) -> SimpleNamespace:
    """A descriptor's fields as pyusb wants them; extra descriptors are a list, as from libusb."""
    return SimpleNamespace(
        bLength=descriptor.SIZE,
        bDescriptorType=int(descriptor.TYPE),
        **asdict(descriptor),
        extra_descriptors=list(extra),
    )
