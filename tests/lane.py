"""Runs the two lanes of the suite and says in one line what came of them.

The userspace lane is pytest here. The kernel lane is pytest in the lab: one boot for all of
tests/kernel. ``python -m tests.lane`` is what ``make test`` runs, with ``--kernels K...`` what
``make test-kernels`` runs: the kernel lane alone, on each of them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from usbip_vudc.errors import UsbipVudcError
from usbip_vudc.lab.boot import DIED, TIMED_OUT
from usbip_vudc.lab.cache import cache_directory
from usbip_vudc.lab.kernels import Kernel
from usbip_vudc.lab.kernels import installed as installed_kernel
from usbip_vudc.lab.modules import build_variant
from usbip_vudc.lab.packages import NEEDS, can_install, install, why_no_boot
from usbip_vudc.lab.selection import find
from usbip_vudc.lab.trouble import trouble_of_run
from usbip_vudc.lab.variants import VARIANTS
from usbip_vudc.report import progress

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "build" / "test-results"
FALLBACK = "debian:bookworm"
LAB_TIMEOUT = int(os.environ.get("USBIP_VUDC_LANE_TIMEOUT", "4200"))
"""Seconds for boot and tests: three times what they take on two idle CPUs without KVM."""

console = Console(highlight=False, soft_wrap=True)
if not console.is_terminal:
    console = Console(highlight=False, soft_wrap=True, width=120)


@dataclass(frozen=True)
class Counts:
    """What JUnit's XML says of one run of pytest."""

    passed: int = 0
    failed: int = 0
    skipped: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        text = f"{self.passed} passed, {self.failed} failed"
        if self.skipped:
            reasons = "; ".join(f"{n} x {why}" if n > 1 else why for why, n in self.skipped.items())
            text += f", {self.skipped.total()} skipped ({reasons})"
        return text


@dataclass(frozen=True)
class Lane:
    """One lane after it ran, or with ``why_not`` if it did not."""

    name: str
    status: int = 0
    counts: Counts | None = None
    why_not: str = ""
    seconds: float = 0.0
    dmesg: str = ""

    def __str__(self) -> str:
        if self.why_not:
            return f"{self.name}: DID NOT RUN ({self.why_not})"
        what = {TIMED_OUT: "TIMED OUT", DIED: "THE VM DIED"}.get(
            self.status, f"no results, status {self.status}"
        )
        dmesg = f", dmesg {self.dmesg}" if self.dmesg else ""
        return f"{self.name}: {self.counts or what}{dmesg} ({self.seconds:.0f} s)"


def read_junit(path: Path) -> Counts | None:
    """Each test once: one that failed, and whose teardown did as well, is one failure."""
    try:
        cases = list(ET.parse(path).iter("testcase"))
    except (OSError, ET.ParseError):
        return None
    outcomes: dict[tuple[str | None, str | None], str | None] = {}
    skipped: Counter[str] = Counter()
    for case in cases:
        key = case.get("classname"), case.get("name")
        if case.find("failure") is not None or case.find("error") is not None:
            outcomes[key] = "failed"
        elif (skip := case.find("skipped")) is not None:
            skipped[skip.get("message") or "no reason"] += 1
            outcomes.setdefault(key, "skipped")
        else:
            outcomes.setdefault(key, "passed")
    numbers = Counter(outcomes.values())
    return Counts(numbers["passed"], numbers["failed"], skipped)


def userspace(arguments: Sequence[str]) -> Lane:
    results = _fresh(RESULTS / "userspace")
    started = time.monotonic()
    xml = results / "userspace.xml"
    done = subprocess.run(
        (sys.executable, "-m", "pytest", "-m", "not kernel", f"--junitxml={xml}", *arguments),
        cwd=ROOT,
        check=False,
    )
    counts = read_junit(xml)
    return Lane("userspace", done.returncode, counts, seconds=time.monotonic() - started)


def kernel_lane(text: str | None, arguments: Sequence[str]) -> Lane:
    """Boot the kernel that ``text`` names, or that of /boot, or Debian 12's, and run the lane."""
    name = f"kernel {text}" if text else "kernel"
    if text is None and installed_kernel() is None:
        text = FALLBACK
    try:
        why_not = _prepare()
        kernel = find(text, progress=partial(progress, console)) if not why_not else None
    except UsbipVudcError as error:
        return Lane(name, why_not=str(error))
    if kernel is None:
        return Lane(name, why_not=why_not)
    results = _fresh(RESULTS / f"kernel-{kernel.version}")
    started = time.monotonic()
    status = _boot(kernel, text, results, arguments)
    bad = trouble_of_run(results)
    return Lane(
        f"kernel {kernel.version}",
        status,
        read_junit(results / "kernel.xml"),
        seconds=time.monotonic() - started,
        dmesg=f"has {len(bad)} lines of trouble" if bad else "clean",
    )


