"""PyusbTestFunction: the device that PyUSB's integration tests look for, as 04d8:fa2e.

It behaves as Microchip's benchmark firmware does there: three alternate settings of one pair of
endpoints each (bulk, interrupt, isochronous) that send back what they get, and vendor requests
that pick the test type and keep a buffer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

import anyio

from gadgets.pyusb_test.traffic import Traffic, TrafficType
from usbip_vudc.function import (
    AltSetting,
    ControlRequest,
    Endpoint,
    EndpointSpec,
    Function,
    InterfaceSpec,
)
from usbip_vudc.sglist import Buffer
from usbip_vudc.usb.ch9 import Direction, Speed

__all__ = ("GET_BUFFER", "SET_BUFFER", "SET_TEST", "PyusbTestFunction")

SET_TEST: Final = (0x0E, 0x0F)
"""To the interface, wValue the test type. PyUSB's tests know the request by both numbers."""
SET_BUFFER: Final = 0x10
GET_BUFFER: Final = 0x11
"""To the device: store bytes, give them back."""

_VENDOR_OUT: Final = 0x40
_VENDOR_IN: Final = 0xC0
_VENDOR_INTERFACE_OUT: Final = 0x41

_BUFFER_SIZE: Final = 64
"""Bytes that SET_BUFFER takes; PyUSB's tests store 8."""


def _packets(size: int) -> Mapping[Speed, int]:
    return {Speed.FULL: size}


_SETTINGS: Final = (
    (
        EndpointSpec.bulk_out("bulk-out", number=1, max_packet_size=_packets(16)),
        EndpointSpec.bulk_in("bulk-in", number=1, max_packet_size=_packets(16)),
    ),
    (
        EndpointSpec.interrupt_out(
            "int-out", interval_ms=1, number=2, max_packet_size=_packets(16)
        ),
        EndpointSpec.interrupt_in("int-in", interval_ms=1, number=2, max_packet_size=_packets(16)),
    ),
    (
        EndpointSpec.iso_out("iso-out", interval_ms=1, number=3, max_packet_size=_packets(64)),
        EndpointSpec.iso_in("iso-in", interval_ms=1, number=3, max_packet_size=_packets(64)),
    ),
)


class PyusbTestFunction(Function):
    """Loopbacks of three transfer types; ``test_type`` is what it powers up with.

    A host that selects another alternate setting, or another test type, starts with empty hands:
    what it did not read before is gone.
    """

    name: ClassVar[str] = "pyusb_test"
    interfaces: Sequence[InterfaceSpec] = (
        InterfaceSpec(
            role="benchmark",
            bInterfaceClass=0,
            alternates=tuple(AltSetting(endpoints=endpoints) for endpoints in _SETTINGS),
        ),
    )

    def __init__(self, *, test_type: TrafficType = TrafficType.LOOP) -> None:
        self.test_type = test_type
        self._selected = test_type
        self._buffer = bytes(8)
        self._pair: dict[Direction, Endpoint] = {}
        self._traffic: Traffic | None = None

    async def run(self, endpoints: Mapping[str, Endpoint]) -> None:
        """Move what the test type says until the setting is over."""
        self._pair = {endpoint.direction: endpoint for endpoint in endpoints.values()}
        self._begin()
        try:
            await anyio.sleep_forever()
        finally:
            self._pair, self._traffic = {}, None

    def setup(self, request: ControlRequest) -> Buffer | None:
        """Pick a test type, store bytes or give them back."""
        setup = request.setup
        if setup.bmRequestType == _VENDOR_INTERFACE_OUT and setup.bRequest in SET_TEST:
            if setup.wValue not in tuple(TrafficType) or setup.wLength:
                return None
            self._selected = TrafficType(setup.wValue)
            self._begin()
            return b""
        if (setup.bmRequestType, setup.bRequest) == (_VENDOR_OUT, SET_BUFFER):
            if setup.wLength > _BUFFER_SIZE:
                return None
            self._buffer = bytes(request.data)
            return b""
        if (setup.bmRequestType, setup.bRequest) == (_VENDOR_IN, GET_BUFFER):
            return self._buffer
        return None

    def _begin(self) -> None:
        if self._traffic is not None:
            self._traffic.stop()
        if self._pair:
            traffic = Traffic(self._selected, self._pair[Direction.IN], self._pair[Direction.OUT])
            self._traffic = traffic
            traffic.start()
