"""Blocks that cannot be read or written, and blocks that take their time."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from gadgets.mass_storage.models.base import Model
from gadgets.mass_storage.stores.extents import Extents
from gadgets.mass_storage.transport import PIECE
from gadgets.mass_storage.unit import Lun
from usbip_vudc.errors import SchemeError
from usbip_vudc.sglist import Buffer

__all__ = ("BadBlocks", "BlockLimit", "SlowBlocks")

Blocks = Sequence[tuple[int, int]]
"""Pairs of the first and the last LBA."""


class BadBlocks(Model):
    """Reading these blocks ends with 03/11/00, and writing them with 03/0C/00, at their LBA.

    What comes before the first bad block of a command moves.
    """

    def __init__(self, inner: Lun, blocks: Blocks) -> None:
        super().__init__(inner)
        self.text = f"bad({_text(blocks)})"
        self._bad = _extents(inner, blocks)

    def read(self, offset: int, length: int) -> Buffer:
        """What lies before them."""
        good = self._good(offset, length)
        return self.inner.read(offset, good) if good else b""

    def write(self, offset: int, data: memoryview) -> int:
        """What lies before them."""
        good = self._good(offset, len(data))
        return self.inner.write(offset, data[:good]) if good else 0

    def verify(self, offset: int, length: int) -> int:
        """What lies before them."""
        good = self._good(offset, length)
        return self.inner.verify(offset, good) if good else 0

    def unmap(self, offset: int, length: int) -> None:
        """What lies before them, and then OSError."""
        good = self._good(offset, length)
        if good:
            self.inner.unmap(offset, good)
        if good < length:
            raise OSError(errno.EIO, f"block at byte {offset + good} is bad")

    def _good(self, offset: int, length: int) -> int:
        runs = self._bad.runs(offset, offset + length)
        return next((start - offset for start, _, is_bad in runs if is_bad), length)


class SlowBlocks(Model):
    """A command that reads or writes one of these blocks takes ``seconds`` longer; no other waits.

    The host gets NAK meanwhile. A reset cuts it short.
    """

    def __init__(self, inner: Lun, blocks: Blocks, seconds: float) -> None:
        super().__init__(inner)
        duration = f"{seconds:.9f}".rstrip("0").rstrip(".")  # an exponent could not be read back
        self.text = f"slow({_text(blocks)}, {duration}s)"
        self._seconds = seconds
        self._slow = _extents(inner, blocks)

    def delay(self, offset: int, length: int) -> float:
        """Once for each command."""
        runs = self._slow.runs(offset, offset + length)
        waits = self._seconds if any(is_slow for _, _, is_slow in runs) else 0.0
        return waits + self.inner.delay(offset, length)


class BlockLimit(Model):
    """A command moves ``blocks`` blocks at most; one for more fails behind them.

    As bridges do that Linux lists with US_FL_MAX_SECTORS_64 (include/linux/usb_usual.h). Raises
    SchemeError for 1 MiB or more: a longer command comes in such pieces, each a write of its own.
    """

    def __init__(self, inner: Lun, blocks: int = 64) -> None:
        super().__init__(inner)
        most = PIECE // self.block_size - 1
        if not 1 <= blocks <= most:
            raise SchemeError(f"{blocks} blocks of {self.block_size}: expected from 1 to {most}")
        self.text = f"limit({blocks})"
        self._limit = blocks * self.block_size

    def read(self, offset: int, length: int) -> Buffer:
        """Not more than that."""
        return self.inner.read(offset, min(length, self._limit))

    def write(self, offset: int, data: memoryview) -> int:
        """Not more than that."""
        return self.inner.write(offset, data[: self._limit])


def _extents(lun: Lun, blocks: Blocks) -> Extents:
    extents = Extents()
    for first, last in blocks:
        if last < first or (lun.size and last >= lun.block_count):
            there = f"0 to {lun.block_count - 1}" if lun.size else "FIRST-LAST"
            raise SchemeError(f"blocks {_text([(first, last)])}: expected blocks of {there}")
        extents.add(first * lun.block_size, (last + 1) * lun.block_size)
    return extents


def _text(blocks: Blocks) -> str:
    return ", ".join(f"{a}-{b}" if a != b else f"{a}" for a, b in blocks)
