"""Kernels that are here: those of /boot, and any file, with the modules that belong to them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from usbip_vudc.errors import SchemeError, UsbipVudcError

__all__ = ("NEEDED_MODULES", "Kernel", "from_path", "has_modules", "image_version", "installed")

NEEDED_MODULES: Final = ("dummy_hcd", "libcomposite", "usb_f_fs", "usbip-vudc", "vhci-hcd")
"""A kernel without these (a cloud's, often) boots, but has nothing to show."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel to boot. ``modules`` is the directory that /lib/modules/VERSION shall be."""

    version: str
    image: Path
    modules: Path
    origin: str
    """Where it came from, in words."""
    suite: str | None = None
    """Debian's suite that has its packages, where that is known."""


def image_version(image: Path) -> str:
    """The release in a bzImage (Documentation/arch/x86/boot.rst: kernel_version), or in its name.

    Raises UsbipVudcError if the file cannot be read, SchemeError if there is no release in it.
    """
    try:
        with image.open("rb") as file:
            head = file.read(0x10000)
    except OSError as error:
        raise UsbipVudcError(f"kernel {image}: {error.strerror}") from None
    if head[0x202:0x206] == b"HdrS":
        at = int.from_bytes(head[0x20E:0x210], "little") + 0x200
        text = head[at : at + 256].split(b"\0", 1)[0].decode(errors="replace")
        if release := text.split(" ", 1)[0]:
            return release
    named = re.fullmatch(r"(?:vmlinuz|vmlinux|Image)-(.+)", image.name)
    if named is None:
        raise SchemeError(f"kernel {image}: not a bzImage, and not named vmlinuz-VERSION")
    return named[1]


def has_modules(modules: Path, names: tuple[str, ...] = NEEDED_MODULES) -> bool:
    """Whether a module directory has all of these, loadable or built in."""
    text = ""
    for index in ("modules.dep", "modules.builtin"):
        try:
            text += (modules / index).read_text()
        except OSError:
            continue
    return all(
        re.search(rf"/{re.sub('[-_]', '[-_]', name)}\.ko", text, re.MULTILINE) for name in names
    )


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def installed(root: Path = Path("/")) -> Kernel | None:
    """The newest kernel of /boot that may be read and has the modules, or None."""
    found = [
        Kernel(version, image, root / "lib/modules" / version, "installed in /boot")
        for image in (root / "boot").glob("vmlinuz-*")
        for version in (image.name.removeprefix("vmlinuz-"),)
        if os.access(image, os.R_OK) and has_modules(root / "lib/modules" / version)
    ]
    return max(found, key=lambda kernel: _order(kernel.version), default=None)


def from_path(image: Path, modules: Path | None = None) -> Kernel:
    """A kernel that the user names, with /lib/modules/VERSION unless ``modules`` says better.

    Raises SchemeError if there is no such directory of modules.
    """
    image = image.absolute()
    version = image_version(image)
    modules = (modules or Path("/lib/modules") / version).absolute()
    if not (modules / "modules.dep").exists():
        raise SchemeError(
            f"--modules {modules}: no modules.dep in it; it has to be the modules of {version}, "
            f"after depmod (depmod -b ROOT {version})"
        )
    return Kernel(version, image, modules, str(image))
