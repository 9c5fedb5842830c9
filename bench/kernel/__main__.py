"""Runs the pairs by turns and prints rates and ratios; exit status 0 whatever they are."""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections import defaultdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.kernel.carriers import CARRIERS, load_modules
from bench.kernel.disks import DISKS, measure_disk, measure_qemu_disk
from bench.kernel.measure import Sample
from bench.kernel.ports import measure_ours, measure_theirs
from usbip_vudc.carrier import OURS

KERNEL_UDC_TARGET = 0.9
"""FunctionFS against the kernel's own function on the same UDC."""

USERSPACE_TARGET = 10.0
"""Our UDC under vhci against f_mass_storage on usbip-vudc."""

Samples = dict[tuple[str, str, str], list[Sample]]
"""(carrier, whose function, what was done) -> one for each round."""


def main() -> None:
    """Measure in turns, then print."""
    arguments = _arguments()
    console = Console(width=110)
    load_modules()
    samples: Samples = defaultdict(list)
    chosen = [name for name in CARRIERS if arguments.only in name]
    for number in range(arguments.rounds):
        for name in chosen:
            console.print(f"round {number + 1} of {arguments.rounds}: {name}")
            _round(samples, name, arguments.mib, arguments.serial_kib << 10)
    for sample in measure_qemu_disk(arguments.mib):
        samples["QEMU usb-storage", "qemu", sample.what].append(sample)
    _print(console, samples, arguments)
    if arguments.json:
        rows = [{"carrier": c, "function": f, "what": w, "mb_per_s": _rate(found)}
                for (c, f, w), found in samples.items()]  # fmt: skip
        Path(arguments.json).write_text(json.dumps(rows, indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.kernel", description=__doc__)
    parser.add_argument("--mib", type=int, default=64, help="MiB that each dd moves")
    parser.add_argument("--serial-kib", type=int, default=512, help="KiB of each serial transfer")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", default="", help="carriers with this in their name")
    results = os.environ.get("USBIP_VUDC_LAB_RESULTS")
    default = f"{results}/bench.json" if results else ""
    parser.add_argument("--json", default=default, help="file for the figures")
    return parser.parse_args()


def _round(samples: Samples, name: str, mib: int, serial_length: int) -> None:
    carrier = CARRIERS[name]
    for disk in DISKS:
        if carrier.udc != OURS or disk == "ours":
            for sample in measure_disk(carrier, disk, mib):
                samples[name, disk, sample.what].append(sample)
    for sample in measure_ours(carrier, serial_length):
        samples[name, "ours", sample.what].append(sample)
    if carrier.udc != OURS:
        for sample in measure_theirs(carrier, serial_length):
            samples[name, "f_acm", sample.what].append(sample)


def _rate(found: list[Sample]) -> float:
    return statistics.median(sample.rate for sample in found)


def _reference(samples: Samples, carrier: str, what: str) -> tuple[str, float, float] | None:
    """What ours is held against: its name, its rate, and the target."""
    is_disk = what.startswith("dd")
    theirs = "f_mass_storage" if is_disk else "f_acm"
    if (carrier, theirs, what) in samples:
        return theirs, _rate(samples[carrier, theirs, what]), KERNEL_UDC_TARGET
    vudc = samples.get(("usbip-vudc, high", theirs, what))
    if vudc and carrier.startswith("userspace"):
        return f"{theirs} on usbip-vudc", _rate(vudc), USERSPACE_TARGET
    return None


def _print(console: Console, samples: Samples, arguments: argparse.Namespace) -> None:
    table = Table(
        title=f"{os.uname().release}: dd of {arguments.mib} MiB, serial of "
        f"{arguments.serial_kib} KiB; MB/s, median of {arguments.rounds}"
    )
    for heading in ("carrier", "what", "ours", "reference", "its rate", "ratio", "target"):
        table.add_column(heading)
    missed = []
    for (carrier, function, what), found in samples.items():
        if function not in ("ours", "qemu"):
            continue
        rate = _rate(found)
        reference = _reference(samples, carrier, what)
        if reference is None:
            table.add_row(carrier, what, f"{rate:.2f}", "", "", "", "")
            continue
        name, theirs, target = reference
        ratio = rate / theirs
        met = ratio >= target
        shown = f"{ratio:.2f}" if met else f"[red]{ratio:.2f}[/red]"
        table.add_row(carrier, what, f"{rate:.2f}", name, f"{theirs:.2f}", shown, f"{target:g}")
        if not met:
            missed.append(f"{carrier}, {what}: {found[-1].where_time_goes()}")
    console.print(table)
    for line in missed:
        console.print(f"missed: {line}")


if __name__ == "__main__":
    main()
