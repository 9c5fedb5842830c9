"""AcmFunction: a serial port of the CDC abstract control model (CDC 1.2, PSTN 1.2).

Two interfaces: "comm" with the requests and notifications of the line, "data" with the bytes,
which go where its profile says. Line coding, DTR, RTS and breaks reach the application, as
state, as events and as things to wait for. It does not pace the bytes by the baud rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, TypeVar

import anyio
import anyio.lowlevel

from gadgets.acm.descriptors import AbstractControl, CallManagement, Header, NoOtg, Union
from gadgets.acm.events import EventHub, Events
from gadgets.acm.line import (
    BreakSent,
    Connected,
    ControlLinesSet,
    Disconnected,
    LineCodingSet,
    LineEvent,
    LineState,
)
from gadgets.acm.notify import SerialStateNotifier
from gadgets.serial.profiles import Echo, Profile
from usbip_vudc.function import (
    AltSetting,
    ControlRequest,
    Endpoint,
    EndpointSpec,
    Function,
    InterfaceSpec,
)
from usbip_vudc.sglist import Buffer
from usbip_vudc.usb.cdc import ControlLineState, LineCoding, SerialState
from usbip_vudc.usb.ch9 import Direction, Speed, TransferType, UsbClass

__all__ = ("AcmFunction",)

_NOTIFY_SIZE: Final = 16
"""Bytes of a packet on "notify": ten of SERIAL_STATE are then one short packet, which ends the
host's URB whatever its size."""

_NOTIFY: Final = EndpointSpec(
    role="notify",
    direction=Direction.IN,
    transfer_type=TransferType.INTERRUPT,
    interval_ms=32,  # as f_acm: nobody watches DCD faster
    max_packet_size=dict.fromkeys((Speed.FULL, Speed.HIGH, Speed.SUPER), _NOTIFY_SIZE),
)

_DATA: Final = (
    EndpointSpec.bulk_in("in"),
    EndpointSpec.bulk_out("out"),
)

_E = TypeVar("_E", bound=LineEvent)


class AcmFunction(Function):
    """A serial port.

    ``line_coding`` is what the port starts with; it and the serial state outlive a disconnect,
    while DTR, RTS and a break end with the configuration. With ``dsr_follows_dtr`` the host
    sees its own DTR as DSR, as through a null modem plug.
    """

    name: ClassVar[str] = "acm"

    def __init__(
        self,
        profile: Profile | None = None,
        *,
        line_coding: LineCoding | None = None,
        dsr_follows_dtr: bool = False,
    ) -> None:
        self.profile = Echo() if profile is None else profile
        self.dsr_follows_dtr = dsr_follows_dtr
        self._line = LineState(coding=line_coding or LineCoding())
        self._hub = EventHub()
        self._notifier = SerialStateNotifier()
        self.interfaces: Sequence[InterfaceSpec] = _interfaces()
        self.plain_interfaces: Sequence[InterfaceSpec] | None = (_one_interface(),)
        self._connected = False

    # --- the line, for the application ---------------------------------------------------------

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
        """Wait for the next SET_LINE_CODING: what it set."""
        return (await self._next(LineCodingSet)).coding

    async def break_sent(self) -> BreakSent:
        """Wait for the next SEND_BREAK."""
        return await self._next(BreakSent)

    async def wait_connected(self, state: bool = True) -> None:
        """Wait until a host has configured the device, or with False until none has."""
        events = self.events()
        await anyio.lowlevel.checkpoint()
        while self.connected != state:
            await anext(events)

    async def wait_dtr(self, state: bool = True) -> None:
        """Wait until DTR is as asked; it may be already."""
        events = self.events()
        await anyio.lowlevel.checkpoint()
        while self.dtr != state:
            await anext(events)

    async def wait_rts(self, state: bool = True) -> None:
        """Wait until RTS is as asked; it may be already."""
        events = self.events()
        await anyio.lowlevel.checkpoint()
        while self.rts != state:
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
        """Notify the host of the serial state (PSTN 1.2 6.5.4), and wait until it has taken it.

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
        changes = {bit: value for bit, value in given.items() if value is not None}
        taken = self._notifier.post(self._line.change_serial(changes))
        await anyio.lowlevel.checkpoint()
        await taken.wait()

    # --- Function ------------------------------------------------------------------------------

    def setup(self, request: ControlRequest) -> Buffer | None:
        """The requests of the line (PSTN 1.2 6.3), to the communications interface only."""
        if request.interface != "comm":
            return None
        outcome = self._line.handle(request.setup, request.data)
        if outcome.event is not None:
            self._hub.post(outcome.event)
            if self.dsr_follows_dtr and isinstance(outcome.event, ControlLinesSet):
                self._mirror(outcome.event.dtr)
        return outcome.reply

    def _mirror(self, dtr: bool) -> None:
        if dtr != (SerialState.DSR in self._line.serial):
            self._notifier.post(self._line.change_serial({SerialState.DSR: dtr}))

    async def run(self, endpoints: Mapping[str, Endpoint]) -> None:
        """One connection: the profile and the notifications work in callbacks until it ends."""
        self._connected = True
        self._hub.post(Connected())
        self._notifier.connect(endpoints["notify"], self._line.serial)
        self.profile.connect(endpoints["in"], endpoints["out"])
        try:
            await anyio.sleep_forever()
        finally:
            self.profile.disconnect()
            self._notifier.disconnect()
            self._line.disconnect()
            self._connected = False
            self._hub.post(Disconnected())


def _one_interface() -> InterfaceSpec:
    """Everything in the communications interface: cdc-acm calls it combined and binds to it."""
    return InterfaceSpec(
        role="comm",
        bInterfaceClass=UsbClass.COMMUNICATIONS,
        bInterfaceSubClass=2,
        bInterfaceProtocol=1,
        alternates=(AltSetting(endpoints=(_NOTIFY, *_DATA), class_descriptors=(NoOtg(),)),),
    )


def _interfaces() -> tuple[InterfaceSpec, InterfaceSpec]:
    comm = InterfaceSpec(
        role="comm",
        bInterfaceClass=UsbClass.COMMUNICATIONS,
        bInterfaceSubClass=2,  # abstract control model (CDC 1.2 table 4)
        bInterfaceProtocol=1,  # AT commands, V.250 (CDC 1.2 table 5): what cdc-acm looks for
        alternates=(
            AltSetting(
                endpoints=(_NOTIFY,),
                # In f_acm's order; the Header must be first (CDC 1.2 5.2.3.1).
                class_descriptors=(Header(), CallManagement(), AbstractControl(), Union()),
            ),
        ),
    )
    data = InterfaceSpec(
        role="data",
        bInterfaceClass=UsbClass.CDC_DATA,
        alternates=(AltSetting(endpoints=_DATA),),
    )
    return comm, data
