"""What the kernel can export: gadgets on usbip-vudc, and devices bound to usbip-host.

The kernel speaks USB/IP on a socket that is written to ``usbip_sockfd``. This module finds such
devices, says what they are, hands the socket over, and knows when the host has left. No URB of
theirs passes through here.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
from abc import abstractmethod
from collections.abc import Callable, Iterator
from enum import IntEnum
from pathlib import Path
from typing import Final

import anyio

from usbip_vudc.errors import LocalProtocolError, SchemeError
from usbip_vudc.exportable import Exportable, NotExportable
from usbip_vudc.stub import DRIVER, bound
from usbip_vudc.sysfs import (
    SPEEDS,
    SYSFS,
    SysfsError,
    driver_of,
    interfaces,
    read_attribute,
    read_bytes,
    usb_device,
    write_attribute,
)
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.usb.descriptors import DeviceDescriptor
from usbip_vudc.wire.pdu import CmdUnlink, OpStatus, RetUnlink, UsbDevice, UsbInterface

__all__ = ("Discovery", "KernelExport", "StubExport", "VudcExport", "vudcs")

_FIRST_LOOK: Final = 0.005
_LAST_LOOK: Final = 0.25
"""Seconds between looks at a status that changes without notice: ever longer, up to this."""

_GRACE: Final = 1.0
"""Seconds that a vudc may take to notice that its host has left (it takes some hundredths)."""


_RINSE: Final = CmdUnlink(seqnum=0x7FFFFFFF, devid=0, unlink_seqnum=0)
_RINSED: Final = RetUnlink(seqnum=_RINSE.seqnum, status=0).pack()
"""A command that is always answered, and its answer: usbip-vudc knows no URB of number 0."""


class Status(IntEnum):
    """SDEV_ST_* (drivers/usb/usbip/usbip_common.h)."""

    AVAILABLE = 1
    USED = 2
    ERROR = 3


class KernelExport(Exportable):
    """A device whose end of the cable is in the kernel."""

    def __init__(self, busid: str, *, sysfs: Path = SYSFS) -> None:
        self._busid = busid
        self._sysfs = sysfs
        self._sock: socket.socket | None = None
        self._plugging = False
        self._leaving = False

    @property
    def busid(self) -> str:
        """As usbipd exports it."""
        return self._busid

    @abstractmethod
    def directory(self) -> Path:
        """Where ``usbip_sockfd`` and ``usbip_status`` are. Raises NotExportable."""

    def status(self) -> Status:
        """What the driver says. Raises NotExportable where it is gone."""
        with self._gone():
            return Status(int(read_attribute(self.directory() / "usbip_status")))

    @contextlib.contextmanager
    def _gone(self) -> Iterator[None]:
        """A device may go at any moment, and its attributes with it."""
        try:
            yield
        except SysfsError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise
            raise NotExportable(OpStatus.NODEV, f"{self.busid} is not there: {error}") from error

    @property
    def plugged(self) -> bool:
        """Whether a host holds the device, through whichever server, or is still seen off."""
        return self._plugging or self._used()

    def _used(self) -> bool:
        try:
            return self.status() is Status.USED
        except NotExportable:
            return False

    def host_has_left(self) -> bool:
        """Whether the host has closed its end, though the kernel has not acted on it yet."""
        if self._sock is None:
            return self._leaving
        try:
            return not self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    async def wait_unplugged(self) -> None:
        """Wait until no host holds the device."""
        await _wait_not(lambda: self.plugged)

    async def plug(self, sock: socket.socket, greeting: bytes) -> None:
        """Hand the socket to the kernel, then greet the host, and wait until it has left.

        The kernel goes first, as with usbipd: it sends nothing unasked, and where it refuses the
        host must not have heard that all is well.
        """
        if self._plugging:
            raise self._held()
        # Until this host has been seen off nobody else is let in: the kernel says "used" of either,
        # and what should unplug the old one would unplug the new one.
        self._plugging = True
        try:
            await self.prepare()
            self._hand_over(sock)
            await self._stay(sock, greeting)
            self._leaving = True
            await self._wait_released()
        finally:
            self._plugging = self._leaving = False

    async def _stay(self, sock: socket.socket, greeting: bytes) -> None:
        """Greet the host, wait until it has left, and close."""
        self._sock = sock
        try:
            with contextlib.suppress(OSError):  # a host that has left: the kernel sees that too
                sock.sendall(greeting)
            await _hung_up(sock)
        except BaseException:
            self._take_back()
            raise
        finally:
            self._sock = None
            sock.close()  # the kernel has a reference of its own

    async def prepare(self) -> None:
        """Make the device fit to be handed over."""

    def _hand_over(self, sock: socket.socket) -> None:
        status = self.status()
        if status is Status.USED:
            raise self._held()
        if status is Status.ERROR:
            raise NotExportable(
                OpStatus.DEV_ERR, f"{self.busid} is in an error state; {self._remedy}"
            )
        try:
            with self._gone():
                write_attribute(self.directory() / "usbip_sockfd", str(sock.fileno()))
        except SysfsError as error:
            raise NotExportable(OpStatus.DEV_ERR, str(error)) from error

    def _held(self) -> LocalProtocolError:
        return LocalProtocolError(f"{self.busid}: a host holds the device already")

    _remedy: str

    def _take_back(self) -> None:
        """Unplug a device that a host may hold; where none does the kernel says EINVAL."""
        with contextlib.suppress(SysfsError, NotExportable):
            write_attribute(self.directory() / "usbip_sockfd", "-1")

    async def _wait_released(self) -> None:
        """Wait for the kernel to act on a host that has left."""
        await _wait_not(self._used)


async def _wait_not(held: Callable[[], bool]) -> None:
    pause = _FIRST_LOOK
    while held():
        await anyio.sleep(pause)
        pause = min(pause * 2, _LAST_LOOK)


async def _hung_up(sock: socket.socket) -> None:
    """Wait until the peer has closed or the kernel has shut the socket down, reading nothing.

    sysfs tells nobody that ``usbip_status`` has changed, but an epoll of its own can wait for
    EPOLLRDHUP alone, and is itself readable then.
    """
    with select.epoll() as poll:
        poll.register(sock, select.EPOLLRDHUP)
        await anyio.wait_readable(poll)


# --- usbip-vudc ---------------------------------------------------------------------------------


def vudcs(*, sysfs: Path = SYSFS) -> tuple[str, ...]:
    """The names of the UDCs that are usbip-vudc's."""
    found = (sysfs / "class/udc").glob("*/device/usbip_sockfd")
    return tuple(sorted(path.parent.parent.name for path in found))


