"""What is timed: each case is a step that does some work on a host, over and over."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bench.bare import Bare, Exchange
from bench.ours import SET_REQUEST_SIZE
from usbip_vudc.usb.ch9 import Direction, SetupPacket, TransferType
from usbip_vudc.usb.descriptors import Configuration

__all__ = ("CASES", "Case", "Lane", "Step")

KIB: Final = 1 << 10
MIB: Final = 1 << 20
_DEVICE_DESCRIPTOR: Final = SetupPacket(0x80, 6, 0x0100, 0, 18)
_CBW: Final = struct.Struct("<4sIIBBB16s")
_IMAGE_BLOCKS: Final = 64 * MIB // 512

Step = Callable[[], int]
"""Does some work and returns how much: URBs of a bulk or control case, commands of a disk's."""


class Lane:
    """One imported, configured device and its bulk endpoints, for one run of one case."""

    def __init__(self, port: int, busid: str, *, ours: bool) -> None:
        self.bare = Bare(port, busid)
        self._ours = ours
        self.bare.control(SetupPacket(0x00, 9, 1, 0, 0))
        head = self.bare.control(SetupPacket(0x80, 6, 0x0200, 0, 9))
        length = int.from_bytes(head[2:4], "little")
        raw = self.bare.control(SetupPacket(0x80, 6, 0x0200, 0, length))
        self.bulk = {
            endpoint.descriptor.direction: endpoint.descriptor.bEndpointAddress
            for interface in Configuration.parse(raw).interfaces
            for endpoint in interface.endpoints
            if endpoint.descriptor.transfer_type == TransferType.BULK
        }

    def use_requests_for(self, size: int) -> None:
        """Tell our source how large its IN requests may be; the rival's has none."""
        if self._ours:
            units = (size if size < 512 else MIB) // 64
            self.bare.control(SetupPacket(0x41, SET_REQUEST_SIZE, units, 0, 0))


@dataclass(frozen=True, slots=True)
class Case:
    """A row of the bench.

    ``device`` is "bulk" or "disk". ``unit`` bytes move in one piece of work, which takes
    ``urbs`` URBs; with unit 0 the pieces are counted. ``ratio`` is the target against the rival,
    ``cpu`` the target of server CPU time in us a URB.
    """

    name: str
    device: str
    unit: int
    make: Callable[[Lane], Step]
    ratio: float | None = None
    cpu: float | None = None
    urbs: int = 1


def _control(depth: int) -> Callable[[Lane], Step]:
    def make(lane: Lane) -> Step:
        return Exchange(lane.bare, 0, 18, setup=_DEVICE_DESCRIPTOR, depth=depth).step

    return make


def _bulk(way: Direction, size: int, depth: int = 1) -> Callable[[Lane], Step]:
    def make(lane: Lane) -> Step:
        if way == Direction.IN:
            lane.use_requests_for(size)  # a request larger than 64 would overflow URBs of 64
        return Exchange(lane.bare, lane.bulk[way], size, depth=depth).step

    return make


def _scsi(opcode: int, size: int) -> Callable[[Lane], Step]:
    """READ(10) or WRITE(10) as usb-storage does it: CBW, data, CSW, one URB at a time."""
    is_read = opcode == 0x28
    blocks = size // 512

    def make(lane: Lane) -> Step:
        way_in, way_out = lane.bulk[Direction.IN], lane.bulk[Direction.OUT]
        _sense(lane)
        cbw = Exchange(lane.bare, way_out, 31)
        data = Exchange(lane.bare, way_in if is_read else way_out, size)
        csw = Exchange(lane.bare, way_in, 13)
        flags = 0x80 if is_read else 0
        lba = 0

        def step() -> int:
            nonlocal lba
            cdb = struct.pack(">BxIxHx", opcode, lba, blocks).ljust(16, b"\0")
            _CBW.pack_into(cbw.data, 0, b"USBC", 1, size, flags, 0, 10, cdb)
            cbw.step()
            data.step()
            csw.step()
            if csw.data[12]:
                raise RuntimeError(f"command failed: CSW status {csw.data[12]}")
            lba = (lba + blocks) % (_IMAGE_BLOCKS - blocks)
            return 1

        return step

    return make


