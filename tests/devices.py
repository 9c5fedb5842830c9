"""Small functions that the tests build gadgets of: a vendor loopback, and one that is scripted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import ClassVar

import anyio

from usbip_vudc.function import (
    AltSetting,
    ControlRequest,
    Endpoint,
    EndpointSpec,
    Function,
    InterfaceSpec,
)
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.sglist import Buffer
from usbip_vudc.usb.ch9 import Direction, Speed, TransferType

BULK_PAIR = (
    EndpointSpec.bulk_in("in"),
    EndpointSpec.bulk_out("out"),
)

Script = Callable[[Mapping[str, Endpoint]], Awaitable[None]]


class Scripted(Function):
    """A vendor interface with a bulk pair, whose life is the given coroutine function.

    Alternate setting 1 has an interrupt pair instead, unless ``alternates`` is 1, which is all
    that FunctionFS takes. Control 0x5b stores, 0x5c returns.
    """

    name: ClassVar[str] = "scripted"

    def __init__(self, script: Script | None = None, *, alternates: int = 2) -> None:
        self.script = script
        self.stored = b""
        self.lives = 0
        self.ended = 0
        self.requests: list[ControlRequest] = []
        interrupt = tuple(
            EndpointSpec(
                role=f"int-{way.name.lower()}",
                direction=way,
                transfer_type=TransferType.INTERRUPT,
                interval_ms=8,
            )
            for way in (Direction.IN, Direction.OUT)
        )
        self.interfaces = (
            InterfaceSpec(
                role="data",
                name="Scripted",
                bInterfaceClass=0xFF,
                alternates=(
                    AltSetting(endpoints=BULK_PAIR),
                    AltSetting(endpoints=interrupt),
                )[:alternates],
            ),
        )

    async def run(self, endpoints: Mapping[str, Endpoint]) -> None:
        self.lives += 1
        try:
            if self.script is None:
                await anyio.sleep_forever()
            else:
                await self.script(endpoints)
        finally:
            self.ended += 1

    def setup(self, request: ControlRequest) -> Buffer | None:
        self.requests.append(request)
        if request.setup.bRequest == 0x5B:
            self.stored = request.data
            return b""
        if request.setup.bRequest == 0x5C:
            return self.stored
        if request.setup.bRequest == 0xEE:
            raise RuntimeError("a bug in setup()")
        return None


async def echo(endpoints: Mapping[str, Endpoint]) -> None:
    """Send back each OUT transfer as it came."""
    buffer = bytearray(64 << 10)
    while True:
        actual = await endpoints["out"].submit(buffer)
        await endpoints["in"].submit(memoryview(buffer)[:actual])


def gadget(*functions: Function, max_speed: Speed = Speed.SUPER) -> Gadget:
    """A device of one configuration with strings."""
    return Gadget(
        name="test",
        idVendor=0x1D6B,
        idProduct=0x0104,
        manufacturer="Acme",
        product={0x0409: "Thing", 0x0407: "Ding"},
        serial="0042",
        max_speed=max_speed,
        configs=(Config(functions=functions, name="main"),),
    )
