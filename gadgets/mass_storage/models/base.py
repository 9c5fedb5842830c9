"""Model: a unit around another one that does as the inner one does, but for one bad habit.

What SCSI keeps for a unit is the outermost one's, so models go around each other in any order.
"""

from __future__ import annotations

from os import PathLike

from gadgets.mass_storage.sense import Sense
from gadgets.mass_storage.unit import Lun
from usbip_vudc.sglist import Buffer

__all__ = ("Model",)


class Model(Lun):
    """Everything is the inner unit's until a subclass says otherwise.

    ``text`` is the model as it is written in schemes and on the command line.
    """

    text: str

    def __init__(self, inner: Lun) -> None:
        super().__init__(
            block_size=inner.block_size,
            read_only=inner.read_only,
            removable=inner.removable,
            cdrom=inner.cdrom,
            thin=inner.thin,
            vendor=inner.vendor,
            product=inner.product,
            revision=inner.revision,
            serial=inner.serial,
        )
        self.inner = inner
        self.has_write_cache = inner.has_write_cache
        self._next: str | PathLike[str] | None = None
        self._set_size(self._claimed(inner.size) if inner.size else 0)

    def _claimed(self, size: int) -> int:
        """What the host is told of a medium of so many bytes."""
        return size

    # --- the medium ----------------------------------------------------------------------------

    @property
    def source(self) -> str:
        """The inner unit's."""
        return self.inner.source

    def protect(self, on: bool) -> None:
        """Both; the inner one may refuse."""
        self.inner.protect(on)
        super().protect(on)

    def reset(self) -> None:
        """Both."""
        super().reset()
        self.inner.reset()

    def close(self) -> None:
        """Close the inner unit."""
        self.size = self.block_count = 0
        self.inner.close()

    def _choose(self, path: str | PathLike[str]) -> None:
        self._next = path

    def _open_medium(self) -> int:
        path, self._next = self._next, None
        self.inner.insert(path)
        return self._claimed(self.inner.size)

    def _close_medium(self) -> None:
        self.inner.eject(force=True)

    # --- the seam of unit.py -------------------------------------------------------------------

    def read(self, offset: int, length: int) -> Buffer:
        """The inner unit's."""
        return self.inner.read(offset, length)

    def write(self, offset: int, data: memoryview) -> int:
        """The inner unit's."""
        return self.inner.write(offset, data)

    def unmap(self, offset: int, length: int) -> None:
        """The inner unit's: what is given back takes no room behind a model either."""
        self.inner.unmap(offset, length)

    def extent(self, offset: int) -> tuple[bool, int]:
        """The inner unit's."""
        return self.inner.extent(offset)

    def flush(self) -> None:
        """The inner unit's."""
        self.inner.flush()

    def verify(self, offset: int, length: int) -> int:
        """The inner unit's."""
        return self.inner.verify(offset, length)

    def refusal(self, cdb: bytes) -> Sense | None:
        """The inner unit's."""
        return self.inner.refusal(cdb)

    def delay(self, offset: int, length: int) -> float:
        """The inner unit's."""
        return self.inner.delay(offset, length)

    def conclude(self, length: int, residue: int, status: int, failure: Sense) -> tuple[int, int]:
        """The inner unit's."""
        return self.inner.conclude(length, residue, status, failure)

    def power_lost(self) -> None:
        """Both."""
        super().power_lost()
        self.inner.power_lost()
