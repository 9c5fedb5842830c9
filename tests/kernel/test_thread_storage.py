"""The thread's storage tests: dd with direct I/O, and a file system, on every carrier.

The disks are our mass storage everywhere, and the kernel's f_mass_storage on every kernel UDC. What
is read and written is compared with the image behind the disk.

What a user could meet here: on dummy_hcd an O_DIRECT vector whose entries (all but the last) are no
multiple of the bulk maxpacket ends in EIO after some bus resets, whatever the gadget: its root hub
takes SG lists, but usb_submit_urb refuses such an entry (drivers/usb/core/urb.c).
"""

from __future__ import annotations

import mmap
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from filecmp import dircmp
from pathlib import Path
from typing import Final

import pytest

from gadgets.mass_storage.function import MassStorageFunction
from gadgets.mass_storage.lun import FileLun
from tests.kernel.carriers import (
    DUMMY_HIGH,
    DUMMY_SUPER,
    EVERY,
    MODULES,
    ON_KERNEL_UDCS,
    STUB,
    USERSPACE_HIGH,
    USERSPACE_SUPER,
    VUDC,
    name_of,
    need_program,
    prompt_scan,
)
from usbip_vudc.carrier import carried
from usbip_vudc.gadget import Config, Gadget, KernelFunction

pytestmark = pytest.mark.kernel

MIB: Final = 1 << 20
SIZE: Final = 1 << 30
"""Bytes of a disk. The image is sparse: what is not written takes no memory."""

AMOUNT: Final = {
    USERSPACE_HIGH: 4,
    USERSPACE_SUPER: 8,
    VUDC: 4,  # its timer lets 53248 bytes through every 4 ms (drivers/usb/usbip/vudc_transfer.c)
    DUMMY_HIGH: 4,
    DUMMY_SUPER: 8,
    STUB: 4,
}
"""MiB that dd moves at a time: what each carrier does in a second or two under emulation."""

IMAGE: Final = Path("/dev/shm/thread.img")
COPY: Final = Path("/dev/shm/thread.copy")
TREE: Final = Path(__file__).parents[2] / "gadgets" / "mass_storage"


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk of this machine, and how many MiB at a time are reasonable on it."""

    node: str
    amount: int


class By(Enum):
    """Who implements the disk."""

    OURS = "ours"
    KERNEL = "f_mass_storage"


@pytest.fixture(scope="module", autouse=True)
def modules(need_modules: Callable[..., None]) -> Iterator[None]:
    need_modules(*MODULES, "usb_f_mass_storage", "usb-storage", "sd_mod", "loop", "ext4")
    with prompt_scan():
        yield


OURS: Final = [(carrier, By.OURS) for carrier in EVERY]
KERNELS: Final = [(carrier, By.KERNEL) for carrier in ON_KERNEL_UDCS]


@contextmanager
def function_by(by: By) -> Iterator[MassStorageFunction | KernelFunction]:
    """Mass storage over `IMAGE`."""
    if by is By.KERNEL:
        yield KernelFunction(driver="mass_storage", attributes={"lun.0/file": str(IMAGE)})
    else:
        with FileLun(IMAGE) as lun:
            yield MassStorageFunction(luns=[lun])


@pytest.fixture(
    scope="module", params=OURS + KERNELS, ids=lambda param: f"{name_of(param[0])}-{param[1].value}"
)
def disk(request: pytest.FixtureRequest) -> Iterator[Disk]:
    """One disk for all tests, empty at first: it stays while they run."""
    carrier, by = request.param
    with IMAGE.open("wb") as file:
        file.truncate(SIZE)
    with function_by(by) as function:
        gadget = Gadget(
            name="threaddisk",
            idVendor=0x0525,
            idProduct=0xA4A5,
            product="Disk",
            serial="0123456789AB",
            configs=(Config(functions=(function,)),),
        )
        with carried(gadget, carrier) as device:
            yield Disk(device.node("sd"), AMOUNT[carrier])
    IMAGE.unlink()
    COPY.unlink(missing_ok=True)


# --- dd -----------------------------------------------------------------------------------------


def noise(seed: int, amount: int) -> bytes:
    """``amount`` MiB in which no two blocks are the same, made fast."""
    block = bytearray(random.Random(seed).randbytes(MIB))
    pieces = []
    for number in range(amount):
        for page in range(0, MIB, 4096):
            block[page : page + 4] = (number * MIB + page).to_bytes(4, "big")
        pieces.append(bytes(block))
    return b"".join(pieces)


def put(offset: int, data: bytes) -> None:
    """Write into the image, behind the disk's back."""
    with IMAGE.open("r+b", buffering=0) as file:
        file.seek(offset)
        file.write(data)


