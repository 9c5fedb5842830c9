"""OverlayLun: an image that stays as it is, and a second file that takes what is written.

The file of changes is sparse and laid out as the medium; behind the data is its map, one byte for
each block that is 1 where the block is in it, and a block that says what it belongs to. A block's
map is written after its data: a process that dies between the two leaves the block as it was.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self, Unpack

from gadgets.mass_storage.lun import FileLun
from gadgets.mass_storage.stores.merging import Layers
from gadgets.mass_storage.stores.options import LunOptions
from gadgets.mass_storage.stores.temporary import SparseLun
from gadgets.mass_storage.unit import Lun
from usbip_vudc.errors import SchemeError
from usbip_vudc.sglist import Buffer

__all__ = ("OverlayLun",)

_FOOTER: Final = struct.Struct("<8sQI")
_MAGIC: Final = b"vudc-cow"
_FOOTER_ROOM: Final = 4096
_MAP_PIECE: Final = 1 << 20
_MARKS: Final = memoryview(b"\1" * _MAP_PIECE)


class OverlayLun(Lun):
    """A unit that reads as ``base``, a file or block device, until something is written to it.

    The base is open for reading only, together with any number of others, and never written.
    What is written goes to ``changes``, which is made where it is missing; None keeps it in a file
    without a name, which outlives an eject but neither another base nor `close`. Options of `Lun`
    besides, but not ``cdrom``. Raises as FileLun does, and SchemeError for changes that do not fit
    the base.
    """

    has_write_cache = True

    def __init__(
        self,
        base: str | os.PathLike[str],
        *,
        changes: str | os.PathLike[str] | None = None,
        **options: Unpack[LunOptions],
    ) -> None:
        if options.get("cdrom"):
            raise SchemeError("cdrom: nothing is written to a disc; expected the image itself")
        options.setdefault("product", "vudc overlay")
        super().__init__(**options)
        self.base = Path(base)
        self.changes = Path(changes) if changes is not None else None
        self._below: FileLun | None = None
        self._above: FileLun | None = None
        self._map: _Map | None = None
        self._layers = Layers()
        self._written = self._layers.written
        self._set_size(self._open_medium())
        if "serial" not in options and self._below is not None:
            self.serial = self._below.serial

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @property
    def source(self) -> str:
        """As it is asked for."""
        changes = f":{self.changes}" if self.changes is not None else ""
        return f"overlay:{self.base}{changes}"

    def close(self) -> None:
        """Flush and close both files. Raises OSError where the flush failed."""
        self.size = self.block_count = 0
        try:
            self._close_medium()
        finally:
            self._drop_changes()

    # --- the seam of unit.py -------------------------------------------------------------------

    def read(self, offset: int, length: int) -> Buffer:
        """From one of the files, or put together of both."""
        if self._below is None or self._above is None:
            return b""
        return self._layers.read(self._above, self._below, offset, length)

    def write(self, offset: int, data: memoryview) -> int:
        """To the changes, and then to their map."""
        if self._below is None or self._above is None:
            return 0
        good = self._above.write(offset, data)
        end = offset + good
        if good and not self._written.covers(offset, end):
            if self._map is not None and not self._map.mark(offset, end):
                return 0
            self._written.add(offset, end)
        return good

    def unmap(self, offset: int, length: int) -> None:
        """A hole in the changes, which hides the base as zeroes would."""
        if self._below is None or self._above is None:
            raise OSError(errno.ENOMEDIUM, os.strerror(errno.ENOMEDIUM))
        end = offset + length
        self._above.unmap(offset, length)
        if self._map is not None and not self._map.mark(offset, end):
            raise OSError(errno.EIO, f"{self.changes}: the map was not written")
        self._written.add(offset, end)

    def extent(self, offset: int) -> tuple[bool, int]:
        """Data or a hole, as the file says that the block is in."""
        if self._below is None or self._above is None:
            return True, 0
        return self._layers.extent(self._above, self._below, offset, self.size)

    def flush(self) -> None:
        """Fdatasync of the changes, map and all; they are one file."""
        if self._above is not None:
            self._above.flush()

    def verify(self, offset: int, length: int) -> int:
        """Read all of it, from where it is."""
        if self._below is None or self._above is None:
            return 0
        return self._layers.verify(self._above, self._below, offset, length)

    # --- the files -----------------------------------------------------------------------------

    def _open_medium(self) -> int:
        self._below = FileLun(self.base, block_size=self.block_size, read_only=True)
        size = self._below.size
        try:
            if self._above is not None and self._above.size != size:
                self._drop_changes()
            if self._above is None:
                self._open_changes(size)
        except BaseException:
            self._close_medium()
            raise
        return size

    def _open_changes(self, size: int) -> None:
        if self.changes is None:
            self._above = SparseLun(size, block_size=self.block_size)
            return
        self._map = _Map(self.changes, size, self.block_size)
        self._above = self._map.file
        for start, end in self._map.ranges():
            self._written.add(start, end)

    def _close_medium(self) -> None:
        below, self._below = self._below, None
        try:
            if below is not None:
                below.close()
        finally:
            if self.changes is not None:
                self._drop_changes()

    def _drop_changes(self) -> None:
        above, self._above = self._above, None
        kept, self._map = self._map, None
        self._written.clear()
        try:
            if above is not None:
                above.close()
        finally:
            if kept is not None:
                kept.close()

    def _choose(self, path: str | os.PathLike[str]) -> None:
        if self.changes is not None:
            super()._choose(path)  # the changes are those of one base
        self._drop_changes()
        self.base = Path(path)


def _is_hole(fd: int) -> bool:
    """Whether nothing was ever written to a file."""
    try:
        os.lseek(fd, 0, os.SEEK_DATA)
    except OSError as error:
        return error.errno == errno.ENXIO
    return False


class _Map:
    """The file of changes, and which of its blocks count."""

    def __init__(self, path: Path, size: int, block_size: int) -> None:
        self._size = size
        self._block_size = block_size
        self._blocks = size // block_size
        self._footer_at = -(-(size + self._blocks) // _FOOTER_ROOM) * _FOOTER_ROOM
        made = not path.exists()
        total = self._footer_at + _FOOTER_ROOM
        try:
            self.file = FileLun(path, create_size=total, block_size=block_size)
        except SchemeError as error:
            if "create_size" in str(error):
                raise self._misfit(path) from None
            raise
        self._fd = -1
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)  # the file's lock is held already
            footer = _FOOTER.pack(_MAGIC, size, block_size)
            if made or _is_hole(self._fd):  # its maker died before it could write this
                os.pwrite(self._fd, footer, self._footer_at)
            elif os.pread(self._fd, len(footer), self._footer_at) != footer:
                raise self._misfit(path)
        except BaseException:
            self.close()
            raise

    def _misfit(self, path: Path) -> SchemeError:
        return SchemeError(
            f"{path}: expected the changes of a base of {self._size} bytes in blocks of "
            f"{self._block_size}, or no file there yet"
        )

    def mark(self, start: int, end: int) -> bool:
        """Say that the blocks of a range are in it; False where that could not be written."""
        first, last = start // self._block_size, end // self._block_size
        while first < last:
            count = min(last - first, _MAP_PIECE)
            try:
                done = os.pwrite(self._fd, _MARKS[:count], self._size + first)
            except OSError:
                return False
            first += done
        return True

    def ranges(self) -> Iterator[tuple[int, int]]:
        """The ranges of bytes that are in it."""
        for start in range(0, self._blocks, _MAP_PIECE):
            count = min(_MAP_PIECE, self._blocks - start)
            piece = os.pread(self._fd, count, self._size + start)
            at = piece.find(1)
            while at >= 0:
                end = piece.find(0, at)
                end = end if end >= 0 else count
                yield (start + at) * self._block_size, (start + end) * self._block_size
                at = piece.find(1, end)

    def close(self) -> None:
        """Close both ways into the file."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        self.file.close()
