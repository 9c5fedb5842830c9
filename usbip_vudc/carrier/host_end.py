"""The host's end of a carrier: our own backend of pyusb, or this machine with libusb.

Either gives pyusb devices; a device that has left and come back is found anew.
"""

from __future__ import annotations

import errno
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import usb.backend.libusb1
import usb.core
import usb.util

from usbip_vudc import vhci
from usbip_vudc.carrier.carrier import Carrier
from usbip_vudc.carrier.device_end import DeviceEnd
from usbip_vudc.carrier.errors import PATIENCE, CarrierError
from usbip_vudc.carrier.own_bus import OwnBus
from usbip_vudc.errors import SchemeError
from usbip_vudc.host.blocking import BlockingHost
from usbip_vudc.host.handshake import ImportRefused
from usbip_vudc.host.session import Connect, Session
from usbip_vudc.pyusb_backend import get_backend
from usbip_vudc.server import DEFAULT_HOST
from usbip_vudc.settle import POLL, NotReady, wait_until
from usbip_vudc.sysfs import SysfsError, life_of, nodes, read_attribute
from usbip_vudc.vhci import Attached
from usbip_vudc.wire.pdu import OpStatus

__all__ = ("HostEnd", "OwnBusHost", "host_end", "libusb_device")

_LIBUSB: Final = "libusb-1.0.so.0"

_AWAY: Final = frozenset((errno.EBUSY, errno.ENODEV, errno.ECONNRESET))
"""What our backend says of a device that is between two lives."""


