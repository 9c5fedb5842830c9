"""What is timed: each case is a step that does one unit of work on a host, over and over."""

from __future__ import annotations

import contextlib
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bench.ours import SET_REQUEST_SIZE
from usbip_vudc.errors import UrbError
from usbip_vudc.host.blocking import BlockingHost
from usbip_vudc.host.enumeration import drive, read_descriptors
from usbip_vudc.urb import HostUrb
from usbip_vudc.usb.ch9 import Direction, SetupPacket, TransferType

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

    def __init__(self, port: int, busid: str) -> None:
        self.host = BlockingHost("127.0.0.1", port, busid)
        self.host.control(SetupPacket(0x00, 9, 1, 0, 0))
        self.bulk = self._endpoints()

    def use_requests_of(self, size: int) -> None:
        """Tell our source the size of its IN requests; the rival has none to tell."""
        with contextlib.suppress(UrbError):
            self.host.control(SetupPacket(0x41, SET_REQUEST_SIZE, size // 64, 0, 0))

    def _endpoints(self) -> dict[Direction, int]:
        configuration = drive(read_descriptors(), self._ask).configurations[0]
        if configuration is None:
            raise RuntimeError("the device has no configuration")
        return {
            endpoint.descriptor.direction: endpoint.descriptor.bEndpointAddress
            for interface in configuration.interfaces
            for endpoint in interface.endpoints
            if endpoint.descriptor.transfer_type == TransferType.BULK
        }

    def _ask(self, setup: SetupPacket) -> bytes | None:
        try:
            return self.host.control(setup)
        except UrbError:
            return None


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


def _control(lane: Lane) -> Step:
    buffer = bytearray(18)

    def step() -> int:
        lane.host.transfer(HostUrb(0, buffer, setup=_DEVICE_DESCRIPTOR), 5)
        return 1

    return step


def _bulk(way: Direction, size: int) -> Callable[[Lane], Step]:
    def make(lane: Lane) -> Step:
        buffer = memoryview(bytearray(size))
        endpoint = lane.bulk[way]

        def step() -> int:
            lane.host.transfer(HostUrb(endpoint, buffer), 5)
            return 1

        return step

    return make


def _queued(way: Direction | None, size: int, depth: int = 16) -> Callable[[Lane], Step]:
    """``depth`` URBs in flight: as one completes the next goes out."""

    def make(lane: Lane) -> Step:
        if way == Direction.IN and size < 512:
            lane.use_requests_of(size)  # a larger request would overflow such URBs
        buffer = memoryview(bytearray(size))
        endpoint = 0 if way is None else lane.bulk[way]
        setup = _DEVICE_DESCRIPTOR if way is None else None
        flying: deque[HostUrb] = deque()
        host = lane.host

        def step() -> int:
            while len(flying) < depth:
                urb = HostUrb(endpoint, buffer, setup=setup)
                host.submit(urb)
                flying.append(urb)
            oldest = flying.popleft()
            host.wait(oldest, 5)
            done = 1
            while flying and flying[0].status is not None:
                flying.popleft()
                done += 1
            return done

        return step

    return make


def _scsi(opcode: int, size: int) -> Callable[[Lane], Step]:
    """READ(10) or WRITE(10) as usb-storage does it: CBW, data, CSW, one URB at a time."""
    is_read = opcode == 0x28
    blocks = size // 512

    def make(lane: Lane) -> Step:
        data = memoryview(bytearray(size))
        csw = bytearray(13)
        way_in, way_out = lane.bulk[Direction.IN], lane.bulk[Direction.OUT]
        data_endpoint = way_in if is_read else way_out
        host = lane.host
        lba = 0

        def step() -> int:
            nonlocal lba
            cdb = struct.pack(">BxIxHx", opcode, lba, blocks).ljust(16, b"\0")
            flags = 0x80 if is_read else 0
            host.transfer(HostUrb(way_out, _CBW.pack(b"USBC", 1, size, flags, 0, 10, cdb)), 5)
            host.transfer(HostUrb(data_endpoint, data), 5)
            host.transfer(HostUrb(way_in, csw), 5)
            if csw[12]:
                raise RuntimeError(f"command failed: CSW status {csw[12]}")
            lba = (lba + blocks) % (_IMAGE_BLOCKS - blocks)
            return 1

        return step

    return make


def _sense(lane: Lane) -> None:
    """Take the unit attention that a fresh disk reports."""
    cdb = bytes((0x03, 0, 0, 0, 18, 0)).ljust(16, b"\0")
    host = lane.host
    host.transfer(HostUrb(lane.bulk[Direction.OUT], _CBW.pack(b"USBC", 1, 18, 0x80, 0, 6, cdb)), 5)
    host.transfer(HostUrb(lane.bulk[Direction.IN], bytearray(18)), 5)
    host.transfer(HostUrb(lane.bulk[Direction.IN], bytearray(13)), 5)


def _on_disk(make: Callable[[Lane], Step]) -> Callable[[Lane], Step]:
    def prepared(lane: Lane) -> Step:
        _sense(lane)
        return make(lane)

    return prepared


IN, OUT = Direction.IN, Direction.OUT

CASES: Final = (
    Case("control GET_DESCRIPTOR, 1 in flight", "bulk", 0, _control, ratio=1.5, cpu=16),
    Case("control GET_DESCRIPTOR, 16 in flight", "bulk", 0, _queued(None, 18), ratio=2.5, cpu=6),
    Case("bulk IN 64 B, 16 in flight", "bulk", 0, _queued(IN, 64), ratio=2.5),
    Case("bulk OUT 64 B, 16 in flight", "bulk", 0, _queued(OUT, 64), ratio=2.5),
    Case("bulk IN 512 B, 1 in flight", "bulk", 0, _bulk(IN, 512), ratio=1.5),
    Case("bulk OUT 512 B, 1 in flight", "bulk", 0, _bulk(OUT, 512), ratio=1.5),
    Case("bulk IN 512 B, 16 in flight", "bulk", 0, _queued(IN, 512)),
    Case("bulk OUT 512 B, 16 in flight", "bulk", 0, _queued(OUT, 512)),
    Case("bulk IN 16 KiB, 1 in flight", "bulk", 16 * KIB, _bulk(IN, 16 * KIB)),
    Case("bulk OUT 16 KiB, 1 in flight", "bulk", 16 * KIB, _bulk(OUT, 16 * KIB)),
    Case("bulk IN 16 KiB, 16 in flight", "bulk", 16 * KIB, _queued(IN, 16 * KIB)),
    Case("bulk OUT 16 KiB, 16 in flight", "bulk", 16 * KIB, _queued(OUT, 16 * KIB)),
    Case("bulk IN 120 KiB, 1 in flight", "bulk", 120 * KIB, _bulk(IN, 120 * KIB), ratio=1.0),
    Case("bulk OUT 120 KiB, 1 in flight", "bulk", 120 * KIB, _bulk(OUT, 120 * KIB), ratio=1.0),
    Case("bulk IN 120 KiB, 16 in flight", "bulk", 120 * KIB, _queued(IN, 120 * KIB), ratio=1.0),
    Case("bulk OUT 120 KiB, 16 in flight", "bulk", 120 * KIB, _queued(OUT, 120 * KIB), ratio=1.0),
    Case("bulk IN 1 MiB, 1 in flight", "bulk", MIB, _bulk(IN, MIB), ratio=1.0),
    Case("bulk OUT 1 MiB, 1 in flight", "bulk", MIB, _bulk(OUT, MIB), ratio=1.0),
    Case("bulk IN 1 MiB, 16 in flight", "bulk", MIB, _queued(IN, MIB), ratio=1.0),
    Case("bulk OUT 1 MiB, 16 in flight", "bulk", MIB, _queued(OUT, MIB), ratio=1.0),
    Case(
        "READ(10) 120 KiB",
        "disk",
        120 * KIB,
        _on_disk(_scsi(0x28, 120 * KIB)),
        ratio=1.3,
        cpu=22,
        urbs=3,
    ),
    Case(
        "WRITE(10) 120 KiB", "disk", 120 * KIB, _on_disk(_scsi(0x2A, 120 * KIB)), ratio=1.3, urbs=3
    ),
    Case("READ(10) 1 MiB", "disk", MIB, _on_disk(_scsi(0x28, MIB)), ratio=1.25, urbs=3),
    Case("WRITE(10) 1 MiB", "disk", MIB, _on_disk(_scsi(0x2A, MIB)), ratio=1.25, urbs=3),
)
