"""InjectedExport: a relay that follows a plan in front of any device of our own server.

The device is plugged into one end of a socketpair, and the relay lies between the other end and
the host. The kernel takes such sockets, too, so its vudc and what is bound to usbip-host can be
treated like our own UDC.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence

import anyio

from usbip_vudc.errors import RemoteProtocolError
from usbip_vudc.exportable import Exportable, NotExportable
from usbip_vudc.injection.injector import Injector
from usbip_vudc.injection.plan import Plan
from usbip_vudc.proxy.driver import carry
from usbip_vudc.proxy.injected import InjectedRelay
from usbip_vudc.proxy.relay import Recorder, Relay
from usbip_vudc.server import receive_exactly, send_all
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.wire.pdu import OpStatus, UsbDevice, UsbInterface

__all__ = ("Behind", "InjectedExport", "relay_for")


def relay_for(injector: Injector, *, speed: Speed, recorders: Sequence[Recorder] = ()) -> Relay:
    """A relay for one connection; without rules for the cable one that changes nothing.

    Of the ``recorders`` the first sees the URBs of the host, the second those of the device.
    """
    host, device, *_ = *recorders, None, None
    if not injector:
        return Relay(speed=speed, recorder=host)
    return InjectedRelay(injector, speed=speed, recorder=host, device_recorder=device)


class InjectedExport(Exportable):
    """A device behind the cable rules of a plan.

    Counting goes on when a host imports it again: ``nth(3)`` is the third in the device's life.
    ``injector`` has the trace.
    """

    def __init__(self, inner: Exportable, plan: Plan | Injector) -> None:
        self.inner = inner
        self.injector = plan if isinstance(plan, Injector) else Injector(plan, "cable")
        self._away_until = 0.0
        self._host: socket.socket | None = None

    @property
    def busid(self) -> str:
        """The device's own."""
        return self.inner.busid

    @property
    def name(self) -> str:
        """The device's own."""
        return self.inner.name

    def device(self) -> UsbDevice:
        """The device's own. Raises NotExportable while a rule has it disconnected, too."""
        left = self._away_until - time.monotonic()
        if left > 0:
            raise NotExportable(
                OpStatus.NA, f"{self.busid}: the plan has disconnected it for {left:.1f} s more"
            )
        return self.inner.device()

    def interfaces(self) -> tuple[UsbInterface, ...]:
        """The device's own."""
        return self.inner.interfaces()

    @property
    def plugged(self) -> bool:
        """Whether a host holds the device."""
        return self.inner.plugged

    def host_has_left(self) -> bool:
        """Whether the host has closed its end, though that has not been acted on yet."""
        if self._host is None:
            return self.inner.host_has_left()
        try:
            return not self._host.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return self.inner.host_has_left()
        except OSError:
            return True

    async def wait_unplugged(self) -> None:
        """Wait until no host holds the device."""
        await self.inner.wait_unplugged()

    async def plug(self, sock: socket.socket, greeting: bytes) -> None:
        """Be the device on this socket until the host leaves, as the inner one says it."""
        speed = self.inner.device().speed
        relay = relay_for(self.injector, speed=speed)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        device_error: Exception | None = None
        relay_error: Exception | None = None

        async def be_device() -> None:
            nonlocal device_error
            try:
                await self.inner.plug(theirs, greeting)
            except Exception as error:
                device_error = error  # raised below, outside the group, so that it stays itself
            finally:
                theirs.close()

        with ours, theirs:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(be_device)
                try:
                    await self._carry(relay, sock, ours, greeting)
                except Exception as error:
                    relay_error = error
                finally:
                    ours.close()  # which the device takes for its host's leaving
        # A host that broke the protocol has the device see a connection that breaks off.
        by_peer = isinstance(relay_error, RemoteProtocolError)
        if failure := relay_error if by_peer else device_error or relay_error:
            raise failure

    async def _carry(
        self, relay: Relay, sock: socket.socket, ours: socket.socket, greeting: bytes
    ) -> None:
        """The device greets first; one that refuses says nothing, and the host's socket is left."""
        if greeting:
            await send_all(sock, await receive_exactly(ours, len(greeting)))
        self._host = sock
        try:
            await carry(relay, sock, ours)
        finally:
            self._host = None
            if relay.ending is not None:
                self._away_until = time.monotonic() + relay.ending.away


class Behind:
    """Puts devices behind the cable rules of a plan, each in one object for good.

    Where the plan has none for the cable, a device stays what it is.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._acts = bool(plan.for_seam("cable"))
        self._known: dict[Exportable, Exportable] = {}

    def __call__(self, export: Exportable) -> Exportable:
        """The device as hosts shall have it."""
        if self._acts and export not in self._known:
            self._known[export] = InjectedExport(export, self._plan)
        return self._known.get(export, export)
