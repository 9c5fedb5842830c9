"""A host at one end of a socket, a serial function at the other: what its tests share."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from gadgets.serial.function import SerialFunction
from tests.devices import gadget
from usbip_vudc.host.client import Host
from usbip_vudc.server import Server
from usbip_vudc.urb import HostUrb
from usbip_vudc.usb.ch9 import SetupPacket, Speed
from usbip_vudc.vudc import UserspaceUDC

NOTIFY, IN, OUT = 0x81, 0x82, 0x01
SET_CONFIGURATION = SetupPacket(0x00, 9, 1, 0, 0)
SET_LINE_CODING = SetupPacket(0x21, 0x20, 0, 0, 7)
GET_LINE_CODING = SetupPacket(0xA1, 0x21, 0, 0, 7)


def control_lines(wValue: int) -> SetupPacket:
    return SetupPacket(0x21, 0x22, wValue, 0, 0)


@asynccontextmanager
async def exported(*functions: SerialFunction, speed: Speed = Speed.HIGH) -> AsyncIterator[int]:
    """The port of a server that offers one device."""
    udc = UserspaceUDC(gadget(*functions), speed=speed)
    async with anyio.create_task_group() as tasks:
        with anyio.fail_after(50):
            _, port = await tasks.start(Server([udc]).serve, "127.0.0.1", 0)
            yield port
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def attached(port: int) -> AsyncIterator[Host]:
    """The device, configured."""
    async with Host.connect("127.0.0.1", port, "1-1") as host:
        await host.control(SET_CONFIGURATION)
        yield host


@asynccontextmanager
async def plugged(function: SerialFunction, speed: Speed = Speed.HIGH) -> AsyncIterator[Host]:
    async with exported(function, speed=speed) as port, attached(port) as host:
        await function.wait_connected()
        yield host


async def write(host: Host, data: bytes | memoryview, timeout: float | None = 5) -> int:
    """One URB, with no ZLP behind it, as cdc-acm writes."""
    return await host.transfer(HostUrb(OUT, data), timeout)


async def read(host: Host, length: int = 4096, timeout: float = 5, endpoint: int = IN) -> bytes:
    """One URB: what came in it."""
    buffer = bytearray(length)
    return bytes(buffer[: await host.transfer(HostUrb(endpoint, buffer), timeout)])


async def read_all(host: Host, length: int, urb_length: int = 65536) -> bytes:
    data = bytearray()
    while len(data) < length:
        data += await read(host, urb_length)
    return bytes(data)


def noise(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)
