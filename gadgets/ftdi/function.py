"""FtdiFunction: a serial port that speaks FTDI's protocol, as an FT232R does.

One vendor-specific interface with a bulk pair; the line is set by vendor requests, and its modem
lines, CTS too, come back in the two bytes that head every packet. ftdi_sio of Linux, libftdi and
pyftdi take it for the chip. Bit-bang and CBUS pins it has not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import anyio
import anyio.lowlevel

from gadgets.ftdi.chip import Chip
from gadgets.ftdi.eeprom import SIZE, eeprom
from gadgets.ftdi.framed import FramedIn
from gadgets.ftdi.held import HeldOut
from gadgets.serial.flow import Flow
from gadgets.serial.function import SerialFunction
from gadgets.serial.profile import Profile
from gadgets.serial.profiles import Echo
from usbip_vudc.errors import SchemeError
from usbip_vudc.function import (
    AltSetting,
    ControlRequest,
    Endpoint,
    EndpointSpec,
    InterfaceSpec,
)
from usbip_vudc.sglist import Buffer
from usbip_vudc.usb.cdc import LineCoding, SerialState
from usbip_vudc.usb.ch9 import UsbClass
from usbip_vudc.usb.ftdi import LineStatus

__all__ = ("FtdiFunction",)

_ERRORS = {
    SerialState.BREAK: LineStatus.BREAK,
    SerialState.FRAMING: LineStatus.FRAMING,
    SerialState.PARITY: LineStatus.PARITY,
    SerialState.OVERRUN: LineStatus.OVERRUN,
}


class FtdiFunction(SerialFunction):
    """A serial port with real modem lines.

    With ``cts_follows_rts`` and ``dsr_follows_dtr``, as it is made, there is a loopback plug in
    the port, which goes well with the echo; without them `set_cts` and `set_serial_state` move
    the lines. ``eeprom`` is what hosts read there, 128 bytes; anything else is a SchemeError.

    Flow control that the host asks for works in the chip: while CTS (or DSR) is down, or after an
    XOFF from the profile, the host gets NAK. A break and errors come with a NUL character, RI for
    one packet.
    """

    name: ClassVar[str] = "ftdi"
    device_requests: ClassVar[bool] = True
    interfaces: Sequence[InterfaceSpec] = (
        InterfaceSpec(
            role="serial",
            bInterfaceClass=UsbClass.VENDOR_SPECIFIC,
            bInterfaceSubClass=0xFF,
            bInterfaceProtocol=0xFF,
            alternates=(
                # In the chip's order, and with its addresses where the UDC lets us choose.
                AltSetting(
                    endpoints=(
                        EndpointSpec.bulk_in("in", number=1),
                        EndpointSpec.bulk_out("out", number=2),
                    )
                ),
            ),
        ),
    )

    def __init__(
        self,
        profile: Profile | None = None,
        *,
        flow: Flow | None = None,
        line_coding: LineCoding | None = None,
        cts_follows_rts: bool = True,
        dsr_follows_dtr: bool = True,
        eeprom: bytes | None = None,
    ) -> None:
        contents = _EEPROM if eeprom is None else bytes(eeprom)
        if len(contents) != SIZE:
            raise SchemeError(f"eeprom has {len(contents)} bytes, expected {SIZE}")
        self._chip = Chip(
            coding=line_coding or LineCoding(),
            eeprom=contents,
            cts_follows_rts=cts_follows_rts,
            dsr_follows_dtr=dsr_follows_dtr,
        )
        super().__init__(Echo() if profile is None else profile, line=self._chip, flow=flow)
        self._ends: tuple[FramedIn, HeldOut] | None = None

    # --- the line ------------------------------------------------------------------------------

    @property
    def cts_follows_rts(self) -> bool:
        """Whether the host sees its own RTS as CTS."""
        return self._chip.cts_follows_rts

    @property
    def dsr_follows_dtr(self) -> bool:
        """Whether the host sees its own DTR as DSR."""
        return self._chip.dsr_follows_dtr

    @property
    def cts(self) -> bool:
        """Clear to send, as the host sees it."""
        return self._chip.cts

    @property
    def eeprom(self) -> bytes:
        """What hosts read there."""
        return self._chip.eeprom

    @property
    def latency_ms(self) -> int:
        """The latency timer, as the host set it last."""
        return self._chip.latency_ms

    async def set_cts(self, cts: bool) -> None:
        """Raise or drop CTS, and wait until the host knows.

        A change of RTS undoes it where CTS follows that. Linux listens only while the port is
        open: give it a deadline.
        """
        self._chip.cts = cts
        told = self._lines_changed()
        await anyio.lowlevel.checkpoint()
        await told.wait()

    def show(self, changes: Mapping[SerialState, bool]) -> anyio.Event:
        """Send a packet that tells of it, at once, and one for each error.

        Of a break, a parity and a framing error in one packet Linux counts the first alone
        (drivers/usb/serial/ftdi_sio.c, ftdi_process_packet).
        """
        state = self._chip.change_serial(changes)
        errors = [error for bit, error in _ERRORS.items() if bit in state]
        self._chip.ringing = SerialState.RING in state
        if self._chip.ringing and not errors:
            errors.append(LineStatus.NONE)
        told = [self._lines_changed(error) for error in errors]
        if told and not self._chip.ringing:
            return told[-1]
        self._chip.ringing = False
        return self._lines_changed()

    def _lines_changed(self, errors: LineStatus = LineStatus.NONE) -> anyio.Event:
        if self._ends is None:
            told = anyio.Event()
            told.set()
            return told
        framed, held = self._ends
        held.changed()
        return framed.report(errors)

    # --- the protocol of the line --------------------------------------------------------------

    def setup(self, request: ControlRequest) -> Buffer | None:
        """The vendor requests of the chip, to the device."""
        before = self._chip.modem_status
        outcome = self._chip.handle(request.setup)
        if outcome.event is not None:
            self.heard(outcome.event)
        if self._ends is not None:
            _, held = self._ends
            held.changed()
            if self._chip.modem_status != before:
                self._lines_changed()
        return outcome.reply

    async def run(self, endpoints: Mapping[str, Endpoint]) -> None:
        """One connection, with its latency timer."""
        held = HeldOut(endpoints["out"], lambda: self._chip.may_transmit)
        framed = FramedIn(endpoints["in"], self._chip, held.changed)
        self._ends = framed, held
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(framed.run)
            await super().run(endpoints)

    def begin(self, endpoints: Mapping[str, Endpoint]) -> tuple[Endpoint, Endpoint]:
        """The endpoints as the profile sees them: bytes, without status."""
        return super().begin(endpoints) if self._ends is None else self._ends

    def end(self) -> None:
        """Whatever has not gone is the profile's again."""
        if self._ends is not None:
            for end in self._ends:
                end.end()
        self._ends = None


_EEPROM = eeprom()