def dd(**operands: str | int | Path) -> None:
    words = [f"{name.rstrip('_')}={value}" for name, value in operands.items()]
    subprocess.run(("dd", "status=none", "bs=1M", *words), check=True)


def first_difference(path: Path, offset: int, data: bytes) -> int | None:
    """Where a file is not these bytes from ``offset`` on; None where it is."""
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        there = file.read(len(data))
    if there == data:
        return None
    return next(
        (n for n, (a, b) in enumerate(zip(there, data, strict=False)) if a != b), len(there)
    )


@pytest.mark.parametrize("where", ["start", "end"])
def test_dd_iflag_direct_reads_what_is_in_the_image(disk: Disk, where: str) -> None:
    data = noise(len(where), disk.amount)
    first = 0 if where == "start" else SIZE // MIB - disk.amount
    put(first * MIB, data)
    dd(if_=disk.node, of=COPY, iflag="direct", skip=first, count=disk.amount)
    assert COPY.stat().st_size == len(data)
    assert first_difference(COPY, 0, data) is None


def test_dd_oflag_direct_writes_into_the_image(disk: Disk) -> None:
    data = noise(7, disk.amount)
    COPY.write_bytes(data)
    first = SIZE // MIB // 2
    dd(if_=COPY, of=disk.node, oflag="direct", seek=first, count=disk.amount)
    assert first_difference(IMAGE, first * MIB, data) is None


@pytest.mark.parametrize("blocks", [1, 63, 241, 257])
def test_a_direct_read_of_an_odd_number_of_blocks(disk: Disk, blocks: int) -> None:
    # 241 and 257 blocks: one more than a command of usb-storage at high speed, and than 128 KiB.
    offset = (300 << 20) + blocks * 512
    put(offset - 512, noise(blocks, 1))
    fd = os.open(disk.node, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, blocks * 512) as memory:
            assert os.preadv(fd, [memory], offset) == blocks * 512
            assert memory[:] == noise(blocks, 1)[512 : (blocks + 1) * 512]
    finally:
        os.close(fd)


# --- a file system ------------------------------------------------------------------------------


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}:\n{done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def mounted(what: str | Path, *options: str) -> Iterator[Path]:
    where = Path("/run/thread-mount")
    where.mkdir()
    try:
        run("mount", *options, what, where)
        try:
            yield where
        finally:
            run("umount", where)
    finally:
        where.rmdir()


def assert_same(left: Path, right: Path) -> None:
    """All files of two trees, by their bytes."""
    found = dircmp(left, right, ignore=["__pycache__"], hide=[])
    assert found.left_only == []
    assert found.right_only == []
    for name in found.common_files:
        assert (left / name).read_bytes() == (right / name).read_bytes(), name
    for name in found.common_dirs:
        assert_same(left / name, right / name)


def test_a_tree_copied_onto_a_file_system_of_it_is_in_the_image(disk: Disk) -> None:
    mkfs, fsck = need_program("mkfs.ext4", "e2fsprogs"), need_program("fsck.ext4", "e2fsprogs")
    run(mkfs, "-q", disk.node, "16M")
    with mounted(disk.node) as where:
        shutil.copytree(TREE, where / "tree", ignore=shutil.ignore_patterns("__pycache__"))
    run(fsck, "-f", "-n", disk.node)
    # Unmounted, so flushed: the image is that file system by itself.
    with IMAGE.open("rb") as file:
        COPY.write_bytes(file.read(16 * MIB))
    with mounted(COPY, "-o", "loop,ro") as where:
        assert_same(TREE, where / "tree")
