"""FolderLun: a folder shown as a disk with a FAT file system, made by pyfatfs.

The image is made when the medium goes in, so an eject and an insert show the folder as it is by
then. What the host writes goes to the image, and the folder stays as it is.
"""

from __future__ import annotations

import logging
import os
import re
import struct
import warnings
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Unpack

from gadgets.mass_storage.lun import FileLun
from gadgets.mass_storage.stores.options import LunOptions
from gadgets.mass_storage.stores.temporary import reopenable, temporary_file
from usbip_vudc.errors import SchemeError

__all__ = ("FolderLun",)

log = logging.getLogger(__name__)

_LEAST: Final = 64 << 20
"""Bytes. FAT32 needs 65525 clusters, which are 512 bytes each on the smallest one."""

_LARGEST_FILE: Final = (4 << 30) - 1
_CLUSTER: Final = 32 << 10
_MIB: Final = 1 << 20
_NOT_IN_NAMES: Final = re.compile(r'[\x00-\x1f"*/:<>?\\|]')
_FREE_COUNT: Final = 488
"""Where FSI_Free_Count is in its sector (FAT32 File System Specification 1.03, FSInfo)."""


class FolderLun(FileLun):
    """A unit that shows ``folder``, on a FAT32 file system of ``size`` bytes.

    Without a size there is room for half as much again, and 64 MiB at least. Links are followed
    to files, other kinds of file are left out. Options of `Lun` besides, but not
    ``cdrom``. Raises SchemeError for what is no folder, does not fit or is longer than FAT's 4 GiB,
    and where pyfatfs is missing.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        size: int | None = None,
        **options: Unpack[LunOptions],
    ) -> None:
        if options.get("block_size") not in (None, 512):
            raise SchemeError(f"block_size {options['block_size']}: a folder has blocks of 512")
        if options.get("cdrom"):
            raise SchemeError("cdrom: a folder has blocks of 512, a disc of 2048; expected false")
        self.folder = Path(folder)
        self.folder_size = size
        self._kept = -1
        options.setdefault("product", "vudc folder")
        if not options.get("serial"):
            options["serial"] = f"{zlib.crc32(os.fsencode(self.folder.absolute())):08X}"
        super().__init__(reopenable(self._make()), **options)

    @property
    def source(self) -> str:
        """As it is asked for."""
        return f"folder:{self.folder}"

    def close(self) -> None:
        """Close the image, and so lose it."""
        super().close()
        self._drop()

    def _open_medium(self, create_size: int | None = None) -> int:
        if self._kept < 0:  # ejected since
            self.path = reopenable(self._make())
        return super()._open_medium(create_size)

    def _close_medium(self) -> None:
        try:
            super()._close_medium()
        finally:
            self._drop()

    def _drop(self) -> None:
        fd, self._kept = self._kept, -1
        if fd >= 0:
            os.close(fd)

    def _choose(self, path: str | os.PathLike[str]) -> None:
        self.folder = Path(path)

    def _make(self) -> int:
        """The descriptor of a file without a name that holds the file system."""
        if not self.folder.is_dir():
            raise SchemeError(f"{self.folder}: expected a folder")
        names = sorted(_entries(self.folder))
        _check_names(names)
        used = _used(names)
        size = self.folder_size or max(_LEAST, -(-(used + used // 2) // _MIB) * _MIB)
        if size < max(_LEAST, used) or size % _CLUSTER:
            raise SchemeError(
                f"{self.folder} on {size} bytes: expected {max(_LEAST, used)} or more, in 32 KiB"
            )
        self._kept = temporary_file(size)
        try:
            _fill(reopenable(self._kept), size, self.folder, names)
        except BaseException:
            self._drop()
            raise
        return self._kept


def _entries(folder: Path) -> Iterator[Path]:
    """Folders and files below it. Links to folders are not followed: they may go in circles."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            yield path
            yield from _entries(path)
        elif path.is_file():
            if path.stat().st_size > _LARGEST_FILE:
                raise SchemeError(f"{path}: a file of FAT has less than 4 GiB")
            yield path
        else:
            log.warning("%s: neither a file nor a folder, left out", path)


def _check_names(names: list[Path]) -> None:
    """What pyfatfs would write though no system reads it (FAT32 specification 1.03, long names)."""
    seen: dict[str, Path] = {}
    for path in names:
        if _NOT_IN_NAMES.search(path.name) or path.name.endswith((".", " ")):
            raise SchemeError(f'{path}: no name for FAT, which has none of "*/:<>?\\|')
        twin = seen.setdefault(str(path).lower(), path)
        if twin is not path:
            raise SchemeError(f"{path}: to FAT the same name as {twin}")


def _used(names: list[Path]) -> int:
    """Bytes that they take at most, in the largest clusters and with long names."""
    return sum(-(-path.stat().st_size // _CLUSTER) * _CLUSTER + 1024 for path in names)


def _fill(image: Path, size: int, folder: Path, names: list[Path]) -> None:
    fat, file_system = _pyfatfs()
    formatter = fat()
    formatter.mkfs(str(image), fat.FAT_TYPE_FAT32, size=size, label="FOLDER")
    formatter.close()
    with file_system(str(image)) as mounted:
        for path in names:
            inside = f"/{path.relative_to(folder).as_posix()}"
            try:
                if path.is_dir():
                    mounted.makedir(inside)
                else:
                    with path.open("rb") as source:
                        mounted.upload(inside, source, chunk_size=_MIB)
            except Exception as error:  # pyfatfs and PyFilesystem raise many kinds
                raise SchemeError(f"{path}: not to be had in FAT: {error}") from error
    _count_free(image)


def _count_free(image: Path) -> None:
    """Write the count of free clusters, which pyfatfs leaves as it was before the first file."""
    with image.open("r+b") as file:
        boot = file.read(512)
        sector, per_cluster, reserved, fats = struct.unpack_from("<HBHB", boot, 11)
        sectors, fat_sectors = struct.unpack_from("<II", boot, 32)
        (info,) = struct.unpack_from("<H", boot, 48)
        clusters = (sectors - reserved - fats * fat_sectors) // per_cluster
        file.seek(reserved * sector)
        fat = array("I", file.read((clusters + 2) * 4))
        file.seek(info * sector + _FREE_COUNT)
        file.write(struct.pack("<I", fat.count(0)))


def _pyfatfs() -> tuple[Any, Any]:
    """PyFat and PyFatFS. Their PyFilesystem warns of pkg_resources, which is not ours to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from pyfatfs.PyFat import PyFat
            from pyfatfs.PyFatFS import PyFatFS
        except ImportError as error:
            raise SchemeError(
                "a folder as a disk needs pyfatfs: pip install 'usbip-vudc[fat]'"
            ) from error
    return PyFat, PyFatFS
