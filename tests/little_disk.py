"""A disk that keeps the bulk-only transport and shares nothing with ours, to be spoiled by tests.

Each of its methods is one decision; tests/test_bot_check.py overrides one, and a check must see it.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Mapping
from typing import ClassVar

import anyio

from tests.devices import BULK_PAIR
from usbip_vudc.errors import RequestWithdrawn
from usbip_vudc.function import (
    AltSetting,
    ControlRequest,
    Endpoint,
    Function,
    InterfaceSpec,
    Request,
)
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.sglist import Buffer

__all__ = ("BLOCK", "BLOCKS", "LittleDisk", "gadget_of")

BLOCK, BLOCKS = 512, 64
INQUIRY = bytes.fromhex("008005021f000000") + b"Little  Disk            1.00"


class LittleDisk(Function):
    """One unit of 64 blocks in memory. ``armed`` is set once a tester has prepared itself."""

    armed = False
    name: ClassVar[str] = "little"
    interfaces = (
        InterfaceSpec(
            role="msc",
            bInterfaceClass=8,
            bInterfaceSubClass=6,
            bInterfaceProtocol=0x50,
            alternates=(AltSetting(endpoints=BULK_PAIR),),
        ),
    )

    def __init__(self) -> None:
        self.medium = bytearray(bytes(n % 251 for n in range(BLOCK * BLOCKS)))
        self.moving: tuple[Endpoint, Request] | None = None
        self.until_reset: anyio.CancelScope | None = None

    async def run(self, endpoints: Mapping[str, Endpoint]) -> None:
        self.bulk_in, self.bulk_out = endpoints["in"], endpoints["out"]
        while True:
            with contextlib.suppress(RequestWithdrawn):
                while True:
                    await self.serve()

    async def move(self, endpoint: Endpoint, data: bytes | bytearray) -> int:
        """Queue a request and wait for its end, which may be the reset."""
        request = Request(data)
        self.moving = endpoint, request
        return await endpoint.submit(request)

    async def stay_refused(self) -> None:
        with anyio.CancelScope() as self.until_reset:
            await anyio.sleep_forever()
        self.until_reset = None

    def setup(self, request: ControlRequest) -> Buffer | None:
        if request.setup.bRequest == 0xFE:
            return self.max_lun()
        self.reset()
        return b""

    def max_lun(self) -> bytes:
        return b"\0"

    def reset(self) -> None:
        """Drop what goes on, before the host's next transfer; what was wedged stays halted."""
        if self.until_reset is not None:
            self.bulk_in.halt()
            self.bulk_out.halt()
            self.until_reset.cancel()
        elif self.moving is not None:
            endpoint, request = self.moving
            endpoint.withdraw(request)

    # --- a command ---

    async def serve(self) -> None:
        room = bytearray(self.bulk_out.round_up(31))
        cbw = bytes(room[: await self.move(self.bulk_out, room)])
        if not self.is_valid(cbw):
            await self.refuse()
        elif not self.is_meaningful(cbw):
            await self.refuse_nonsense()
        else:
            await self.carry_out(cbw)

    def is_valid(self, cbw: bytes) -> bool:
        return len(cbw) == 31 and cbw.startswith(b"USBC")

    def is_meaningful(self, cbw: bytes) -> bool:
        return not cbw[12] & 0x7F and not cbw[13] and 1 <= cbw[14] <= 16

    async def refuse(self) -> None:
        self.bulk_in.wedge()
        self.bulk_out.wedge()
        await self.stay_refused()

    async def refuse_nonsense(self) -> None:
        await self.refuse()

    async def carry_out(self, cbw: bytes) -> None:
        tag, length, flags, _, size = struct.unpack("<4xIIBBB", cbw[:15])
        host = ("in" if flags & 0x80 else "out") if length else ""
        device, intended = self.intends(cbw[15 : 15 + size])
        phase = self.is_phase_error(host, length, device, intended)
        moved = 0
        if host == "in":
            moved = await self.give(cbw, length, intended if device == "in" else 0)
            if moved < length:
                await self.end_in(moved)
        elif host == "out":
            moved = await self.take(cbw, 0 if phase or device != "out" else intended)
            if moved < length:
                await self.end_out()
        residue = self.residue(length - moved)
        await self.status(tag, residue, self.verdict(cbw, phase=phase))

    def intends(self, block: bytes) -> tuple[str, int]:
        """Which way, and how many bytes."""
        match block[0]:
            case 0x03:
                return "in", min(block[4], 18)
            case 0x12:
                return "in", min(block[4], len(INQUIRY))
            case 0x1A:
                return "in", min(block[4], 4)
            case 0x25:
                return "in", 8
            case 0x28:
                return "in", int.from_bytes(block[7:9], "big") * BLOCK
            case 0x2A:
                return "out", int.from_bytes(block[7:9], "big") * BLOCK
        return "", 0

    def is_phase_error(self, host: str, length: int, device: str, intended: int) -> bool:
        return intended > length or bool(intended and host != device)

    async def give(self, cbw: bytes, length: int, intended: int) -> int:
        block = cbw[15:31]
        at = int.from_bytes(block[2:6], "big") * BLOCK
        sources: dict[int, bytes | bytearray] = {
            0x03: b"\x70".ljust(18, b"\0"),
            0x12: INQUIRY,
            0x1A: b"\x03\0\0\0",
            0x25: struct.pack(">II", BLOCKS - 1, BLOCK),
            0x28: self.medium[at : at + intended],
        }
        data = sources.get(block[0], b"")[: min(length, intended)]
        if data:
            await self.move(self.bulk_in, data)
        return len(data)

    async def take(self, cbw: bytes, length: int) -> int:
        at = int.from_bytes(cbw[17:21], "big") * BLOCK
        if length:
            room = bytearray(length)
            await self.move(self.bulk_out, room)
            self.medium[at : at + length] = room
        return length

    async def end_in(self, _moved: int) -> None:
        self.bulk_in.halt()

    async def end_out(self) -> None:
        self.bulk_out.halt()

    def residue(self, residue: int) -> int:
        return residue

    def verdict(self, _cbw: bytes, *, phase: bool) -> int:
        return 2 if phase else 0

    async def status(self, tag: int, residue: int, status: int) -> None:
        await self.move(self.bulk_in, struct.pack("<4sIIB", b"USBS", tag, residue, status))


def gadget_of(function: Function) -> Gadget:
    """A gadget of one such function."""
    return Gadget(
        name="little", idVendor=0x0525, idProduct=0xA4A5, configs=(Config(functions=(function,)),)
    )
