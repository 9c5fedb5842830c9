"""FtdiSerial: the host of an FT232R, for tests: a serial port behind FTDI's vendor requests.

It is written against ``usb.core.Device``, as the other hosts here. It says on the wire what
Linux's ftdi_sio says; it is no tty.
"""

from __future__ import annotations

import contextlib
import time
from array import array
from typing import Any, Final

import usb.core
import usb.util

from usbip_vudc.sglist import Buffer
from usbip_vudc.usb.cdc import LineCoding
from usbip_vudc.usb.ftdi import (
    STATUS_SIZE,
    FlowControl,
    FtdiRequest,
    LineStatus,
    ModemStatus,
    Reset,
    data_of,
    divisor_of,
)

__all__ = ("FtdiSerial",)

_OUT, _IN = 0x40, 0xC0
_XON_XOFF_CHARACTERS: Final = 0x1311
_PACKETS: Final = 64
"""Packets of one read."""

_ERRORS: Final = LineStatus.OVERRUN | LineStatus.PARITY | LineStatus.FRAMING | LineStatus.BREAK


class FtdiSerial:
    """The one port of an FT232R.

    ``modem`` is what the last packet said of the far end's lines, ``errors`` what any packet with
    bytes has said of errors and breaks. One thread may read while another writes. Raises
    ValueError where the device has no bulk pair; methods raise usb.core.USBError as pyusb does.
    """

    def __init__(self, device: usb.core.Device) -> None:
        self.device = device
        self.modem = ModemStatus(0)
        self.errors = LineStatus.NONE
        interface = device.get_active_configuration()[0, 0]
        with contextlib.suppress(NotImplementedError):  # libusb outside Linux
            if device.is_kernel_driver_active(interface.bInterfaceNumber):
                device.detach_kernel_driver(interface.bInterfaceNumber)
        self._in: Any = _bulk(interface, usb.util.ENDPOINT_IN)
        self._out: Any = _bulk(interface, usb.util.ENDPOINT_OUT)
        self._surplus = b""
        self._coding = LineCoding()

    # --- the line ------------------------------------------------------------------------------

    def reset(self) -> None:
        """Reset the port, as a driver does that opens it."""
        self._set(FtdiRequest.RESET, Reset.SIO)

    def set_line_coding(self, coding: LineCoding | str) -> None:
        """Set rate and format; a text is such as ``115200 8N1``. Raises SchemeError."""
        if isinstance(coding, str):
            coding = LineCoding.from_text(coding)
        divisor = divisor_of(coding.dwDTERate)
        self._set(FtdiRequest.SET_DATA, data_of(coding))
        self._set(FtdiRequest.SET_BAUD_RATE, divisor & 0xFFFF, divisor >> 16)
        self._coding = coding

    def set_break(self, on: bool) -> None:
        """Begin or end a break."""
        self._set(FtdiRequest.SET_DATA, data_of(self._coding, break_=on))

    def set_control_line_state(self, *, dtr: bool, rts: bool) -> None:
        """Raise or drop DTR and RTS."""
        self._set(FtdiRequest.MODEM_CTRL, 0x0300 | dtr | rts << 1)

    def set_flow_control(self, flow: FlowControl) -> None:
        """What makes the chip wait; XON and XOFF are the usual characters."""
        xon_xoff = _XON_XOFF_CHARACTERS if FlowControl.XON_XOFF in flow else 0
        self._set(FtdiRequest.SET_FLOW_CTRL, xon_xoff, flow << 8)

    def set_latency(self, milliseconds: int) -> None:
        """Set the latency timer, 1 to 255 ms."""
        self._set(FtdiRequest.SET_LATENCY_TIMER, milliseconds)

    def get_latency(self) -> int:
        """The latency timer, in ms."""
        return int(self._get(FtdiRequest.GET_LATENCY_TIMER, 0, 1)[0])

    def get_modem_status(self) -> ModemStatus:
        """Ask for the lines of the far end, past all packets."""
        return ModemStatus(self._get(FtdiRequest.GET_MODEM_STATUS, 0, STATUS_SIZE)[0])

    def read_eeprom(self) -> bytes:
        """All 64 words."""
        return b"".join(self._get(FtdiRequest.READ_EEPROM, word, 2) for word in range(64))

    def _set(self, bRequest: int, wValue: int = 0, wIndex: int = 0) -> None:
        self.device.ctrl_transfer(_OUT, bRequest, wValue, wIndex)

    def _get(self, bRequest: int, wIndex: int, length: int) -> bytes:
        return bytes(self.device.ctrl_transfer(_IN, bRequest, 0, wIndex, length))

    # --- data ----------------------------------------------------------------------------------

    def write(self, data: Buffer, timeout_ms: int = 1000) -> None:
        """Send all of ``data`` in one transfer.

        Raises USBTimeoutError where the device did not take it in time; part of it may be there.
        """
        piece = array("B")
        piece.frombytes(memoryview(data).cast("B"))
        self.device.write(self._out, piece, timeout_ms)

    def read(self, size: int = 4096, timeout_ms: int = 1000) -> bytes:
        """Bytes as soon as there are any, at most ``size``; b"" when none came in time.

        Packets of status alone are waited through. ``timeout_ms`` 0 waits for ever.
        """
        deadline = time.monotonic() + timeout_ms / 1000 if timeout_ms else None
        while not self._surplus:
            left_ms = 0
            if deadline is not None:
                left_ms = int((deadline - time.monotonic()) * 1000)
                if left_ms <= 0:
                    return b""
            try:
                self._surplus = self._read_packets(left_ms)
            except usb.core.USBTimeoutError:
                return b""
        data, self._surplus = self._surplus[:size], self._surplus[size:]
        return data

    def _read_packets(self, timeout_ms: int) -> bytes:
        """The payload of one transfer, which may be none."""
        packet = self._in.wMaxPacketSize
        came = self.device.read(self._in, packet * _PACKETS, timeout_ms).tobytes()
        payload = bytearray()
        for start in range(0, len(came), packet):
            head = came[start : start + STATUS_SIZE]
            self.modem = ModemStatus(head[0])
            characters = came[start + STATUS_SIZE : start + packet]
            if characters:
                self.errors |= LineStatus(head[1]) & _ERRORS
            payload += characters
        return bytes(payload)


def _bulk(interface: usb.core.Interface, direction: int) -> usb.core.Endpoint:
    for endpoint in interface:
        kind = usb.util.endpoint_type(endpoint.bmAttributes)
        if kind == usb.util.ENDPOINT_TYPE_BULK and endpoint.bEndpointAddress & 0x80 == direction:
            return endpoint
    raise ValueError(f"interface {interface.bInterfaceNumber} has no bulk pair")
