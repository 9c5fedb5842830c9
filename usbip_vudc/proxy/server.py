"""Proxy: a server that has what another USB/IP server has, with relays in between.

DEVLIST and IMPORT, and the answers to them, are passed on as they are. Each import has a
connection of its own to the other server, and whatever goes wrong there ends it alone.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import anyio
import anyio.to_thread

from usbip_vudc.cable import set_options
from usbip_vudc.errors import RemoteProtocolError
from usbip_vudc.exportable import Exportable
from usbip_vudc.injection.injector import Injector
from usbip_vudc.injection.plan import Plan
from usbip_vudc.proxy.driver import carry
from usbip_vudc.proxy.export import relay_for
from usbip_vudc.proxy.relay import Recorder, Relay
from usbip_vudc.server import DEFAULT_PORT, Server, receive_exactly, send_all
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

__all__ = ("Proxy",)

log = logging.getLogger(__name__)

_PATIENCE: Final = 5.0
"""Seconds that the other server may take to be reached, and to answer."""


class _Imported(Exportable):
    """A device that the other server has handed out on ``remote``; it answered with ``reply``."""

    def __init__(self, proxy: Proxy, remote: socket.socket, reply: bytes) -> None:
        self._proxy = proxy
        self._remote = remote
        self._reply = reply
        self._device = UsbDevice.parse(reply[OP_HEADER_SIZE:])

    @property
    def busid(self) -> str:
        return self._device.busid

    @property
    def name(self) -> str:
        return f"{self._device.idVendor:04x}:{self._device.idProduct:04x}"

    def device(self) -> UsbDevice:
        return self._device

    def interfaces(self) -> tuple[UsbInterface, ...]:
        return ()

    @property
    def plugged(self) -> bool:
        return False

    def host_has_left(self) -> bool:
        return False

    async def wait_unplugged(self) -> None:
        return None

    async def plug(self, sock: socket.socket, greeting: bytes) -> None:  # noqa: ARG002
        """Pass the other server's own reply on, then everything."""
        with self._remote:
            await send_all(sock, self._reply)
            await self._proxy.relay(self._device, sock, self._remote)


class Proxy(Server):
    """Listens as a `Server` does, and exports what the server at ``remote_host`` exports.

    Rules of ``plan`` for the cable apply to each device, under its busid, for as long as the proxy
    lives: counting goes on when a host imports it again. ``record(busid)`` gives the recorders of
    a new connection: for the host's URBs, and for the device's where a plan may change them.
    ``imports`` and ``urbs`` count what has passed.
    """

    def __init__(
        self,
        remote_host: str,
        remote_port: int = DEFAULT_PORT,
        plan: Plan | None = None,
        *,
        record: Callable[[str], Sequence[Recorder]] | None = None,
    ) -> None:
        super().__init__((), discover=tuple)
        self.remote = remote_host, remote_port
        self.plan = plan or Plan()
        self.imports = 0
        self.urbs = 0
        self._record = record or (lambda _busid: ())
        self._injectors: dict[str, Injector] = {}
        self._away: dict[str, float] = {}

    @property
    def traces(self) -> dict[str, tuple[str, ...]]:
        """What the plan has done to each device so far, by busid."""
        return {busid: tuple(i.trace) for busid, i in self._injectors.items()}

    async def relay(self, device: UsbDevice, host: socket.socket, remote: socket.socket) -> None:
        """Be between a host and the device that it imported; both sockets are then closed."""
        busid = device.busid
        injector = self._injectors.setdefault(busid, Injector(self.plan, "cable"))
        relay = relay_for(injector, speed=device.speed, recorders=self._record(busid))
        self.imports += 1
        try:
            await carry(relay, host, remote)
        finally:
            self._note(busid, relay)

    def _note(self, busid: str, relay: Relay) -> None:
        self.urbs += relay.urbs
        if relay.ending is not None and relay.ending.away:
            self._away[busid] = time.monotonic() + relay.ending.away

    async def _handshake(self, sock: socket.socket, peer: str) -> Exportable | None:
        raw = await receive_exactly(sock, OP_HEADER_SIZE)
        header = OpHeader.parse(raw)
        if header.code == OpCode.REQ_DEVLIST:
            await self._list(sock, peer, raw)
            return None
        if header.code != OpCode.REQ_IMPORT:
            raise RemoteProtocolError(
                f"operation {header.code:#06x}, expected OP_REQ_DEVLIST (0x8005) or "
                f"OP_REQ_IMPORT (0x8003)"
            )
        raw += await receive_exactly(sock, OpReqImport.BODY_SIZE)
        busid = OpReqImport.parse_body(raw[OP_HEADER_SIZE:]).busid
        if time.monotonic() < self._away.get(busid, 0.0):
            await self._refuse(sock, peer, busid, OpStatus.NA)
            return None
        return await self._import(sock, peer, busid, raw)

    async def _list(self, sock: socket.socket, peer: str, request: bytes) -> None:
        """Pass DEVLIST on, and whatever is answered."""
        try:
            remote = await self._reach()
        except OSError as error:
            log.warning("%s: no list: %s", peer, error)
            await send_all(sock, OpHeader(OpCode.REP_DEVLIST, OpStatus.NA).pack())
            return
        with remote:
            await send_all(remote, request)
            head = OP_HEADER_SIZE + OpRepDevlist.COUNT_SIZE
            reply = await receive_exactly(remote, head)
            for _ in range(OpRepDevlist.parse_count(reply[OP_HEADER_SIZE:])):
                device = await receive_exactly(remote, UsbDevice.SIZE)
                interfaces = UsbDevice.parse(device).bNumInterfaces * UsbInterface.SIZE
                reply += device + await receive_exactly(remote, interfaces)
        await send_all(sock, reply)

    async def _import(
        self, sock: socket.socket, peer: str, busid: str, request: bytes
    ) -> Exportable | None:
        """Import from the other server in the host's name; its refusal is passed on."""
        try:
            remote = await self._reach()
        except OSError as error:
            log.warning("%s: %s", busid, error)
            await self._refuse(sock, peer, busid, OpStatus.NA)
            return None
        imported = None
        try:
            with anyio.fail_after(_PATIENCE):
                await send_all(remote, request)
                reply = await receive_exactly(remote, OP_HEADER_SIZE)
                if OpHeader.parse(reply).status == OpStatus.OK:
                    reply += await receive_exactly(remote, UsbDevice.SIZE)
                    imported = _Imported(self, remote, reply)
                    return imported
            log.info("%s: import of busid %r refused by %s port %d", peer, busid, *self.remote)
            await send_all(sock, reply)
        except (OSError, RemoteProtocolError) as error:
            why = f"nothing within {_PATIENCE:g} s" if isinstance(error, TimeoutError) else error
            log.warning("%s: %s port %d answers no import: %s", busid, *self.remote, why)
            await self._refuse(sock, peer, busid, OpStatus.NA)
        finally:
            if imported is None:
                remote.close()
        return None

    async def _reach(self) -> socket.socket:
        """A connection to the other server. Raises OSError that says which server it is."""
        connect = partial(socket.create_connection, self.remote, _PATIENCE)
        try:
            sock = await anyio.to_thread.run_sync(connect)
        except OSError as error:
            host, port = self.remote
            raise OSError(
                error.errno, f"cannot reach {host} port {port}: {error.strerror or error}"
            ) from error
        set_options(sock)
        return sock
