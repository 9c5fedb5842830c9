"""Nothing that was acknowledged is lost: a disk is killed, again and again, and its image checked.

The host writes blocks that say which block they are and which write they came with. A write with
FUA counts when its CSW came, any other when a SYNCHRONIZE CACHE after it was acknowledged. SIGKILL
comes at a point of the seed's choice: some microseconds into one of the commands.
"""

from __future__ import annotations

import os
import random
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.killed_disk import KINDS
from tests.test_mass_storage import Disk, write10
from usbip_vudc.errors import UsbipVudcError
from usbip_vudc.host.blocking import BlockingHost
from usbip_vudc.host.handshake import import_device

BLOCKS = 512
BLOCK = 512
SYNCHRONIZE = bytes.fromhex("35") + bytes(9)
FUA = 0x08


def stamped(lba: int, version: int) -> bytes:
    return struct.pack("<QQ", lba, version) * (BLOCK // 16)


class Ledger:
    """What each block may be: the version that counts, or a later one that was not promised."""

    def __init__(self) -> None:
        self.version = 0
        self.allowed = [{0} for _ in range(BLOCKS)]
        self.acknowledged = [0] * BLOCKS

    def issue(self, lba: int, count: int) -> bytes:
        """A write begins: its data."""
        self.version += 1
        for each in range(lba, lba + count):
            self.allowed[each].add(self.version)
        return b"".join(stamped(each, self.version) for each in range(lba, lba + count))

    def acknowledge(self, lba: int, count: int, *, durable: bool) -> None:
        """The CSW of that write came."""
        for each in range(lba, lba + count):
            self.acknowledged[each] = self.version
            if durable:
                self.allowed[each] = {self.version}

    def synchronised(self) -> None:
        """All that was acknowledged counts now."""
        self.allowed = [{version} for version in self.acknowledged]

    def lost(self, content: bytes) -> list[str]:
        """The blocks that are not what they may be; the others are what they were found to be."""
        wrong = []
        for lba in range(BLOCKS):
            block = content[lba * BLOCK : (lba + 1) * BLOCK]
            where, version = struct.unpack_from("<QQ", block)
            if block != stamped(lba, version) or version not in self.allowed[lba]:
                wrong.append(f"block {lba} is {where}.{version}, not of {self.allowed[lba]}")
            self.allowed[lba] = {version}
            self.acknowledged[lba] = version
        return wrong


class Nursery:
    """Starts disks that will be killed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def born(self, kind: str, image: Path) -> tuple[int, int]:
        """A process that serves the image: its pid and port."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{kind} {image}\n")
        self._process.stdin.flush()
        pid, port = self._process.stdout.readline().split()
        return int(pid), int(port)


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with subprocess.Popen(
        (sys.executable, "-m", "tests.killed_disk"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    ) as process:
        try:
            yield Nursery(process)
        finally:
            process.kill()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Memory where there is some: what a process leaves behind does not depend on the disk."""
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shm) as directory:
        yield Path(directory)


@contextmanager
def gone_afterwards(pid: int) -> Iterator[None]:
    """Kill it at the end, whatever happened, and wait until it holds no lock any more."""
    fd = os.pidfd_open(pid)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
        assert select.select([fd], [], [], 10)[0], "the process is still there"
        os.close(fd)


def write_until_killed(port: int, pid: int, dice: random.Random, ledger: Ledger) -> bool:
    """Write and synchronise until the disk is gone; whether a command was under way by then."""
    fatal, delay = dice.randrange(1, 25), dice.uniform(0, 0.002)
    killer = threading.Timer(delay, os.kill, (pid, signal.SIGKILL))
    sock, device = import_device("127.0.0.1", port, "1-1")
    number, is_under_way = 0, False
    with sock, BlockingHost.on_socket(sock, device) as host:
        try:
            disk = Disk(host)
            disk.attend()
            while True:
                number += 1
                if number == fatal:
                    killer.start()
                is_under_way = True
                step(disk, dice, ledger)
                is_under_way = False
        except (UsbipVudcError, OSError):
            assert number >= fatal, "nobody had killed it yet"
    killer.join()
    return is_under_way


def step(disk: Disk, dice: random.Random, ledger: Ledger) -> None:
    """One command of the host's."""
    what = dice.choice(("fua", "fua", "plain", "plain", "synchronise"))
    if what == "synchronise":
        assert disk.none(SYNCHRONIZE) == 0
        ledger.synchronised()
        return
    count = dice.choice((1, 1, 7, 16, 300))
    lba = dice.randrange(BLOCKS - count)
    data = ledger.issue(lba, count)
    disk.cbw(write10(lba, count, FUA if what == "fua" else 0), len(data), is_in=False)
    disk.send(data)
    assert disk.csw() == (0, 0)
    ledger.acknowledge(lba, count, durable=what == "fua")


def content_of(kind: str, image: Path) -> bytes:
    """All of the medium, as the next one who opens it finds it."""
    lun = KINDS["file" if kind in ("cached", "forgetful") else kind](image)
    try:
        return b"".join(bytes(lun.read(at * BLOCK, 64 * BLOCK)) for at in range(0, BLOCKS, 64))
    finally:
        lun.close()


def rounds(
    nursery: Nursery, kind: str, image: Path, seed: int, count: int
) -> tuple[list[str], int]:
    """Kill so often: what was lost, and how many commands were under way."""
    image.write_bytes(b"".join(stamped(lba, 0) for lba in range(BLOCKS)))
    dice, ledger = random.Random(seed), Ledger()
    lost, under_way = [], 0
    for number in range(count):
        pid, port = nursery.born(kind, image)
        with gone_afterwards(pid):
            under_way += write_until_killed(port, pid, dice, ledger)
        lost += [f"seed {seed} round {number}: {each}" for each in
                 ledger.lost(content_of(kind, image))]  # fmt: skip
    return lost, under_way


@pytest.mark.parametrize(("kind", "count"), [("file", 36), ("overlay", 12), ("cached", 12)])
def test_what_was_acknowledged_survives_kill(
    nursery: Nursery, place: Path, kind: str, count: int
) -> None:
    lost, under_way = rounds(nursery, kind, place / "disk.img", 20260101, count)
    assert lost == []
    assert under_way, "at least one was killed in the middle of a command"


def test_base_of_an_overlay_survives_unchanged(nursery: Nursery, place: Path) -> None:
    image = place / "disk.img"
    rounds(nursery, "overlay", image, 7, 5)
    assert image.read_bytes() == b"".join(stamped(lba, 0) for lba in range(BLOCKS))


def test_disk_that_lies_about_its_cache_is_found_out(nursery: Nursery, place: Path) -> None:
    lost, _ = rounds(nursery, "forgetful", place / "disk.img", 20260101, 5)
    assert lost, "so the check can fail"
