"""VolatileCache: a write cache that loses its contents with the power."""

from __future__ import annotations

import errno
import os

from gadgets.mass_storage.models.base import Model
from gadgets.mass_storage.stores.merging import Layers
from gadgets.mass_storage.stores.temporary import SparseLun
from gadgets.mass_storage.unit import Lun
from usbip_vudc.sglist import Buffer

__all__ = ("VolatileCache",)

_PIECE = 1 << 20


class VolatileCache(Model):
    """What is written reaches the inner unit when the host synchronises it, or ejects it.

    SYNCHRONIZE CACHE, FUA and WCE = 0 do so. When the configuration ends (unplug, bus reset), and
    when the process does, the rest is lost. ``lost`` counts the bytes that were.
    """

    def __init__(self, inner: Lun) -> None:
        super().__init__(inner)
        self.text = "volatile_cache"
        self.has_write_cache = True
        self.lost = 0
        self._cache: SparseLun | None = None
        self._layers = Layers()

    def read(self, offset: int, length: int) -> Buffer:
        """What was written last, wherever it is."""
        if self._cache is None or not self.inner.size:
            return self.inner.read(offset, length)
        return self._layers.read(self._cache, self.inner, offset, length)

    def write(self, offset: int, data: memoryview) -> int:
        """To the cache."""
        if not self.inner.size:
            return 0
        good = self._opened().write(offset, data)
        self._layers.written.add(offset, offset + good)
        return good

    def unmap(self, offset: int, length: int) -> None:
        """To the cache, as a hole."""
        if not self.inner.size:
            raise OSError(errno.ENOMEDIUM, os.strerror(errno.ENOMEDIUM))
        self._opened().unmap(offset, length)
        self._layers.written.add(offset, offset + length)

    def extent(self, offset: int) -> tuple[bool, int]:
        """Of what was written or given back last."""
        if self._cache is None:
            return self.inner.extent(offset)
        return self._layers.extent(self._cache, self.inner, offset, self.size)

    def flush(self) -> None:
        """Move all of the cache to the inner unit, and have that one flush."""
        for start, end in self._layers.written:
            self._move(start, end)
        self.inner.flush()

    def verify(self, offset: int, length: int) -> int:
        """As `read`."""
        if self._cache is None:
            return self.inner.verify(offset, length)
        return self._layers.verify(self._cache, self.inner, offset, length)

    def power_lost(self) -> None:
        """Lose what was not synchronised."""
        self.lost += sum(end - start for start, end in self._layers.written)
        self._layers.written.clear()
        super().power_lost()

    def close(self) -> None:
        """As power loss."""
        self.power_lost()
        if self._cache is not None:
            self._cache.close()
            self._cache = None
        super().close()

    def _close_medium(self) -> None:
        try:
            self.flush()
        finally:
            self._layers.written.clear()
            if self._cache is not None:
                self._cache.close()
                self._cache = None
            super()._close_medium()

    def _opened(self) -> SparseLun:
        if self._cache is None:
            self._cache = SparseLun(self.size, block_size=self.block_size)
        return self._cache

    def _move(self, start: int, end: int) -> None:
        cache = self._opened()
        while start < end:
            is_data, length = cache.extent(start)
            good = min(end - start, length)
            if is_data:
                data = memoryview(cache.read(start, min(good, _PIECE)))
                good = self.inner.write(start, data)
            else:
                self.inner.unmap(start, good)
            self._layers.written.remove(start, start + good)
            start += good
            if not good:
                raise OSError(errno.EIO, f"block at byte {start} of the cache was not written")
