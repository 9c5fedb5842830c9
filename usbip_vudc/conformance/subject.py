"""The server and the device under test: connections to it, and what the checks need to know.

Every check makes its own connections. What a device is, is read once, from its descriptors.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from usbip_vudc.conformance.peer import Ended, NotApplicable, Peer, Reply, Silent, Violation
from usbip_vudc.errors import RemoteProtocolError, SchemeError, UsbipVudcError, errno_name
from usbip_vudc.usb.ch9 import (
    DescriptorType,
    Direction,
    SetupPacket,
    StandardRequest,
    TransferType,
    UsbClass,
)
from usbip_vudc.usb.descriptors import (
    Configuration,
    DeviceDescriptor,
    Endpoint,
    EndpointDescriptor,
    Interface,
)
from usbip_vudc.wire.pdu import (
    OP_HEADER_SIZE,
    USBIP_VERSION,
    OpCode,
    OpReqImport,
    OpStatus,
    UsbDevice,
)

__all__ = (
    "GET_DEVICE",
    "REFUSED",
    "DeviceBusy",
    "Facts",
    "IsoEndpoint",
    "NoSuchDevice",
    "Operation",
    "Subject",
    "get_descriptor",
    "read_operation",
)

_ANOTHER_TRY: Final = 0.02
"""Seconds between two imports of a device that its last host may still be leaving."""

_ABSENT: Final = (OpStatus.NA, OpStatus.NODEV)

_NAK: Final = 0.3
"""Seconds without an answer after which an IN endpoint counts as one that has nothing to say."""


def get_descriptor(descriptor: int, length: int, index: int = 0) -> SetupPacket:
    """The setup packet that asks the device for a descriptor."""
    return SetupPacket(0x80, StandardRequest.GET_DESCRIPTOR, descriptor << 8 | index, 0, length)


GET_DEVICE: Final = get_descriptor(DescriptorType.DEVICE, 18)

REFUSED: Final = SetupPacket(0x80, 0x7E, 0, 0, 8)
"""A standard request that no specification has: every device stalls it, and does nothing."""


class NoSuchDevice(UsbipVudcError):
    """The server has no such busid."""


class DeviceBusy(UsbipVudcError):
    """Another host has the device, or it is in an error state: nothing can be tried on it."""


@dataclass(frozen=True, slots=True)
class Operation:
    """The eight bytes of an operation's reply, taken as they are."""

    version: int
    code: int
    status: int

    def __str__(self) -> str:
        return f"version {self.version:#06x}, code {self.code:#06x}, status {self.status}"


def read_operation(peer: Peer) -> Operation:
    """Read them. Raises as `Peer.receive`."""
    data = peer.receive(OP_HEADER_SIZE)
    return Operation(
        int.from_bytes(data[:2], "big"),
        int.from_bytes(data[2:4], "big"),
        int.from_bytes(data[4:], "big"),
    )


@dataclass(frozen=True, slots=True)
class IsoEndpoint:
    """An isochronous IN endpoint, and the alternate setting that has it."""

    address: int
    max_packet_size: int
    interface: int
    alternate: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What the device's descriptors say."""

    device: DeviceDescriptor
    configuration: Configuration

    @property
    def addresses(self) -> frozenset[int]:
        """The endpoints of all alternate settings."""
        return frozenset(
            endpoint.descriptor.bEndpointAddress
            for interface in self.configuration.interfaces
            for endpoint in interface.endpoints
        )

    def quiet_candidates(self) -> tuple[EndpointDescriptor, ...]:
        """IN endpoints that may have nothing to say, the likeliest first."""
        found = [
            (_loudness(interface, endpoint), endpoint.descriptor)
            for interface in self.configuration.interfaces
            if not interface.descriptor.bAlternateSetting
            for endpoint in interface.endpoints
            if endpoint.descriptor.direction == Direction.IN
            and endpoint.descriptor.transfer_type in (TransferType.BULK, TransferType.INTERRUPT)
        ]
        return tuple(descriptor for _, descriptor in sorted(found, key=lambda pair: pair[0]))

    def isochronous(self) -> IsoEndpoint | None:
        """The first isochronous IN endpoint of any alternate setting."""
        for interface in self.configuration.interfaces:
            for endpoint in interface.endpoints:
                found = endpoint.descriptor
                if (
                    found.direction == Direction.IN
                    and found.transfer_type == TransferType.ISOCHRONOUS
                ):
                    number = interface.descriptor.bInterfaceNumber
                    alternate = interface.descriptor.bAlternateSetting
                    return IsoEndpoint(
                        found.bEndpointAddress, found.max_packet_size, number, alternate
                    )
        return None


