"""A function with isochronous endpoints, and hosts that have it in alternate setting 1."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import ClassVar

import anyio

from tests.devices import gadget
from usbip_vudc.exportable import Export
from usbip_vudc.function import (
    AltSetting,
    Endpoint,
    EndpointSpec,
    Function,
    InterfaceSpec,
    Request,
)
from usbip_vudc.gadget import Gadget
from usbip_vudc.host.blocking import BlockingHost
from usbip_vudc.host.client import Host
from usbip_vudc.host.enumeration import set_configuration, set_interface
from usbip_vudc.injection import Plan, injected
from usbip_vudc.proxy.export import InjectedExport
from usbip_vudc.server import Server
from usbip_vudc.serving import serving_udcs
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.vudc import UserspaceUDC

__all__ = ("IN", "OUT", "PACKET", "Iso", "Loopback", "blocking", "iso_gadget", "plugged")

IN, OUT = 0x81, 0x01
PACKET = 192
"""Bytes of one service interval."""

SIZES = {Speed.FULL: PACKET, Speed.HIGH: PACKET, Speed.SUPER: PACKET}


class Iso(Function):
    """Offers the given packets in order, and keeps what comes. Alternate setting 0 has nothing."""

    name: ClassVar[str] = "iso"

    def __init__(self, *packets: bytes, room: int = PACKET) -> None:
        self.packets = packets
        self.room = room
        self.taken: list[bytes] = []
        self.errors: list[str] = []
        endpoints = (
            EndpointSpec.iso_in("mic", max_packet_size=SIZES),
            EndpointSpec.iso_out("speaker", max_packet_size=SIZES),
        )
        self.interfaces = (
            InterfaceSpec(
                role="stream",
                bInterfaceClass=0xFF,
                alternates=(AltSetting(), AltSetting(endpoints=endpoints)),
            ),
        )

    async def run(self, endpoints: Mapping[str, Endpoint]) -> None:
        if endpoints:
            for packet in self.packets:
                endpoints["mic"].queue(Request(packet))
            for _ in range(4):
                self.listen(endpoints)
        await anyio.sleep_forever()

    def listen(self, endpoints: Mapping[str, Endpoint]) -> None:
        """Wait for one more packet of the host, and so on."""

        def ended(request: Request) -> None:
            if request.error is not None:
                self.errors.append(type(request.error).__name__)
            if type(request.error).__name__ in ("NoneType", "Overflow"):
                self.took(endpoints, request.sg.gather()[: request.actual])
                endpoints["speaker"].queue(request)

        endpoints["speaker"].queue(Request(bytearray(self.room), on_complete=ended))

    def took(self, endpoints: Mapping[str, Endpoint], packet: bytes) -> None:  # noqa: ARG002
        """A packet has come."""
        self.taken.append(packet)


class Loopback(Iso):
    """Sends every packet back."""

    def took(self, endpoints: Mapping[str, Endpoint], packet: bytes) -> None:
        super().took(endpoints, packet)
        endpoints["mic"].queue(Request(packet))


def iso_gadget(function: Function) -> Gadget:
    """A gadget of it."""
    return replace(gadget(function), name="iso")


@asynccontextmanager
async def plugged(
    function: Function, speed: Speed = Speed.HIGH, *, pace: bool = False, plan: str = ""
) -> AsyncIterator[Host]:
    """The async host of it, on the event loop that runs, behind the plan for function and cable."""
    made = Plan.parse(plan) if plan else Plan(())
    udc = UserspaceUDC(injected(iso_gadget(function), made), speed=speed, pace=pace)
    export = InjectedExport(Export(1, udc), made)
    async with anyio.create_task_group() as tasks:
        _, port = await tasks.start(Server((export,)).serve, "127.0.0.1", 0)
        async with Host.connect("127.0.0.1", port, "1-1") as host:
            await host.control(set_configuration(1))
            await host.control(set_interface(0, 1))
            yield host
        tasks.cancel_scope.cancel()


@contextmanager
def blocking(function: Function, speed: Speed = Speed.HIGH) -> Iterator[BlockingHost]:
    """The blocking host of it."""
    with (
        serving_udcs(UserspaceUDC(iso_gadget(function), speed=speed)) as port,
        BlockingHost("127.0.0.1", port, "1-1") as host,
    ):
        host.control(set_configuration(1))
        host.control(set_interface(0, 1))
        yield host
