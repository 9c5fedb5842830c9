"""Which lines of the kernel's log mean trouble."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

__all__ = ("EXPECTED", "trouble", "trouble_of_run")

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
