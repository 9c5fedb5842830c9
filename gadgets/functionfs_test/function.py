"""FunctionFSTestFunction: what python-functionfs's own test device does, on every UDC.

Bulk pairs, each IN endpoint an endless stream and each OUT endpoint a sink that looks at one
byte; a vendor request that echoes and one that always stalls.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

import anyio

from usbip_vudc.errors import Overflow, SchemeError
from usbip_vudc.function import (
    AltSetting,
    ControlRequest,
    Endpoint,
    EndpointSpec,
    Function,
    InterfaceSpec,
    Request,
)
from usbip_vudc.sglist import Buffer, SGList
from usbip_vudc.usb.ch9 import Direction, RequestType, SetupPacket, UsbClass

__all__ = ("BUFFER_SIZE", "ECHO", "INTERFACE_NAME", "MAX_PAIRS", "STALL", "FunctionFSTestFunction")

INTERFACE_NAME: Final = "FunctionFSTestDevice"
ECHO: Final = 1
"""Vendor request to the interface: OUT stores bytes, IN gives them back."""
STALL: Final = 2
"""And one that has no answer, in either direction; nor has any other."""

MAX_PAIRS: Final = 15
BUFFER_SIZE: Final = 1 << 20
"""Bytes of each transfer of the device, both ways."""

_DEPTH: Final = 2
"""Requests queued on each endpoint: one that moves, and one so that no NAK comes between them."""


class FunctionFSTestFunction(Function):
    """``pairs`` bulk pairs, 1 to 15; a kernel's UDC has fewer endpoints (3 pairs fit each).

    An IN endpoint sends buffers of 1 MiB of zeros whose first byte is its address. An OUT
    endpoint is halted where the first byte of a buffer is not its address: a buffer is over when
    it is full, or with a short packet.
    """

    name: ClassVar[str] = "functionfs_test"

    def __init__(self, *, pairs: int = MAX_PAIRS) -> None:
        if not 1 <= pairs <= MAX_PAIRS:
            raise SchemeError(f"pairs {pairs}: expected 1 to {MAX_PAIRS}")
        self.pairs = pairs
        endpoints = tuple(
            spec
            for n in range(1, pairs + 1)
            for spec in (EndpointSpec.bulk_in(f"in{n}"), EndpointSpec.bulk_out(f"out{n}"))
        )
        self.interfaces = (
            InterfaceSpec(
                role="test",
                name=INTERFACE_NAME,
                bInterfaceClass=UsbClass.VENDOR_SPECIFIC,
                alternates=(AltSetting(endpoints=endpoints),),
            ),
        )
        self._echo = b"NOT SET"

    async def run(self, endpoints: Mapping[str, Endpoint]) -> None:
        """Keep every endpoint busy until the configuration is over."""
        for endpoint in endpoints.values():
            (_stream if endpoint.direction == Direction.IN else _check)(endpoint)
        await anyio.sleep_forever()

    def refuses(self, setup: SetupPacket) -> bool:
        """Every request but the echo."""
        return (setup.type, setup.bRequest) != (RequestType.VENDOR, ECHO)

    def setup(self, request: ControlRequest) -> Buffer | None:
        """Echo; what else there is stalls."""
        setup = request.setup
        if request.interface is None or self.refuses(setup):
            return None
        if setup.direction == Direction.IN:
            return self._echo
        if request.data:
            self._echo = bytes(request.data)
        return b""


def _stream(endpoint: Endpoint) -> None:
    """Send the same buffer again and again: it never changes, so requests can share it."""
    memory = bytearray(BUFFER_SIZE)
    memory[0] = endpoint.address
    data = SGList(memory)
    for _ in range(_DEPTH):
        endpoint.queue(Request(data, on_complete=lambda request: _go_on(endpoint, request)))


def _check(endpoint: Endpoint) -> None:
    """Take everything, and halt where a buffer does not begin with the endpoint's address."""
    for _ in range(_DEPTH):
        room = memoryview(bytearray(BUFFER_SIZE))

        def came(request: Request, room: memoryview = room) -> None:
            if request.error is None and request.actual and room[0] != endpoint.address:
                endpoint.halt()
            _go_on(endpoint, request)

        endpoint.queue(Request(room, on_complete=came))


def _go_on(endpoint: Endpoint, request: Request) -> None:
    if request.error is None or isinstance(request.error, Overflow):
        endpoint.queue(request)
