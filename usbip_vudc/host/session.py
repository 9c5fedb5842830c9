"""A device that is imported and held: what Linux would know of it, and who may use it.

`Session` is one import, shared by `Handle`s; `Sessions` are all those of one server. No pyusb and
no libusb here: usbip_vudc/pyusb_backend.py speaks their words and raises their errors.
"""

from __future__ import annotations

import contextlib
import errno
import threading
import time
from collections.abc import Callable
from typing import Final, TypeAlias

from usbip_vudc.errors import SchemeError, UrbError, UsbipVudcError
from usbip_vudc.host.blocking import BlockingHost
from usbip_vudc.host.enumeration import (
    DeviceDescriptors,
    Selection,
    drive,
    read_descriptors,
    set_configuration,
    set_interface,
)
from usbip_vudc.host.handshake import ImportRefused
from usbip_vudc.usb.ch9 import SetupPacket, StandardRequest
from usbip_vudc.wire.pdu import OpStatus

__all__ = ("Connect", "Handle", "Session", "Sessions")

Connect: TypeAlias = Callable[[str, int, str], BlockingHost]
"""Makes the host of an import, of a server's address, its TCP port and a busid."""

_CONTROL_TIMEOUT: Final = 5.0
"""Seconds for requests of our own; Linux's USB_CTRL_GET_TIMEOUT."""

_RELEASE_PATIENCE: Final = 1.0
"""Seconds that a server may take to notice that we gave a device back, before it is busy."""

_PORT_RESET: Final = SetupPacket(0x23, StandardRequest.SET_FEATURE, 4, 0, 0)
"""SetPortFeature(PORT_RESET), which a USB/IP server executes for the device's own port."""


class Session:
    """One import of a device, shared by its handles, with what Linux would know.

    ``claims`` maps bInterfaceNumber to its handle. Requests raise UrbError where the device fails
    them. It has no lock: handles and claims are changed by its `Sessions` alone.
    """

    def __init__(self, host: BlockingHost) -> None:
        self.host = host
        self.descriptors: DeviceDescriptors | None = None
        self.handles: set[Handle] = set()
        self.claims: dict[int, Handle] = {}
        self.selection = Selection()

    def ask(self, setup: SetupPacket) -> bytes | None:
        """A control IN transfer, None for a stall. Raises UrbError otherwise."""
        try:
            return self.host.control(setup, timeout=_CONTROL_TIMEOUT)
        except UrbError as error:
            if error.errno == errno.EPIPE:
                return None
            raise

    def tell(self, setup: SetupPacket) -> None:
        """A control transfer without data; what it selects is noted."""
        self.host.control(setup, timeout=_CONTROL_TIMEOUT)
        self.selection.note(setup)

    def configure(self) -> None:
        """Select the first configuration where none is, as Linux does with a new device."""
        current = self.ask(SetupPacket(0x80, StandardRequest.GET_CONFIGURATION, wLength=1))
        self.selection.configuration = current[0] if current else 0
        if not self.selection.configuration and self.descriptors is not None:
            for configuration in self.descriptors.configurations[:1]:
                if configuration is not None:
                    self.tell(set_configuration(configuration.descriptor.bConfigurationValue))

    def reset(self) -> None:
        """Reset the port and restore what was selected, as usb_reset_device does."""
        try:
            self.host.control(_PORT_RESET, timeout=_CONTROL_TIMEOUT)
        except UrbError as error:
            # The kernel's usbip-vudc stalls it. Its stub resets the device, but older ones then
            # pass the request on to the device all the same, which stalls it.
            if error.errno != errno.EPIPE:
                raise
        for setup in self.selection.restore():
            self.tell(setup)

    def release(self, interface: int) -> None:
        """Drop a claim; as in usb_unbind_interface, alternate setting 0 comes back."""
        del self.claims[interface]
        if self.selection.alternates.get(interface):
            with contextlib.suppress(UsbipVudcError):
                self.tell(set_interface(interface, 0))

    def has_interface(self, number: int) -> bool:
        """Whether the selected configuration has it; yes where that is not known."""
        if self.descriptors is None or None in self.descriptors.configurations:
            return True
        return any(
            interface.descriptor.bInterfaceNumber == number
            for configuration in self.descriptors.configurations
            if configuration is not None
            and configuration.descriptor.bConfigurationValue == self.selection.configuration
            for interface in configuration.interfaces
        )