def _sense(lane: Lane) -> None:
    """Take the unit attention that a fresh disk reports."""
    cdb = bytes((0x03, 0, 0, 0, 18, 0)).ljust(16, b"\0")
    cbw = Exchange(lane.bare, lane.bulk[Direction.OUT], 31)
    _CBW.pack_into(cbw.data, 0, b"USBC", 1, 18, 0x80, 0, 6, cdb)
    cbw.step()
    for size in (18, 13):
        Exchange(lane.bare, lane.bulk[Direction.IN], size).step()


IN, OUT = Direction.IN, Direction.OUT

CASES: Final = (
    Case("control GET_DESCRIPTOR, 1 in flight", "bulk", 0, _control(1), ratio=1.5, cpu=16),
    Case("control GET_DESCRIPTOR, 16 in flight", "bulk", 0, _control(16), ratio=2.5, cpu=6),
    Case("bulk IN 64 B, 16 in flight", "bulk", 0, _bulk(IN, 64, 16), ratio=2.5),
    Case("bulk OUT 64 B, 16 in flight", "bulk", 0, _bulk(OUT, 64, 16), ratio=2.5),
    Case("bulk IN 512 B, 1 in flight", "bulk", 0, _bulk(IN, 512), ratio=1.5),
    Case("bulk OUT 512 B, 1 in flight", "bulk", 0, _bulk(OUT, 512), ratio=1.5),
    Case("bulk IN 512 B, 16 in flight", "bulk", 0, _bulk(IN, 512, 16)),
    Case("bulk OUT 512 B, 16 in flight", "bulk", 0, _bulk(OUT, 512, 16)),
    Case("bulk IN 16 KiB, 1 in flight", "bulk", 16 * KIB, _bulk(IN, 16 * KIB)),
    Case("bulk OUT 16 KiB, 1 in flight", "bulk", 16 * KIB, _bulk(OUT, 16 * KIB)),
    Case("bulk IN 16 KiB, 16 in flight", "bulk", 16 * KIB, _bulk(IN, 16 * KIB, 16)),
    Case("bulk OUT 16 KiB, 16 in flight", "bulk", 16 * KIB, _bulk(OUT, 16 * KIB, 16)),
    Case("bulk IN 120 KiB, 1 in flight", "bulk", 120 * KIB, _bulk(IN, 120 * KIB), ratio=1.0),
    Case("bulk OUT 120 KiB, 1 in flight", "bulk", 120 * KIB, _bulk(OUT, 120 * KIB), ratio=1.0),
    Case("bulk IN 120 KiB, 16 in flight", "bulk", 120 * KIB, _bulk(IN, 120 * KIB, 16), ratio=1.0),
    Case("bulk OUT 120 KiB, 16 in flight", "bulk", 120 * KIB, _bulk(OUT, 120 * KIB, 16), ratio=1.0),
    Case("bulk IN 1 MiB, 1 in flight", "bulk", MIB, _bulk(IN, MIB), ratio=1.0),
    Case("bulk OUT 1 MiB, 1 in flight", "bulk", MIB, _bulk(OUT, MIB), ratio=1.0),
    Case("bulk IN 1 MiB, 16 in flight", "bulk", MIB, _bulk(IN, MIB, 16), ratio=1.0),
    Case("bulk OUT 1 MiB, 16 in flight", "bulk", MIB, _bulk(OUT, MIB, 16), ratio=1.0),
    Case(
        "READ(10) 120 KiB",
        "disk",
        120 * KIB,
        _scsi(0x28, 120 * KIB),
        ratio=1.3,
        cpu=22,
        urbs=3,
    ),
    Case("WRITE(10) 120 KiB", "disk", 120 * KIB, _scsi(0x2A, 120 * KIB), ratio=1.3, urbs=3),
    Case("READ(10) 1 MiB", "disk", MIB, _scsi(0x28, MIB), ratio=1.25, urbs=3),
    Case("WRITE(10) 1 MiB", "disk", MIB, _scsi(0x2A, MIB), ratio=1.25, urbs=3),
)
