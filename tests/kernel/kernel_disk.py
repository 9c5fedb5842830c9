"""A disk that is the kernel's own f_mass_storage, for tests whose other end must not be ours."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from configfs.transaction import ConfigfsGadget
from usbip_vudc.gadget import Config, Gadget, KernelFunction

__all__ = ("CONTENT", "disk_of", "kernel_disk", "read_disk")

CONTENT: Final = random.Random(2019).randbytes(1 << 20)

_SHM: Final = Path("/dev/shm")


@contextmanager
def kernel_disk(udc: str, name: str, **attributes: str) -> Iterator[ConfigfsGadget]:
    """A disk of 1 MiB with `CONTENT` on a UDC; nothing is left of it afterwards.

    ``attributes`` are of its directory in configfs, such as ``stall``.
    """
    image = _SHM / f"{name}.img"
    image.write_bytes(CONTENT)
    function = KernelFunction(
        driver="mass_storage", attributes={"lun.0/file": str(image), **attributes}
    )
    gadget = Gadget(
        name=name,
        idVendor=0x0525,
        idProduct=0xA4A5,
        manufacturer="Linux",
        product="Kernel disk",
        serial="0123456789AB",
        configs=(Config(functions=(function,)),),
    )
    try:
        made = ConfigfsGadget.create(gadget)
        try:
            made.bind(udc)
            yield made
        finally:
            made.remove()
    finally:
        image.unlink()


def disk_of(nodes: tuple[str, ...]) -> str:
    """The disk among a device's nodes."""
    return next(n for n in nodes if Path(n).name.startswith("sd") and not n[-1].isdigit())


def read_disk(node: str) -> bytes:
    """All of a disk, past nothing but a cache that is empty: the disk has just appeared."""
    return Path(node).read_bytes()
