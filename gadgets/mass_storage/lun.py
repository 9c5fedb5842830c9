"""FileLun and RamLun: the logical units that hold data, and how their bytes move.

A file is read and written with pread and pwrite, into and out of buffers that are used over and
over and so stay in the CPU's caches. A map of the file would save no time (its page faults cost
what the copy costs: 50 us for 120 KiB either way, 350 for 1 MiB), grow with what is touched, and
turn a full disk or a truncated file into SIGBUS instead of an errno.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
import zlib
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from gadgets.mass_storage import holes
from gadgets.mass_storage.unit import Lun
from usbip_vudc.errors import LocalProtocolError, SchemeError
from usbip_vudc.memory import page_aligned
from usbip_vudc.sglist import Buffer

__all__ = ("FileLun", "Lun", "RamLun")

log = logging.getLogger(__name__)

_BUFFERS: Final = 3
"""Buffers of a unit that take turns: the transport has at most two on their way at once."""

_OWN_BYTES: Final = 16 << 10
"""Bytes. Shorter reads get memory of their own."""

_VERIFY_SIZE: Final = 1 << 20


class FileLun(Lun):
    """A unit over an image file or a block device.

    ``path`` None makes a removable unit that starts empty. ``create_size`` in bytes creates a
    sparse file where there is none; one that exists must then have that size. The file is locked
    (flock): one writer, or any number of readers. Raises SchemeError where it is in use, empty,
    or not a multiple of ``block_size``, and OSError where it cannot be opened. Options of `Lun`
    besides; ``serial`` is made from the path unless given.
    """

    has_write_cache = True

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        block_size: int | None = None,
        read_only: bool = False,
        removable: bool = False,
        cdrom: bool = False,
        thin: bool = False,
        create_size: int | None = None,
        vendor: str = "usbip",
        product: str = "vudc file",
        revision: str = "1.0",
        serial: str = "",
    ) -> None:
        self._fd = -1  # first, so that close() works after any failure
        self._is_writable = False
        self._buffers = deque(memoryview(b"") for _ in range(_BUFFERS))
        self.path = Path(path) if path is not None else None
        super().__init__(
            block_size=block_size,
            read_only=read_only,
            removable=removable,
            cdrom=cdrom,
            thin=thin,
            vendor=vendor,
            product=product,
            revision=revision,
            serial=serial or _serial_of(self.path),
        )
        if self.path is not None:
            self._set_size(self._open_medium(create_size))
        elif not self.removable:
            raise SchemeError("a unit without a file must be removable")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def source(self) -> str:
        """The path of the file; empty where none was named yet."""
        return str(self.path) if self.path is not None else ""

    def close(self) -> None:
        """Flush, unlock and close the file. Raises OSError where the flush failed."""
        self.size = self.block_count = 0
        self._close_medium()

    # --- the seam of unit.py -------------------------------------------------------------------

    def read(self, offset: int, length: int) -> Buffer:
        """Pread, large pieces into buffers that take turns."""
        if length < _OWN_BYTES:
            return self._read_into(bytearray(length), offset)
        if len(self._buffers[0]) < length:
            self._buffers[0] = page_aligned(length)
        buffer = self._buffers[0]
        self._buffers.rotate()
        return self._read_into(buffer[:length], offset)

    def write(self, offset: int, data: memoryview) -> int:
        """Pwrite all of it, however many calls that takes."""
        length = len(data)
        done = 0
        try:
            done = self._pwrite(data, offset)
            while done < length:
                done += self._pwrite(data[done:], offset + done)
        except OSError as error:
            log.warning("%s: write at byte %d: %s", self.path, offset + done, error)
        return done - done % self.block_size

    def unmap(self, offset: int, length: int) -> None:
        """Punch a hole; write zeroes where the file can have none."""
        if not holes.punch(self._fd, offset, length):
            super().unmap(offset, length)

    def extent(self, offset: int) -> tuple[bool, int]:
        """Data or a hole, as the file system says."""
        return holes.data_or_hole(self._fd, offset, self.size)

    def flush(self) -> None:
        """Fdatasync; nothing to do for a file that is open for reading only."""
        if self._is_writable and self._fd >= 0:
            os.fdatasync(self._fd)

    def verify(self, offset: int, length: int) -> int:
        """Pread all of it, in pieces, but for holes: zeroes that may be terabytes."""
        done = 0
        buffer = page_aligned(min(_VERIFY_SIZE, length))
        while done < length:
            hole = self._hole(offset + done, length - done)
            if hole:
                done += hole
                continue
            size = min(len(buffer), length - done)
            count = len(self._read_into(buffer[:size], offset + done))
            done += count
            if count < size:
                break
        return done

    # --- the file ------------------------------------------------------------------------------

    def _open_medium(self, create_size: int | None = None) -> int:
        path = self.path
        if path is None:
            raise SchemeError("no file to insert; name one")
        if create_size is not None and (create_size <= 0 or create_size % self.block_size):
            raise SchemeError(
                f"{path}: create_size {create_size}, expected bytes in a positive multiple of "
                f"block_size {self.block_size}"
            )
        self._fd, size = _open(path, read_only=self.read_only, create_size=create_size)
        self._is_writable = not self.read_only  # which `protect` does not change
        try:
            if not size or size % self.block_size:
                fit = size - size % self.block_size or self.block_size
                raise SchemeError(
                    f"{path}: {size} bytes, expected a multiple of block_size {self.block_size}; "
                    f"such as: truncate -s {fit} {path}"
                )
        except BaseException:
            self._close_medium()
            raise
        return size

    def _close_medium(self) -> None:
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        try:
            if self._is_writable:
                os.fdatasync(fd)
        finally:
            os.close(fd)

    def _choose(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def _require_writable(self) -> None:
        if not self._is_writable:
            raise LocalProtocolError(
                f"{self.path} is open for reading only; eject it, lift the protection, insert it"
            )

    def _read_into(self, buffer: bytearray | memoryview, offset: int) -> bytearray | memoryview:
        """Fill a buffer, or as many whole blocks of it as can be read."""
        try:
            count = self._preadv(buffer, offset)
        except OSError as error:
            log.warning("%s: read at byte %d: %s", self.path, offset, error)
            count = self._read_blocks(memoryview(buffer), offset)
        if count == len(buffer):
            return buffer
        return buffer[: count - count % self.block_size]

    def _read_blocks(self, view: memoryview, offset: int) -> int:
        """Read block by block, up to the one that cannot be read: bytes read."""
        for start in range(0, len(view), self.block_size):
            block = view[start : start + self.block_size]
            try:
                count = self._preadv(block, offset + start)
            except OSError:
                count = 0
            if count < len(block):
                return start
        return len(view)

    def _hole(self, offset: int, length: int) -> int:
        """How many of these bytes, in whole blocks, are in a hole that begins there."""
        try:
            end = os.lseek(self._fd, 0, os.SEEK_END)  # where the file ends now
            is_data, size = holes.data_or_hole(self._fd, offset, end)
        except OSError:
            return 0
        size = 0 if is_data else max(min(size, length), 0)
        return size - size % self.block_size

    def _preadv(self, buffer: bytearray | memoryview, offset: int) -> int:
        return os.preadv(self._fd, (buffer,), offset)

    def _pwrite(self, data: memoryview, offset: int) -> int:
        return os.pwrite(self._fd, data, offset)


class RamLun(Lun):
    """A unit of ``size`` bytes of memory, zeroes at first; pages are allocated when written.

    What the host writes lands in it, and what it reads leaves from it. Ejecting keeps the bytes.
    ``memory`` is all of it, for the application to fill or to look at. Options of `Lun` besides.
    """

    def __init__(
        self,
        size: int,
        *,
        block_size: int | None = None,
        read_only: bool = False,
        removable: bool = False,
        cdrom: bool = False,
        thin: bool = False,
        vendor: str = "usbip",
        product: str = "vudc ram",
        revision: str = "1.0",
        serial: str = "00000001",
    ) -> None:
        super().__init__(
            block_size=block_size,
            read_only=read_only,
            removable=removable,
            cdrom=cdrom,
            thin=thin,
            vendor=vendor,
            product=product,
            revision=revision,
            serial=serial,
        )
        if size <= 0:
            raise SchemeError(f"memory of {size} bytes: expected a positive size")
        self._set_size(size)
        try:
            self.memory = page_aligned(size)
        except OSError as error:
            raise SchemeError(
                f"memory of {size} bytes: {error.strerror}; sparse:SIZE takes room only for what "
                f"is written"
            ) from None

    @property
    def source(self) -> str:
        """That it is memory."""
        return "memory"

    def read(self, offset: int, length: int) -> Buffer:
        """A view of the memory."""
        return self.memory[offset : offset + length]

    def write(self, offset: int, data: memoryview) -> int:
        """Copy into the memory; data that landed there needs no write."""
        self.memory[offset : offset + len(data)] = data
        return len(data)

    def unmap(self, offset: int, length: int) -> None:
        """Give the pages back."""
        holes.release(self.memory, offset, length)

    def landing(self, offset: int, length: int) -> memoryview | None:
        """The memory itself."""
        return self.memory[offset : offset + length]

    def _open_medium(self) -> int:
        return len(self.memory)

    def _close_medium(self) -> None:
        """Nothing to close: the bytes stay."""


def _open(path: Path, *, read_only: bool, create_size: int | None) -> tuple[int, int]:
    """Open and lock a file or block device: its descriptor and size in bytes."""
    flags = os.O_CLOEXEC | (os.O_RDONLY if read_only else os.O_RDWR)
    if path.is_block_device() and not read_only:
        flags |= os.O_EXCL  # refused while the kernel has it mounted
    creates = create_size is not None and not path.exists()
    try:
        fd = os.open(path, flags | (os.O_CREAT | os.O_RDWR | os.O_EXCL if creates else 0), 0o644)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise SchemeError(f"{path}: in use by the kernel; is it mounted?") from error
        raise
    try:
        _lock(fd, path, read_only=read_only)
        if creates and create_size is not None:
            _grow(fd, path, create_size)
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise SchemeError(f"{path}: neither a regular file nor a block device")
        size = os.lseek(fd, 0, os.SEEK_END)
        if create_size is not None and size != create_size:
            raise SchemeError(f"{path}: exists with {size} bytes, but create_size is {create_size}")
    except BaseException:
        os.close(fd)
        raise
    return fd, size


def _grow(fd: int, path: Path, size: int) -> None:
    """Give a new file its size; where it cannot have it there is none."""
    try:
        os.ftruncate(fd, size)
    except OSError as error:
        path.unlink()
        raise OSError(error.errno, f"cannot have {size} bytes: {error.strerror}", path) from None


def _lock(fd: int, path: Path, *, read_only: bool) -> None:
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if read_only else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise SchemeError(
            f"{path}: locked by another program; one writer or several read-only units may use it"
        ) from error


def _serial_of(path: Path | None) -> str:
    """Eight hex digits that stay the same for one path."""
    return f"{zlib.crc32(os.fsencode(path.absolute())) if path else 1:08X}"
