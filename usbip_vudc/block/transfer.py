"""One command of a disk with an SG list of one's choice: O_DIRECT and a vector that is placed."""

from __future__ import annotations

import errno
import os
from typing import Final

from usbip_vudc.block.limits import Segments, check
from usbip_vudc.block.placement import place
from usbip_vudc.block.queue import alone_from, limits_of, mounts
from usbip_vudc.errors import SchemeError, UsbipVudcError
from usbip_vudc.injection.layout import Segment
from usbip_vudc.sglist import SGList

__all__ = ("DiskInUse", "checked", "read_sg", "write_sg")

_FLAGS: Final = os.O_DIRECT | os.O_CLOEXEC


class DiskInUse(UsbipVudcError):
    """Somebody else uses the disk that was to be written to. Nothing was written."""


def checked(node: str, offset: int, layout: Segments) -> tuple[Segment, ...]:
    """The segments of one command at byte ``offset`` of a disk, each at its offset in a page.

    Raises SchemeError where the disk's queue does not allow them, or Linux not there: the message
    names what forbids it, and what would be right.
    """
    limits = limits_of(node)
    block = limits.logical_block_size
    if offset < 0 or offset % block:
        raise SchemeError(
            f"offset {offset} in {node}: {limits.disk}'s logical_block_size is {block}, expected "
            "a multiple of it"
        )
    segments = check(layout, limits)
    length = sum(segment.length for segment in segments)
    alone = alone_from(node)
    if alone is not None and length > block and offset + length > alone:
        raise SchemeError(
            f"bytes {offset} to {offset + length} of {node}: Linux touches the last 8 blocks of a "
            f"USB disk one at a time (last_sector_bug in drivers/scsi/sd.c); end at {alone}"
        )
    return segments


def read_sg(node: str, offset: int, layout: Segments) -> bytes:
    """Read from byte ``offset`` of a disk by one command whose SG list is ``layout``.

    At the disk's end it is less. Needs root. Raises SchemeError as `checked`, PlacementError
    where memory has no place for it, OSError as the kernel says.
    """
    entries = _entries(node, offset, layout)
    fd = os.open(node, os.O_RDONLY | _FLAGS)
    try:
        count = os.preadv(fd, entries, offset)
    except OSError as error:
        raise _with_path(error, node) from error
    finally:
        os.close(fd)
    return b"".join(entries)[:count]


def write_sg(node: str, offset: int, layout: Segments, data: bytes) -> int:
    """Write ``data`` to byte ``offset`` of a disk by one command whose SG list is ``layout``.

    Returns the bytes that the disk took: fewer at its end. Raises DiskInUse where it is mounted
    or held otherwise, SchemeError also where ``data`` has not the layout's length, and the rest
    as `read_sg`; after an OSError the disk may hold any part of it.
    """
    entries = _entries(node, offset, layout)
    target = SGList(*entries)
    if len(data) != len(target):
        raise SchemeError(f"{len(data)} bytes to write, and the layout has {len(target)}")
    target.scatter(data)
    fd = _opened_alone(node)
    try:
        return os.pwritev(fd, entries, offset)
    except OSError as error:
        raise _with_path(error, node) from error
    finally:
        os.close(fd)


def _entries(node: str, offset: int, layout: Segments) -> list[memoryview]:
    return place(checked(node, offset, layout))


def _opened_alone(node: str) -> int:
    """Open for writing a disk of which nobody holds any part: the kernel decides that."""
    try:
        # O_EXCL of a block device is what mount, swap and device mapper claim (block/bdev.c).
        return os.open(node, os.O_WRONLY | os.O_EXCL | _FLAGS)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        where = ", ".join(mounts(node)) or "by swap, a mapping or another program"
        raise DiskInUse(f"{node} is in use ({where}): nothing was written") from error


def _with_path(error: OSError, node: str) -> OSError:
    return OSError(error.errno, error.strerror, node)
