"""The same cells on other kernels: a VM of the lab runs this very command, and says it in JSON."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from usbip_vudc.errors import UsbipVudcError
from usbip_vudc.matrix.cell import Cell
from usbip_vudc.matrix.reports import from_json
from usbip_vudc.matrix.results import Result

__all__ = ("examine_on",)

_SETUP: Final = (
    "modprobe -a vhci-hcd usbip-host libcomposite usb_f_fs sd_mod; "
    "modprobe usb-storage delay_use=0; "
    "modprobe usbip-vudc num=4; "
    "modprobe dummy_hcd is_super_speed=1 num=2; "
)
"""A module that a kernel does not have shows in the cells that want it."""


def examine_on(kernel: str, cells: Sequence[Cell], *, processes: int = 1) -> list[Result]:
    """Boot a kernel, as ``usbip-vudc lab --kernel`` names it, and run the cells in it.

    Raises UsbipVudcError where the lab does not get that far; what it said is on stderr.
    """
    with tempfile.TemporaryDirectory(prefix="usbip-vudc-matrix-") as work:
        results = Path(work)
        (results / "cells.txt").write_text("".join(f"{cell}\n" for cell in cells))
        # stdout is for results, and what the guest says is none.
        done = subprocess.run(
            _lab(kernel, results, _inside(results, processes)), stdout=2, check=False
        )
        try:
            text = (results / "matrix.json").read_text()
        except FileNotFoundError:
            text = ""
        if not text:
            raise UsbipVudcError(
                f"kernel {kernel}: no results from the lab, which ended with {done.returncode}"
            )
        return [replace(result, kernel=kernel) for result in from_json(text)]


def _inside(results: Path, processes: int) -> str:
    """What the shell of the guest runs."""
    words = (sys.executable, "-m", "usbip_vudc", "matrix", "-n", str(processes), "--json")
    command = shlex.join((*words, "--cells", str(results / "cells.txt")))
    return f"{_SETUP}exec {command} > {shlex.quote(str(results / 'matrix.json'))}"


def _lab(kernel: str, results: Path, inside: str) -> Sequence[str]:
    """The command that runs ``inside`` on this kernel."""
    # A cell takes seconds under emulation, and one that does not recover more than a minute.
    lab = (sys.executable, "-m", "usbip_vudc", "lab", "--kernel", kernel, "--timeout", "3600")
    return (*lab, "--results", str(results), "--", "sh", "-c", inside)