class HostEnd(ABC):
    """What a host has of the device."""

    def __init__(self) -> None:
        self._held: tuple[object, usb.core.Device] | None = None

    @abstractmethod
    def plug(self, timeout: float = PATIENCE) -> None:
        """See to it that the host has the device, once more where it has left. Raises NotReady."""

    def device(self, timeout: float = PATIENCE) -> usb.core.Device:
        """The device for pyusb, open; the same one until it leaves, or is disposed of.

        Raises NotReady, and USBError where it cannot be enumerated.
        """
        if self._held is not None and not self._still(self._held[0]):
            self._let_go()
        if self._held is None:
            self._held = self._open(timeout)
        return self._held[1]

    @abstractmethod
    def _open(self, timeout: float) -> tuple[object, usb.core.Device]:
        """The device, and what tells it from its next life."""

    @abstractmethod
    def _still(self, life: object) -> bool:
        """Whether the device lives the life that it was opened in."""

    def _let_go(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            usb.util.dispose_resources(held[1])

    @property
    @abstractmethod
    def sysfs(self) -> Path:
        """Its directory in this machine's sysfs, or where it last was. Raises CarrierError."""

    def node(self, prefix: str, timeout: float = PATIENCE) -> str:
        """The device node whose name begins so, as soon as it is there.

        Raises NotReady, and CarrierError where no kernel sees the device.
        """
        found: list[str] = []

        def look() -> bool:
            if not self.sysfs.exists():
                self.plug(timeout)
            names = (node for node in nodes(self.sysfs) if Path(node).name.startswith(prefix))
            found.extend(node for node in names if Path(node).exists())
            return bool(found)

        if not wait_until(look, timeout):
            raise NotReady(f"{self.sysfs.name}: no node {prefix}* after {timeout:g} s; see dmesg")
        return found[0]

    @abstractmethod
    def wait_gone(self, timeout: float = PATIENCE) -> None:
        """Wait until the host has noticed that the device left. Raises NotReady."""

    def close(self) -> None:
        """Let go of the device."""
        self._let_go()


@contextmanager
def host_end(
    carrier: Carrier, end: DeviceEnd, *, connect: Connect | None = None
) -> Iterator[HostEnd]:
    """The carrier's host, which has not looked for the device yet.

    ``connect`` makes the hosts of our own backend. Raises SchemeError where there is none.
    """
    if carrier.host == "pyusb":
        host: HostEnd = _OurHost(end, connect or BlockingHost)
    elif connect is not None:
        raise SchemeError(f"connect: the host of {carrier} is Linux itself; expected host pyusb")
    elif carrier.over_usbip:
        host = _Vhci(end)
    else:
        assert end.bus is not None
        host = OwnBusHost(end.bus)
    try:
        yield host
    finally:
        host.close()


def _address(end: DeviceEnd) -> tuple[int, str]:
    assert end.port is not None
    assert end.exported is not None
    return end.port, end.exported.busid


# --- our own host -------------------------------------------------------------------------------


class _OurHost(HostEnd):
    """Our backend of pyusb. The device is imported while it is open."""

    def __init__(self, end: DeviceEnd, connect: Connect) -> None:
        super().__init__()
        port, self._busid = _address(end)
        self._backend = get_backend(DEFAULT_HOST, port, connect=connect)

    def plug(self, timeout: float = PATIENCE) -> None:
        """Nothing to do: `device` imports it."""

    def _open(self, timeout: float) -> tuple[Session, usb.core.Device]:
        deadline = time.monotonic() + timeout
        while True:
            try:
                return self._import()
            except usb.core.USBError as error:
                if error.errno not in _AWAY:
                    raise
                if time.monotonic() >= deadline:
                    raise NotReady(f"{self._busid} after {timeout:g} s: {error}") from error
            time.sleep(POLL)

    def _import(self) -> tuple[Session, usb.core.Device]:
        """Import it once, as a host enumerates once: pyusb's search would have it twice."""
        for listed in self._backend.enumerate_devices():
            if listed.busid == self._busid:
                handle = self._backend.open_device(listed)
                try:
                    device = usb.core.Device(listed, self._backend)
                    device.get_active_configuration()  # opens it, and asks it nothing
                finally:
                    self._backend.close_device(handle)
                return handle.session, device
        raise usb.core.USBError("the server does not list it", errno=errno.ENODEV)

    def _still(self, life: object) -> bool:
        assert isinstance(life, Session)
        return not life.host.closed

    @property
    def sysfs(self) -> Path:
        """Raises CarrierError: no kernel sees the device."""
        raise CarrierError(
            f"{self._busid} has no place in sysfs and no nodes, for its host is our own: carry it "
            f"to host linux"
        )

    def wait_gone(self, timeout: float = PATIENCE) -> None:
        """Wait until the import has ended; at once where there is none."""
        if self._held is None:
            return
        life, _ = self._held
        if not wait_until(lambda: not self._still(life), timeout):
            raise NotReady(f"{self._busid} is still imported {timeout:g} s after it left")


# --- this machine -------------------------------------------------------------------------------


class _LinuxHost(HostEnd):
    """The host side of this machine, with libusb for pyusb."""

    def _open(self, timeout: float) -> tuple[object, usb.core.Device]:
        deadline = time.monotonic() + timeout
        while True:
            self.plug(max(deadline - time.monotonic(), 0.0))
            life = life_of(self.sysfs)
            device = libusb_device(self.sysfs)
            if device is not None:
                return life, device
            if time.monotonic() >= deadline:
                raise NotReady(f"{self.sysfs.name} is not in libusb's list after {timeout:g} s")
            time.sleep(POLL)

    def _still(self, life: object) -> bool:
        return life_of(self.sysfs) == life

    def wait_gone(self, timeout: float = PATIENCE) -> None:
        """Wait until its directory is gone."""
        path = self.sysfs
        if not wait_until(lambda: not path.exists(), timeout):
            raise NotReady(f"{path} is still there {timeout:g} s after it left; see dmesg")


def libusb_device(directory: Path) -> usb.core.Device | None:
    """The device of this directory of sysfs through libusb; None where it is not there.

    Raises CarrierError where there is no libusb.
    """
    backend = usb.backend.libusb1.get_backend(find_library=lambda _: _LIBUSB)
    if backend is None:
        raise CarrierError(f"{_LIBUSB} is not installed; run: apt install libusb-1.0-0")
    try:
        bus, address = (int(read_attribute(directory / name)) for name in ("busnum", "devnum"))
    except SysfsError:
        return None
    return usb.core.find(backend=backend, bus=bus, address=address)


class OwnBusHost(_LinuxHost):
    """A bus to which the UDC's cable leads without us."""

    def __init__(self, bus: OwnBus) -> None:
        super().__init__()
        self._bus = bus
        self._last: Path | None = None

    def plug(self, timeout: float = PATIENCE) -> None:
        """Wait for the device."""
        self._last = self._bus.wait(timeout)

    @property
    def sysfs(self) -> Path:
        """Where the device is, or last was."""
        self._last = self._bus.find() or self._last
        if self._last is None:
            raise CarrierError("the device has not been on this machine yet")
        return self._last


class _Vhci(_LinuxHost):
    """vhci_hcd, attached to our server."""

    def __init__(self, end: DeviceEnd) -> None:
        super().__init__()
        self._server = _address(end)
        self._attached: Attached | None = None
        self._directory: Path | None = None

    def plug(self, timeout: float = PATIENCE) -> None:
        """Attach it, where it is not attached."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                self._attach(max(deadline - time.monotonic(), 0.0))
                return
            except (ImportRefused, NotReady, ConnectionError) as error:
                if time.monotonic() >= deadline or _hopeless(error):
                    raise
            time.sleep(POLL)

    def _attach(self, timeout: float) -> None:
        if self._attached is None or vhci.dropped(self._attached):
            self._detach()
            self._attached = vhci.attach_remote(DEFAULT_HOST, *self._server)
        # By place: where it last was is known once it is gone, too.
        self._directory = vhci.wait_device(self._attached.port, timeout)

    def _detach(self) -> None:
        attached, self._attached = self._attached, None
        if attached is not None and vhci.remote_of(attached.port) in (None, attached.remote):
            vhci.detach(attached.port)

    @property
    def sysfs(self) -> Path:
        """Where the device is, or last was."""
        if self._directory is None:
            raise CarrierError("the device has not been on this machine yet")
        return self._directory

    def close(self) -> None:
        """Let go of it, and detach it."""
        try:
            super().close()
        finally:
            self._detach()


def _hopeless(error: Exception) -> bool:
    """Whether a refusal will not pass: the device is not just away, or being released."""
    passing = (OpStatus.NODEV, OpStatus.DEV_BUSY)
    return isinstance(error, ImportRefused) and error.status not in passing