def _loudness(interface: Interface, endpoint: Endpoint) -> int:
    """A disk says nothing before a command, a serial line little before it is spoken to."""
    classes = (UsbClass.MASS_STORAGE, UsbClass.CDC_DATA)
    known = interface.descriptor.bInterfaceClass in classes
    is_bulk = endpoint.descriptor.transfer_type == TransferType.BULK
    return 0 if known and is_bulk else 1 if is_bulk else 2


class Subject:
    """One device of one server. ``timeout`` in seconds is for everything that is waited for."""

    def __init__(self, host: str, port: int, busid: str, *, timeout: float = 5.0) -> None:
        if len(busid.encode()) > 31:
            raise SchemeError(f"busid {busid!r}: at most 31 bytes")
        self.host = host
        self.port = port
        self.busid = busid
        self.timeout = timeout

    # --- connections ---------------------------------------------------------------------------

    def connect(self) -> Peer:
        """A connection that has said nothing yet. Raises Violation where none can be had."""
        try:
            sock = socket.create_connection((self.host, self.port), self.timeout)
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, str(error))
            raise Violation(f"the server takes no more connections ({name})") from None
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Peer(sock, self.timeout)

    def reach(self) -> None:
        """Connect and import once. Raises OSError, NoSuchDevice or DeviceBusy; else all is well.

        A server that answers nonsense is no reason to stop: the rules will say so.
        """
        socket.create_connection((self.host, self.port), self.timeout).close()
        try:
            self._import(patient=False)[0].close()
        except _Refused as refusal:
            where = f"{self.host} port {self.port}"
            if refusal.status in _ABSENT:
                raise NoSuchDevice(f"{where} has no busid {self.busid!r}") from None
            raise DeviceBusy(
                f"{self.busid} of {where} cannot be imported (status {refusal.status}): detach "
                f"it where it is in use"
            ) from None
        except Violation:
            pass

    @contextmanager
    def imported(self) -> Iterator[Peer]:
        """A connection that holds the device. Raises Violation where it cannot be had in time."""
        peer, device = self._import()
        with peer:
            peer.devid = device.devid
            yield peer

    @contextmanager
    def configured(self) -> Iterator[Peer]:
        """The same with the device's first configuration selected.

        Raises NotApplicable where the device cannot be read.
        """
        value = self.facts.configuration.descriptor.bConfigurationValue
        with self.imported() as peer:
            select = SetupPacket(0x00, StandardRequest.SET_CONFIGURATION, value)
            reply = peer.control(select)
            if reply.status:
                raise Violation(f"SET_CONFIGURATION({value}): {errno_name(reply.status)}")
            yield peer

    def request_import(self, peer: Peer, busid: str | None = None) -> tuple[Operation, bytes]:
        """Ask for a busid: the reply's header, and the device where it is granted."""
        peer.send(OpReqImport(self.busid if busid is None else busid).pack())
        answer = read_operation(peer)
        return answer, b"" if answer.status else peer.receive(UsbDevice.SIZE)

    def _import(self, *, patient: bool = True) -> tuple[Peer, UsbDevice]:
        """Import, again and again while the last host may still be leaving.

        ``patient``: also while there is no such device, which a reset of a real one may cause.
        """
        deadline = time.monotonic() + self.timeout
        while True:
            peer = self.connect()
            try:
                answer, device = self.request_import(peer)
                if not answer.status:
                    return peer, UsbDevice.parse(device)
            except RemoteProtocolError as error:
                peer.close()
                raise Violation(str(error)) from None
            except BaseException:
                peer.close()
                raise
            peer.close()
            if not OpStatus.OK <= answer.status <= OpStatus.ERROR:
                raise Violation(f"IMPORT is answered by {answer}: no status of USB/IP")
            lost = answer.status in _ABSENT and not patient
            if lost or time.monotonic() > deadline:
                raise _Refused(answer.status)
            time.sleep(_ANOTHER_TRY)

    # --- whether it lives ----------------------------------------------------------------------

    def serves(self) -> None:
        """The server must still answer DEVLIST. Raises Violation."""
        with self.connect() as peer:
            peer.send(bytes.fromhex("0111800500000000"))
            answer = read_operation(peer)
        if (answer.version, answer.code) != (USBIP_VERSION, OpCode.REP_DEVLIST):
            raise Violation(f"DEVLIST is answered by {answer}")

    def recovers(self) -> None:
        """A new host must get the device, which speaks to that one alone. Raises Violation."""
        with self.imported() as peer:
            self.alive(peer)

    def alive(self, peer: Peer) -> Reply:
        """The next URB must be answered, and nothing else before it. Raises Violation."""
        reply = peer.control(GET_DEVICE)
        if reply.status or len(reply.payload) != 18:
            raise Violation(
                f"GET_DESCRIPTOR(DEVICE): status {reply.status}, {len(reply.payload)} bytes"
            )
        return reply

    # --- the device ----------------------------------------------------------------------------

    @cached_property
    def facts(self) -> Facts:
        """What the device is. Raises NotApplicable where it cannot be read."""
        try:
            with self.imported() as peer:
                device = DeviceDescriptor.parse(peer.control(GET_DEVICE).payload)
                header = peer.control(get_descriptor(DescriptorType.CONFIGURATION, 9)).payload
                total = int.from_bytes(header[2:4], "little")
                whole = peer.control(get_descriptor(DescriptorType.CONFIGURATION, total)).payload
            return Facts(device, Configuration.parse(whole))
        except (Violation, SchemeError) as error:
            raise NotApplicable(f"the device's descriptors cannot be read: {error}") from None

    @property
    def quiet(self) -> EndpointDescriptor:
        """An IN endpoint that answers NAK. Raises NotApplicable where there is none."""
        found = self._found_quiet
        if isinstance(found, str):
            raise NotApplicable(found)
        return found

    @cached_property
    def _found_quiet(self) -> EndpointDescriptor | str:
        """The endpoint, or why there is none: looking takes a while, once is enough."""
        candidates = self.facts.quiet_candidates()
        if not candidates:
            return "needs a bulk or interrupt IN endpoint; the device has none"
        for candidate in candidates:
            if self._is_quiet(candidate):
                return candidate
        return "needs an IN endpoint that answers NAK; all have data at once"

    def _is_quiet(self, endpoint: EndpointDescriptor) -> bool:
        with self.configured() as peer:
            peer.submit(endpoint.bEndpointAddress, endpoint.max_packet_size)
            peer.timeout = _NAK
            try:
                peer.reply()
            except Silent:
                return True
            except (Ended, Violation):
                return False
            return False

    @cached_property
    def iso(self) -> IsoEndpoint:
        """An isochronous IN endpoint. Raises NotApplicable where there is none."""
        found = self.facts.isochronous()
        if found is None:
            raise NotApplicable("needs an isochronous IN endpoint; the device has none")
        return found

    @cached_property
    def absent(self) -> int:
        """The number of an endpoint that the device has in no alternate setting."""
        used = {address & 15 for address in self.facts.addresses}
        free = [number for number in range(15, 0, -1) if number not in used]
        if not free:
            raise NotApplicable("needs an endpoint number that the device does not use")
        return free[0]


class _Refused(Violation):
    """The import was refused until the deadline."""

    def __init__(self, status: int) -> None:
        super().__init__(
            f"the device cannot be imported: status {status} (ST_{OpStatus(status).name})"
        )
        self.status = status
