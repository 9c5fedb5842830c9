"""A pyusb backend whose bus is a USB/IP server, so that a pyusb program runs over it unchanged.

It does what Linux and libusb do between such a program and a device: it reads the descriptors,
selects the first configuration, keeps claims, and restores a device after a reset. No kernel
module, no libusb, no root. Isochronous transfers are not carried.

    device = usb.core.find(backend=get_backend(port=3240), idVendor=0x1d6b)
"""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
import time
from array import array
from collections.abc import Iterator
from dataclasses import asdict
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, Final, NoReturn

import usb.backend
from usb.core import USBError, USBTimeoutError

from usbip_vudc.errors import LocalProtocolError, SchemeError, UrbError, UsbipVudcError
from usbip_vudc.host.blocking import BlockingHost
from usbip_vudc.host.enumeration import DeviceDescriptors, drive, read_descriptors
from usbip_vudc.host.handshake import ImportRefused, Listed, list_devices
from usbip_vudc.host.sg import SgResult
from usbip_vudc.sglist import SGList
from usbip_vudc.urb import HostUrb
from usbip_vudc.usb.ch9 import Feature, SetupPacket, Speed, StandardRequest
from usbip_vudc.usb.descriptors import Configuration, Interface
from usbip_vudc.wire.pdu import OpStatus

__all__ = ("UsbipBackend", "get_backend")

log = logging.getLogger(__name__)

_CONTROL_TIMEOUT: Final = 5.0
"""Seconds for requests of our own; Linux's USB_CTRL_GET_TIMEOUT."""

_RELEASE_PATIENCE: Final = 1.0
"""Seconds that a server may take to notice that we gave a device back, before it is busy."""

_SET_CONFIGURATION: Final = (0x00, StandardRequest.SET_CONFIGURATION)
_SET_INTERFACE: Final = (0x01, StandardRequest.SET_INTERFACE)

_PORT_RESET: Final = SetupPacket(0x23, StandardRequest.SET_FEATURE, 4, 0, 0)
"""SetPortFeature(PORT_RESET), which a USB/IP server executes for the device's own port."""

_SPEEDS: Final = {
    Speed.LOW: 1,
    Speed.FULL: 2,
    Speed.HIGH: 3,
    Speed.WIRELESS: 3,
    Speed.SUPER: 4,
    Speed.SUPER_PLUS: 5,
}
"""Our numbers are the kernel's, pyusb's are libusb's (enum libusb_speed)."""

_LIBUSB: Final = {
    errno.EIO: (-1, "Input/Output Error"),
    errno.EINVAL: (-2, "Invalid parameter"),
    errno.ENODEV: (-4, "No such device (it may have been disconnected)"),
    errno.ENOENT: (-5, "Entity not found"),
    errno.EBUSY: (-6, "Resource busy"),
    errno.ETIMEDOUT: (-7, "Operation timed out"),
    errno.EOVERFLOW: (-8, "Overflow"),
    errno.EPIPE: (-9, "Pipe error"),
}
"""errno -> libusb's error code and libusb_strerror: programs look at all three."""


def get_backend(
    host: str = "127.0.0.1", port: int = 3240, *, scatter_gather: bool = True
) -> UsbipBackend:
    """A backend for the devices that one USB/IP server exports.

    ``scatter_gather`` is whether `UsbipBackend.bulk_sg` acts as a host controller with SG does.
    Nothing is connected before the backend is used.
    """
    return UsbipBackend(host, port, scatter_gather=scatter_gather)


def _usb_error(number: int, detail: str = "") -> USBError:
    """The exception that the libusb backend raises for this errno; others count as EIO."""
    number = number if number in _LIBUSB else errno.EIO
    code, text = _LIBUSB[number]
    kind = USBTimeoutError if number == errno.ETIMEDOUT else USBError
    return kind(f"{text}: {detail}" if detail else text, code, number)


def _raise_usb_error(error: UsbipVudcError) -> NoReturn:
    if isinstance(error, UrbError):
        raise _usb_error(error.errno) from error
    number = errno.EINVAL if isinstance(error, LocalProtocolError) else errno.EIO
    raise _usb_error(number, str(error)) from error


