"""Block devices in sysfs: the limits of their queue, the USB device they are on, who uses them."""

from __future__ import annotations

import errno
import mmap
import re
from pathlib import Path
from typing import Final

from usbip_vudc.block.limits import Limits
from usbip_vudc.errors import SchemeError
from usbip_vudc.sysfs import SYSFS, SysfsError, driver_of, read_attribute

__all__ = ("alone_from", "limits_of", "mounts", "usb_device_of")

_MOUNTINFO: Final = Path("/proc/self/mountinfo")
_DMA_ALIGNMENT: Final = 511
"""The block layer's own (include/linux/blkdev.h), which usb-storage leaves as it is."""


_LAST_BLOCKS: Final = 8
"""SD_LAST_BUGGY_SECTORS (drivers/scsi/sd.h)."""


def _directory(node: str, sysfs: Path) -> Path:
    """The directory of a disk or partition. Raises SchemeError where it is none."""
    path = Path(node).resolve()
    link = sysfs / "class/block" / path.name
    if not (link / "dev").exists() or (path.exists() and not path.is_block_device()):
        raise SchemeError(f"{node}: no block device; expected a disk such as /dev/sda")
    return link.resolve()


def _disk(node: str, sysfs: Path) -> Path:
    directory = _directory(node, sysfs)
    return directory.parent if (directory / "partition").exists() else directory


def limits_of(node: str, *, sysfs: Path = SYSFS) -> Limits:
    """The limits of a disk's queue; a partition has its disk's.

    A file that this kernel does not have is assumed, and named so: dma_alignment (511, or a
    block where that is more) is there since Linux 6.0, and virt_boundary_mask (0, which it is on
    every disk of usb-storage) is not in 5.10 yet. Raises SchemeError for what is no block
    device, SysfsError where sysfs does not say.
    """
    disk = _disk(node, sysfs)
    queue = disk / "queue"

    assumed: list[str] = []

    def number(name: str, otherwise: int | None = None) -> int:
        try:
            return int(read_attribute(queue / name))
        except SysfsError as error:
            if otherwise is None or error.errno != errno.ENOENT:
                raise
            assumed.append(name)
            return otherwise

    block = number("logical_block_size")
    return Limits(
        disk=disk.name,
        logical_block_size=block,
        # Kernels without the file want blocks of the disk here (block/fops.c of Linux 5.19).
        dma_alignment=number("dma_alignment", max(_DMA_ALIGNMENT, block - 1)),
        max_sectors_kb=number("max_sectors_kb"),
        max_hw_sectors_kb=number("max_hw_sectors_kb"),
        max_segments=number("max_segments"),
        max_segment_size=number("max_segment_size"),
        virt_boundary_mask=number("virt_boundary_mask", 0),
        page_size=mmap.PAGESIZE,
        contiguous=_huge_page(sysfs),
        assumed=tuple(assumed),
    )


def _huge_page(sysfs: Path) -> int:
    """Bytes that are physically contiguous where madvise is heeded, else a page."""
    directory = sysfs / "kernel/mm/transparent_hugepage"
    try:
        if "[never]" in read_attribute(directory / "enabled"):
            return mmap.PAGESIZE
        return int(read_attribute(directory / "hpage_pmd_size"))
    except SysfsError:  # a kernel without them
        return mmap.PAGESIZE


def usb_device_of(node: str, *, sysfs: Path = SYSFS) -> Path | None:
    """The directory of the USB device that a disk is on, None for a disk on something else."""
    for directory in _disk(node, sysfs).parents:
        if (directory / "devnum").exists():
            return directory
    return None


def alone_from(node: str, *, sysfs: Path = SYSFS) -> int | None:
    """The byte of a disk or partition from which on Linux touches one block at a time.

    It does so with the last blocks of the disks of usb-storage, as some card readers need it
    (last_sector_bug in drivers/usb/storage/scsiglue.c). None on any other disk.
    """
    disk, directory = _disk(node, sysfs), _directory(node, sysfs)
    if not any(driver_of(parent) == "usb-storage" for parent in disk.parents):
        return None
    # In sectors of 512 bytes, whatever a block is (Documentation/ABI/stable/sysfs-block).
    sectors = int(read_attribute(disk / "size"))
    begin = 0 if directory == disk else int(read_attribute(directory / "start"))
    block = int(read_attribute(disk / "queue/logical_block_size"))
    return (sectors - begin) * 512 - _LAST_BLOCKS * block


def mounts(node: str, *, sysfs: Path = SYSFS, mountinfo: Path = _MOUNTINFO) -> tuple[str, ...]:
    """Where this disk and its partitions are mounted, or a partition and what is in it."""
    directory = _directory(node, sysfs)
    numbers = {
        read_attribute(path)
        for path in (directory / "dev", *directory.glob(f"{directory.name}*/dev"))
    }
    # ID PARENT MAJOR:MINOR ROOT MOUNT-POINT ... (Documentation/filesystems/proc.rst, 3.5)
    rows = (line.split() for line in mountinfo.read_text().splitlines())
    return tuple(_unescaped(row[4]) for row in rows if len(row) > 4 and row[2] in numbers)


def _unescaped(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)
