"""FfsTestFunction: the descriptors and the data of tools/usb/ffs-test.c, on every UDC.

One thing differs: where a byte from the host is not of the pattern, that program stops reading
for good, and this one halts the endpoint, as the kernel's f_sourcesink does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

import anyio

from gadgets.usbtest.pattern import ANYTHING, MOD63, ZEROS
from gadgets.usbtest.streams import Sink, Source
from usbip_vudc.errors import SchemeError
from usbip_vudc.function import AltSetting, Endpoint, EndpointSpec, Function, InterfaceSpec
from usbip_vudc.usb.ch9 import Speed, UsbClass

__all__ = ("BUFFER_SIZE", "PATTERNS", "FfsTestFunction")

BUFFER_SIZE: Final = 8 << 10
"""Bytes of each read and write of that program."""

PATTERNS: Final = {"zero": ZEROS, "mod63": MOD63, "none": ANYTHING}
"""Patterns by word. mod63 counts from the beginning of a buffer, not of a packet."""

_DEPTH: Final = 2
"""Requests queued on each endpoint: one that moves, and one so that no NAK comes between them."""


class FfsTestFunction(Function):
    """Endpoint 1 IN is a source of ``pattern``, endpoint 2 OUT a sink that expects it.

    ``pattern`` is "zero", "mod63" (byte ``i`` of a buffer is ``i % 63``), or "none": zeros are
    sent and anything is taken.
    """

    name: ClassVar[str] = "ffs_test"
    interfaces: Sequence[InterfaceSpec] = (
        InterfaceSpec(
            role="data",
            name="Source/Sink",
            bInterfaceClass=UsbClass.VENDOR_SPECIFIC,
            alternates=(
                AltSetting(
                    endpoints=(
                        EndpointSpec.bulk_in("in", number=1),
                        EndpointSpec.bulk_out(
                            "out", number=2, bInterval={Speed.HIGH: 1, Speed.SUPER: 1}
                        ),
                    )
                ),
            ),
        ),
    )

    def __init__(self, *, pattern: str = "zero") -> None:
        if pattern not in PATTERNS:
            raise SchemeError(f"pattern {pattern!r}: expected one of {', '.join(PATTERNS)}")
        self.pattern = pattern

    async def run(self, endpoints: Mapping[str, Endpoint]) -> None:
        """Keep both endpoints busy until the configuration is over."""
        pattern = PATTERNS[self.pattern]
        for kind, role in ((Source, "in"), (Sink, "out")):
            kind(
                endpoints[role], pattern, buflen=BUFFER_SIZE, qlen=_DEPTH, period=BUFFER_SIZE
            ).start()
        await anyio.sleep_forever()
