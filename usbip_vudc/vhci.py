"""vhci_hcd through sysfs: attach, detach, the ports in use, and what appeared behind them.

It does what usbip's attach, detach and port do, without usbip (drivers/usb/usbip/vhci_sysfs.c),
and keeps the same records of where a port leads, so that either sees what the other attached. All
of it blocks; nothing of it touches a URB.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum
from functools import partial
from pathlib import Path
from typing import Final

from usbip_vudc.cable import give_up_dead_peers
from usbip_vudc.errors import UsbipVudcError
from usbip_vudc.host.handshake import import_device
from usbip_vudc.settle import NotReady, wait_nodes, wait_until
from usbip_vudc.sysfs import (
    SYSFS,
    SysfsError,
    interfaces,
    life_of,
    read_attribute,
    write_attribute,
)
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.wire.pdu import UsbDevice

__all__ = (
    "RECORDS",
    "Attached",
    "Hub",
    "NotReady",
    "Port",
    "PortState",
    "Remote",
    "VhciError",
    "attach",
    "attach_remote",
    "detach",
    "detach_all",
    "device_directory",
    "dropped",
    "ports",
    "remote_of",
    "wait_device",
    "wait_dropped",
    "wait_nodes",
)

log = logging.getLogger(__name__)

RECORDS: Final = Path("/var/run/vhci_hcd")
"""Where usbip notes to which server a port leads (VHCI_STATE_PATH)."""

_LOOK: Final = 0.25
"""Seconds between two looks at a port that works, and may be lost one day."""

_LEAVING: Final = 10.0
"""Seconds that the device of a free port may take to go: a busy hub, at the worst."""


class VhciError(UsbipVudcError):
    """vhci_hcd is missing, is full or refused; the message names what mends it."""


class Hub(Enum):
    """The two root hubs of each controller; a device's speed decides which one it needs."""

    HS = "hs"
    SS = "ss"

    @classmethod
    def of(cls, speed: Speed) -> Hub:
        """Where a device of this speed goes. Raises VhciError where vhci_hcd takes none."""
        if speed in (Speed.LOW, Speed.FULL, Speed.HIGH, Speed.WIRELESS):
            return cls.HS
        if speed == Speed.SUPER:
            return cls.SS
        raise VhciError(f"vhci_hcd takes no {speed.word}-speed device: low, full, high or super")


class PortState(IntEnum):
    """VDEV_ST_* (drivers/usb/usbip/usbip_common.h)."""

    FREE = 4
    NOT_ASSIGNED = 5
    """Attached, without an address yet. Seen on ports with a working device too: no failure."""
    USED = 6
    ERROR = 7


@dataclass(frozen=True, slots=True)
class Port:
    """One row of vhci_hcd's status. Speed to local_busid say something in state USED only.

    ``sockfd`` is a number in the process that attached. ``controller`` and ``rhport`` are where
    the port is: vhci_hcd.CONTROLLER, and port ``rhport + 1`` of its root hub.
    """

    number: int
    hub: Hub
    state: PortState
    speed: Speed
    devid: int
    sockfd: int
    local_busid: str
    controller: int
    rhport: int


@dataclass(frozen=True, slots=True)
class Remote:
    """Where a port leads: a server and the busid that it exports."""

    host: str
    tcp_port: int
    busid: str


@dataclass(frozen=True, slots=True)
class Attached:
    """A port that now carries a device, which the server describes so."""

    port: int
    remote: Remote
    device: UsbDevice


# --- ports --------------------------------------------------------------------------------------


def _vhci(sysfs: Path) -> Path:
    # Every port of every controller is told and attached through the first one.
    directory = sysfs / "devices/platform/vhci_hcd.0"
    if not directory.is_dir():
        raise VhciError(
            f"{directory} is not there: the module is not loaded; run: modprobe vhci-hcd"
        )
    return directory


def ports(*, sysfs: Path = SYSFS) -> tuple[Port, ...]:
    """All ports, free ones too, by number. Raises VhciError where vhci_hcd is not loaded."""
    directory = _vhci(sysfs)
    controllers = range(len(list(directory.glob("status*"))))
    return tuple(port for number in controllers for port in _rows(directory, number))


def _rows(directory: Path, controller: int) -> list[Port]:
    """The ports of one controller."""
    name = f"status.{controller}" if controller else "status"
    found: list[Port] = []
    count = {Hub.HS: 0, Hub.SS: 0}
    for line in read_attribute(directory / name).splitlines()[1:]:
        port = _parse(line, controller, count)
        count[port.hub] += 1
        found.append(port)
    return found


