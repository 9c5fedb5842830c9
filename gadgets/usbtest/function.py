"""SourceSinkFunction: what usbtest asks of a device, as the kernel's f_sourcesink and g_zero do it.

IN endpoints send without end, OUT endpoints take everything, and vendor requests 0x5b and 0x5c
on endpoint 0 store bytes and give them back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

import anyio

from gadgets.usbtest.pattern import PATTERNS, ZEROS
from gadgets.usbtest.streams import Sink, Source
from usbip_vudc.errors import SchemeError
from usbip_vudc.function import (
    AltSetting,
    ControlRequest,
    Endpoint,
    EndpointSpec,
    Function,
    InterfaceSpec,
)
from usbip_vudc.sglist import Buffer
from usbip_vudc.usb.ch9 import Direction, Speed, UsbClass

__all__ = ("CONTROL_READ", "CONTROL_SIZE", "CONTROL_WRITE", "LAYOUTS", "SourceSinkFunction")

CONTROL_WRITE: Final = 0x5B
CONTROL_READ: Final = 0x5C
"""The vendor requests of Intel's USB 2.0 compliance device: write a buffer, read it back."""

CONTROL_SIZE: Final = 4096
"""Bytes that 0x5b may store, as in the kernel's gadgets."""

_VENDOR_OUT: Final = 0x40
_VENDOR_IN: Final = 0xC0

_ISO_SIZE: Final = {Speed.FULL: 512, Speed.HIGH: 1024, Speed.SUPER: 1024}
"""At full speed less than it could be: with 1023 bytes each way a frame would be overfull."""

_BULK: Final = (EndpointSpec.bulk_in("bulk-in"), EndpointSpec.bulk_out("bulk-out"))
_INTERRUPT: Final = (
    EndpointSpec.interrupt_in("int-in", interval_ms=1),
    EndpointSpec.interrupt_out("int-out", interval_ms=1),
)
_SIX: Final = (
    EndpointSpec.bulk_in("bulk-in", number=1),
    EndpointSpec.bulk_out("bulk-out", number=1),
    EndpointSpec.interrupt_in("int-in", interval_ms=1, number=2),
    EndpointSpec.interrupt_out("int-out", interval_ms=1, number=2),
    EndpointSpec.iso_in("iso-in", interval_ms=1, max_packet_size=_ISO_SIZE, number=3),
    EndpointSpec.iso_out("iso-out", interval_ms=1, max_packet_size=_ISO_SIZE, number=3),
)
# At low speed usbtest looks at no descriptor: it takes endpoints 2 of setting 1 as interrupt
# ones. USB 2.0 5.7.4: a low-speed endpoint is polled every 10 ms or less often.
_LOW: Final = (
    EndpointSpec.interrupt_in("int-in", interval_ms=10, number=2),
    EndpointSpec.interrupt_out("int-out", interval_ms=10, number=2),
)


def _interface(*settings: tuple[EndpointSpec, ...]) -> tuple[InterfaceSpec, ...]:
    return (
        InterfaceSpec(
            role="data",
            name="source and sink data",
            bInterfaceClass=UsbClass.VENDOR_SPECIFIC,
            alternates=tuple(AltSetting(endpoints=endpoints) for endpoints in settings),
        ),
    )


LAYOUTS: Final[Mapping[str, tuple[Sequence[InterfaceSpec], Sequence[InterfaceSpec] | None]]] = {
    # usbtest takes the first setting with a bulk pair, or with any other endpoint that it can
    # use, and no endpoint of another: all six must be in one. USB 2.0 5.6.3: setting 0 must not
    # hold bandwidth of an isochronous endpoint.
    "all": (_interface((), _SIX), _interface((*_BULK, *_INTERRUPT))),
    "bulk": (_interface(_BULK), None),
    "interrupt": (_interface((), _LOW), None),
}
"""The interfaces by word, and their form for a controller that knows one setting only."""


class SourceSinkFunction(Function):
    """Sources and sinks of ``pattern`` on the endpoints of a layout.

    ``endpoints``: "all" is bulk, interrupt and isochronous pairs in setting 1 of two (a bulk and
    an interrupt pair on FunctionFS), "bulk" a bulk pair, "interrupt" what usbtest uses at low
    speed. Each endpoint has ``qlen`` requests of ``buflen`` bytes queued, rounded up to packets.
    """

    name: ClassVar[str] = "source_sink"
    device_requests: ClassVar[bool] = True

    def __init__(
        self,
        *,
        endpoints: str = "all",
        pattern: int = ZEROS,
        buflen: int = 16 << 10,
        qlen: int = 16,
    ) -> None:
        if endpoints not in LAYOUTS:
            raise SchemeError(f"endpoints {endpoints!r}: expected one of {', '.join(LAYOUTS)}")
        if pattern not in PATTERNS:
            raise SchemeError(f"pattern {pattern}: expected 0, 1 or 2")
        if buflen < 1 or qlen < 1:
            raise SchemeError(f"buflen {buflen}, qlen {qlen}: expected at least 1")
        self.interfaces, self.plain_interfaces = LAYOUTS[endpoints]
        self.endpoints = endpoints
        self.pattern = pattern
        self.buflen = buflen
        self.qlen = qlen
        self._stored = bytearray(CONTROL_SIZE)

    async def run(self, endpoints: Mapping[str, Endpoint]) -> None:
        """Keep the endpoints of this setting busy until it is over."""
        for endpoint in endpoints.values():
            kind = Source if endpoint.direction == Direction.IN else Sink
            kind(endpoint, self.pattern, buflen=self.buflen, qlen=self.qlen).start()
        await anyio.sleep_forever()

    def setup(self, request: ControlRequest) -> Buffer | None:
        """Store bytes, or give back what was stored; wValue and wIndex must be 0."""
        setup = request.setup
        if setup.wValue or setup.wIndex or setup.wLength > CONTROL_SIZE:
            return None
        if (setup.bmRequestType, setup.bRequest) == (_VENDOR_OUT, CONTROL_WRITE):
            self._stored[: len(request.data)] = request.data
            return b""
        if (setup.bmRequestType, setup.bRequest) == (_VENDOR_IN, CONTROL_READ):
            return bytes(self._stored[: setup.wLength])
        return None
