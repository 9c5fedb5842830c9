"""Holes: give the memory behind a part of a file or of a buffer back; it then reads as zeroes.

The standard library has no fallocate(2) with flags, so the C library's own is called. Linux only;
elsewhere, and on a file system that knows no holes, nothing is given back and the caller hears so.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
from typing import Final, Protocol, cast

__all__ = ("data_or_hole", "punch", "release")

_KEEP_SIZE, _PUNCH_HOLE = 0x01, 0x02
_NO_HOLES: Final = (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV, errno.EINVAL)
"""What a file system, a kernel or a kind of file without holes says (fallocate(2))."""


class _Fallocate(Protocol):
    def __call__(self, fd: int, mode: int, offset: int, length: int) -> int: ...


def _find() -> _Fallocate | None:
    """Fallocate with 64 bits of offset, whatever the machine's off_t is."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None, use_errno=True)
    function = getattr(library, "fallocate64", None) or getattr(library, "fallocate", None)
    if function is None:
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    function.restype = ctypes.c_int
    return cast(_Fallocate, function)


_fallocate: Final = _find()


def punch(fd: int, offset: int, length: int) -> bool:
    """Make a hole in a file: whether there is one now. Blocks.

    False: this file can have none, and its bytes are as they were. Raises OSError for any other
    failure; the bytes may then be zeroes or not.
    """
    if _fallocate is None:
        return False
    while _fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length):
        code = ctypes.get_errno()
        if code in _NO_HOLES:
            return False
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))
    return True


def data_or_hole(fd: int, offset: int, end: int) -> tuple[bool, int]:
    """Whether there is data at an offset of a file, and how many bytes that is true of.

    Where nobody knows it is data to the ``end``. Raises OSError.
    """
    try:
        data = os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:  # only a hole is left (lseek(2))
            return False, end - offset
        if error.errno == errno.EINVAL:
            return True, end - offset
        raise
    if data > offset:
        return False, data - offset
    return True, os.lseek(fd, offset, os.SEEK_HOLE) - offset


def release(memory: memoryview, offset: int, length: int) -> None:
    """Zero a part of a buffer; whole pages of a private map are given back."""
    end = offset + length
    owner = memory.obj
    if isinstance(owner, mmap.mmap) and sys.platform.startswith("linux"):
        first = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
        last = end // mmap.PAGESIZE * mmap.PAGESIZE
        if first < last:
            owner.madvise(mmap.MADV_DONTNEED, first, last - first)
            memory[offset:first] = bytes(first - offset)
            memory[last:end] = bytes(end - last)
            return
    memory[offset:end] = bytes(length)
