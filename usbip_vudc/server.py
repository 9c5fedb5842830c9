"""The exporter: answers DEVLIST and IMPORT on a listening socket, then plugs the socket in.

A peer that sends nonsense loses its connection, with the reason in the log, and nothing else
suffers. It serves whatever is `Exportable`: the userspace UDC here, what the kernel has elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import anyio
import anyio.abc

from usbip_vudc.cable import set_options
from usbip_vudc.errors import LocalProtocolError, RemoteProtocolError, SchemeError
from usbip_vudc.exportable import BUSNUM, Export, Exportable, NotExportable
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

__all__ = ("DEFAULT_HOST", "DEFAULT_PORT", "Server", "receive_exactly", "send_all")

log = logging.getLogger(__name__)

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 3240

_HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds that a peer may take to say what it wants."""

_RELEASE_GRACE: Final = 0.1
"""Seconds that an import waits for a host whose FIN may still be on its way."""

_MAX_HANDSHAKES: Final = 64


class Server:
    """Exports UDCs as busids 1-1, 1-2... in the order given, and all else under its own busid.

    ``discover`` is asked before every answer for what there is besides. A busid that something
    else has is passed over. Raises SchemeError for a busid given twice, for nothing to export,
    and for more than 126 UDCs, all that one bus can address.
    """

    def __init__(
        self,
        devices: Sequence[UserspaceUDC | Exportable],
        *,
        discover: Callable[[], Iterable[Exportable]] | None = None,
    ) -> None:
        self._discover = discover or tuple
        others = [device for device in devices if isinstance(device, Exportable)]
        taken = {export.busid for export in (*others, *self._discover())}
        free = (n for n in range(1, 127) if f"{BUSNUM}-{n}" not in taken)
        udcs = [device for device in devices if isinstance(device, UserspaceUDC)]
        exports = (*(Export(n, udc) for n, udc in zip(free, udcs, strict=False)), *others)
        self._fixed = {export.busid: export for export in exports}
        if len(self._fixed) != len(devices) or not (devices or discover):
            raise SchemeError(
                f"{len(devices)} devices to export, expected 1 to 126 on one bus, each once"
            )

    @property
    def exports(self) -> tuple[Exportable, ...]:
        """All that there is to be had now."""
        return tuple(self._by_busid().values())

    def _by_busid(self) -> dict[str, Exportable]:
        return {export.busid: export for export in self._discover()} | self._fixed

    def _listed(self) -> Iterator[tuple[UsbDevice, tuple[UsbInterface, ...]]]:
        for export in self.exports:
            with contextlib.suppress(NotExportable):
                yield export.device(), export.interfaces()

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
        export: Exportable | None = None
        try:
            try:
                set_options(sock)
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

    async def _handshake(self, sock: socket.socket, peer: str) -> Exportable | None:
        """Serve operations; what is to be imported is returned (not yet answered)."""
        header = OpHeader.parse(await receive_exactly(sock, OP_HEADER_SIZE))
        if header.code == OpCode.REQ_DEVLIST:
            devices = tuple(self._listed())
            await send_all(sock, OpRepDevlist(devices).pack())
            log.debug("%s: listed %d device(s)", peer, len(devices))
            return None
        if header.code != OpCode.REQ_IMPORT:
            raise RemoteProtocolError(
                f"operation {header.code:#06x}, expected OP_REQ_DEVLIST (0x8005) or "
                f"OP_REQ_IMPORT (0x8003)"
            )
        body = await receive_exactly(sock, OpReqImport.BODY_SIZE)
        busid = OpReqImport.parse_body(body).busid
        export = self._by_busid().get(busid)
        if export is None:
            await self._refuse(sock, peer, busid, OpStatus.NODEV)
        elif not await _released(export):
            await self._refuse(sock, peer, busid, OpStatus.DEV_BUSY)
        else:
            return export
        return None

    async def _refuse(self, sock: socket.socket, peer: str, busid: str, status: OpStatus) -> None:
        log.info("%s: import of busid %r refused: %s", peer, busid, status.meaning)
        await send_all(sock, OpRepImport(status).pack())

    async def _attach(self, export: Exportable, sock: socket.socket, peer: str) -> None:
        """Plug the device in; the reply to IMPORT is the first thing that it sends."""
        try:
            reply = OpRepImport(OpStatus.OK, export.device()).pack()
            log.info("%s: %s imported by %s", export.busid, export.name, peer)
            await export.plug(sock, reply)
        except LocalProtocolError:
            await self._refuse(sock, peer, export.busid, OpStatus.DEV_BUSY)
        except NotExportable as error:
            log.warning("%s: %s", export.busid, error)
            await self._refuse(sock, peer, export.busid, error.status)
        finally:
            log.info("%s: released by %s", export.busid, peer)


async def _released(export: Exportable) -> bool:
    """Whether the device can be had, after a grace for a host that is about to be gone."""
    # A host that closed and comes back at once may be served before its end was seen.
    with anyio.move_on_after(_RELEASE_GRACE):
        await export.wait_unplugged()
    if export.host_has_left():
        with anyio.move_on_after(_HANDSHAKE_TIMEOUT / 2):
            await export.wait_unplugged()
    return not export.plugged


def _where(peer: str, export: Exportable | None) -> str:
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


async def receive_exactly(sock: socket.socket, length: int) -> bytes:
    """So many bytes of a non-blocking socket.

    Raises RemoteProtocolError where the peer closes within them, OSError where before them.
    """
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
            raise ConnectionResetError(errno.ECONNRESET, "closed without a word")
        data += chunk
    return bytes(data)


async def send_all(sock: socket.socket, data: bytes) -> None:
    """Send all of it over a non-blocking socket. Raises OSError."""
    view = memoryview(data)
    while view:
        try:
            view = view[sock.send(view) :]
        except BlockingIOError:
            await anyio.wait_writable(sock)