class _Device:
    """What `enumerate_devices` yields: a line of DEVLIST, and the descriptors once read."""

    def __init__(self, listed: Listed) -> None:
        self.listed = listed.device
        self.busid = listed.device.busid
        self.descriptors: DeviceDescriptors | None = None


class _Session:
    """One import of a device, shared by the handles of this backend, with what Linux would know.

    ``claims`` maps bInterfaceNumber to its handle, ``alternates`` to bAlternateSetting.
    """

    def __init__(self, host: BlockingHost) -> None:
        self.host = host
        self.descriptors: DeviceDescriptors | None = None
        self.handles: set[_Handle] = set()
        self.claims: dict[int, _Handle] = {}
        self.configuration = 0
        self.alternates: dict[int, int] = {}

    def ask(self, setup: SetupPacket) -> bytes | None:
        """A control IN transfer, None for a stall. Raises UrbError otherwise."""
        try:
            return self.host.control(setup, timeout=_CONTROL_TIMEOUT)
        except UrbError as error:
            if error.errno == errno.EPIPE:
                return None
            raise

    def tell(self, bmRequestType: int, bRequest: int, wValue: int, wIndex: int = 0) -> None:
        """A control transfer without data; what it selects is remembered."""
        setup = SetupPacket(bmRequestType, bRequest, wValue, wIndex)
        self.host.control(setup, timeout=_CONTROL_TIMEOUT)
        self.remember(bmRequestType, bRequest, wValue, wIndex)

    def remember(self, bmRequestType: int, bRequest: int, wValue: int, wIndex: int) -> None:
        """Note the configuration and alternate settings, for a reset to restore."""
        if (bmRequestType, bRequest) == _SET_CONFIGURATION:
            self.configuration = wValue
            self.alternates.clear()
        elif (bmRequestType, bRequest) == _SET_INTERFACE:
            self.alternates[wIndex] = wValue

    def configure(self) -> None:
        """Select the first configuration where none is, as Linux does with a new device."""
        current = self.ask(SetupPacket(0x80, StandardRequest.GET_CONFIGURATION, wLength=1))
        self.configuration = current[0] if current else 0
        if self.configuration or self.descriptors is None:
            return
        for configuration in self.descriptors.configurations[:1]:
            if configuration is not None:
                self.tell(*_SET_CONFIGURATION, configuration.descriptor.bConfigurationValue)

    def reset(self) -> None:
        """Reset the port and restore what was selected, as usb_reset_device does."""
        with contextlib.suppress(UrbError):
            # usbip-vudc of the kernel stalls it, and so does a stub before 6.13, which resets
            # the device and passes the request on to it all the same.
            self.host.control(_PORT_RESET, timeout=_CONTROL_TIMEOUT)
        configuration, alternates = self.configuration, dict(self.alternates)
        if configuration:
            self.tell(*_SET_CONFIGURATION, configuration)
        for interface, alternate in alternates.items():
            if alternate:
                self.tell(*_SET_INTERFACE, alternate, interface)

    def release(self, interface: int) -> None:
        """Drop a claim; as in usb_unbind_interface, alternate setting 0 comes back."""
        del self.claims[interface]
        if self.alternates.get(interface):
            with contextlib.suppress(UsbipVudcError):
                self.tell(*_SET_INTERFACE, 0, interface)

    def has_interface(self, number: int) -> bool:
        """Whether the selected configuration has it; yes where that is not known."""
        known = self.descriptors.configurations if self.descriptors is not None else ()
        for configuration in known:
            if configuration is None:
                return True
            if configuration.descriptor.bConfigurationValue == self.configuration:
                return any(
                    i.descriptor.bInterfaceNumber == number for i in configuration.interfaces
                )
        return not known


class _Handle:
    """What `open_device` returns. ``host`` stands first: each transfer needs it."""

    __slots__ = ("busid", "host", "session")

    def __init__(self, busid: str, session: _Session) -> None:
        self.busid = busid
        self.session = session
        self.host = session.host


