"""The function's seam on the kernel's UDCs: what hosts make of a disk or port behind a plan.

One gadget life serves many rules: each waits for a transfer, or for a block of the disk, that is
its own. What Linux makes of a fault is told by usbmon and by whoever reads the disk.
"""

from __future__ import annotations

import errno
import mmap
import os
import random
import select
import tty
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import usb.core

from configfs.lifecycle import bring_down
from gadgets.acm.function import AcmFunction
from gadgets.mass_storage.function import MassStorageFunction
from gadgets.mass_storage.lun import RamLun
from tests.kernel.carriers import (
    DUMMY_HIGH,
    DUMMY_SUPER,
    MODULES,
    PATIENCE,
    VUDC,
    on_carriers,
    prompt_scan,
    wait_for,
)
from tests.kernel.usbmon import BulkUrb, UsbMon
from usbip_vudc.carrier import Carried, Carrier, OwnBus, carried
from usbip_vudc.cli import main
from usbip_vudc.function import Endpoint
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.host.storage import StorageError, TransportError, UsbStorage
from usbip_vudc.injection import Injector, Plan, injected
from usbip_vudc.sysfs import nodes, read_attribute, write_attribute
from usbip_vudc.usb.ch9 import Speed

pytestmark = pytest.mark.kernel

BLOCK: Final = 512
CONTENT: Final = random.Random(4).randbytes(4 << 20)


@pytest.fixture(scope="module", autouse=True)
def modules(need_modules: Callable[..., None]) -> Iterator[None]:
    need_modules(*MODULES, "usb-storage", "sd_mod", "cdc-acm", "usbmon")
    with prompt_scan():
        yield


# --- disks ---------------------------------------------------------------------------------------


class CountedDisk(MassStorageFunction):
    """A disk in memory that counts its lives: a bus reset ends one and begins the next."""

    def __init__(self) -> None:
        self.lun = RamLun(len(CONTENT))
        self.lun.memory[:] = CONTENT
        super().__init__(luns=[self.lun])
        self.lives = 0

    async def run(self, endpoints: Mapping[str, Endpoint]) -> None:
        self.lives += 1
        await super().run(endpoints)


def disk_gadget(disk: MassStorageFunction, *others: AcmFunction) -> Gadget:
    return Gadget(
        name="injdisk",
        # Of 0525:a4a5 usb-storage takes every interface (drivers/usb/storage/unusual_devs.h).
        idVendor=0x0525 if not others else 0x1D6B,
        idProduct=0xA4A5 if not others else 0x0104,
        serial="0123456789AB",
        configs=(Config(functions=(disk, *others)),),
    )


