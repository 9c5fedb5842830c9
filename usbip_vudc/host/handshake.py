"""What a host says before it holds a device: DEVLIST and IMPORT, over a blocking socket.

Both kinds of Host use it: it takes one round trip, and nothing else can happen meanwhile.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

from usbip_vudc.errors import RemoteProtocolError, UsbipVudcError
from usbip_vudc.wire.pdu import (
    OP_HEADER_SIZE,
    OpCode,
    OpHeader,
    OpRepDevlist,
    OpReqImport,
    OpStatus,
    UsbDevice,
    UsbInterface,
)

__all__ = ("ImportRefused", "Listed", "import_device", "list_devices")


class ImportRefused(UsbipVudcError):
    """The server did not hand the device out; ``status`` says why."""

    def __init__(self, busid: str, where: str, status: OpStatus) -> None:
        super().__init__(f"import of busid {busid!r} from {where} refused: {status.meaning}")
        self.status = status


@dataclass(frozen=True, slots=True)
class Listed:
    """A device of a server's list with its interfaces."""

    device: UsbDevice
    interfaces: tuple[UsbInterface, ...]


def list_devices(host: str, port: int, *, timeout: float = 10.0) -> tuple[Listed, ...]:
    """Ask a server for its devices; ``timeout`` in seconds.

    Raises OSError where it cannot be reached, RemoteProtocolError where it answers nonsense.
    """
    with socket.create_connection((host, port), timeout) as sock:
        sock.sendall(OpHeader(OpCode.REQ_DEVLIST).pack())
        _reply(sock, OpCode.REP_DEVLIST)
        count = OpRepDevlist.parse_count(_receive(sock, OpRepDevlist.COUNT_SIZE))
        listed = []
        for _ in range(count):
            device = UsbDevice.parse(_receive(sock, UsbDevice.SIZE))
            interfaces = tuple(
                UsbInterface.parse(_receive(sock, UsbInterface.SIZE))
                for _ in range(device.bNumInterfaces)
            )
            listed.append(Listed(device, interfaces))
        return tuple(listed)


def import_device(
    host: str, port: int, busid: str, *, timeout: float = 10.0
) -> tuple[socket.socket, UsbDevice]:
    """Import one device: the socket that carries its URBs from now on, and what it is.

    Raises ImportRefused, OSError or RemoteProtocolError; no socket is then left open.
    """
    sock = socket.create_connection((host, port), timeout)
    try:
        sock.sendall(OpReqImport(busid).pack())
        status = _reply(sock, OpCode.REP_IMPORT)
        if status != OpStatus.OK:
            raise ImportRefused(busid, f"{host} port {port}", status)
        device = UsbDevice.parse(_receive(sock, UsbDevice.SIZE))
        if device.busid != busid:
            raise RemoteProtocolError(f"asked for busid {busid!r}, got {device.busid!r}")
    except BaseException:
        sock.close()
        raise
    return sock, device


def _reply(sock: socket.socket, code: OpCode) -> OpStatus:
    header = OpHeader.parse(_receive(sock, OP_HEADER_SIZE))
    if header.code != code:
        raise RemoteProtocolError(f"operation {header.code:#06x}, expected {code:#06x}")
    try:
        return OpStatus(header.status)
    except ValueError:
        return OpStatus.ERROR


def _receive(sock: socket.socket, length: int) -> bytes:
    data = bytearray(length)
    view = memoryview(data)
    while view:
        count = sock.recv_into(view)
        if not count:
            raise RemoteProtocolError(f"the server closed with {len(view)} bytes still to come")
        view = view[count:]
    return bytes(data)
