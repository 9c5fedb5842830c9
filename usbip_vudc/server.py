"""The exporter: answers DEVLIST and IMPORT on a listening socket, then plugs the socket in.

A peer that sends nonsense loses its connection, with the reason in the log, and nothing else
suffers. It serves whatever can be plugged; the userspace UDC is one such thing.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import anyio
import anyio.abc

from usbip_vudc.cable import set_options
from usbip_vudc.errors import LocalProtocolError, RemoteProtocolError, SchemeError
from usbip_vudc.vudc import UserspaceUDC
from usbip_vudc.wire.pdu import (
    OP_HEADER_SIZE,
    OpCode,
    OpHeader,
    OpRepDevlist,
    OpRepImport,
    OpReqImport,
    OpStatus,
    UsbDevice,
    UsbInterface,
)

__all__ = ("DEFAULT_HOST", "DEFAULT_PORT", "Export", "Server")

log = logging.getLogger(__name__)

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 3240

_HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds that a peer may take to say what it wants."""

_RELEASE_GRACE: Final = 0.1
"""Seconds that an import waits for a host whose FIN may still be on its way."""

_MAX_HANDSHAKES: Final = 64
_BUSNUM: Final = 1


@dataclass(frozen=True, slots=True)
class Export:
    """A UDC under its bus id, for as long as the server lives."""

    busid: str
    devnum: int
    udc: UserspaceUDC

    def device(self) -> UsbDevice:
        """What DEVLIST and IMPORT say of it."""
        description = self.udc.description
        device = description.device
        return UsbDevice(
            path=f"/sys/devices/usbip-vudc/{self.busid}",
            busid=self.busid,
            busnum=_BUSNUM,
            devnum=self.devnum,
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


class Server:
    """Exports UDCs as busids 1-1, 1-2... in the order given.

    Raises SchemeError for more than 126 devices, all that one bus can address.
    """

    def __init__(self, udcs: Sequence[UserspaceUDC]) -> None:
        if not 1 <= len(udcs) <= 126:
            raise SchemeError(f"{len(udcs)} devices to export, expected 1 to 126 on one bus")
        self.exports = tuple(
            Export(f"{_BUSNUM}-{number}", number + 1, udc) for number, udc in enumerate(udcs, 1)
        )
        self._by_busid = {export.busid: export for export in self.exports}

    async def serve(
        self,
        host: str = DEFAULT_HOST,
        port: int = DEFAULT_PORT,
        *,
        task_status: anyio.abc.TaskStatus[tuple[str, int]] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen until cancelled; port 0 picks a free one. Reports (host, port) when it listens.

        Raises OSError, saying what to do about it, where it cannot listen there.
        """
        with await _listen(host, port) as listener:
            address = listener.getsockname()
            task_status.started((address[0], address[1]))
            await self.serve_on(listener)

    async def serve_on(self, listener: socket.socket) -> None:
        """Accept on a listening, non-blocking stream socket (TCP or AF_UNIX) until cancelled."""
        handshakes = anyio.Semaphore(_MAX_HANDSHAKES)
        async with anyio.create_task_group() as tasks:
            while True:
                await handshakes.acquire()
                sock, peer = await _accept(listener)
                tasks.start_soon(self._greet, sock, _peer_name(peer), handshakes)

    async def _greet(self, sock: socket.socket, peer: str, handshakes: anyio.Semaphore) -> None:
        export: Export | None = None
        try:
            set_options(sock)
            try:
                with anyio.fail_after(_HANDSHAKE_TIMEOUT):
                    export = await self._handshake(sock, peer)
            finally:
                handshakes.release()
            if export is not None:
                await self._attach(export, sock, peer)
        except TimeoutError:
            log.warning("%s: closed: no request within %g s", peer, _HANDSHAKE_TIMEOUT)
        except RemoteProtocolError as error:
            log.warning("%s: closed: %s", _where(peer, export), error)
        except OSError as error:
            log.info("%s: lost: %s", _where(peer, export), error)
        except Exception:
            log.exception("%s: closed by a bug of ours; please report it", _where(peer, export))
        finally:
            sock.close()

    async def _handshake(self, sock: socket.socket, peer: str) -> Export | None:
        """Serve operations; an Export is returned when one was imported (not yet answered)."""
        header = OpHeader.parse(await _receive_exactly(sock, OP_HEADER_SIZE))
        if header.code == OpCode.REQ_DEVLIST:
            devices = tuple((export.device(), export.interfaces()) for export in self.exports)
            await _send_all(sock, OpRepDevlist(devices).pack())
            log.debug("%s: listed %d device(s)", peer, len(devices))
            return None
        if header.code != OpCode.REQ_IMPORT:
            raise RemoteProtocolError(
                f"operation {header.code:#06x}, expected OP_REQ_DEVLIST (0x8005) or "
                f"OP_REQ_IMPORT (0x8003)"
            )
        body = await _receive_exactly(sock, OpReqImport.BODY_SIZE)
        busid = OpReqImport.parse_body(body).busid
        export = self._by_busid.get(busid)
        status = OpStatus.OK
        if export is None:
            status = OpStatus.NODEV
        else:
            # A host that closed and comes back at once may be served before its end was seen.
            with anyio.move_on_after(_RELEASE_GRACE):
                await export.udc.wait_unplugged()
            if export.udc.host_has_left():
                with anyio.move_on_after(_HANDSHAKE_TIMEOUT / 2):
                    await export.udc.wait_unplugged()
            if export.udc.plugged:
                status = OpStatus.DEV_BUSY
        if status != OpStatus.OK:
            log.info("%s: import of busid %r refused: %s", peer, busid, status.meaning)
            await _send_all(sock, OpRepImport(status).pack())
            return None
        return export

    async def _attach(self, export: Export, sock: socket.socket, peer: str) -> None:
        """Plug the device in; the reply to IMPORT is the first thing that it sends."""
        reply = OpRepImport(OpStatus.OK, export.device()).pack()
        log.info("%s: %s imported by %s", export.busid, export.udc.gadget.name, peer)
        try:
            await export.udc.plug(sock, reply)
        except LocalProtocolError:
            await _send_all(sock, OpRepImport(OpStatus.DEV_BUSY).pack())
        finally:
            log.info("%s: released by %s", export.busid, peer)


def _where(peer: str, export: Export | None) -> str:
    return f"{export.busid} of {peer}" if export is not None else peer


def _peer_name(address: object) -> str:
    if isinstance(address, tuple):
        return f"{address[0]}:{address[1]}"
    return str(address) or "unix socket"


async def _listen(host: str, port: int) -> socket.socket:
    try:
        found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, _, _, _, address = found[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {host}: {error.strerror}") from error
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        advice = ""
        if error.errno == errno.EADDRINUSE:
            advice = "; is a usbipd running? Choose another port, 0 picks a free one"
        elif error.errno == errno.EACCES:
            advice = "; ports below 1024 need root"
        message = f"cannot listen on {host} port {port}: {os.strerror(error.errno or 0)}{advice}"
        raise OSError(error.errno, message) from error
    return listener


async def _accept(listener: socket.socket) -> tuple[socket.socket, object]:
    while True:
        await anyio.wait_readable(listener)
        try:
            return listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            continue
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise
            log.error("cannot accept: %s; trying again in 1 s", error)
            await anyio.sleep(1)


async def _receive_exactly(sock: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        try:
            chunk = sock.recv(length - len(data))
        except BlockingIOError:
            await anyio.wait_readable(sock)
            continue
        if not chunk:
            if data:
                raise RemoteProtocolError(f"{len(data)} of {length} bytes came, then the end")
            raise ConnectionResetError(errno.ECONNRESET, "closed without a request")
        data += chunk
    return bytes(data)


async def _send_all(sock: socket.socket, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[sock.send(view) :]
        except BlockingIOError:
            await anyio.wait_writable(sock)