def _boot(kernel: Kernel, text: str | None, results: Path, arguments: Sequence[str]) -> int:
    console.print(f"kernel lane: {kernel.version}", style="bold", markup=False)
    where = () if any(word.startswith("tests/") for word in arguments) else ("tests/kernel",)
    done = subprocess.run(
        (
            *(sys.executable, "-m", "usbip_vudc", "lab"),
            *("--timeout", str(LAB_TIMEOUT), "--results", str(results)),
            *(("--kernel", text) if text else ()),
            *("--", "python", "-m", "pytest", "-m", "kernel", "-v", "-p", "no:cacheprovider"),
            *(f"--junitxml={results / 'kernel.xml'}", *where, *arguments),
        ),
        cwd=ROOT,
        env={**os.environ, "USBIP_VUDC_NO_SG": str(_without_sg(kernel))},
        check=False,
    )
    return done.returncode


def _without_sg(kernel: Kernel) -> Path:
    """Where the modules without SG are built for the guest, if they can be built here."""
    directory = cache_directory() / "no-sg"
    try:
        for module in VARIANTS:
            build_variant(
                kernel.version,
                module,
                cache=directory,
                suite=kernel.suite,
                progress=partial(progress, console),
            )
    except (UsbipVudcError, OSError) as error:
        console.print(f"kernel lane: no modules without SG: {error}", style="bold", markup=False)
    return directory


def _prepare() -> str:
    """Install what the lane needs, if we may; why the lab cannot boot, or nothing."""
    if can_install():
        try:
            install(NEEDS)
        except UsbipVudcError as error:
            console.print(f"kernel lane: {error}", markup=False)
    return why_no_boot()


def _fresh(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("true", "1", "yes")


def verdict(lanes: Sequence[Lane], *, ci: bool) -> int:
    """0 if all that ran passed, and in CI if all ran."""
    return int(any(lane.status or (lane.why_not and ci) for lane in lanes))


def both(arguments: Sequence[str]) -> int:
    _prepare()  # the userspace lane wants some of it too: libaio, usbip
    lanes = (userspace(arguments), kernel_lane(None, arguments))
    status = verdict(lanes, ci=in_ci())
    for lane in lanes:
        if lane.why_not:
            console.print(
                f" KERNEL LANE DID NOT RUN: {lane.why_not} ",
                style="bold white on red",
                markup=False,
            )
    summary = "; ".join(map(str, lanes))
    console.print(
        f"{'FAILED' if status else 'passed'}: {summary}",
        style="bold red" if status else "bold green",
        markup=False,
    )
    return status


def on_kernels(kernels: Sequence[str], arguments: Sequence[str]) -> int:
    lanes = {kernel: kernel_lane(kernel, arguments) for kernel in kernels}
    table = Table(title="kernel lane", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("kernel", "version", "passed", "failed", "skipped", "seconds", "dmesg"):
        table.add_column(heading, no_wrap=heading == "version")
    for kernel, lane in lanes.items():
        if lane.counts is None:
            table.add_row(kernel, f"[bold red]{lane}[/]")
            continue
        counts = lane.counts
        failed = f"[bold red]{counts.failed}[/]" if counts.failed else "0"
        numbers = (str(counts.passed), failed, str(counts.skipped.total()))
        version = lane.name.partition(" ")[2]
        table.add_row(kernel, version, *numbers, f"{lane.seconds:.0f}", lane.dmesg)
    console.print(table)
    for kernel, lane in lanes.items():
        for reason, number in (lane.counts.skipped if lane.counts else Counter[str]()).items():
            console.print(f"{kernel}: {number} skipped: {reason}", markup=False)
    return verdict(tuple(lanes.values()), ci=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.lane", description=__doc__)
    parser.add_argument("--kernels", nargs="+", metavar="K", help="the kernel lane, on each")
    parser.add_argument("--only-kernel", action="store_true", help="no userspace lane")
    parser.add_argument("pytest", nargs="*", help="more arguments of pytest, after --")
    options = parser.parse_args()
    # What is compiled here need not be compiled in the guest, by each of its processes.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if options.kernels:
        return on_kernels(options.kernels, options.pytest)
    if options.only_kernel:
        lane = kernel_lane(None, options.pytest)
        console.print(str(lane), markup=False)
        return verdict((lane,), ci=True)
    return both(options.pytest)


if __name__ == "__main__":
    sys.exit(main())
