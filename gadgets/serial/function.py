"""SerialFunction: what every serial port is, whatever protocol tells host and device of its line.

It has a line (state, events, things to wait for), a profile, which the bytes go to and come from,
and a `Flow`, which says how they travel. A protocol adds its interfaces and requests: it calls
`heard` with what the host did, and brings `show` to tell the host of DCD and its like.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import anyio
import anyio.abc
import anyio.lowlevel

from gadgets.serial.dropping import DroppingReceiver
from gadgets.serial.events import EventHub, Events
from gadgets.serial.flow import DROP_NEW, NAK, Flow
from gadgets.serial.line import (
    BreakSent,
    BytesDropped,
    Connected,
    ControlLinesSet,
    Disconnected,
    Line,
    LineCodingSet,
    LineEvent,
)
from gadgets.serial.metered import MeteredEndpoint, MeteredIn, MeteredOut, UartClock
from gadgets.serial.packets import Receiver, Transmitter
from gadgets.serial.profile import BytesIn, Port, Profile
from usbip_vudc.function import Endpoint, Function
from usbip_vudc.usb.cdc import ControlLineState, LineCoding, SerialState

__all__ = ("SerialFunction",)

_E = TypeVar("_E", bound=LineEvent)


class SerialFunction(Function):
    """A serial port, without its protocol.

    ``line`` is its state, which the protocol shares. What outlives a disconnect: the line coding,
    the serial state, ``dropped``. What ends with it: DTR, RTS, a break.
    """

    def __init__(self, profile: Profile, *, line: Line, flow: Flow | None = None) -> None:
        self.profile = profile
        self.flow = flow or Flow()
        self.dropped = 0
        """Bytes from the host that a ``drop`` policy threw away."""
        self._line = line
        self._hub = EventHub()
        self._connected = False
        self._dtr_rises = 0
        self._dtr_was_up = False
        self._meters: list[MeteredEndpoint] = []

    # --- the line, for the application and the profile -----------------------------------------

    @property
    def connected(self) -> bool:
        """Whether a host has configured the device."""
        return self._connected

    @property
    def line_coding(self) -> LineCoding:
        """What the host set last, or what the port started with."""
        return self._line.coding

    @property
    def dtr(self) -> bool:
        """Data terminal ready: on Linux, whether the port is open."""
        return ControlLineState.DTR in self._line.control

    @property
    def dtr_rises(self) -> int:
        """How often DTR has risen so far: how often a host has opened the port."""
        return self._dtr_rises

    @property
    def rts(self) -> bool:
        """Request to send."""
        return ControlLineState.RTS in self._line.control

    @property
    def breaking(self) -> bool:
        """Whether the host holds the line in a break of unlimited time."""
        return self._line.breaking

    @property
    def serial_state(self) -> SerialState:
        """DCD and DSR as they were set last."""
        return self._line.serial

    def events(self) -> Events:
        """Everything that happens on the line from now on: ``async for event in acm.events()``.

        Raises LocalProtocolError in a listener that falls 4096 events behind.
        """
        return self._hub.listen()

    async def line_coding_set(self) -> LineCoding:
        """Wait for the host to set the line coding: what it set."""
        return (await self._next(LineCodingSet)).coding

    async def break_sent(self) -> BreakSent:
        """Wait for the next break of the host."""
        return await self._next(BreakSent)

    async def wait_connected(self, state: bool = True) -> None:
        """Wait until a host has configured the device, or with False until none has."""
        await self._until(lambda: self.connected == state)

    async def wait_dtr(self, state: bool = True) -> None:
        """Wait until DTR is as asked; it may be already."""
        await self._until(lambda: self.dtr == state)

    async def wait_rts(self, state: bool = True) -> None:
        """Wait until RTS is as asked; it may be already."""
        await self._until(lambda: self.rts == state)

    async def _until(self, so: Callable[[], bool]) -> None:
        events = self.events()
        await anyio.lowlevel.checkpoint()
        while not so():
            await anext(events)

    async def _next(self, kind: type[_E]) -> _E:
        async for event in self.events():
            if isinstance(event, kind):
                return event
        raise AssertionError("events never end")

    async def set_serial_state(
        self,
        *,
        dcd: bool | None = None,
        dsr: bool | None = None,
        ring: bool | None = None,
        break_: bool | None = None,
        framing: bool | None = None,
        parity: bool | None = None,
        overrun: bool | None = None,
    ) -> None:
        """Tell the host of the serial state (PSTN 1.2 6.5.4), and wait until it has taken it.

        None leaves DCD and DSR as they are; the others are told once and then clear again. Linux
        reads notifications only while the port is open, so with a closed one this waits: give it
        a deadline, or `wait_dtr` first. What changes while one notification waits is told in
        the next one. Without a connection DCD and DSR are kept for the next host.
        """
        given = {
            SerialState.DCD: dcd,
            SerialState.DSR: dsr,
            SerialState.RING: ring,
            SerialState.BREAK: break_,
            SerialState.FRAMING: framing,
            SerialState.PARITY: parity,
            SerialState.OVERRUN: overrun,
        }
        taken = self.show({bit: value for bit, value in given.items() if value is not None})
        await anyio.lowlevel.checkpoint()
        await taken.wait()

    # --- what a protocol brings ----------------------------------------------------------------

    def show(self, changes: Mapping[SerialState, bool]) -> anyio.Event:
        """Change the serial state and tell the host soon; the event is set when it knows.

        A protocol that has no way to tell it keeps the state, as this does.
        """
        self._line.change_serial(changes)
        told = anyio.Event()
        told.set()
        return told

    def begin(self, endpoints: Mapping[str, Endpoint]) -> tuple[Endpoint, Endpoint]:
        """A connection begins: the endpoints, IN and OUT, that carry the bytes and only them."""
        return endpoints["in"], endpoints["out"]

    def end(self) -> None:
        """The connection is over; flow and profile hear of it after this."""

    def heard(self, event: LineEvent) -> None:
        """Something happened: tell every listener, and the bytes that wait for DTR."""
        if isinstance(event, ControlLinesSet):
            self._dtr_rises += event.dtr and not self._dtr_was_up
            self._dtr_was_up = event.dtr
            for meter in self._meters:
                meter.changed()
        self._hub.post(event)

    # --- Function ------------------------------------------------------------------------------

    def selected(self) -> None:
        """The lines of the last host fall now: this one's requests may overtake `run`'s end."""
        self._lines_fall()

    def _lines_fall(self) -> None:
        self._line.disconnect()
        self._dtr_was_up = False
        if self._connected:
            self._connected = False
            self.heard(Disconnected())

    async def run(self, endpoints: Mapping[str, Endpoint]) -> None:
        """One connection: profile and protocol work until it ends."""
        async with anyio.create_task_group() as tasks:
            try:
                self._connect(endpoints, tasks)
                await anyio.sleep_forever()
            finally:
                self._disconnect()

    def _connect(self, endpoints: Mapping[str, Endpoint], tasks: anyio.abc.TaskGroup) -> None:
        self._connected = True
        self.heard(Connected())
        in_endpoint, out_endpoint = self._metered(*self.begin(endpoints))
        self.profile.connect(_Port(self, in_endpoint, out_endpoint))
        for meter in self._meters:
            tasks.start_soon(meter.run)
        tasks.start_soon(self.profile.run)

    def _disconnect(self) -> None:
        # At once, though the profile's task may shield a moment more to hand over what came.
        self.end()
        for meter in self._meters:
            meter.end()
        self._meters.clear()
        self.profile.disconnect()
        if self._connected:  # else they have fallen, and what is up is the next host's
            self._lines_fall()

    def _metered(self, in_endpoint: Endpoint, out_endpoint: Endpoint) -> tuple[Endpoint, Endpoint]:
        """The endpoints as they are, or where the flow asks for it behind a UART."""
        gate = (lambda: self.dtr) if self.flow.wait_for_dtr else None
        paced = self.flow.baud_paced
        if paced:
            out_endpoint = MeteredOut(out_endpoint, UartClock(self._rate))
            self._meters.append(out_endpoint)
        if paced or gate is not None:
            clock = UartClock(self._rate if paced else None)
            in_endpoint = MeteredIn(in_endpoint, clock, gate)
            self._meters.append(in_endpoint)
        return in_endpoint, out_endpoint

    def _rate(self) -> float:
        return self._line.coding.characters_per_second

    def drop(self, count: int, first: bool) -> None:
        """Count bytes that were dropped, and say so of the first."""
        self.dropped += count
        if first:
            self.heard(BytesDropped(self.dropped))


class _Port(Port):
    """One connection of a function, as its profile sees it."""

    def __init__(
        self, function: SerialFunction, in_endpoint: Endpoint, out_endpoint: Endpoint
    ) -> None:
        self.line = function
        self.max_packet_size = in_endpoint.max_packet_size
        self._flow = function.flow
        self._drop = function.drop
        self._in = in_endpoint
        self._out = out_endpoint

    def receiver(self, arrived: Callable[[], None]) -> BytesIn:
        if self._flow.back_pressure == NAK:
            return Receiver(self._out, arrived)
        keep_oldest = self._flow.back_pressure == DROP_NEW
        return DroppingReceiver(self._out, arrived, keep_oldest=keep_oldest, dropped=self._drop)

    def transmitter(
        self, pull: Callable[[], tuple[list[memoryview], bool]], sent: Callable[[], None]
    ) -> Transmitter:
        return Transmitter(self._in, pull, sent, zlp=self._flow.zlp)
