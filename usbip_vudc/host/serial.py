"""UsbSerial: the host of a CDC-ACM serial port, for tests (PSTN 1.2, CDC 1.2).

It is written against ``usb.core.Device``, so it runs over this project's pyusb backend and over
libusb alike. It does what Linux's cdc-acm does on the wire; it is no tty.
"""

from __future__ import annotations

import contextlib
import time
from array import array
from typing import Any, Final

import usb.core
import usb.util

from usbip_vudc.errors import RemoteProtocolError
from usbip_vudc.sglist import Buffer
from usbip_vudc.usb.cdc import (
    SERIAL_STATE_LENGTH,
    LineCoding,
    LineRequest,
    SerialState,
    parse_serial_state,
)
from usbip_vudc.usb.ch9 import DescriptorType, Direction, UsbClass

__all__ = ("UsbSerial",)

_ACM: Final = 0x02
"""bInterfaceSubClass: abstract control model (CDC 1.2 table 4-3)."""

_UNION: Final = 0x06
"""bDescriptorSubtype of the union functional descriptor (CDC 1.2 table 5-13)."""

_OUT, _IN = 0x21, 0xA1

_PACKETS_OF_A_WRITE: Final = 20
"""Packets of one OUT URB (acm_probe: writesize)."""


class UsbSerial:
    """A CDC-ACM function: its communications and data interfaces.

    ``index`` counts the ports of a device from 0. One thread may read while another writes.
    Raises ValueError where the device has no such function; methods raise usb.core.USBError as
    pyusb does.
    """

    def __init__(self, device: usb.core.Device, index: int = 0) -> None:
        self.device = device
        self._comm, self._data = _find_interfaces(device.get_active_configuration(), index)
        for interface in {self._comm.bInterfaceNumber, self._data.bInterfaceNumber}:
            with contextlib.suppress(NotImplementedError):  # libusb outside Linux
                if device.is_kernel_driver_active(interface):
                    device.detach_kernel_driver(interface)
        if self._data.bAlternateSetting:
            device.set_interface_altsetting(
                self._data.bInterfaceNumber, self._data.bAlternateSetting
            )
        self._in: Any = _bulk(self._data, Direction.IN)
        self._out: Any = _bulk(self._data, Direction.OUT)
        self._notify = _endpoint(self._comm, usb.util.ENDPOINT_TYPE_INTR, Direction.IN)
        self._surplus = b""

    # --- the line ------------------------------------------------------------------------------

    def set_line_coding(self, coding: LineCoding | str) -> None:
        """SET_LINE_CODING; a text is such as ``115200 8N1``. Raises SchemeError for another."""
        if isinstance(coding, str):
            coding = LineCoding.from_text(coding)
        self._control(LineRequest.SET_LINE_CODING, data=coding.pack())

    def get_line_coding(self) -> LineCoding:
        """GET_LINE_CODING. Raises SchemeError where the answer is none."""
        data = self.device.ctrl_transfer(
            _IN, LineRequest.GET_LINE_CODING, 0, self._comm.bInterfaceNumber, LineCoding.SIZE
        )
        return LineCoding.parse(bytes(data))

    def set_control_line_state(self, *, dtr: bool, rts: bool) -> None:
        """SET_CONTROL_LINE_STATE."""
        self._control(LineRequest.SET_CONTROL_LINE_STATE, dtr | rts << 1)

    def send_break(self, milliseconds: int) -> None:
        """SEND_BREAK; `BREAK_ON` is until told otherwise, 0 ends it (PSTN 1.2 6.3.13)."""
        self._control(LineRequest.SEND_BREAK, milliseconds)

    def read_notification(self, timeout_ms: int = 1000) -> SerialState:
        """Wait for the next SERIAL_STATE. Raises USBTimeoutError when none came in time.

        Other notifications are passed over. ``timeout_ms`` 0 waits for ever.
        """
        if self._notify is None:
            raise ValueError("the device has no notification endpoint")
        deadline = time.monotonic() + timeout_ms / 1000 if timeout_ms else None
        size = _round_up(SERIAL_STATE_LENGTH, self._notify.wMaxPacketSize)
        while True:
            left_ms = 0 if deadline is None else max(_milliseconds_until(deadline), 1)
            data = bytes(self.device.read(self._notify, size, left_ms))
            with contextlib.suppress(RemoteProtocolError):  # another notification, or none
                return parse_serial_state(data[:SERIAL_STATE_LENGTH])

    # --- data ----------------------------------------------------------------------------------

    def write(self, data: Buffer, timeout_ms: int = 1000, *, zlp: bool = False) -> None:
        """Send all of ``data``. ``zlp`` ends it with a ZLP, which Linux's cdc-acm never does.

        Raises USBTimeoutError where the device did not take the next piece in time; the pieces
        before it stay sent.
        """
        view = memoryview(data).cast("B")
        step = _PACKETS_OF_A_WRITE * self._out.wMaxPacketSize
        for start in range(0, len(view), step):
            piece = array("B")
            piece.frombytes(view[start : start + step])
            self.device.write(self._out, piece, timeout_ms)
        if zlp:
            self.device.write(self._out, array("B"), timeout_ms)

    def read(self, size: int = 4096, timeout_ms: int = 1000) -> bytes:
        """What one transfer brings, at most ``size`` bytes; b"" when nothing came in time.

        The transfer has room for whole packets, so that the device cannot overflow it; bytes
        beyond ``size`` are kept for the next call. A ZLP ends a transfer and brings nothing: the
        next one is waited for. ``timeout_ms`` 0 waits for ever.
        """
        data = self._surplus
        room = _round_up(size, self._in.wMaxPacketSize)
        deadline = time.monotonic() + timeout_ms / 1000 if timeout_ms else None
        while not data:
            left_ms = 0 if deadline is None else max(_milliseconds_until(deadline), 1)
            try:
                data = self.device.read(self._in, room, left_ms).tobytes()
            except usb.core.USBTimeoutError:
                return b""
        self._surplus = data[size:]
        return data[:size]

    def _control(self, bRequest: int, wValue: int = 0, data: bytes | None = None) -> None:
        self.device.ctrl_transfer(_OUT, bRequest, wValue, self._comm.bInterfaceNumber, data)


