from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from tests.fake_sysfs import add_device, files
from usbip_vudc.block.queue import alone_from, limits_of, mounts, usb_device_of
from usbip_vudc.errors import SchemeError
from usbip_vudc.sysfs import SysfsError

QUEUE = {
    "logical_block_size": "512",
    "dma_alignment": "511",
    "max_sectors_kb": "120",
    "max_hw_sectors_kb": "240",
    "max_segments": "32",
    "max_segment_size": "65536",
    "virt_boundary_mask": "0",
}


@pytest.fixture
def usb(tmp_path: Path) -> Path:
    """A USB device whose disk is sda, with a partition sda1."""
    device = add_device(tmp_path, "platform/vhci_hcd.0/usb3/3-1", busnum="3")
    disk = files(device / "3-1:1.0/host0/target0:0:0/0:0:0:0/block/sda", dev="8:0")
    files(disk / "queue", **QUEUE)
    files(disk / "sda1", dev="8:1", partition="1")
    files(tmp_path / "class/block")
    for path in (disk, disk / "sda1"):
        (tmp_path / "class/block" / path.name).symlink_to(path)
    files(
        tmp_path / "kernel/mm/transparent_hugepage",
        enabled="always [madvise] never",
        hpage_pmd_size="2097152",
    )
    return device


@pytest.mark.usefixtures("usb")
@pytest.mark.parametrize("node", ["/dev/sda", "/dev/sda1"])
def test_the_limits_are_the_disks_those_of_its_partition_too(tmp_path: Path, node: str) -> None:
    limits = limits_of(node, sysfs=tmp_path)
    assert limits.disk == "sda"
    seen = {name: str(getattr(limits, name)) for name in QUEUE}
    assert seen == QUEUE
    assert (limits.page_size, limits.contiguous) == (mmap.PAGESIZE, 2 << 20)
    assert limits.assumed == ()


@pytest.mark.parametrize(("block", "assumed"), [("512", 511), ("4096", 4095)])
def test_a_kernel_that_does_not_say_its_alignment_wants_blocks(
    tmp_path: Path, usb: Path, block: str, assumed: int
) -> None:
    (queue,) = usb.rglob("queue")
    (queue / "dma_alignment").unlink()
    files(queue, logical_block_size=block)
    limits = limits_of("/dev/sda", sysfs=tmp_path)
    assert (limits.dma_alignment, limits.assumed) == (assumed, ("dma_alignment",))


def test_a_kernel_that_does_not_say_its_boundary_has_none(tmp_path: Path, usb: Path) -> None:
    next(usb.rglob("virt_boundary_mask")).unlink()
    limits = limits_of("/dev/sda", sysfs=tmp_path)
    assert (limits.virt_boundary_mask, limits.assumed) == (0, ("virt_boundary_mask",))


def test_a_limit_that_is_always_there_is_never_assumed(tmp_path: Path, usb: Path) -> None:
    next(usb.rglob("max_segments")).unlink()
    with pytest.raises(SysfsError, match="max_segments"):
        limits_of("/dev/sda", sysfs=tmp_path)


@pytest.mark.usefixtures("usb")
def test_without_huge_pages_only_a_page_is_contiguous(tmp_path: Path) -> None:
    files(tmp_path / "kernel/mm/transparent_hugepage", enabled="always madvise [never]")
    assert limits_of("/dev/sda", sysfs=tmp_path).contiguous == mmap.PAGESIZE


@pytest.mark.usefixtures("usb")
@pytest.mark.parametrize("node", ["/dev/sdz", "/dev/null", "/", "sda"])
def test_what_is_no_block_device_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, node: str
) -> None:
    (tmp_path / "sda").touch()  # a file that only has a disk's name
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SchemeError, match="no block device; expected a disk such as /dev/sda"):
        limits_of(node, sysfs=tmp_path)


@pytest.mark.parametrize(
    ("node", "block", "byte"),
    [
        ("/dev/sda", "512", 1024 * 512 - 8 * 512),
        ("/dev/sda1", "512", (1024 - 64) * 512 - 8 * 512),
        ("/dev/sda", "4096", 1024 * 512 - 8 * 4096),
    ],
)
def test_usb_storage_says_where_blocks_are_touched_alone(
    tmp_path: Path, usb: Path, node: str, block: str, byte: int
) -> None:
    assert alone_from(node, sysfs=tmp_path) is None, "as long as the driver is another"
    (usb / "3-1:1.0/driver").symlink_to("/sys/bus/usb/drivers/usb-storage")
    (queue,) = usb.rglob("queue")
    files(queue, logical_block_size=block)
    files(queue.parent, size="1024")
    files(queue.parent / "sda1", size="100", start="64")
    assert alone_from(node, sysfs=tmp_path) == byte


def test_a_disk_is_on_the_usb_device_above_it(tmp_path: Path, usb: Path) -> None:
    assert usb_device_of("/dev/sda1", sysfs=tmp_path) == usb
    other = files(tmp_path / "devices/virtual/block/loop0", dev="7:0")
    (tmp_path / "class/block/loop0").symlink_to(other)
    assert usb_device_of("/dev/loop0", sysfs=tmp_path) is None


@pytest.mark.usefixtures("usb")
def test_a_disk_is_mounted_where_its_partitions_are(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
        "30 22 8:1 / /mnt/a\\040stick rw shared:1 - vfat /dev/sda1 rw\n"
        "31 22 8:16 / /mnt/other rw - vfat /dev/sdb rw\n"
    )
    assert mounts("/dev/sda", sysfs=tmp_path, mountinfo=table) == ("/mnt/a stick",)
    assert mounts("/dev/sda1", sysfs=tmp_path, mountinfo=table) == ("/mnt/a stick",)
