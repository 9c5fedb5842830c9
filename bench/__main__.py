"""Runs every case on both servers by turns, and prints rates, ratios and server CPU time."""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.cases import CASES, MIB, Case, Lane
from bench.processes import ServerProcess, rival_python, started
from usbip_vudc.host.storage import UsbStorage
from usbip_vudc.memory import page_aligned
from usbip_vudc.pyusb_backend import get_backend

IMAGE_SIZE = 64 * MIB
SPARSE_SIZE = 1 << 30
MEMORY_LIMIT = 60 * MIB


@dataclass(slots=True)
class Sample:
    """One timed run: pieces of work a second, server CPU seconds a URB, and ticks in the kernel."""

    pieces: float
    cpu: float
    kernel_ticks: int
    ticks: int


@dataclass(slots=True)
class Result:
    """All samples of one case, by server."""

    case: Case
    samples: dict[str, list[Sample]] = field(default_factory=lambda: defaultdict(list))

    def rate(self, server: str) -> float | None:
        """MB/s of payload, or thousands of URBs a second."""
        samples = self.samples.get(server)
        if not samples:
            return None
        pieces = statistics.median(s.pieces for s in samples)
        return pieces * self.case.unit / 1e6 if self.case.unit else pieces / 1e3

    def cpu(self, server: str) -> float | None:
        """Server CPU time in us a URB."""
        samples = self.samples.get(server)
        return statistics.median(s.cpu for s in samples) * 1e6 if samples else None

    def ratio(self) -> float | None:
        """Ours to the rival's, median of the pairs of rounds."""
        pairs = zip(self.samples.get("ours", ()), self.samples.get("rival", ()), strict=False)
        ratios = [ours.pieces / rival.pieces for ours, rival in pairs]
        return statistics.median(ratios) if ratios else None

    def where_time_goes(self) -> str:
        """Our server's CPU time a URB, and how much of it is the kernel's."""
        samples = self.samples["ours"]
        ticks = sum(s.ticks for s in samples)
        kernel = sum(s.kernel_ticks for s in samples) / max(ticks, 1)
        cpu = self.cpu("ours") or 0.0
        return (
            f"{cpu:.1f} us of server CPU a URB, of which {cpu * kernel:.1f} in the kernel and "
            f"{cpu * (1 - kernel):.1f} in Python"
        )

    def misses(self) -> list[str]:
        """Targets that were not met."""
        missed = []
        ratio, cpu = self.ratio(), self.cpu("ours")
        if self.case.ratio is not None and ratio is not None and ratio < self.case.ratio:
            missed.append(
                f"{self.case.name}: {ratio:.2f} times the rival, target {self.case.ratio}"
            )
        if self.case.cpu is not None and cpu is not None and cpu > self.case.cpu:
            missed.append(f"{self.case.name}: {cpu:.1f} us of server CPU a URB, "
                          f"target {self.case.cpu:g}")  # fmt: skip
        return missed


def run(case: Case, server: ServerProcess, seconds: float, *, ours: bool) -> Sample:
    """Time one case on one server; ``ours`` says whose program it is."""
    busid = server.busids["bulk" if case.device == "bulk" else _disk(server)]
    lane = Lane(server.port, busid, ours=ours)
    try:
        step = case.make(lane)
        for _ in range(20):
            step()
        pieces = 0
        cpu = server.cpu_time()
        kernel_ticks, ticks = server.kernel_share()
        began = time.perf_counter()
        end = began + seconds
        while (now := time.perf_counter()) < end:
            pieces += step()
        used = server.cpu_time() - cpu
        kernel_after, ticks_after = server.kernel_share()
        return Sample(
            pieces / (now - began),
            used / (pieces * case.urbs),
            kernel_after - kernel_ticks,
            ticks_after - ticks,
        )
    finally:
        lane.bare.close()


def _disk(server: ServerProcess) -> str:
    return "disk" if "disk" in server.busids else "storage"


def loopback_limit(cpus: set[int], seconds: float) -> float:
    """MB/s of 1 MiB blocks over TCP on loopback, sender and receiver on one CPU."""
    command = [sys.executable, "-m", "bench.loopback"]
    with started("loopback", command, cpus=cpus) as server:
        rates = []
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            buffer = page_aligned(MIB)
            for _ in range(5):
                received = 0
                began = time.perf_counter()
                while time.perf_counter() - began < seconds:
                    received += sock.recv_into(buffer)
                rates.append(received / (time.perf_counter() - began) / 1e6)
        return statistics.median(rates)


