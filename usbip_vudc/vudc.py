"""UserspaceUDC: a USB device controller in this process, whose cable is a USB/IP socket.

It routes URBs to endpoint 0 or to one Pipe an endpoint, and runs the functions of the selected
configuration. It needs no root and no module.
"""

from __future__ import annotations

import errno
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
import anyio.abc

from usbip_vudc.cable import Cable
from usbip_vudc.endpoint0 import Endpoint0
from usbip_vudc.errors import LocalProtocolError, RemoteProtocolError, TransferError
from usbip_vudc.function import UDC, Endpoint, Function, Request
from usbip_vudc.gadget import EndpointAtSpeed, EndpointSlot, Gadget, InterfaceSlot, Layout
from usbip_vudc.iso_pipe import IsoPipe
from usbip_vudc.lives import Lives
from usbip_vudc.pace import Bus, period
from usbip_vudc.pipe import Pipe
from usbip_vudc.standard_requests import StandardRequests
from usbip_vudc.urb import Landing, Urb
from usbip_vudc.usb.ch9 import Speed, TransferType
from usbip_vudc.wire.connection import MAX_LENT, DeviceConnection

if TYPE_CHECKING:
    import socket

__all__ = ("UserspaceUDC",)

log = logging.getLogger(__name__)

_MAX_PENDING: Final = 8192
"""URBs that one host may leave pending; vhci never comes near it."""

_MAX_HELD: Final = 64 << 20
"""Bytes of OUT payloads and iso descriptors, held for functions that do not take them."""


class _PipeEndpoint(Endpoint):
    """An endpoint of the live configuration, over its pipe."""

    def __init__(self, udc: UserspaceUDC, slot: EndpointSlot, interface: int, pipe: Pipe) -> None:
        self.role = slot.spec.role
        self.direction = slot.spec.direction
        self.transfer_type = slot.spec.transfer_type
        self.address = slot.address
        self.max_packet_size = pipe.max_packet_size
        self.bytes_per_interval = slot.bytes_per_interval
        self.interface = interface
        self._udc = udc
        self._pipe = pipe

    def queue(self, request: Request) -> Request:
        self._pipe.queue(request)
        self._udc.kick()
        return request

    def withdraw(self, request: Request) -> None:
        self._pipe.withdraw(request)
        self._udc.kick()

    def halt(self) -> None:
        self._pipe.halt()
        self._udc.kick()

    def wedge(self) -> None:
        self._pipe.wedge()
        self._udc.kick()

    def task_woken(self) -> None:
        self._udc.give_way()


