"""Runs virtme-ng's own virtme-run in this process, with a faster root and no way to outlive us.

A program, not a library: ``python -m usbip_vudc.lab.virtme`` takes virtme-run's arguments. What
virtme-ng has installed is not touched.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

__all__ = ("main",)

_PR_SET_PDEATHSIG: Final = 1
_MSIZE: Final = "msize=524288"


def _die_with_parent() -> None:
    """Linux kills this process when its parent ends, however that ends (prctl(2))."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _cache_the_root() -> None:
    """Mount the root with 9p's cache=loose: importing Python is two to five times faster.

    virtme-ng has no option for it: its initramfs mounts the root by this line.
    """
    from virtme import mkinitramfs

    line: str = getattr(mkinitramfs, "_MOUNT_ROOT_HOST", "")
    if line.count(_MSIZE) == 1:
        mkinitramfs._MOUNT_ROOT_HOST = line.replace(_MSIZE, f"{_MSIZE},cache=loose")  # noqa: SLF001
    else:
        print(
            "lab: this version of virtme-ng mounts its root in a way that we do not know: "
            "the guest will be two to five times slower",
            file=sys.stderr,
        )


def _no_early_console() -> None:
    """The early console repeats the boot before it has heard of "quiet"."""
    from virtme import architectures

    for kind in vars(architectures).values():
        if isinstance(kind, type) and hasattr(kind, "earlyconsole_args"):
            kind.earlyconsole_args = staticmethod(list)


def main() -> int:
    """Boot; the exit status is virtme-run's own."""
    _die_with_parent()
    os.register_at_fork(after_in_child=_die_with_parent)  # virtme-run forks QEMU
    _cache_the_root()
    _no_early_console()
    from virtme.commands import run

    return int(run.main())


if __name__ == "__main__":
    sys.exit(main())
