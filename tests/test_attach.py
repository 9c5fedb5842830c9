"""What hosts ask of a disk that has just appeared, in their order and with their lengths.

These are no captures: the sequences are put together from what is known of each host.

Windows 10 (usbstor, disk, partmgr) insists on READ FORMAT CAPACITIES and on the serial number page:
where either is refused it tries for minutes (libopencm3 pull request 1334). macOS asks MODE
SENSE(10) (portapack-mayhem pull request 1096). Linux is met for real, in the kernel lane.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from gadgets.mass_storage import MassStorageFunction, RamLun
from tests.test_host_storage import storage
from usbip_vudc.host.storage import CheckCondition, UsbStorage

MIB = 1 << 20
CONTENT = random.Random(10).randbytes(MIB)


@dataclass(frozen=True, slots=True)
class Step:
    """A command: its block, the bytes that the host has room for, and those that must come."""

    cdb: str
    room: int = 0
    comes: int = 0
    sense: tuple[int, int, int] | None = None


INQUIRY = Step("12 00 00 00 24 00", 36, 36)
TEST_UNIT_READY = Step("00 00 00 00 00 00")
ATTENTION = Step("00 00 00 00 00 00", sense=(6, 0x29, 0))
CAPACITY = Step("25 00 00 00 00 00 00 00 00 00", 8, 8)
FORMAT_CAPACITIES = Step("23 00 00 00 00 00 00 00 fc 00", 252, 12)
FIRST_BLOCK = Step("28 00 00 00 00 00 00 00 01 00", 512, 512)
LOCK = Step("1e 00 00 00 01 00")

WINDOWS = (
    INQUIRY,
    Step("12 01 00 00 ff 00", 255, 10),
    Step("12 01 80 00 ff 00", 255, 12),
    ATTENTION,
    FORMAT_CAPACITIES,
    CAPACITY,
    Step("1a 00 1c 00 c0 00", 192, 16),
    Step("1a 00 3f 00 c0 00", 192, 60),
    Step("5a 00 08 00 00 00 00 00 c0 00", 192, 28),
    TEST_UNIT_READY,
    FIRST_BLOCK,
    Step("03 00 00 00 12 00 00 00 00 00 00 00", 18, 18),  # a block of 12 bytes, as UFI has it
    Step("28 00 00 00 07 ff 00 00 01 00", 512, 512),
    Step("a1 00 00 00 00 00 00 00 00 00 00 00", sense=(5, 0x20, 0)),  # ATA PASS-THROUGH(12)
    Step("35 00 00 00 00 00 00 00 00 00"),
    Step("1b 00 00 00 00 00"),
)

MACOS = (
    INQUIRY,
    ATTENTION,
    Step("03 00 00 00 12 00", 18, 18),
    TEST_UNIT_READY,
    CAPACITY,
    Step("5a 00 3f 00 00 00 00 00 08 00", 8, 8),
    Step("1a 00 3f 00 c0 00", 192, 60),
    Step("9e 10 00 00 00 00 00 00 00 00 00 00 00 20 00 00", 32, 32),
    Step("1b 00 00 00 01 00"),
    FIRST_BLOCK,
    Step("28 00 00 00 00 02 00 00 08 00", 4096, 4096),
    TEST_UNIT_READY,
)

NO_SUCH_COMMAND, NO_SUCH_FIELD = (5, 0x20, 0), (5, 0x24, 0)

DRIVE = (
    INQUIRY,
    ATTENTION,
    TEST_UNIT_READY,
    CAPACITY,
    Step("5a 00 2a 00 00 00 00 00 80 00", 128, 28),  # capabilities
    Step("5a 00 05 00 00 00 00 00 80 00", 128, sense=NO_SUCH_FIELD),  # how to write
    Step("46 00 00 00 00 00 00 00 08 00", 8, 8),
    Step("46 02 00 20 00 00 00 00 10 00", 16, 8),  # can it write anywhere?
    Step("4a 01 00 00 10 00 00 00 08 00", 8, 8),
    Step("4a 01 00 00 02 00 00 00 08 00", 8, 4),  # operational changes
    Step("43 00 00 00 00 00 00 03 24 00", 804, 20),
    Step("43 02 00 00 00 00 aa 00 0c 00", 12, 12),
    Step("43 00 00 00 00 00 00 00 0c 40", 12, 12),  # the last session, as SFF-8020i asks
    Step("43 02 02 00 00 00 00 02 00 00", 512, 48),
    Step("51 00 00 00 00 00 00 00 22 00", 34, sense=NO_SUCH_COMMAND),  # READ DISC INFORMATION
    Step("52 01 00 00 00 01 00 00 24 00", 36, sense=NO_SUCH_COMMAND),  # READ TRACK INFORMATION
    Step("ac 00 00 00 00 00 00 00 00 01 00 00", 24, sense=NO_SUCH_COMMAND),  # GET PERFORMANCE
    Step("ad 00 00 00 00 00 00 00 00 14 00 00", 20, sense=NO_SUCH_COMMAND),  # DVD STRUCTURE
    Step("bd 00 00 00 00 00 00 00 00 08 00 00", 8, sense=NO_SUCH_COMMAND),  # MECHANISM STATUS
    LOCK,
    Step("28 00 00 00 00 10 00 00 01 00", 2048, 2048),
    Step("1e 00 00 00 00 00"),
)
"""What Linux (sr_mod, cdrom) and Windows ask a drive; what it lacks it refuses by name."""


@pytest.fixture(params=[False, True], ids=["fixed", "removable"])
def disk(request: pytest.FixtureRequest) -> Iterator[UsbStorage]:
    lun = RamLun(MIB, removable=request.param)
    lun.memory[:] = CONTENT
    with storage(MassStorageFunction([lun])) as usb:
        yield usb


def replay(disk: UsbStorage, steps: tuple[Step, ...]) -> None:
    for step in steps:
        cdb = bytes.fromhex(step.cdb)
        try:
            data = disk.command(cdb, data_in=step.room)
        except CheckCondition as error:
            sense = error.sense
            assert (sense.key, sense.asc, sense.ascq) == step.sense, step.cdb
            continue
        assert step.sense is None and len(data) == step.comes, step.cdb
        if cdb[0] == 0x28:
            start = int.from_bytes(cdb[2:6]) * (step.room // cdb[8])
            assert data == CONTENT[start : start + step.comes]


@pytest.mark.parametrize("steps", [WINDOWS, MACOS], ids=["windows", "macos"])
def test_a_host_gets_what_it_asks_for(disk: UsbStorage, steps: tuple[Step, ...]) -> None:
    assert disk.get_max_lun() == 0
    replay(disk, steps)


def test_a_host_gets_what_it_asks_a_drive_for() -> None:
    lun = RamLun(MIB, cdrom=True)
    lun.memory[:] = CONTENT
    with storage(MassStorageFunction([lun])) as usb:
        replay(usb, DRIVE)


def test_only_what_can_be_taken_out_can_be_locked(disk: UsbStorage) -> None:
    """A disk that accepts PREVENT is polled with TEST UNIT READY no more by macOS."""
    replay(disk, (ATTENTION,))
    if disk.inquiry().removable:
        replay(disk, (LOCK,))
    else:
        replay(disk, (Step(LOCK.cdb, sense=(5, 0x20, 0)),))
