"""Initiator: the bulk pair and endpoint 0 of one bulk-only interface, with nothing done for you.

It works on a pyusb device of any backend. Data move packet by packet: so it is known how many
bytes came before a STALL, which pyusb does not tell of a longer transfer.
"""

from __future__ import annotations

import errno
from array import array
from dataclasses import dataclass
from typing import Final, NoReturn

import usb.core
import usb.util

from usbip_vudc.bot_check.findings import Silent, Violation
from usbip_vudc.errors import errno_name
from usbip_vudc.sglist import Buffer
from usbip_vudc.usb.bot import (
    BULK_ONLY,
    BULK_ONLY_MASS_STORAGE_RESET,
    GET_MAX_LUN,
    SCSI_TRANSPARENT,
)
from usbip_vudc.usb.ch9 import Direction, Feature, StandardRequest, UsbClass

__all__ = ("Initiator", "Moved", "bulk_only_interface")

IN, OUT = Direction.IN, Direction.OUT

_CLASS: Final = (UsbClass.MASS_STORAGE, SCSI_TRANSPARENT, BULK_ONLY)
"""bInterfaceClass, SubClass and Protocol (BOT 4.3)."""

_GONE: Final = frozenset((errno.ENODEV, errno.ESHUTDOWN))


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of a stage: ``count`` bytes that moved, the ``data`` that came, and a STALL."""

    count: int
    data: bytes = b""
    stalled: bool = False


class Initiator:
    """A host of one bulk-only interface, which it has claimed. ``timeout`` in seconds is for all.

    ``packet`` is the maxpacket of both bulk endpoints in bytes. Its methods raise Silent where
    the device neither answers nor STALLs, Violation where it does what no device may, and
    usb.core.USBError with errno 19 where it is gone. Raises ValueError where there is no such
    interface.
    """

    def __init__(self, device: usb.core.Device, *, timeout: float = 5.0) -> None:
        found = bulk_only_interface(device)
        if found is None:
            raise ValueError("no interface of class 08/06/50, SCSI over bulk-only")
        self.device = device
        self.interface: int = found.bInterfaceNumber
        self.packet = 0
        self._timeout_ms = max(round(timeout * 1000), 1)
        self._addresses: dict[Direction, int] = {}
        for endpoint in found:
            if usb.util.endpoint_type(endpoint.bmAttributes) == usb.util.ENDPOINT_TYPE_BULK:
                direction = Direction(endpoint.bEndpointAddress & IN)
                self._addresses[direction] = endpoint.bEndpointAddress
                self.packet = max(self.packet, endpoint.wMaxPacketSize)
        if len(self._addresses) != len(Direction):
            raise ValueError(f"interface {self.interface} has no bulk pair (BOT 4.4)")

    # --- bulk ----------------------------------------------------------------------------------

    def send(self, data: Buffer) -> Moved:
        """Send on bulk OUT, until all has gone or the device STALLs."""
        view = memoryview(data).cast("B")
        sent = 0
        while True:
            piece = array("B", view[sent : sent + self.packet].tobytes())
            try:
                sent += self.device.write(self._addresses[OUT], piece, self._timeout_ms)
            except usb.core.USBError as error:
                self._stalled(error, OUT)
                return Moved(sent, stalled=True)
            if sent >= len(view):
                return Moved(sent)

    def receive(self, length: int) -> Moved:
        """Receive up to ``length`` bytes from bulk IN: until a short packet, or a STALL."""
        data = b""
        while len(data) < length:
            room = min(length - len(data), self.packet)
            try:
                piece = self.device.read(self._addresses[IN], room, self._timeout_ms).tobytes()
            except usb.core.USBError as error:
                self._stalled(error, IN)
                return Moved(len(data), data, stalled=True)
            data += piece
            if len(piece) < room:
                break
        return Moved(len(data), data)

    # --- halts and requests --------------------------------------------------------------------

    def halt(self, direction: Direction) -> None:
        """SET_FEATURE(ENDPOINT_HALT)."""
        self._endpoint_feature(StandardRequest.SET_FEATURE, direction)

    def clear_halt(self, direction: Direction) -> None:
        """CLEAR_FEATURE(ENDPOINT_HALT), through the backend: a host has a data toggle, too."""
        try:
            self.device.clear_halt(self._addresses[direction])
        except usb.core.USBError as error:
            self._refused(error, f"CLEAR_FEATURE(ENDPOINT_HALT) of bulk {direction.name}")

    def is_halted(self, direction: Direction) -> bool:
        """GET_STATUS of the endpoint."""
        what = f"GET_STATUS of bulk {direction.name}"
        status = self._control(
            0x82, StandardRequest.GET_STATUS, self._addresses[direction], 2, what
        )
        if status is None:
            raise Violation(f"{what}: STALL (USB 2.0 9.4.5)")
        return bool(status[:1] == b"\1")

    def reset(self) -> None:
        """Bulk-Only Mass Storage Reset alone (BOT 3.1)."""
        what = "Bulk-Only Mass Storage Reset"
        if self._control(0x21, BULK_ONLY_MASS_STORAGE_RESET, self.interface, 0, what) is None:
            raise Violation(f"{what}: STALL (BOT 3.1)")

    def reset_recovery(self) -> None:
        """The reset, then clear the halt of bulk IN, then of bulk OUT (BOT 5.3.4)."""
        self.reset()
        self.clear_halt(IN)
        self.clear_halt(OUT)

    def get_max_lun(self) -> bytes | None:
        """What Get Max LUN brings, None for a STALL (BOT 3.2)."""
        return self._control(0xA1, GET_MAX_LUN, self.interface, 1, "Get Max LUN")

    def _endpoint_feature(self, request: StandardRequest, direction: Direction) -> None:
        what = f"{request.name}(ENDPOINT_HALT) of bulk {direction.name}"
        address = self._addresses[direction]
        if self._control(0x02, request, address, 0, what, Feature.ENDPOINT_HALT) is None:
            raise Violation(f"{what}: STALL (USB 2.0 9.4.9)")

    def _control(
        self, kind: int, request: int, wIndex: int, length: int, what: str, wValue: int = 0
    ) -> bytes | None:
        """A control transfer: its data, b"" without, None for a STALL."""
        try:
            answer = self.device.ctrl_transfer(
                kind, request, wValue, wIndex, length or None, self._timeout_ms
            )
        except usb.core.USBError as error:
            if error.errno == errno.EPIPE:
                return None
            self._refused(error, what)
        return answer.tobytes() if length else b""

    # --- errors --------------------------------------------------------------------------------

    def _stalled(self, error: usb.core.USBError, direction: Direction) -> None:
        if error.errno != errno.EPIPE:
            self._refused(error, f"bulk {direction.name}")

    def _refused(self, error: usb.core.USBError, what: str) -> NoReturn:
        if error.errno in _GONE:
            raise error
        if error.errno == errno.ETIMEDOUT:
            seconds = self._timeout_ms / 1000
            raise Silent(f"{what}: neither an answer nor STALL for {seconds:g} s") from error
        raise Violation(f"{what}: {errno_name(error.errno or 0)}") from error


def bulk_only_interface(device: usb.core.Device) -> usb.core.Interface | None:
    """The interface that speaks SCSI over the bulk-only transport, None where there is none."""
    for interface in device.get_active_configuration():
        if (
            interface.bInterfaceClass,
            interface.bInterfaceSubClass,
            interface.bInterfaceProtocol,
        ) == _CLASS:
            return interface
    return None
