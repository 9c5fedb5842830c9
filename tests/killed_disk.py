"""Processes that serve a disk and are made to be killed: one parent has imported all, and forks.

Run as ``python -m tests.killed_disk``. Each line on stdin, ``KIND IMAGE``, starts a process that
serves that image; a line on stdout has its pid and TCP port.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import anyio

from gadgets.mass_storage import FileLun, Lun, MassStorageFunction
from gadgets.mass_storage.models import VolatileCache
from gadgets.mass_storage.stores import OverlayLun
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.server import Server
from usbip_vudc.vudc import UserspaceUDC

__all__ = ("KINDS",)


class Forgetful(VolatileCache):
    """Says that it synchronised, and did not."""

    def flush(self) -> None:
        """Nothing."""


def _overlay(image: Path) -> Lun:
    return OverlayLun(image, changes=image.with_suffix(".changes"))


KINDS: Final[Mapping[str, Callable[[Path], Lun]]] = {
    "file": FileLun,
    "overlay": _overlay,
    "cached": lambda image: VolatileCache(FileLun(image)),
    "forgetful": lambda image: Forgetful(FileLun(image)),
}


class _Announcement:
    """Says where it listens."""

    def started(self, value: tuple[str, int] = ("", 0)) -> None:
        os.write(1, f"{os.getpid()} {value[1]}\n".encode())


def _serve(kind: str, image: Path) -> None:
    function = MassStorageFunction([KINDS[kind](image)])
    gadget = Gadget(name="disk", idVendor=1, idProduct=2, configs=(Config(functions=(function,)),))
    server = Server([UserspaceUDC(gadget)])

    async def run() -> None:
        await server.serve("127.0.0.1", 0, task_status=_Announcement())

    anyio.run(run)


def main() -> None:
    """Fork for every line."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    anyio.run(anyio.sleep, 0)  # which imports the rest
    while line := sys.stdin.readline():
        kind, _, image = line.rstrip("\n").partition(" ")
        if os.fork() == 0:
            try:
                _serve(kind, Path(image))
            finally:
                os._exit(1)


if __name__ == "__main__":
    main()