def _state(port: Port, sysfs: Path) -> PortState:
    """How a port is now."""
    rows = _rows(_vhci(sysfs), port.controller)
    return next(row.state for row in rows if row.number == port.number)


def _parse(line: str, controller: int, count: dict[Hub, int]) -> Port:
    """Read a row such as ``hs  0000 006 003 00010002 000004 1-1``."""
    try:
        hub, number, state, speed, devid, sockfd, busid = line.split()
        return Port(
            int(number), Hub(hub), PortState(int(state)), Speed(int(speed)), int(devid, 16),
            int(sockfd), busid, controller, count[Hub(hub)],
        )  # fmt: skip
    except ValueError:
        raise VhciError(
            f"vhci_hcd's status says {line!r}; expected hub, port, state, speed, devid, socket "
            f"and busid, as Linux 4.16 and newer write it"
        ) from None


def _port(number: int, sysfs: Path) -> Port:
    every = ports(sysfs=sysfs)
    for port in every:
        if port.number == number:
            return port
    raise VhciError(f"port {number} does not exist: vhci_hcd has 0 to {every[-1].number}")


def device_directory(port: Port, *, sysfs: Path = SYSFS) -> Path:
    """Where the device on a port is in sysfs, or would be: by place, which no state can belie."""
    platform = sysfs / f"devices/platform/vhci_hcd.{port.controller}"
    for root in platform.glob("usb[0-9]*"):
        is_super = float(read_attribute(root / "speed")) >= 5000
        if is_super == (port.hub is Hub.SS):
            return root / f"{root.name.removeprefix('usb')}-{port.rhport + 1}"
    raise VhciError(f"{platform} has no root hub of kind {port.hub.value}")


# --- attach -------------------------------------------------------------------------------------


def attach(sock: socket.socket, *, devid: int, speed: Speed, sysfs: Path = SYSFS) -> int:
    """Give a connected stream socket to vhci_hcd as a device; the port that took it.

    The kernel takes its own reference: close yours, or the server never sees the end. Raises
    VhciError, SysfsError or NotReady; the socket is then still the caller's alone.
    """
    hub = Hub.of(speed)
    directory = _vhci(sysfs)
    for port in _free_ports(hub, sysfs):
        try:
            # The kernel takes the hub from the speed and the place on it from the number.
            write_attribute(
                directory / "attach", f"{port.number} {sock.fileno()} {devid} {int(speed)}"
            )
        except SysfsError as error:
            if error.errno != errno.EBUSY:  # another process took it since
                raise
            continue
        if _state(port, sysfs) is PortState.FREE:
            raise NotReady(f"port {port.number}: the server closed the connection at once")
        return port.number
    raise VhciError(f"every {hub.value} port of vhci_hcd is in use; detach one first")


def _free_ports(hub: Hub, sysfs: Path) -> Iterator[Port]:
    """Free ports, those last whose device of before has not quite gone yet, once it has."""
    leaving = []
    for port in ports(sysfs=sysfs):
        if port.hub is hub and port.state is PortState.FREE:
            if device_directory(port, sysfs=sysfs).exists():
                leaving.append(port)
            else:
                yield port
    for port in leaving:
        # Who waits for the next device on this port would take the old one for it.
        wait_until(partial(_vacant, device_directory(port, sysfs=sysfs)), _LEAVING)
        yield port


def _vacant(directory: Path) -> bool:
    return not directory.exists()


def attach_remote(
    host: str, tcp_port: int, busid: str, *, sysfs: Path = SYSFS, records: Path = RECORDS
) -> Attached:
    """Import a device from a server and attach it.

    Raises VhciError or SysfsError for this machine's part; ImportRefused, RemoteProtocolError,
    NotReady or another OSError for the server's. No port and no socket is then left in use.
    """
    if not os.access(_vhci(sysfs) / "attach", os.W_OK):
        raise VhciError("vhci_hcd is root's alone: run as root")
    sock, device = import_device(host, tcp_port, busid)
    with sock:
        _set_options(sock)
        port = attach(sock, devid=device.devid, speed=device.speed, sysfs=sysfs)
    remote = Remote(host, tcp_port, busid)
    _write_record(records, port, remote)
    return Attached(port, remote, device)


def _set_options(sock: socket.socket) -> None:
    """As usbip does, and find a dead server within a minute instead of two hours."""
    sock.settimeout(None)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        give_up_dead_peers(sock)


# --- records ------------------------------------------------------------------------------------