class UserspaceUDC(UDC):
    """A controller for one gadget at one speed, which one host at a time may plug in.

    ``speed`` defaults to the gadget's ``max_speed``. With ``pace`` packets move in bus time
    (pace.py), else as fast as possible. Raises SchemeError where the gadget cannot exist at that
    speed.
    """

    def __init__(
        self,
        gadget: Gadget,
        *,
        speed: Speed | None = None,
        name: str = "vudc",
        pace: bool = False,
    ) -> None:
        self.gadget = gadget
        self.name = name
        self.speed = gadget.max_speed if speed is None else speed
        self.description = gadget.describe(self.speed)
        self._standard = StandardRequests(self.description, self)
        self._configuration = 0
        self._layout: Layout | None = None
        self._alternates: dict[int, int] = {}
        self._pipes: dict[int, Pipe] = {}
        self._bus = Bus(self.speed, self.kick) if pace else None
        self._lives = Lives(name, on_crash=self.unplug, on_leave=self._leave)
        self._pending: dict[int, tuple[Urb, Pipe]] = {}
        self._control = Endpoint0(self, self._standard, self._on_urb).submit
        self._debug = False
        self._held = 0
        self._connection: DeviceConnection | None = None
        self._cable: Cable | None = None
        self._unplugged = anyio.Event()
        self._back_at = 0.0

    # --- the cable -----------------------------------------------------------------------------

    @property
    def plugged(self) -> bool:
        """Whether a host holds the device."""
        return self._cable is not None

    @property
    def connected(self) -> bool:
        """Whether a host could have it: not while a SoftDisconnect of a function lasts."""
        return time.monotonic() >= self._back_at

    async def wait_unplugged(self) -> None:
        """Wait until no host holds the device."""
        while self.plugged:
            await self._unplugged.wait()

    def host_has_left(self) -> bool:
        """Whether the host has closed its end, though we have not acted on it yet."""
        return self._cable is not None and self._cable.peer_has_left()

    async def plug(self, sock: socket.socket, greeting: bytes = b"") -> None:
        """Be a device on this non-blocking stream socket until the host leaves or `unplug`.

        ``greeting`` goes out first (the reply to IMPORT). Raises LocalProtocolError where a host
        holds the device already or it is not `connected`, RemoteProtocolError or OSError as
        `Cable.run` does. Afterwards every request has completed with EndpointDisabled, no
        function runs, and the device is as after a bus reset.
        """
        if self.plugged:
            raise LocalProtocolError(f"{self.name}: a host holds the device already")
        if not self.connected:
            raise LocalProtocolError(f"{self.name}: the device has left the bus for a while")
        self._unplugged = anyio.Event()
        self._debug = log.isEnabledFor(logging.DEBUG)
        self._connection = DeviceConnection(self)
        if greeting:
            self._connection.outgoing.append(greeting)
        self._cable = Cable(sock, self._connection)
        failure: Exception | None = None
        try:
            async with anyio.create_task_group() as tasks:
                self._lives.open(tasks)
                if self._bus is not None:
                    tasks.start_soon(self._bus.run)
                try:
                    await self._cable.run()
                except Exception as error:
                    failure = error  # raised below, outside the group, so that it stays itself
                finally:
                    self.bus_reset()
                    tasks.cancel_scope.cancel()
        finally:
            self._complete_leftovers()
            self._pending.clear()
            self._lives.close()
            self._held = 0
            self._connection = self._cable = None
            self._unplugged.set()
        if failure is not None:
            raise failure

    def unplug(self) -> None:
        """Disconnect: `plug` returns soon. Without a host nothing happens."""
        if self._cable is not None:
            self._cable.close()

    def _leave(self, seconds: float) -> None:
        """Disconnect, to be had again after so many seconds."""
        self._back_at = time.monotonic() + seconds
        self.unplug()

    def kick(self) -> None:
        """A function has queued something: send what came of it."""
        if self._cable is not None:
            self._cable.kick()

    def give_way(self) -> None:
        """A function's task is ready to run: let it, before more is received."""
        if self._cable is not None:
            self._cable.gives_way = True

    def _complete_leftovers(self) -> None:
        """Give back the requests whose replies can no longer leave."""
        if self._connection is not None:
            self._connection.outgoing.clear()
            while self._connection.when_sent:
                self._connection.when_sent.pop(0)()

    # --- URBs (UrbSink) ------------------------------------------------------------------------

    def landing(self, urb: Urb) -> Landing:
        """The waiting request's own memory, where all of the payload fits."""
        pipe = self._pipes.get(urb.endpoint)
        return pipe.landing(urb) if pipe is not None else Landing.private(urb)

    def submit(self, urb: Urb) -> None:
        """Bring a whole URB to its endpoint."""
        if urb.seqnum in self._pending:
            raise RemoteProtocolError(f"seqnum {urb.seqnum} is in use by a pending URB")
        pipe = self._pipes.get(urb.endpoint)
        if pipe is not None:
            pipe.submit(urb)
            if urb.status is None:
                self._keep(urb, pipe)
        elif not urb.endpoint & 0x0F:
            self._control(urb)
        else:
            # Nobody answers on an endpoint that does not exist: three tries, then -EPROTO.
            self._finish(urb, -errno.EPROTO)

    def submit_iso(self, urb: Urb) -> None:
        """Bring a URB of packets to an isochronous endpoint; another one has no use for it."""
        pipe = self._pipes.get(urb.endpoint)
        if pipe is not None and not isinstance(pipe, IsoPipe):
            self._finish(urb, -errno.EINVAL)  # as usb_submit_urb of the kernel's own exporter
        else:
            self.submit(urb)

    def unlink(self, seqnum: int) -> bool:
        """Take a pending URB from its pipe; it gets no RET_SUBMIT."""
        kept = self._release(seqnum)
        return kept is not None and kept[1].unlink(kept[0])

    def _keep(self, urb: Urb, pipe: Pipe) -> None:
        """Remember a pending URB, within what one host may make us hold."""
        if len(urb.payload) <= MAX_LENT:
            urb.payload = bytes(urb.payload)  # it may only be lent
        self._held += urb.held
        if len(self._pending) >= _MAX_PENDING or self._held > _MAX_HELD:
            raise RemoteProtocolError(
                f"{len(self._pending) + 1} URBs with {self._held} bytes are pending; at most "
                f"{_MAX_PENDING} and {_MAX_HELD} bytes are held"
            )
        self._pending[urb.seqnum] = (urb, pipe)

    def _release(self, seqnum: int) -> tuple[Urb, Pipe] | None:
        kept = self._pending.pop(seqnum, None)
        if kept is not None:
            self._held -= kept[0].held
        return kept

    def _finish(self, urb: Urb, status: int) -> None:
        urb.status = status
        self._on_urb(urb)

    def _on_urb(self, urb: Urb) -> None:
        if self._pending:
            self._release(urb.seqnum)
        if self._debug:
            log.debug("%s: %r", self.name, urb)
        if self._connection is not None:
            self._connection.ret_submit(urb)

    def _on_request(self, request: Request, error: TransferError | None) -> None:
        """Hand a request back once the replies that point into its memory have left."""
        if self._connection is not None:
            if error is not None:  # a cancelled submit uses its memory again without waiting
                self._connection.keep_outgoing()
            self._connection.when_sent.append(partial(self._give_back, request, error))
        else:
            self._give_back(request, error)

    def _give_back(self, request: Request, error: TransferError | None) -> None:
        """Complete a request; what its ``on_complete`` raises is a crash of the firmware."""
        try:
            request.complete(error)
        except Exception:
            log.exception("%s: a function crashed in on_complete", self.name)
            self.unplug()

    # --- device state (endpoint 0's Device) ----------------------------------------------------

    @property
    def configuration(self) -> int:
        """bConfigurationValue, or 0."""
        return self._configuration

    def set_configuration(self, value: int) -> None:
        """End what runs, and start the functions of the new configuration."""
        self._disable(self._lives.functions)
        self._configuration = value
        self._alternates = {}
        self._layout = None
        if value:
            self._layout = self.description.layouts[value - 1]
            self._alternates = dict.fromkeys(self._layout.interfaces, 0)
            for function in self._layout.functions:
                self._enable(function)

    @property
    def functions(self) -> tuple[Function, ...]:
        """Those of the selected configuration, none without one."""
        return self._layout.functions if self._layout is not None else ()

    def interface(self, number: int) -> InterfaceSlot | None:
        """An interface of the selected configuration, None where there is no such one."""
        return self._layout.interfaces.get(number) if self._layout is not None else None

    def endpoint(self, address: int) -> EndpointSlot | None:
        """An endpoint of the current alternate settings, None where there is no such one."""
        return next((slot for _, slot in self._live_slots() if slot.address == address), None)

    def alternate(self, interface: int) -> int | None:
        """The alternate setting of an interface, None where there is no such interface."""
        return self._alternates.get(interface)

    def set_interface(self, interface: int, alternate: int) -> bool:
        """Select an alternate setting and restart its function."""
        slot = self.interface(interface)
        if slot is None or alternate >= len(slot.alternates):
            return False
        self._disable((slot.function,))
        self._alternates[interface] = alternate
        self._enable(slot.function)
        return True

    def halted(self, address: int) -> bool | None:
        """Whether an endpoint is halted, None where it is not live."""
        pipe = self._pipes.get(address)
        return pipe.halted if pipe is not None else None

    def set_halt(self, address: int, halted: bool) -> bool:
        """SET_FEATURE or CLEAR_FEATURE(ENDPOINT_HALT) by the host; False where there is no halt."""
        pipe = self._pipes[address]
        if not halted:
            pipe.clear_halt()
        elif pipe.can_halt:
            pipe.set_halt()
        return pipe.can_halt

    def bus_reset(self) -> None:
        """Back to the default state (USB 2.0 9.1.1.3)."""
        self._standard.reset()
        self.set_configuration(0)

    # --- functions -----------------------------------------------------------------------------

    def _live_slots(self) -> list[tuple[int, EndpointSlot]]:
        """The endpoints of the current alternate settings, each with its interface number."""
        if self._layout is None:
            return []
        return [
            (number, endpoint)
            for number, slot in self._layout.interfaces.items()
            for endpoint in slot.alternates[self._alternates[number]]
        ]

    def _enable(self, function: Function) -> None:
        endpoints: dict[str, Endpoint] = {}
        for number, slot in self._live_slots():
            if slot.function is function:
                pipe = self._pipes[slot.address] = self._pipe(slot)
                endpoints[slot.spec.role] = _PipeEndpoint(self, slot, number, pipe)
        self._lives.begin(function, endpoints)
        self.give_way()

    def _pipe(self, slot: EndpointSlot) -> Pipe:
        is_iso = slot.spec.transfer_type == TransferType.ISOCHRONOUS
        pipe = (IsoPipe if is_iso else Pipe)(
            slot.spec.direction,
            # Said to be 0, which is against the rules, it moves a byte at a time, in bus time too.
            slot.max_packet_size if is_iso else max(slot.max_packet_size, 1),
            on_urb=self._on_urb,
            on_request=self._on_request,
            pace=self._bus.attend if self._bus is not None else None,
        )
        if self._bus is not None:
            endpoint = EndpointAtSpeed(slot.spec, self.speed)
            interval = period(endpoint.transfer_type, endpoint.bInterval, self.speed)
            self._bus.add(pipe, interval, max(slot.bytes_per_interval, pipe.max_packet_size))
        return pipe

    def _disable(self, functions: tuple[Function, ...]) -> None:
        """End runs, and then what they had queued."""
        addresses = [slot.address for _, slot in self._live_slots() if slot.function in functions]
        for function in functions:
            self._lives.end(function)
        pipes = [self._pipes.pop(address) for address in addresses if address in self._pipes]
        for pipe in pipes:
            if self._bus is not None:
                self._bus.remove(pipe)
            pipe.disable()
        self.give_way()
