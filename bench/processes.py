"""Server processes of the bench: started, pinned to a CPU, and asked what CPU time they took."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ("ServerProcess", "rival_python", "started")

_VENV = Path(".bench-venv")


class ServerProcess:
    """A running server: its port, and its devices by name."""

    def __init__(self, name: str, process: subprocess.Popen[str], devices: int) -> None:
        self.name = name
        self.pid = process.pid
        if process.stdout is None:
            raise RuntimeError("the server has no output")
        first = process.stdout.readline()
        if not first.startswith("listening on "):
            raise RuntimeError(f"{name}: said {first!r}, expected 'listening on HOST:PORT'")
        self.port = int(first.rsplit(":", 1)[1])
        lines = (process.stdout.readline().split() for _ in range(devices))
        self.busids = {name: busid for busid, name in lines}

    def cpu_time(self) -> float:
        """Seconds that all its threads have spent on a CPU so far."""
        total = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
        return total / 1e9

    def kernel_share(self) -> tuple[int, int]:
        """Clock ticks spent so far in the kernel, and in all."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        user, system = int(fields[11]), int(fields[12])
        return system, user + system

    def peak_memory(self) -> int:
        """Bytes of VmHWM: resident memory at its highest."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError(f"{self.name}: no VmHWM in /proc/{self.pid}/status")


@contextmanager
def started(
    name: str, command: Sequence[str], *, cpus: set[int], devices: int = 0
) -> Iterator[ServerProcess]:
    """Run a server on these CPUs while the context lasts."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cpus),
    )
    try:
        yield ServerProcess(name, process, devices)
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def rival_python() -> str | None:
    """A Python of the bench's own environment with the rival installed; None where it cannot be."""
    python = _VENV / "bin" / "python"
    if not python.exists():
        print(f"installing the rival (PyPI: usbip) into {_VENV}...", file=sys.stderr)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for command in ([sys.executable, "-m", "venv", str(_VENV)], [*pip, "usbip==0.7.0"]):
            if subprocess.run(command, check=False).returncode:
                return None
    return str(python)