def _write_record(records: Path, port: int, remote: Remote) -> None:
    try:
        records.mkdir(mode=0o700, exist_ok=True)
        (records / f"port{port}").write_text(f"{remote.host} {remote.tcp_port} {remote.busid}\n")
    except OSError as error:
        log.warning("port %d works, but cannot be noted for `port`: %s", port, error)


def _remove_record(records: Path, port: int) -> None:
    try:
        (records / f"port{port}").unlink(missing_ok=True)
        records.rmdir()
    except OSError:
        return  # other ports have records there, or it never was


def remote_of(port: int, *, records: Path = RECORDS) -> Remote | None:
    """Where a port in use leads, as its attacher noted it; None where nobody did."""
    try:
        host, tcp_port, busid = (records / f"port{port}").read_text().split()
        return Remote(host, int(tcp_port), busid)
    except (OSError, ValueError):
        return None


# --- waiting ------------------------------------------------------------------------------------


def wait_device(port: int, timeout: float = 30, *, sysfs: Path = SYSFS) -> Path:
    """Wait until the device on a port is configured; its directory in sysfs.

    Raises NotReady where the connection is lost first, or after ``timeout`` seconds.
    """
    row = _port(port, sysfs)
    directory = device_directory(row, sysfs=sysfs)

    def ready() -> bool:
        if _state(row, sysfs) in (PortState.FREE, PortState.ERROR):
            raise NotReady(f"port {port}: the connection was lost before the device was ready")
        return _configured(directory)

    if not wait_until(ready, timeout):
        what = "has no configuration" if directory.exists() else "was not enumerated"
        raise NotReady(
            f"port {port}: the device {what} after {timeout:g} s; what the kernel thinks of it is "
            f"in dmesg"
        )
    return directory


def _configured(directory: Path) -> bool:
    try:
        expected = read_attribute(directory / "bNumInterfaces")
    except SysfsError:
        return False
    # Empty while no configuration is selected.
    return bool(expected) and len(interfaces(directory)) >= int(expected)


def dropped(attached: Attached, *, sysfs: Path = SYSFS, records: Path = RECORDS) -> bool:
    """Whether a port has lost what was attached: it is free again, or leads elsewhere by now."""
    return _dropped(attached, _port(attached.port, sysfs), sysfs, records)


def _dropped(attached: Attached, row: Port, sysfs: Path, records: Path) -> bool:
    if remote_of(attached.port, records=records) not in (None, attached.remote):
        return True  # between two looks another took it
    return _state(row, sysfs) in (PortState.FREE, PortState.ERROR)


def wait_dropped(attached: Attached, *, sysfs: Path = SYSFS, records: Path = RECORDS) -> bool:
    """Wait until it is `dropped`: True where the connection was lost, False where it was detached.

    Whoever detaches a port, usbip too, removes its record first.
    """
    row = _port(attached.port, sysfs)
    while not _dropped(attached, row, sysfs, records):
        time.sleep(_LOOK)
    return remote_of(attached.port, records=records) is not None


# --- detach -------------------------------------------------------------------------------------


def detach(port: int, timeout: float = 10, *, sysfs: Path = SYSFS, records: Path = RECORDS) -> bool:
    """Detach a port and wait until it is free and its device gone; False where it was free.

    It may be another's again by then, which its record says.
    Raises VhciError after ``timeout`` seconds: somebody holds a URB that the server never ended.
    """
    row = _port(port, sysfs)
    _remove_record(records, port)  # first, as usbip does: what is lost now was meant to be
    if row.state is PortState.FREE:
        return False
    directory = device_directory(row, sysfs=sysfs)
    before = life_of(directory)
    try:
        write_attribute(_vhci(sysfs) / "detach", str(port))
    except SysfsError as error:
        if error.errno != errno.EINVAL or _state(row, sysfs) is not PortState.FREE:
            raise

    def gone() -> bool:
        now = life_of(directory)
        if remote_of(port, records=records) is not None:
            return now is None or now != before
        return _state(row, sysfs) is PortState.FREE and now is None

    if not wait_until(gone, timeout):
        raise VhciError(f"port {port} is not free {timeout:g} s after it was detached; see dmesg")
    return True


def detach_all(
    timeout: float = 10, *, sysfs: Path = SYSFS, records: Path = RECORDS
) -> tuple[int, ...]:
    """Detach every port in use; their numbers. Raises as `detach`, with the rest still in use."""
    used = [p.number for p in ports(sysfs=sysfs) if p.state is not PortState.FREE]
    return tuple(number for number in used if detach(number, timeout, sysfs=sysfs, records=records))
