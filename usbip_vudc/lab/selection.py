"""What K of ``usbip-vudc lab --kernel K`` means."""

from __future__ import annotations

from pathlib import Path

from usbip_vudc.errors import SchemeError
from usbip_vudc.lab.debian import from_debian
from usbip_vudc.lab.fetch import Progress
from usbip_vudc.lab.kernels import Kernel, from_path, installed

__all__ = ("find",)


def find(text: str | None, modules: Path | None = None, *, progress: Progress) -> Kernel:
    """The kernel to boot; it may have to be downloaded. None is the newest of /boot, else debian.

    Raises SchemeError for a K that means nothing, UsbipVudcError for a kernel that cannot be had.
    """
    if text is None:
        found = installed() if modules is None else None
        if found is not None:
            return found
        text = "debian"
    if text == "debian" or text.startswith("debian:"):
        if modules is not None:
            raise SchemeError(f"--modules {modules}: {text} brings its own; leave it out")
        return from_debian(text.partition(":")[2], progress=progress)
    if not Path(text).is_file():
        raise SchemeError(
            f"--kernel {text}: no such file; it has to be a vmlinuz, debian or debian:SUITE"
        )
    return from_path(Path(text), modules)