def memory_in_use(cpus: set[int], folder: Path) -> int:
    """Peak resident bytes of a server whose 1 GiB sparse disk has been read from end to end."""
    image = folder / "sparse.img"
    with image.open("wb") as file:
        file.truncate(SPARSE_SIZE)
    command = [sys.executable, "-m", "bench.ours", "--image", str(image)]
    with started("ours", command, cpus=cpus, devices=2) as server:
        import usb.core
        import usb.util

        device = usb.core.find(backend=get_backend("127.0.0.1", server.port), idProduct=0xA4A5)
        disk = UsbStorage(device)
        disk.wait_ready()
        buffer = page_aligned(MIB)
        for lba in range(0, SPARSE_SIZE // 512, MIB // 512):
            disk.read_into(lba, buffer)
            if lba % (64 * MIB // 512) == 0:
                disk.write(lba, buffer)
        usb.util.dispose_resources(device)
        return server.peak_memory()


def show(console: Console, results: Sequence[Result], rival: str | None) -> None:
    """Print the table."""
    other = "itself with usbip_vudc.injection imported" if rival == "injection" else "PyPI's usbip"
    table = Table(title=f"our server beside {other}, the same host on both", title_justify="left")
    table.add_column("case")
    for heading in ("ours", "rival", "unit", "ratio", "target", "CPU ours", "CPU rival"):
        table.add_column(heading, justify="right")
    for result in results:
        ratio, case = result.ratio(), result.case
        met = ratio is None or case.ratio is None or ratio >= case.ratio
        table.add_row(
            case.name,
            _number(result.rate("ours")),
            _number(result.rate("rival")),
            "MB/s" if case.unit else "kURB/s",
            "" if ratio is None else f"{ratio:.2f}" if met else f"[bold red]{ratio:.2f}[/]",
            "" if case.ratio is None else f"{case.ratio:g}",
            _number(result.cpu("ours")),
            _number(result.cpu("rival")),
        )
    console.print(table)
    console.print("CPU: us of server CPU time a URB.")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def main() -> int:
    """Run the bench; the exit status is 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each case on each server")
    parser.add_argument("--seconds", type=float, default=0.25, help="length of one run")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--unpinned", action="store_true", help="let server and host use all CPUs")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    others = parser.add_mutually_exclusive_group()
    others.add_argument("--no-rival", action="store_true", help="measure our server alone")
    others.add_argument(
        "--injection",
        action="store_true",
        help="the rival is our own server with usbip_vudc.injection imported: ratios of 1 within "
        "noise say that a gadget without a plan pays nothing",
    )
    arguments = parser.parse_args()
    console = Console()
    if not console.is_terminal:
        console = Console(width=100)
    cpus = os.sched_getaffinity(0) if arguments.unpinned else {max(os.sched_getaffinity(0))}
    os.sched_setaffinity(0, cpus)
    cases = [replace(case, ratio=None) if arguments.injection else case for case in CASES]
    results = [Result(case) for case in cases if arguments.only in case.name]
    shared = Path("/dev/shm")
    with ExitStack() as stack:
        parent = shared if os.access(shared, os.W_OK) else None
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=parent)))
        rival = None if arguments.no_rival else "injection" if arguments.injection else "usbip"
        servers = _start(stack, folder, cpus, rival)
        limit = loopback_limit(cpus, arguments.seconds)
        rounds = [(r, server) for _ in range(arguments.rounds) for r in results
                  for server in servers]  # fmt: skip
        for result, server in track(rounds, "measuring", console=console, transient=True):
            ours = server.name == "ours" or arguments.injection
            sample = run(result.case, server, arguments.seconds, ours=ours)
            result.samples[server.name].append(sample)
        memory = memory_in_use(cpus, folder)
    show(console, results, rival)
    shared_cpu = "all CPUs" if arguments.unpinned else "one CPU"
    console.print(f"server and host shared {shared_cpu}")
    if rival == "injection":
        ratios = [ratio for result in results if (ratio := result.ratio()) is not None]
        console.print(f"median of all ratios: {statistics.median(ratios):.2f}")
    console.print(f"loopback limit, 1 MiB blocks one way: {limit:.0f} MB/s")
    console.print(
        f"server memory with a 1 GiB sparse disk read through: {memory / MIB:.1f} MiB "
        f"(target: under {MEMORY_LIMIT // MIB})"
    )
    missed = [
        f"{line} ({result.where_time_goes()})" for result in results for line in result.misses()
    ]
    if memory >= MEMORY_LIMIT:
        missed.append(f"server memory: {memory / MIB:.1f} MiB")
    for line in missed:
        console.print(f"missed: {line}")
    if not missed:
        console.print("every target is met")
    if arguments.json is not None:
        figures = _figures(results, limit, memory)
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


_RIVALS: Final = {
    "usbip": ["bench/rival.py", "--tcp-port", "0"],
    "injection": ["-m", "bench.ours", "--with-injection"],
}


def _start(
    stack: ExitStack, folder: Path, cpus: set[int], rival: str | None
) -> list[ServerProcess]:
    servers = []
    pythons: dict[str, str | None] = {"ours": sys.executable}
    commands = {"ours": ["-m", "bench.ours"]}
    if rival is not None:
        pythons["rival"] = sys.executable if rival == "injection" else rival_python()
        commands["rival"] = _RIVALS[rival]
    for name, python in pythons.items():
        if python is None:
            continue
        image = folder / f"{name}.img"
        image.write_bytes(bytes(IMAGE_SIZE))
        command = [python, *commands[name], "--image", str(image)]
        servers.append(stack.enter_context(started(name, command, cpus=cpus, devices=2)))
    if rival and len(servers) == 1:
        print("the rival could not be installed; its columns stay empty", file=sys.stderr)
    return servers


def _figures(results: Sequence[Result], limit: float, memory: int) -> dict[str, object]:
    return {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "loopback_mb_per_s": limit,
        "server_memory_bytes": memory,
        "cases": [
            {
                "case": r.case.name,
                "unit": "MB/s" if r.case.unit else "kURB/s",
                "ours": r.rate("ours"),
                "rival": r.rate("rival"),
                "ratio": r.ratio(),
                "target_ratio": r.case.ratio,
                "cpu_us_per_urb": r.cpu("ours"),
                "rival_cpu_us_per_urb": r.cpu("rival"),
                "target_cpu_us_per_urb": r.case.cpu,
            }
            for r in results
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