class UsbipBackend(usb.backend.IBackend):  # type: ignore[misc]  # pyusb has no types
    """The devices of one USB/IP server, for pyusb. All methods may be called from any thread.

    A device is imported while at least one handle of it is open. Errors are those of pyusb's
    libusb backend: USBTimeoutError (110), USBError with errno 32 for a stall, 75 for babble, 19
    for a device that is gone, 16 for one that another client holds.
    """

    def __init__(self, host: str, port: int, *, scatter_gather: bool = True) -> None:
        super().__init__()
        self.host = host
        self.port = port
        self.scatter_gather = scatter_gather
        self._lock = threading.RLock()
        self._sessions: dict[str, _Session] = {}
        self._released: dict[str, float] = {}

    def _finalize_object(self) -> None:
        for session in self._sessions.values():
            session.host.close()

    # --- finding -------------------------------------------------------------------------------

    def enumerate_devices(self) -> Iterator[_Device]:
        """Ask the server for its list. Raises USBError where it cannot be reached."""
        try:
            listed = list_devices(self.host, self.port)
        except OSError as error:
            self._unreachable(error)
        except UsbipVudcError as error:
            _raise_usb_error(error)
        return map(_Device, listed)

    def get_parent(self, dev: _Device) -> None:  # noqa: ARG002 - the contract's
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
        interface = _alternates(self._configuration(dev, config), intf)[alt]
        return _namespace(interface.descriptor, interface.extra)

    def get_endpoint_descriptor(
        self, dev: _Device, ep: int, intf: int, alt: int, config: int
    ) -> SimpleNamespace:
        """By indices. bRefresh and bSynchAddress, an audio class matter, are always 0."""
        endpoint = _alternates(self._configuration(dev, config), intf)[alt].endpoints[ep]
        namespace = _namespace(endpoint.descriptor, endpoint.extra)
        namespace.bRefresh = namespace.bSynchAddress = 0
        return namespace

    def _configuration(self, dev: _Device, config: int) -> Configuration:
        descriptors = self._describe(dev)
        if descriptors is None:
            raise _usb_error(errno.EBUSY, f"the descriptors of {dev.busid} are not known")
        configuration = descriptors.configurations[config]
        if configuration is None:
            raise _usb_error(errno.EIO, f"configuration {config} of {dev.busid} is not readable")
        return configuration

    def _describe(self, dev: _Device) -> DeviceDescriptors | None:
        """Read the descriptors once, importing the device for it; None where it is not to be had."""
        if dev.descriptors is None:
            with self._lock:
                try:
                    session = self._sessions.get(dev.busid)
                    if session is None:
                        with self._import(dev.busid) as host:
                            dev.descriptors = drive(read_descriptors(), _Session(host).ask)
                        self._released[dev.busid] = time.monotonic()
                    else:
                        dev.descriptors = session.descriptors
                except (OSError, UsbipVudcError) as error:
                    log.info("%s: descriptors not read: %s", dev.busid, error)
        return dev.descriptors

    # --- opening -------------------------------------------------------------------------------

    def open_device(self, dev: _Device) -> _Handle:
        """Import the device, or share the import that this backend holds already."""
        with self._lock:
            session = self._sessions.get(dev.busid)
            if session is None or session.host.closed:
                session = self._open_session(dev)
                self._sessions[dev.busid] = session
            handle = _Handle(dev.busid, session)
            session.handles.add(handle)
            return handle

    def _open_session(self, dev: _Device) -> _Session:
        try:
            session = _Session(self._import(dev.busid))
        except ImportRefused as error:
            numbers = {OpStatus.DEV_BUSY: errno.EBUSY, OpStatus.NODEV: errno.ENODEV}
            raise _usb_error(numbers.get(error.status, errno.EIO), str(error)) from error
        except OSError as error:
            self._unreachable(error)
        except UsbipVudcError as error:
            _raise_usb_error(error)
        try:
            if dev.descriptors is None:
                with contextlib.suppress(SchemeError):
                    dev.descriptors = drive(read_descriptors(), session.ask)
            session.descriptors = dev.descriptors
            session.configure()
        except UsbipVudcError as error:
            session.host.close()
            _raise_usb_error(error)
        return session

    def _import(self, busid: str) -> BlockingHost:
        """Import a device; a server that has not noticed yet that we left it gets some time."""
        while True:
            try:
                return BlockingHost(self.host, self.port, busid)
            except ImportRefused as error:
                since = time.monotonic() - self._released.get(busid, 0.0)
                if error.status != OpStatus.DEV_BUSY or since > _RELEASE_PATIENCE:
                    raise
                time.sleep(0.02)

    def close_device(self, dev_handle: _Handle) -> None:
        """Close a handle; with the last one the device is given back."""
        with self._lock:
            session = dev_handle.session
            session.handles.discard(dev_handle)
            if session.handles:
                for interface in [i for i, h in session.claims.items() if h is dev_handle]:
                    session.release(interface)
                return
            session.host.close()
            if self._sessions.get(dev_handle.busid) is session:
                del self._sessions[dev_handle.busid]
                self._released[dev_handle.busid] = time.monotonic()

    def _unreachable(self, error: OSError) -> NoReturn:
        raise USBError(
            f"no USB/IP server at {self.host} port {self.port} ({error.strerror or error}): "
            f"start one there, or give get_backend the host and port of yours",
            _LIBUSB[errno.EIO][0],
            error.errno,
        ) from error

    # --- configuration -------------------------------------------------------------------------

    def set_configuration(self, dev_handle: _Handle, config_value: int) -> None:
        """SET_CONFIGURATION. As Linux: errno 16 while an interface is claimed by anyone."""
        if dev_handle.session.claims:
            raise _usb_error(errno.EBUSY)
        value = 0 if config_value == -1 else config_value  # libusb: -1 unconfigures
        self._tell(dev_handle, *_SET_CONFIGURATION, value)

    def get_configuration(self, dev_handle: _Handle) -> int:
        """The configuration that was selected last; no request is sent, as with libusb."""
        return dev_handle.session.configuration

    def set_interface_altsetting(self, dev_handle: _Handle, intf: int, altsetting: int) -> None:
        """SET_INTERFACE."""
        self._tell(dev_handle, *_SET_INTERFACE, altsetting, intf)

    def claim_interface(self, dev_handle: _Handle, intf: int) -> None:
        """Bookkeeping. errno 16 where another handle has it, 2 where there is no such one."""
        with self._lock:
            session = dev_handle.session
            if not session.has_interface(intf):
                raise _usb_error(errno.ENOENT)
            if session.claims.setdefault(intf, dev_handle) is not dev_handle:
                raise _usb_error(errno.EBUSY)

    def release_interface(self, dev_handle: _Handle, intf: int) -> None:
        """Bookkeeping, and alternate setting 0 again, as usbfs does. errno 2 where not claimed."""
        with self._lock:
            session = dev_handle.session
            if session.claims.get(intf) is not dev_handle:
                raise _usb_error(errno.ENOENT)
            session.release(intf)

    def clear_halt(self, dev_handle: _Handle, ep: int) -> None:
        """CLEAR_FEATURE(ENDPOINT_HALT)."""
        self._tell(dev_handle, 0x02, StandardRequest.CLEAR_FEATURE, Feature.ENDPOINT_HALT, ep)

    def reset_device(self, dev_handle: _Handle) -> None:
        """Reset the device; its configuration and alternate settings are restored."""
        try:
            dev_handle.session.reset()
        except UsbipVudcError as error:
            _raise_usb_error(error)

    def is_kernel_driver_active(self, dev_handle: _Handle, intf: int) -> bool:  # noqa: ARG002
        """False: no kernel sees the device."""
        return False

    def detach_kernel_driver(self, dev_handle: _Handle, intf: int) -> None:
        """Nothing to do."""

    def attach_kernel_driver(self, dev_handle: _Handle, intf: int) -> None:
        """Nothing to do."""

    def _tell(
        self, handle: _Handle, bmRequestType: int, bRequest: int, wValue: int, wIndex: int = 0
    ) -> None:
        try:
            handle.session.tell(bmRequestType, bRequest, wValue, wIndex)
        except UsbipVudcError as error:
            _raise_usb_error(error)

    # --- transfers -----------------------------------------------------------------------------

    def bulk_write(
        self, dev_handle: _Handle, ep: int, intf: int, data: array[int], timeout: int
    ) -> int:
        """Send ``data`` in one URB: bytes sent. ``timeout`` in ms, 0 for none; no ZLP is added."""
        return _transfer(dev_handle, HostUrb(ep, memoryview(data)), timeout)

    def bulk_read(
        self, dev_handle: _Handle, ep: int, intf: int, buff: array[int], timeout: int
    ) -> int:
        """Receive into ``buff`` itself in one URB: bytes received. ``timeout`` in ms, 0 for none."""
        return _transfer(dev_handle, HostUrb(ep, memoryview(buff)), timeout)

    intr_write = bulk_write
    intr_read = bulk_read

    def bulk_sg(
        self, dev_handle: _Handle, ep: int, intf: int, sg: SGList, timeout: int
    ) -> SgResult:
        """An SG transfer as Linux's usb_sg_wait does it, with or without SG (`scatter_gather`).

        An extension: pyusb has no such call. ``timeout`` in ms, 0 for none. A failed URB raises
        nothing: look at the result's ``status``.
        """
        try:
            return dev_handle.host.transfer_sg(
                ep, sg, scatter_gather=self.scatter_gather, timeout=_seconds(timeout)
            )
        except UsbipVudcError as error:
            _raise_usb_error(error)

    def iso_write(
        self, dev_handle: _Handle, ep: int, intf: int, data: array[int], timeout: int
    ) -> int:
        """Not available: raises NotImplementedError."""
        raise NotImplementedError(f"isochronous transfers are not carried (endpoint {ep:#04x})")

    iso_read = iso_write

    def ctrl_transfer(
        self,
        dev_handle: _Handle,
        bmRequestType: int,
        bRequest: int,
        wValue: int,
        wIndex: int,
        data: array[int],
        timeout: int,
    ) -> int:
        """A control transfer: bytes of the data stage, sent from or received into ``data``."""
        view = memoryview(data)
        setup = _setup(bmRequestType, bRequest, wValue, wIndex, view.nbytes)
        count = _transfer(dev_handle, HostUrb(0, view, setup=setup), timeout)
        if bmRequestType <= 1:
            dev_handle.session.remember(bmRequestType, bRequest, wValue, wIndex)
        return count


