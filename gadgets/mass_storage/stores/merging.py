"""Layers: reading two units as one, the upper where something was written and else the lower."""

from __future__ import annotations

from collections import deque
from typing import Final

from gadgets.mass_storage.stores.extents import Extents
from gadgets.mass_storage.unit import Lun
from usbip_vudc.memory import page_aligned
from usbip_vudc.sglist import Buffer

__all__ = ("Layers",)

_BUFFERS: Final = 3
"""That take turns, as those of `FileLun` do."""


class Layers:
    """``written`` is where the upper one counts."""

    def __init__(self) -> None:
        self.written = Extents()
        self._buffers = deque(memoryview(b"") for _ in range(_BUFFERS))

    def read(self, above: Lun, below: Lun, offset: int, length: int) -> Buffer:
        """From one of them, or put together of both; as `Lun.read`."""
        runs = list(self.written.runs(offset, offset + length))
        if len(runs) == 1:
            return (above if runs[0][2] else below).read(offset, length)
        if len(self._buffers[0]) < length:
            self._buffers[0] = page_aligned(length)
        view = self._buffers[0][:length]
        self._buffers.rotate()
        for start, end, is_above in runs:
            piece = (above if is_above else below).read(start, end - start)
            at = start - offset
            view[at : at + len(piece)] = piece
            if len(piece) < end - start:
                return view[: at + len(piece)]
        return view

    def extent(self, above: Lun, below: Lun, offset: int, size: int) -> tuple[bool, int]:
        """As `Lun.extent`, of the one that counts there; both are of ``size`` bytes."""
        _, end, is_above = next(self.written.runs(offset, size))
        is_data, length = (above if is_above else below).extent(offset)
        return is_data, min(length, end - offset)

    def verify(self, above: Lun, below: Lun, offset: int, length: int) -> int:
        """As `Lun.verify`, each where it counts."""
        for start, end, is_above in self.written.runs(offset, offset + length):
            good = (above if is_above else below).verify(start, end - start)
            if good < end - start:
                return start + good - offset
        return length