class Handle:
    """One opening of a device. ``host`` stands first: each transfer needs it."""

    __slots__ = ("busid", "host", "session")

    def __init__(self, busid: str, session: Session) -> None:
        self.busid = busid
        self.session = session
        self.host = session.host


class Sessions:
    """The devices of one server that this process holds. Any thread may call.

    A device is imported while at least one handle of it is open. There is one lock, and a thread
    may take it again: pyusb's finalizers call us out of the garbage collector, amid anything.
    ``connect`` makes the host of each import.
    """

    def __init__(self, host: str, port: int, *, connect: Connect = BlockingHost) -> None:
        self.host = host
        self.port = port
        self._connect = connect
        self._lock = threading.RLock()
        self._sessions: dict[str, Session] = {}
        self._released: dict[str, float] = {}

    def describe(self, busid: str) -> DeviceDescriptors | None:
        """The descriptors of a device, imported for that where it is not held.

        None where it is held and would not tell. Raises OSError where the server cannot be
        reached, ImportRefused where another client has the device, UsbipVudcError where reading
        fails.
        """
        with self._lock:
            session = self._sessions.get(busid)
            if session is not None and not session.host.closed:
                return session.descriptors
            with self._import(busid) as host:
                descriptors = drive(read_descriptors(), Session(host).ask)
            self._released[busid] = time.monotonic()
            return descriptors

    def open(self, busid: str, descriptors: DeviceDescriptors | None = None) -> Handle:
        """Import a device, or share the import that is held already.

        ``descriptors`` spares reading them again. Raises as `describe` does; the device is given
        back then.
        """
        with self._lock:
            session = self._sessions.get(busid)
            if session is None or session.host.closed:
                session = self._start(busid, descriptors)
                self._sessions[busid] = session
            handle = Handle(busid, session)
            session.handles.add(handle)
            return handle

    def _start(self, busid: str, descriptors: DeviceDescriptors | None) -> Session:
        session = Session(self._import(busid))
        try:
            if descriptors is None:
                with contextlib.suppress(SchemeError):
                    descriptors = drive(read_descriptors(), session.ask)
            session.descriptors = descriptors
            session.configure()
        except BaseException:
            session.host.close()
            raise
        return session

    def _import(self, busid: str) -> BlockingHost:
        """Import a device; a server that has not noticed yet that we left it gets some time."""
        while True:
            try:
                return self._connect(self.host, self.port, busid)
            except ImportRefused as error:
                since = time.monotonic() - self._released.get(busid, 0.0)
                if error.status != OpStatus.DEV_BUSY or since > _RELEASE_PATIENCE:
                    raise
                time.sleep(0.02)

    def close(self, handle: Handle) -> None:
        """Close a handle; with the last one the device is given back."""
        with self._lock:
            session = handle.session
            session.handles.discard(handle)
            if session.handles:
                for interface in [i for i, h in session.claims.items() if h is handle]:
                    session.release(interface)
                return
            session.host.close()
            if self._sessions.get(handle.busid) is session:
                del self._sessions[handle.busid]
                self._released[handle.busid] = time.monotonic()

    def claim(self, handle: Handle, interface: int) -> bool:
        """Give an interface, by bInterfaceNumber, to a handle; False where another one has it."""
        with self._lock:
            return handle.session.claims.setdefault(interface, handle) is handle

    def release(self, handle: Handle, interface: int) -> bool:
        """Take it back, to alternate setting 0; False where the handle has no claim on it."""
        with self._lock:
            session = handle.session
            if session.claims.get(interface) is not handle:
                return False
            session.release(interface)
            return True

    def close_all(self) -> None:
        """Give every device back, whoever has it open."""
        for session in self._sessions.values():
            session.host.close()
