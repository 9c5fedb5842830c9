"""Disk images with a real file system: ext4 through e2fsprogs, else FAT through pyfatfs.

Neither needs root: the files are put in while the image is made, and checked without a mount.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import sysconfig
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from usbip_vudc.errors import UsbipVudcError

__all__ = ("Ext4", "Fat", "FileSystem", "FileSystemDamaged", "best_file_system", "some_files")

IMAGE_SIZE: Final = 64 << 20
"""Bytes of a demo disk; FAT32 needs at least 33 MiB."""

_SBIN: Final = os.pathsep.join(
    (os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin")
)


class FileSystemDamaged(UsbipVudcError):
    """The checker found a fault, or a file is not what was put there."""


def some_files(part: int, *, size: int = 24 << 20) -> dict[str, bytes]:
    """Real files of about ``size`` bytes: modules of Python's library, and seeded random ones.

    ``part`` 0 and 1 give different files, so that a second image differs from the first.
    """
    files: dict[str, bytes] = {}
    total = 0
    library = Path(sysconfig.get_path("stdlib"))
    for number, path in enumerate(sorted(library.glob("*.py"))):
        if number % 2 == part and total < size // 2:
            files[path.name] = path.read_bytes()
            total += len(files[path.name])
    generator = random.Random(part)
    while total < size:
        name = f"random-{part}-{len(files)}.bin"
        files[name] = generator.randbytes(min(4 << 20, size - total))
        total += len(files[name])
    return files


def best_file_system() -> FileSystem:
    """ext4 where e2fsprogs is there, else FAT. Raises UsbipVudcError where neither is."""
    if Ext4.available():
        return Ext4()
    if Fat.available():
        return Fat()
    raise UsbipVudcError(
        "no tool to make a file system: install e2fsprogs (apt install e2fsprogs), or pyfatfs "
        "(pip install 'usbip-vudc[fat]')"
    )


class FileSystem(ABC):
    """Makes images and checks them."""

    name: str

    @abstractmethod
    def make(self, image: Path, files: Mapping[str, bytes], work: Path) -> None:
        """Create an image of IMAGE_SIZE bytes that holds ``files``; ``work`` is an empty folder."""

    @abstractmethod
    def _check(self, image: Path) -> None:
        """Run the checker. Raises FileSystemDamaged."""

    @abstractmethod
    def _read(self, image: Path, work: Path) -> Iterator[tuple[str, bytes]]:
        """Every file in the root of the image."""

    def verify(self, image: Path, files: Mapping[str, bytes], work: Path) -> None:
        """Check the file system and every file in it. Raises FileSystemDamaged."""
        self._check(image)
        found = {name: hashlib.sha256(data).digest() for name, data in self._read(image, work)}
        for name, data in files.items():
            if found.get(name) != hashlib.sha256(data).digest():
                state = "differs" if name in found else "is missing"
                raise FileSystemDamaged(f"{self.name} image {image.name}: file {name} {state}")


class Ext4(FileSystem):
    """mkfs.ext4, e2fsck and debugfs."""

    name = "ext4"

    @staticmethod
    def available() -> bool:
        """Whether all three tools are there."""
        return all(shutil.which(tool, path=_SBIN) for tool in ("mkfs.ext4", "e2fsck", "debugfs"))

    def make(self, image: Path, files: Mapping[str, bytes], work: Path) -> None:
        """Populate through ``mkfs.ext4 -d``."""
        for name, data in files.items():
            (work / name).write_bytes(data)
        image.unlink(missing_ok=True)
        with image.open("wb") as file:
            file.truncate(IMAGE_SIZE)
        self._run("mkfs.ext4", "-q", "-F", "-d", str(work), str(image))

    def _check(self, image: Path) -> None:
        self._run("e2fsck", "-f", "-n", str(image))

    def _read(self, image: Path, work: Path) -> Iterator[tuple[str, bytes]]:
        self._run("debugfs", "-R", f'rdump / "{work}"', str(image))
        for path in work.iterdir():
            if path.is_file():
                yield path.name, path.read_bytes()

    @staticmethod
    def _run(tool: str, *arguments: str) -> None:
        command = [shutil.which(tool, path=_SBIN) or tool, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise FileSystemDamaged(
                f"{' '.join(command)} ended with {done.returncode}: "
                f"{(done.stdout + done.stderr).strip()[-500:]}"
            )


class Fat(FileSystem):
    """FAT32 through pyfatfs."""

    name = "fat32"

    @staticmethod
    def available() -> bool:
        """Whether pyfatfs can be imported."""
        try:
            _pyfatfs()
        except ImportError:
            return False
        return True

    def make(self, image: Path, files: Mapping[str, bytes], work: Path) -> None:  # noqa: ARG002
        """Format and write each file."""
        fat, file_system = _pyfatfs()
        image.unlink(missing_ok=True)
        image.touch()
        formatter = fat()
        formatter.mkfs(str(image), fat.FAT_TYPE_FAT32, size=IMAGE_SIZE)
        formatter.close()
        with file_system(str(image)) as mounted:
            for name, data in files.items():
                mounted.writebytes(name, data)

    def _check(self, image: Path) -> None:
        """Parse every directory; pyfatfs refuses a damaged one. `_read` reads every cluster."""
        _, file_system = _pyfatfs()
        try:
            with file_system(str(image), read_only=True) as mounted:
                list(mounted.walk.files("/"))
        except Exception as error:  # pyfatfs and PyFilesystem raise many kinds
            raise FileSystemDamaged(f"fat32 image {image.name}: {error}") from error

    def _read(self, image: Path, work: Path) -> Iterator[tuple[str, bytes]]:  # noqa: ARG002
        _, file_system = _pyfatfs()
        with file_system(str(image), read_only=True) as mounted:
            for path in mounted.walk.files("/"):
                yield path.lstrip("/"), mounted.readbytes(path)


def _pyfatfs() -> tuple[Any, Any]:
    """PyFat and PyFatFS. Their PyFilesystem warns of pkg_resources, which is not ours to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pyfatfs.PyFat import PyFat
        from pyfatfs.PyFatFS import PyFatFS
    return PyFat, PyFatFS