def _find_interfaces(
    configuration: usb.core.Configuration, index: int
) -> tuple[usb.core.Interface, usb.core.Interface]:
    """The communications and the data interface.

    The union descriptor names the data interface. Without one it is the interface that has the
    bulk pair: of class CDC data, or the communications interface itself (as a FunctionFS gadget
    without functional descriptors has it, and Linux accepts).
    """
    interfaces = list(configuration)
    comms = [number for number, interface in enumerate(interfaces) if _is_acm(interface)]
    if index >= len(comms):
        lacks = f"only {len(comms)} interfaces" if comms else "no interface"
        raise ValueError(f"the device has {lacks} of class 02/02, CDC-ACM")
    comm = interfaces[comms[index]]
    wanted = _union_slave(comm.extra_descriptors)
    # Without a union it is the data interface that no other port stands before.
    own = interfaces[comms[index] :] if index else interfaces
    for data in own if wanted is None else interfaces:
        if wanted is None:
            fits = data.bInterfaceClass == UsbClass.CDC_DATA
        else:
            fits = data.bInterfaceNumber == wanted
        if fits and _has_pair(data):
            return comm, data
    if _has_pair(comm):
        return comm, comm
    raise ValueError(
        f"the CDC-ACM interface {comm.bInterfaceNumber} has no data interface with a bulk pair"
    )


def _is_acm(interface: usb.core.Interface) -> bool:
    return (interface.bInterfaceClass, interface.bInterfaceSubClass) == (
        UsbClass.COMMUNICATIONS,
        _ACM,
    )


def _union_slave(extra: list[int]) -> int | None:
    """bSlaveInterface0 of the union descriptor (CDC 1.2 5.2.3.2); None where there is none."""
    offset = 0
    while offset + 2 <= len(extra) and extra[offset] >= 2:
        descriptor = extra[offset : offset + extra[offset]]
        if len(descriptor) >= 5 and descriptor[1:3] == [DescriptorType.CS_INTERFACE, _UNION]:
            return descriptor[4]
        offset += extra[offset]
    return None


def _endpoint(
    interface: usb.core.Interface, transfer_type: int, direction: int
) -> usb.core.Endpoint | None:
    for endpoint in interface:
        kind = usb.util.endpoint_type(endpoint.bmAttributes)
        if kind == transfer_type and endpoint.bEndpointAddress & 0x80 == direction:
            return endpoint
    return None


def _bulk(interface: usb.core.Interface, direction: int) -> usb.core.Endpoint | None:
    return _endpoint(interface, usb.util.ENDPOINT_TYPE_BULK, direction)


def _has_pair(interface: usb.core.Interface) -> bool:
    return None not in (_bulk(interface, Direction.IN), _bulk(interface, Direction.OUT))


def _round_up(length: int, unit: int) -> int:
    return -(-length // unit) * unit


def _milliseconds_until(deadline: float) -> int:
    return int((deadline - time.monotonic()) * 1000)
