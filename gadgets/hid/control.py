"""HidControl: what a HID interface answers on endpoint 0 (HID 1.11 7). Pure.

The device's reports have no report IDs, so the low byte of wValue must be 0. What a device of
this kind need not do (feature reports, physical descriptors, SET_DESCRIPTOR) stalls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from usbip_vudc.usb.ch9 import SetupPacket, StandardRequest
from usbip_vudc.usb.hid import (
    HidDescriptor,
    HidDescriptorType,
    HidProtocol,
    HidRequest,
    ReportType,
)

__all__ = ("HidControl",)

_Handler = Callable[[SetupPacket, bytes], "bytes | None"]

_IDLE_UNIT: Final = 0.004
"""Seconds of one step of the idle rate (HID 1.11 7.2.4)."""


class HidControl:
    """The control requests of one interface, and what they set.

    ``idle`` is the idle rate as the keyboard (500 ms) and the mouse (never) begin with, in steps
    of 4 ms. ``input_report`` gives the report as it is now, ``output_report`` takes one and says
    whether it could; both are of the report protocol. The other attributes are for reading.
    """

    def __init__(
        self,
        report_descriptor: bytes,
        *,
        idle: int,
        input_report: Callable[[], bytes],
        output_report: Callable[[bytes], bool],
        bCountryCode: int = 0,
    ) -> None:
        self.descriptor = HidDescriptor(len(report_descriptor), bCountryCode)
        self.protocol = HidProtocol.REPORT
        self.output = b""
        self._report_descriptor = report_descriptor
        self._first_idle = self._idle = idle
        self._input_report = input_report
        self._output_report = output_report
        self._handlers: Mapping[tuple[int, int], _Handler] = {
            (0x81, StandardRequest.GET_DESCRIPTOR): self._get_descriptor,
            (0xA1, HidRequest.GET_REPORT): self._get_report,
            (0xA1, HidRequest.GET_IDLE): self._get_idle,
            (0xA1, HidRequest.GET_PROTOCOL): self._get_protocol,
            (0x21, HidRequest.SET_REPORT): self._set_report,
            (0x21, HidRequest.SET_IDLE): self._set_idle,
            (0x21, HidRequest.SET_PROTOCOL): self._set_protocol,
        }

    @property
    def idle_seconds(self) -> float | None:
        """After how long without a change the same report is sent again; None for never."""
        return self._idle * _IDLE_UNIT or None

    def reset(self) -> None:
        """A configuration is over; the next has the report protocol (HID 1.11 7.2.6) again."""
        self.protocol = HidProtocol.REPORT
        self._idle = self._first_idle
        self.output = b""

    def handle(self, setup: SetupPacket, data: bytes) -> bytes | None:
        """The data stage of the answer, b"" to acknowledge, None to stall."""
        handler = self._handlers.get((setup.bmRequestType, setup.bRequest))
        return handler(setup, data) if handler is not None else None

    def _get_descriptor(self, setup: SetupPacket, _data: bytes) -> bytes | None:
        if setup.wValue == HidDescriptorType.HID << 8:
            return self.descriptor.pack({})
        return self._report_descriptor if setup.wValue == HidDescriptorType.REPORT << 8 else None

    def _get_report(self, setup: SetupPacket, _data: bytes) -> bytes | None:
        if setup.wValue == ReportType.INPUT << 8:
            return self._input_report()
        if setup.wValue == ReportType.OUTPUT << 8:
            return self.output or None
        return None

    def _set_report(self, setup: SetupPacket, data: bytes) -> bytes | None:
        # HID 1.11 7.2.2: a device may find input reports from the host meaningless; ours does.
        if setup.wValue != ReportType.OUTPUT << 8 or not self._output_report(data):
            return None
        self.output = data
        return b""

    def _get_idle(self, setup: SetupPacket, _data: bytes) -> bytes | None:
        return bytes((self._idle,)) if not setup.wValue else None

    def _set_idle(self, setup: SetupPacket, _data: bytes) -> bytes | None:
        if setup.wValue & 0xFF or setup.wLength:
            return None
        self._idle = setup.wValue >> 8
        return b""

    def _get_protocol(self, _setup: SetupPacket, _data: bytes) -> bytes | None:
        return bytes((self.protocol,))

    def _set_protocol(self, setup: SetupPacket, _data: bytes) -> bytes | None:
        if setup.wValue > 1 or setup.wLength:
            return None
        self.protocol = HidProtocol(setup.wValue)
        return b""
