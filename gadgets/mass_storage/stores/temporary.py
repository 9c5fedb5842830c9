"""Units over files that nobody else sees and that are gone with the process, however it ends."""

from __future__ import annotations

import os
import tempfile
import zlib
from pathlib import Path
from typing import Final, Unpack

from gadgets.mass_storage.lun import FileLun
from gadgets.mass_storage.stores.options import LunOptions
from usbip_vudc.errors import SchemeError

__all__ = ("SparseLun", "reopenable", "temporary_file")

_DIRECTORY: Final = Path("/var/tmp")
"""On a disk, where /tmp is often memory; TMPDIR comes first."""


def temporary_file(size: int) -> int:
    """The descriptor of a sparse file of that many zero bytes without a name. Raises OSError."""
    directory = _DIRECTORY if "TMPDIR" not in os.environ and _DIRECTORY.is_dir() else None
    with tempfile.TemporaryFile(dir=directory, prefix="usbip-vudc-") as file:
        file.truncate(size)
        return os.dup(file.fileno())


def reopenable(fd: int) -> Path:
    """A path that opens the file anew for as long as it is open (proc_pid_fd(5))."""
    return Path(f"/proc/self/fd/{fd}")


class SparseLun(FileLun):
    """A unit of ``size`` zero bytes that takes room on disk only for what is written to it.

    Far more than the memory and the disk hold can be shown to a host. Ejecting keeps the bytes,
    `close` does not. Options of `Lun` besides.
    """

    def __init__(self, size: int, **options: Unpack[LunOptions]) -> None:
        if size <= 0:
            raise SchemeError(f"sparse unit of {size} bytes: expected a positive size")
        self.sparse_size = size
        self._kept = temporary_file(size)
        options.setdefault("product", "vudc sparse")
        if not options.get("serial"):
            options["serial"] = f"{zlib.crc32(str(size).encode()):08X}"
        try:
            super().__init__(reopenable(self._kept), **options)
        except BaseException:
            os.close(self._kept)
            raise

    @property
    def source(self) -> str:
        """As it is asked for."""
        return f"sparse:{self.sparse_size}"

    def close(self) -> None:
        """Close the file, and so lose what is in it."""
        super().close()
        fd, self._kept = self._kept, -1
        if fd >= 0:
            os.close(fd)

    def _choose(self, path: str | os.PathLike[str]) -> None:
        super(FileLun, self)._choose(path)