class VudcExport(KernelExport):
    """The gadget on a kernel usbip-vudc, under its UDC's name, as ``usbipd --device`` exports it.

    Raises SchemeError for a UDC that is none of usbip-vudc's.
    """

    _remedy = "unbind its gadget and bind it again"

    def __init__(self, udc: str, *, sysfs: Path = SYSFS) -> None:
        super().__init__(udc, sysfs=sysfs)
        known = vudcs(sysfs=sysfs)
        if udc not in known:
            there = ", ".join(known) or "none; run: modprobe usbip-vudc"
            raise SchemeError(f"UDC {udc!r} is no usbip-vudc; there are: {there}")

    def directory(self) -> Path:
        """The platform device, where the attributes are."""
        return (self._sysfs / "class/udc" / self.busid / "device").resolve()

    @property
    def name(self) -> str:
        """The gadget's name in configfs, or its driver's."""
        try:
            return read_attribute(self._sysfs / "class/udc" / self.busid / "function") or "gadget"
        except SysfsError:
            return "gadget"

    def device(self) -> UsbDevice:
        """From its device descriptor; as with usbipd no interfaces, which the kernel keeps."""
        directory = self.directory()
        with self._gone():
            descriptor = DeviceDescriptor.parse(
                read_bytes(directory / "dev_desc", DeviceDescriptor.SIZE)
            )
        return UsbDevice(
            path=str(directory),
            busid=self.busid,
            # usbip-vudc looks at no devid; the numbers only tell two of them apart.
            busnum=0,
            devnum=vudcs(sysfs=self._sysfs).index(self.busid) + 1,
            speed=self._speed(),
            idVendor=descriptor.idVendor,
            idProduct=descriptor.idProduct,
            bcdDevice=descriptor.bcdDevice,
            bDeviceClass=descriptor.bDeviceClass,
            bDeviceSubClass=descriptor.bDeviceSubClass,
            bDeviceProtocol=descriptor.bDeviceProtocol,
            bConfigurationValue=0,
            bNumConfigurations=descriptor.bNumConfigurations,
            bNumInterfaces=0,
        )

    def _speed(self) -> Speed:
        udc = self._sysfs / "class/udc" / self.busid
        for attribute in ("current_speed", "maximum_speed"):
            with self._gone():
                word = read_attribute(udc / attribute)
            with contextlib.suppress(SchemeError):
                return Speed.parse(word)
        return Speed.HIGH  # all that usbip-vudc can do

    def interfaces(self) -> tuple[UsbInterface, ...]:
        """None: `device` announces none."""
        return ()

    async def prepare(self) -> None:
        """Let usbip-vudc send to nobody what it still has for its last host.

        Nothing else empties its queue of replies (drivers/usb/usbip/vudc_tx.c), and a host drops
        a device that answers what it was not asked. The reply to an unlink comes behind them all.
        Raises as `plug` does.
        """
        ours, kernels = socket.socketpair()
        with ours:
            with kernels:
                ours.sendall(_RINSE.pack())
                self._hand_over(kernels)
            ours.setblocking(False)
            tail = b""
            with contextlib.suppress(OSError), anyio.move_on_after(_GRACE):
                while not tail.endswith(_RINSED):
                    await anyio.wait_readable(ours)
                    data = ours.recv(65536)
                    if not data:
                        break
                    tail = (tail + data)[-len(_RINSED) :]
        await self._wait_released()

    async def _wait_released(self) -> None:
        # After a command that it does not know usbip-vudc's receiver ends, and nobody sees the
        # host leave (drivers/usb/usbip/vudc_rx.c).
        with anyio.move_on_after(_GRACE):
            await super()._wait_released()
        if self._used():
            self._take_back()
        await super()._wait_released()


