"""PatternLun: a disk of any size that stores nothing: it knows what every block must be.

A host that writes the pattern is told so by success, and one that writes anything else by a write
error at the first wrong block. So gigabytes are checked at the speed of a comparison, on a medium
of any size.
"""

from __future__ import annotations

import logging
import random
from array import array
from collections import deque
from typing import Final, Unpack

from gadgets.mass_storage.stores.options import LunOptions
from gadgets.mass_storage.unit import Lun
from usbip_vudc.errors import SchemeError
from usbip_vudc.memory import page_aligned
from usbip_vudc.sglist import Buffer

__all__ = ("Pattern", "PatternLun")

log = logging.getLogger(__name__)

_TILE: Final = 1 << 20
"""Bytes that repeat, but for the number at the head of each block."""

_WORD: Final = 8
_BUFFERS: Final = 3


class Pattern:
    """What is where: seeded noise, and at the head of every block its LBA.

    That is 8 bytes in this machine's order, so that no block can stand for another one.
    """

    def __init__(self, seed: int = 0, *, block_size: int = 512) -> None:
        self.seed = seed
        self.block_size = block_size
        self._tile = random.Random(f"usbip-vudc {seed}").randbytes(_TILE)

    def bytes(self, offset: int, length: int) -> bytes:
        """The bytes of whole blocks, from byte ``offset`` of the medium on."""
        buffer = bytearray(length)
        self.fill(memoryview(buffer), offset)
        return bytes(buffer)

    def fill(self, view: memoryview, offset: int) -> None:
        """Write the bytes of whole blocks there."""
        done = 0
        while done < len(view):
            start = (offset + done) % _TILE
            piece = self._tile[start : start + len(view) - done]
            view[done : done + len(piece)] = piece
            done += len(piece)
        lba = offset // self.block_size
        numbers = array("Q", range(lba, lba + len(view) // self.block_size))
        # A strided assignment: no loop of ours over blocks.
        view.cast("Q")[:: self.block_size // _WORD] = memoryview(numbers)

    def matches(self, offset: int, data: memoryview) -> int:
        """How many bytes of whole blocks are right, up to the first block that is not."""
        expected = bytearray(len(data))
        self.fill(memoryview(expected), offset)
        if expected == data:
            return len(data)
        size = self.block_size
        return next(
            start
            for start in range(0, len(data), size)
            if expected[start : start + size] != data[start : start + size]
        )


class PatternLun(Lun):
    """A unit of ``size`` bytes that reads as the pattern of ``seed`` and takes that only.

    ``verified`` counts the bytes that were written and right, ``mismatches`` the writes that
    were not. Options of `Lun` besides, but not ``thin``.
    """

    def __init__(self, size: int, *, seed: int = 0, **options: Unpack[LunOptions]) -> None:
        if options.get("thin"):
            raise SchemeError("thin: a pattern has nothing to give back; expected false")
        options.setdefault("product", "vudc pattern")
        options.setdefault("serial", f"{seed & 0xFFFFFFFF:08X}")
        super().__init__(**options)
        if size <= 0:
            raise SchemeError(f"pattern of {size} bytes: expected a positive size")
        self._set_size(size)
        self.pattern_size = size
        self.pattern = Pattern(seed, block_size=self.block_size)
        self.verified = 0
        self.mismatches = 0
        self._buffers = deque(memoryview(b"") for _ in range(_BUFFERS))

    @property
    def source(self) -> str:
        """As it is asked for."""
        return f"pattern:{self.pattern_size}:{self.pattern.seed}"

    def read(self, offset: int, length: int) -> Buffer:
        """Make the bytes, in buffers that take turns."""
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        if len(self._buffers[0]) < length:
            self._buffers[0] = page_aligned(length)
        view = self._buffers[0][:length]
        self._buffers.rotate()
        self.pattern.fill(view, offset)
        return view

    def write(self, offset: int, data: memoryview) -> int:
        """Compare them: bytes that are right."""
        if not self.size:
            return 0
        good = self.pattern.matches(offset, data)
        self.verified += good
        if good < len(data):
            self.mismatches += 1
            log.warning(
                "%s: block %d was written otherwise than its pattern", self.source,
                (offset + good) // self.block_size,
            )  # fmt: skip
        return good

    def verify(self, offset: int, length: int) -> int:
        """All of it can be read."""
        return max(min(length, self.size - offset), 0)

    def _open_medium(self) -> int:
        return self.pattern_size

    def _close_medium(self) -> None:
        """Nothing to close."""
