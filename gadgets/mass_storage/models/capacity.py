"""Disks that are not as large as they say: what f3 hunts, and what US_FL_FIX_CAPACITY mends."""

from __future__ import annotations

import errno

from gadgets.mass_storage.models.base import Model
from gadgets.mass_storage.unit import Lun
from usbip_vudc.errors import SchemeError
from usbip_vudc.sglist import Buffer

__all__ = ("FakeCapacity", "OffByOne")


class FakeCapacity(Model):
    """A disk that claims ``size`` bytes, and has those of the inner unit.

    With ``wraps`` the blocks behind the real end are those from the beginning on again, so that a
    full disk overwrites itself; else what is written there vanishes, and it reads as zeroes.
    """

    def __init__(self, inner: Lun, size: int, *, wraps: bool) -> None:
        self.fake_size = size
        self.wraps = wraps
        if size % inner.block_size or size < inner.size:
            raise SchemeError(
                f"fake capacity of {size} bytes: expected whole blocks of {inner.block_size}, and "
                f"no fewer than the {inner.size} bytes that are there"
            )
        super().__init__(inner)
        self.text = f"fake({size}, {'wrap' if wraps else 'drop'})"

    def read(self, offset: int, length: int) -> Buffer:
        """From where the bytes really are, if they are anywhere."""
        real = self.inner.size
        if not real:
            return b""
        if offset + length <= real:
            return self.inner.read(offset, length)
        data = bytearray(length)
        done = 0
        while done < length:
            at, size = self._place(offset + done, length - done)
            if at is not None:
                piece = self.inner.read(at, size)
                data[done : done + len(piece)] = piece
                if len(piece) < size:
                    return data[: done + len(piece)]
            done += size
        return data

    def write(self, offset: int, data: memoryview) -> int:
        """To where they really go, if anywhere."""
        done = 0
        while done < len(data) and self.inner.size:
            at, size = self._place(offset + done, len(data) - done)
            good = size if at is None else self.inner.write(at, data[done : done + size])
            done += good
            if good < size:
                break
        return done

    def unmap(self, offset: int, length: int) -> None:
        """What of it is really there, once."""
        length = min(length, self.inner.size) if self.wraps else length
        done = 0
        while done < length:
            at, size = self._place(offset + done, length - done)
            if at is not None:
                self.inner.unmap(at, size)
            done += size

    def extent(self, offset: int) -> tuple[bool, int]:
        """It says that all is there."""
        return True, self.size - offset

    def verify(self, offset: int, length: int) -> int:  # noqa: ARG002 - as unit.py names it
        """It says that all is well."""
        return length if self.inner.size else 0

    def _claimed(self, size: int) -> int:  # noqa: ARG002 - whatever is there
        return self.fake_size

    def _place(self, offset: int, length: int) -> tuple[int | None, int]:
        """Where a byte really is (None: nowhere), and how many from there on hang together."""
        real = self.inner.size
        at = offset % real if self.wraps else offset
        return (at, min(length, real - at)) if at < real else (None, length)


class OffByOne(Model):
    """A disk that claims one block more than it has, by a wrong READ CAPACITY.

    It gives the number of blocks where the last LBA is asked for, as the disks that Linux lists
    with US_FL_FIX_CAPACITY do (include/linux/usb_usual.h). The block behind the end fails.
    """

    def __init__(self, inner: Lun) -> None:
        super().__init__(inner)
        self.text = "off_by_one"

    def read(self, offset: int, length: int) -> Buffer:
        """All but that block."""
        return self.inner.read(offset, good) if (good := self._good(offset, length)) else b""

    def write(self, offset: int, data: memoryview) -> int:
        """All but that block."""
        good = self._good(offset, len(data))
        return self.inner.write(offset, data[:good]) if good else 0

    def unmap(self, offset: int, length: int) -> None:
        """All but that block, which is an OSError."""
        if good := self._good(offset, length):
            self.inner.unmap(offset, good)
        if good < length:
            raise OSError(errno.EIO, f"there is no block at byte {offset + good}")

    def extent(self, offset: int) -> tuple[bool, int]:
        """Of that block it says that it is there."""
        return self.inner.extent(offset) if self._good(offset, 1) else (True, self.block_size)

    def verify(self, offset: int, length: int) -> int:
        """All but that block."""
        return self.inner.verify(offset, good) if (good := self._good(offset, length)) else 0

    def _good(self, offset: int, length: int) -> int:
        return max(min(length, self.inner.size - offset), 0)

    def _claimed(self, size: int) -> int:
        return size + self.block_size