# --- usbip-host ---------------------------------------------------------------------------------


class StubExport(KernelExport):
    """A real device (or dummy_hcd's) that is bound to usbip-host, under its bus id."""

    _remedy = "unbind it and bind it again"

    def directory(self) -> Path:
        """The USB device."""
        with self._gone():
            device = usb_device(self.busid, sysfs=self._sysfs)
        if driver_of(device) != DRIVER:
            raise NotExportable(
                OpStatus.NODEV,
                f"{self.busid} is not bound to usbip-host; run: usbip-vudc bind -b {self.busid}",
            )
        return device

    @property
    def name(self) -> str:
        """The product string, where there is one."""
        try:
            return read_attribute(self.directory() / "product")
        except (SysfsError, NotExportable):
            return "device"

    def device(self) -> UsbDevice:
        """From the attributes of the USB device."""
        directory = self.directory()

        def number(attribute: str, base: int = 16) -> int:
            # The last two are empty while no configuration is selected.
            return int(read_attribute(directory / attribute) or "0", base)

        with self._gone():
            return UsbDevice(
                path=str(directory),
                busid=self.busid,
                busnum=number("busnum", 10),
                devnum=number("devnum", 10),
                speed=SPEEDS.get(read_attribute(directory / "speed"), Speed.UNKNOWN),
                idVendor=number("idVendor"),
                idProduct=number("idProduct"),
                bcdDevice=number("bcdDevice"),
                bDeviceClass=number("bDeviceClass"),
                bDeviceSubClass=number("bDeviceSubClass"),
                bDeviceProtocol=number("bDeviceProtocol"),
                bNumConfigurations=number("bNumConfigurations", 10),
                bConfigurationValue=number("bConfigurationValue", 10),
                bNumInterfaces=len(interfaces(directory)),
            )

    def interfaces(self) -> tuple[UsbInterface, ...]:
        """Those of the configuration that the device is in."""
        names = ("bInterfaceClass", "bInterfaceSubClass", "bInterfaceProtocol")
        with self._gone():
            return tuple(
                UsbInterface(*(int(read_attribute(path / name), 16) for name in names))
                for path in interfaces(self.directory())
            )


class Discovery:
    """All that the kernel can export at the moment of each call, each in one object for good."""

    def __init__(self, *, sysfs: Path = SYSFS) -> None:
        self._sysfs = sysfs
        self._known: dict[str, KernelExport] = {}

    def __call__(self) -> tuple[KernelExport, ...]:
        """Every usbip-vudc, and every device bound to usbip-host."""
        found: list[KernelExport] = []
        for kind, names in ((VudcExport, vudcs(sysfs=self._sysfs)),
                            (StubExport, bound(sysfs=self._sysfs))):  # fmt: skip
            for name in names:
                if name not in self._known:
                    self._known[name] = kind(name, sysfs=self._sysfs)
                found.append(self._known[name])
        return tuple(found)