def _transfer(handle: _Handle, urb: HostUrb, timeout_ms: int) -> int:
    try:
        return handle.host.transfer(urb, _seconds(timeout_ms))
    except UrbError as error:
        if error.errno == errno.ETIMEDOUT and error.actual_length:
            return error.actual_length  # as libusb: some data and no time left is no error
        _raise_usb_error(error)
    except UsbipVudcError as error:
        _raise_usb_error(error)


@lru_cache(maxsize=256)
def _setup(
    bmRequestType: int, bRequest: int, wValue: int, wIndex: int, wLength: int
) -> SetupPacket:
    """Programs repeat a few requests without end; the value is frozen, so it can be shared."""
    return SetupPacket(bmRequestType, bRequest, wValue, wIndex, wLength)


def _seconds(timeout_ms: int) -> float | None:
    return timeout_ms / 1000 if timeout_ms else None


def _ports(busid: str) -> tuple[int, ...]:
    """The port numbers in a kernel bus id: ``1-2.3`` is port 3 behind port 2 of bus 1."""
    _, _, path = busid.partition("-")
    numbers = path.split(".")
    return tuple(map(int, numbers)) if all(n.isdigit() for n in numbers) else ()


def _alternates(configuration: Configuration, index: int) -> list[Interface]:
    """The alternate settings of the interface that comes ``index``-th."""
    numbers = dict.fromkeys(i.descriptor.bInterfaceNumber for i in configuration.interfaces)
    number = list(numbers)[index]
    return [i for i in configuration.interfaces if i.descriptor.bInterfaceNumber == number]


def _namespace(descriptor: Any, extra: bytes) -> SimpleNamespace:
    """A descriptor's fields as pyusb wants them; extra descriptors are a list, as from libusb."""
    return SimpleNamespace(
        bLength=descriptor.SIZE,
        bDescriptorType=int(descriptor.TYPE),
        **asdict(descriptor),
        extra_descriptors=list(extra),
    )
