"""dd from and to a disk, ours or the kernel's, on every carrier; and QEMU's own USB disk."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from bench.kernel.carriers import carry, gadget_of, wait_for
from bench.kernel.measure import Sample
from gadgets.mass_storage.function import MassStorageFunction
from gadgets.mass_storage.lun import FileLun
from usbip_vudc.carrier import Carrier
from usbip_vudc.gadget import Gadget, KernelFunction

__all__ = ("DISKS", "measure_disk", "measure_qemu_disk")

MIB = 1 << 20
_IMAGE = Path("/dev/shm/bench.img")
_DISK_ID = 0xA4A5
_RATE = re.compile(rb"(\d+) bytes.* copied, ([\d.]+) s")


def ours() -> Gadget:
    """Our disk, on FunctionFS or on our UDC."""
    return gadget_of(MassStorageFunction([FileLun(_IMAGE)]), _DISK_ID)


def kernels() -> Gadget:
    """f_mass_storage."""
    attributes = {"lun.0/file": str(_IMAGE)}
    return gadget_of(KernelFunction(driver="mass_storage", attributes=attributes), _DISK_ID)


DISKS: dict[str, Callable[[], Gadget]] = {"ours": ours, "f_mass_storage": kernels}


def measure_disk(carrier: Carrier, name: str, mib: int) -> list[Sample]:
    """Read and then write ``mib`` MiB through the disk of this name."""
    with _IMAGE.open("wb") as image:
        image.truncate(mib * MIB)
        os.pwrite(image.fileno(), os.urandom(MIB), 0)
    # The last disk's name comes back: it must be gone before the new one is looked for.
    wait_for(lambda: None if _ours() else _IMAGE, "end of the last disk")
    with carry(DISKS[name], carrier) as process:
        node = wait_for(_new, "disk")
        samples = []
        for direction in ("read", "write"):
            started = process.cpu_seconds()
            seconds = _dd(direction, node, mib)
            ended = process.cpu_seconds()
            samples.append(Sample(f"dd {direction}", mib * MIB, seconds, started, ended))
        return samples


def measure_qemu_disk(mib: int) -> list[Sample]:
    """QEMU's usb-storage, where this machine has one; nothing otherwise."""
    for path in _disks():
        vendor = (path / "device/vendor").read_text().strip()
        if vendor == "QEMU" and "usb" in os.path.realpath(path):
            node = Path("/dev") / path.name
            return [
                Sample(f"dd {d}", mib * MIB, _dd(d, node, mib), (0.0, 0.0), (0.0, 0.0))
                for d in ("read", "write")
            ]
    return []


def _dd(direction: str, node: Path, mib: int) -> float:
    """Seconds that dd itself counted."""
    where = {
        "read": (f"if={node}", "of=/dev/null", "iflag=direct"),
        "write": ("if=/dev/zero", f"of={node}", "oflag=direct"),
    }
    done = subprocess.run(
        ("dd", *where[direction], "bs=1M", f"count={mib}"), capture_output=True, check=True
    )
    match = _RATE.search(done.stderr)
    assert match is not None, done.stderr
    assert int(match[1]) == mib * MIB, done.stderr
    return float(match[2])


def _disks() -> set[Path]:
    return set(Path("/sys/block").glob("sd*"))


def _ours() -> set[Path]:
    """The disks that are not QEMU's."""
    return {p for p in _disks() if "QEMU" not in (p / "device/vendor").read_text()}


def _new() -> Path | None:
    for path in _ours():
        node = Path("/dev") / path.name
        if node.exists() and int((path / "size").read_text()):
            return node
    return None