@contextmanager
def direct(node: str) -> Iterator[int]:
    """A disk, past every cache."""
    fd = os.open(node, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def read_at(fd: int, lba: int, blocks: int) -> bytes:
    with mmap.mmap(-1, blocks * BLOCK) as memory:
        assert os.preadv(fd, [memory], lba * BLOCK) == blocks * BLOCK
        return memory[:]


def write_at(fd: int, lba: int, data: bytes) -> None:
    with mmap.mmap(-1, len(data)) as memory:
        memory[:] = data
        assert os.pwritev(fd, [memory], lba * BLOCK) == len(data)


def content(lba: int, blocks: int) -> bytes:
    return CONTENT[lba * BLOCK : (lba + blocks) * BLOCK]


# --- benign: nobody can tell ---------------------------------------------------------------------

BENIGN: Final = Plan.parse(
    "function every(4) layout(odd); function every(3) layout(page-offset:512); "
    "function every(2) layout(each:packets:1); function layout(random:7)"
)
"""Of several that act on a transfer, the first counts: each has its share."""


@on_carriers(VUDC, DUMMY_HIGH, DUMMY_SUPER)
def test_benign_layouts_change_no_byte_of_disk_and_port(carrier: Carrier) -> None:
    disk, injector = CountedDisk(), Injector(BENIGN, "function")
    with carried(injected(disk_gadget(disk, AcmFunction()), injector), carrier) as device:
        with direct(device.node("sd")) as fd:
            for lba, blocks in ((0, 1), (7, 63), (100, 240), (500, 8), (1800, 200)):
                assert read_at(fd, lba, blocks) == content(lba, blocks)
            for lba, blocks in ((300, 1), (310, 63), (400, 24), (430, 8)):
                data = random.Random(lba).randbytes(blocks * BLOCK)
                write_at(fd, lba, data)
                assert disk.lun.memory[lba * BLOCK : (lba + blocks) * BLOCK] == data
                assert read_at(fd, lba, blocks) == data
        assert_echo(device.node("ttyACM"), random.Random(5).randbytes(6000))
        assert disk.lives == 1
    acted = {(line[0], line.split()[1].partition(".")[0]) for line in injector.trace}
    assert acted == {(rule, name) for rule in "1234" for name in ("mass_storage", "acm")}


def assert_echo(node: str, data: bytes) -> None:
    """What goes into a port of ours comes back out of it."""
    fd = os.open(node, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        tty.setraw(fd)
        back = b""
        for start in range(0, len(data), 700):
            piece = data[start : start + 700]
            assert os.write(fd, piece) == len(piece)
            while len(back) < start + len(piece):
                assert select.select([fd], [], [], PATIENCE)[0], f"{len(back)} bytes came back"
                back += os.read(fd, 4096)
        assert back == data
    finally:
        os.close(fd)


# --- hostile: Linux as the host ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fault:
    """A rule's end, and what becomes of the one READ(10) that it acts on.

    ``statuses`` are those of its bulk URBs that are not 0, ``resets`` how often Linux reset the
    device. Then it has the right bytes: it asked again where it had to, and after a reset once
    more, since the first READ then fails with a unit attention.
    """

    rule: str
    statuses: tuple[int, ...] = ()
    resets: int = 0


SHORT, STALL, BABBLE = -errno.EREMOTEIO, -errno.EPIPE, -errno.EOVERFLOW
UNLINKED: Final = -errno.ECONNRESET

SCSI_TIMEOUT: Final = "5"
"""Seconds that Linux waits for a CSW, in place of its 30."""

UNIT_ATTENTION: Final = (STALL,)
"""Our disk stalls the data of a READ that it fails."""

FAULTS: Final = {
    "a CSW that comes late": Fault("phase(status) times(1) nak(0.2s)"),
    "an end heard of late": Fault("phase(data) times(1) delay(50ms)"),
    "an empty packet before the CSW": Fault("phase(status) times(1) zlp"),
    "a CSW stalled once": Fault("phase(status) times(1) stall", (STALL,)),
    "data cut short": Fault("phase(data) times(1) short(100)", (SHORT,)),
    "data lost": Fault("phase(data) times(1) drop", (SHORT,)),
    "a CSW lost": Fault("phase(status) times(1) drop", (UNLINKED,), 1),
    "a CSW of another command": Fault("phase(status) times(1) csw(tag=1)", (), 1),
    "a CSW in two packets": Fault("phase(status) times(1) csw(split=5)", (), 1),
    "a CSW too long": Fault("phase(status) times(1) babble(4)", (BABBLE,), 1),
    "data stalled and then sent": Fault("phase(data) times(1) stall", (STALL, BABBLE), 1),
}

FIRST_LBA: Final = 2500
"""Past what udev's blkid looks at when a disk appears, at its beginning and its end."""

BLOCKS: Final = 8


def lba_of(name: str) -> int:
    """The blocks of a fault, which nothing else reads."""
    return FIRST_LBA + 100 * [*FAULTS, ROT, PULLED].index(name)


ROT, PULLED = "a byte changed", "the plug pulled"

PULLED_FOR: Final = "2s"
"""Longer than a busy hub takes: usb-storage's own reset mends what is back by then, unseen."""


def fault_plan() -> Plan:
    ends = {name: fault.rule for name, fault in FAULTS.items()}
    ends[ROT] = "phase(data) times(1) corrupt(100, 0x01)"
    ends[PULLED] = f"phase(data) times(1) disconnect({PULLED_FOR})"
    rules = [f"mass_storage.in cbw(0x28, lba={lba_of(name)}) {end}" for name, end in ends.items()]
    return Plan.parse(";".join(rules))


def statuses_of_read(urbs: list[BulkUrb], lba: int) -> tuple[int, ...]:
    """What the URBs of every READ(10) of this block ended with, but for 0.

    udev may have commands between: usb-storage carries out one after the other.
    """
    found: list[int] = []
    is_ours = False
    for urb in urbs:
        if urb.data[:4] == b"USBC":
            cdb = urb.data[15:]
            is_ours = cdb[0] == 0x28 and int.from_bytes(cdb[2:6], "big") == lba
        if is_ours and urb.status:
            found.append(urb.status)
    return tuple(found)


@on_carriers(VUDC, DUMMY_HIGH)
def test_linux_survives_every_fault_of_a_disk(carrier: Carrier) -> None:
    disk = CountedDisk()
    seen = {}
    with carried(injected(disk_gadget(disk), fault_plan()), carrier) as device:
        node = device.node("sd")
        write_attribute(Path("/sys/block", Path(node).name, "device/timeout"), SCSI_TIMEOUT)
        with direct(node) as fd:
            for name in FAULTS:
                before = disk.lives
                with UsbMon(int(read_attribute(device.sysfs / "busnum"))) as mon:
                    assert read_at(fd, lba_of(name), BLOCKS) == content(lba_of(name), BLOCKS)
                    statuses = statuses_of_read(mon.urbs(), lba_of(name))
                seen[name] = (statuses, disk.lives - before)
                assert read_at(fd, lba_of(name), BLOCKS) == content(lba_of(name), BLOCKS)
            assert seen == {
                name: (fault.statuses + UNIT_ATTENTION * fault.resets, fault.resets)
                for name, fault in FAULTS.items()
            }
            good = content(lba_of(ROT), BLOCKS)
            rotten = good[:100] + bytes((good[100] ^ 1,)) + good[101:]
            assert [read_at(fd, lba_of(ROT), BLOCKS) for _ in range(2)] == [rotten, good]
            before = disk.lives
            with pytest.raises(OSError, match=r"Errno (5|6|19)\b"):  # EIO, ENXIO or ENODEV
                read_at(fd, lba_of(PULLED), BLOCKS)
        if carrier.over_usbip:
            device.wait_gone()
        else:  # it comes back by itself, to the same place
            wait_for(lambda: disk.lives > before, "back on the bus")
        with direct(device.node("sd")) as fd:
            assert read_at(fd, lba_of(PULLED), BLOCKS) == content(lba_of(PULLED), BLOCKS)


# --- hostile: our own host -----------------------------------------------------------------------

OUR_OUTCOMES: Final[dict[str, tuple[type[Exception], str] | None]] = {
    "a CSW that comes late": None,
    "an end heard of late": None,
    "an empty packet before the CSW": None,
    "a CSW stalled once": None,
    "data cut short": (StorageError, "100 of 4096 bytes moved, yet the CSW says passed"),
    "a CSW of another command": (TransportError, "CSW tag"),
    "a CSW in two packets": (TransportError, "CSW length 5"),
    "a CSW too long": (usb.core.USBError, "Errno 75"),
    "data stalled and then sent": (usb.core.USBError, "Errno 75"),
}
"""What `UsbStorage.read` raises; None where it copes."""


def test_our_host_names_every_fault_of_a_disk_and_goes_on() -> None:
    carrier = Carrier(VUDC.udc, Speed.HIGH, "pyusb")
    disk = CountedDisk()
    with carried(injected(disk_gadget(disk), fault_plan()), carrier) as device:
        storage = ready_disk(device)
        for name, outcome in OUR_OUTCOMES.items():
            if outcome is not None:
                kind, words = outcome
                with pytest.raises(kind, match=words):
                    storage.read(lba_of(name), BLOCKS)
                storage.reset_recovery()
                storage.wait_ready()  # over the unit attention that a reset leaves
            assert storage.read(lba_of(name), BLOCKS) == content(lba_of(name), BLOCKS), name
        assert disk.lives == 1, "no reset of the bus was needed"
        with pytest.raises(usb.core.USBError) as gone:
            storage.read(lba_of(PULLED), BLOCKS)
        assert gone.value.errno == errno.ENODEV
        device.wait_gone()
        again = ready_disk(device)
        assert again.read(lba_of(PULLED), BLOCKS) == content(lba_of(PULLED), BLOCKS)


def ready_disk(device: Carried) -> UsbStorage:
    storage = UsbStorage(device.device(), timeout_ms=20_000)
    storage.wait_ready()
    return storage


# --- usbip-vudc up --plan ------------------------------------------------------------------------


@pytest.mark.parametrize("user", [(), ("--user", "nobody")], ids=["root", "nobody"])
def test_up_takes_a_plan(user: tuple[str, ...]) -> None:
    plan = "mass_storage.in cbw(0x28, lba=2500) phase(data) times(1) corrupt(0, 0xff)"
    command = ("up", "storage", "--size", "4M", "--udc", DUMMY_HIGH.udc, "--plan", plan, *user)
    bus = OwnBus(DUMMY_HIGH.udc, Speed.SUPER, (0, 0))
    pid = os.fork()
    if pid == 0:
        try:
            main(command, standalone_mode=False)
        finally:
            os._exit(0)
    try:
        device = bus.wait(3 * PATIENCE)
        node = wait_for(lambda: [n for n in nodes(device) if "/sd" in n], "a disk")[0]
        with direct(node) as fd:
            zeroes = bytes(BLOCKS * BLOCK)
            assert read_at(fd, 2500, BLOCKS) == b"\xff" + zeroes[1:]
            assert read_at(fd, 2500, BLOCKS) == zeroes
    finally:
        assert bring_down("storage")
        os.waitpid(pid, 0)
        bus.wait_gone()
