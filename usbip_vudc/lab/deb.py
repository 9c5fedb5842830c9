"""Unpacks a kernel's .deb without dpkg: an ar archive with a tar in it (deb(5)).

Only what booting needs comes out: boot/vmlinuz-*, boot/config-*, and all of lib/modules.
"""

from __future__ import annotations

import io
import re
import shutil
import tarfile
from pathlib import Path
from typing import IO, Final

from usbip_vudc.errors import UsbipVudcError

__all__ = ("unpack",)

_WANTED: Final = re.compile(
    r"(?:\./)?(?:usr/)?(boot/(?:vmlinuz|config)-[^/]+|lib/modules/(?:[^/]+/)+[^/]+)"
)
_MODES: Final = {".tar": "r|", ".xz": "r|xz", ".gz": "r|gz", ".bz2": "r|bz2"}


def unpack(package: Path, target: Path) -> None:
    """Write the wanted regular files of ``package`` below ``target``; links are left out.

    Raises UsbipVudcError for what is not a .deb, or compressed in a way that tarfile cannot undo.
    """
    with package.open("rb") as file:
        name, data = _data(file, package)
        mode = _MODES.get(Path(name).suffix)
        if mode is None:
            raise UsbipVudcError(f"{package}: {name} is compressed in a way unknown here")
        with tarfile.open(fileobj=data, mode=mode) as archive:  # type: ignore[call-overload]
            for member in archive:
                match = _WANTED.fullmatch(member.name)
                if match is None or not member.isreg() or ".." in member.name.split("/"):
                    continue
                _write(archive, member, target / match[1])


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    source = archive.extractfile(member)
    assert source is not None
    with path.open("wb") as file:
        shutil.copyfileobj(source, file)


def _data(file: IO[bytes], package: Path) -> tuple[str, IO[bytes]]:
    """The data member of an ar archive: 60-byte headers, members at even offsets (ar(5))."""
    if file.read(8) != b"!<arch>\n":
        raise UsbipVudcError(f"{package}: not a Debian package")
    while len(header := file.read(60)) == 60:
        name = header[:16].decode("ascii", "replace").rstrip(" /")
        size = int(header[48:58])
        if name.startswith("data.tar"):
            return name, io.BytesIO(file.read(size))
        file.seek(size + size % 2, io.SEEK_CUR)
    raise UsbipVudcError(f"{package}: no data in it")
