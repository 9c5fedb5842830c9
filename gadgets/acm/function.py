"""AcmFunction: a serial port of the CDC abstract control model (CDC 1.2, PSTN 1.2).

Two interfaces: "comm" with the requests and notifications of the line, "data" with the bytes.
What a serial port is besides, its profile, its line and its events, is in gadgets/serial.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

import anyio

from gadgets.acm.descriptors import AbstractControl, CallManagement, Header, NoOtg, Union
from gadgets.acm.line import LineState
from gadgets.acm.notify import SerialStateNotifier
from gadgets.serial.flow import Flow
from gadgets.serial.function import SerialFunction
from gadgets.serial.line import ControlLinesSet
from gadgets.serial.profile import Profile
from gadgets.serial.profiles import Echo
from usbip_vudc.function import (
    AltSetting,
    ControlRequest,
    Endpoint,
    EndpointSpec,
    InterfaceSpec,
)
from usbip_vudc.sglist import Buffer
from usbip_vudc.usb.cdc import LineCoding, SerialState
from usbip_vudc.usb.ch9 import Direction, SetupPacket, Speed, TransferType, UsbClass

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


class AcmFunction(SerialFunction):
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
        flow: Flow | None = None,
        line_coding: LineCoding | None = None,
        dsr_follows_dtr: bool = False,
    ) -> None:
        self._cdc_line = LineState(
            coding=line_coding or LineCoding(), dsr_follows_dtr=dsr_follows_dtr
        )
        super().__init__(Echo() if profile is None else profile, line=self._cdc_line, flow=flow)
        self._notifier = SerialStateNotifier()
        self.interfaces: Sequence[InterfaceSpec] = _interfaces()
        self.plain_interfaces: Sequence[InterfaceSpec] | None = (_one_interface(),)

    # --- the protocol of the line --------------------------------------------------------------

    @property
    def dsr_follows_dtr(self) -> bool:
        """Whether the host sees its own DTR as DSR; it may be changed at any time."""
        return self._cdc_line.dsr_follows_dtr

    @dsr_follows_dtr.setter
    def dsr_follows_dtr(self, follows: bool) -> None:
        self._cdc_line.dsr_follows_dtr = follows

    def refuses(self, setup: SetupPacket) -> bool:
        """Of requests with data there is one, SET_LINE_CODING with its seven bytes."""
        return setup.wLength > 0 and self._cdc_line.refuses(setup)

    def setup(self, request: ControlRequest) -> Buffer | None:
        """The requests of the line (PSTN 1.2 6.3), to the communications interface only."""
        if request.interface != "comm":
            return None
        outcome = self._cdc_line.handle(request.setup, request.data)
        if outcome.event is not None:
            self.heard(outcome.event)
            if self.dsr_follows_dtr and isinstance(outcome.event, ControlLinesSet):
                self._mirror(outcome.event.dtr)
        return outcome.reply

    def _mirror(self, dtr: bool) -> None:
        if dtr != (SerialState.DSR in self.serial_state):
            self.show({SerialState.DSR: dtr})

    def show(self, changes: Mapping[SerialState, bool]) -> anyio.Event:
        """Send SERIAL_STATE soon (PSTN 1.2 6.5.4)."""
        return self._notifier.post(self._cdc_line.change_serial(changes))

    def begin(self, endpoints: Mapping[str, Endpoint]) -> tuple[Endpoint, Endpoint]:
        """Notifications can be sent: the host hears of the state that lasts."""
        self._notifier.connect(endpoints["notify"], self.serial_state)
        return super().begin(endpoints)

    def end(self) -> None:
        """They cannot any more."""
        self._notifier.disconnect()


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
