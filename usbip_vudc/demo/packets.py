"""PacketFunction: an interrupt pair that does with packets what its host asks for on endpoint 0.

It is how the demo shows what becomes of each kind of packet at a maxpacket of 8; `PacketHost` is
the host of it. It stands for no real device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

import anyio
import usb.core

from usbip_vudc.errors import LocalProtocolError, Overflow
from usbip_vudc.function import (
    AltSetting,
    ControlRequest,
    Endpoint,
    EndpointSpec,
    Function,
    InterfaceSpec,
    Request,
)
from usbip_vudc.usb.ch9 import UsbClass

__all__ = ("PacketFunction", "PacketHost", "pattern")

_SEND, _HALT, _RECEIVE, _RECEIVED = range(1, 5)
"""bRequest: queue wValue bytes to the host (wIndex bit 8: and a ZLP), halt, queue room for wValue
bytes from it, and what came of that."""

_ZLP: Final = 0x0100
_OVER: Final = 0x8000
"""The bit of the answer to _RECEIVED that says that the host sent too much."""

_TIMEOUT_MS: Final = 5_000


def pattern(length: int) -> bytes:
    """What is sent both ways."""
    return bytes(i % 63 for i in range(length))


class PacketFunction(Function):
    """One interface of an interrupt pair, "in" and "out"."""

    name: ClassVar[str] = "packets"
    interfaces: Sequence[InterfaceSpec] = (
        InterfaceSpec(
            role="packets",
            bInterfaceClass=UsbClass.VENDOR_SPECIFIC,
            alternates=(
                AltSetting(
                    endpoints=(EndpointSpec.interrupt_in("in"), EndpointSpec.interrupt_out("out"))
                ),
            ),
        ),
    )

    def __init__(self) -> None:
        self._endpoints: Mapping[str, Endpoint] = {}
        self._received = Request(b"")

    async def run(self, endpoints: Mapping[str, Endpoint]) -> None:
        """Say that it runs, by one byte; the rest is done as it is asked for."""
        self._endpoints = endpoints
        endpoints["in"].queue(Request(pattern(1)))
        try:
            await anyio.sleep_forever()
        finally:
            self._endpoints = {}

    def setup(self, request: ControlRequest) -> bytes | None:
        """Do one thing."""
        setup = request.setup
        if request.interface is None or not self._endpoints:
            return None
        if setup.bRequest == _SEND:
            data = pattern(setup.wValue)
            self._endpoints["in"].queue(Request(data, zero=bool(setup.wIndex & _ZLP)))
        elif setup.bRequest == _HALT:
            try:
                self._endpoints["in"].halt()
            except LocalProtocolError:
                return None  # under a plan something may yet wait to be sent
        elif setup.bRequest == _RECEIVE:
            self._received = self._endpoints["out"].queue(Request(bytearray(setup.wValue)))
        elif setup.bRequest == _RECEIVED:
            done = self._received
            over = _OVER if isinstance(done.error, Overflow) else 0
            return (done.actual | over).to_bytes(2, "little") if done.done else b""
        else:
            return None
        return b""


class PacketHost:
    """The host of a PacketFunction that is the only function of its device."""

    def __init__(self, device: usb.core.Device) -> None:
        self._device = device
        self._in, self._out = device.get_active_configuration()[0, 0]
        self.read(1)

    def queue(self, length: int, *, zlp: bool = False) -> None:
        """Let the device send so many bytes, and a ZLP behind them."""
        self._ask(_SEND, length, _ZLP if zlp else 0)

    def halt(self) -> None:
        """Let the device halt its IN endpoint."""
        self._ask(_HALT)

    def clear_halt(self) -> None:
        """CLEAR_FEATURE(ENDPOINT_HALT)."""
        self._device.clear_halt(self._in.bEndpointAddress)

    def room(self, length: int) -> None:
        """Let the device have room for so many bytes."""
        self._ask(_RECEIVE, length)

    def read(self, length: int, timeout_ms: int = _TIMEOUT_MS) -> bytes:
        """One URB of so many bytes. Raises USBError."""
        return bytes(self._in.read(length, timeout_ms))

    def write(self, length: int) -> int:
        """One URB with so many bytes; how many went. Raises USBError."""
        return int(self._out.write(pattern(length), _TIMEOUT_MS))

    def received(self) -> str:
        """What came of the last `room`, in words."""
        answer = bytes(self._device.ctrl_transfer(0xC1, _RECEIVED, 0, 0, 2, _TIMEOUT_MS))
        if not answer:
            return "still waits"
        number = int.from_bytes(answer, "little")
        return f"{number & ~_OVER} bytes{', overflow' if number & _OVER else ''}"

    def _ask(self, bRequest: int, wValue: int = 0, flags: int = 0) -> None:
        self._device.ctrl_transfer(0x41, bRequest, wValue, flags, None, _TIMEOUT_MS)
