"""The kernel's log: which of its lines mean trouble, and those that came since one last looked.

Reads /dev/kmsg, which needs root or kernel.dmesg_restrict=0. It never writes there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

__all__ = ("EXPECTED", "KernelLog", "trouble", "trouble_of_run")

EXPECTED: Final = "expected-dmesg.txt"
"""Among the results of a run: lines of trouble that were provoked on purpose."""

_TROUBLE: Final = re.compile(
    r"BUG:|Oops|WARNING:|Call Trace|general protection|blocked for more than"
    r"|unable to enumerate|KASAN|UBSAN|Kernel panic|refcount_t:"
)

_BOOT_NOISE: Final = re.compile(
    r"use pci=nocrs and report a bug"  # every boot with the BIOS of QEMU's pc machine
    r"|This is not a bug"  # AMD-Vi, where there is no IOMMU
)

_RECORD_SIZE: Final = 8192
"""Bytes: one read of /dev/kmsg returns one record, and none is longer (kernel/printk/printk.c)."""


def trouble(lines: Iterable[str], *, expected: Iterable[str] = ()) -> list[str]:
    """The lines that no healthy kernel writes, without those that match a regex of ``expected``."""
    allowed = [re.compile(regex) for regex in expected]
    return [
        line
        for line in lines
        if _TROUBLE.search(line)
        and not _BOOT_NOISE.search(line)
        and not any(regex.search(line) for regex in allowed)
    ]


def trouble_of_run(results: Path) -> list[str]:
    """What is wrong in the dmesg.txt of a run in the lab, less what was expected there."""
    expected = set(_lines(results / EXPECTED))
    return [
        line
        for line in trouble(_lines(results / "dmesg.txt"))
        if re.sub(r"^\[ *\d+\.\d+\] ", "", line) not in expected
    ]


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines() if path.exists() else []


class KernelLog:
    """Reads on from where it stopped: the first ``read`` begins at the moment of construction."""

    def __init__(self, path: str = "/dev/kmsg") -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(self._fd, 0, os.SEEK_END)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; twice does no harm."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def read(self) -> list[str]:
        """The lines that came since the last call, oldest first; never waits.

        Lines that the kernel's ring has lost meanwhile are left out.
        """
        lines: list[str] = []
        while True:
            try:
                record = os.read(self._fd, _RECORD_SIZE)
            except BlockingIOError:
                return lines
            except BrokenPipeError:  # overwritten before we came: the next read is the oldest kept
                continue
            if not record:  # a regular file, in tests
                return lines
            # "6,1234,5678901,-;text", then lines of the form " KEY=value" (Documentation/ABI,
            # dev-kmsg).
            _, _, text = record.decode(errors="replace").partition(";")
            lines.append(text.split("\n", 1)[0])
