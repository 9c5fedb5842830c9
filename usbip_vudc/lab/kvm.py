"""Whether KVM boots here: the probe boots a sector of a few instructions and waits for its exit.

A /dev/kvm that hangs, or ends QEMU by an assertion, is no rarity where virtual machines are nested.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from usbip_vudc.lab.cache import cache_directory

__all__ = ("Kvm", "boot_sector", "probe")

_EXIT_CODE: Final = 0x2A
_EXIT_STATUS: Final = _EXIT_CODE << 1 | 1
"""What isa-debug-exit makes of a byte written to its port (QEMU, hw/misc/debugexit.c)."""

_DEADLINE: Final = 5.0
"""Seconds; a KVM that works needs 0.2."""


@dataclass(frozen=True, slots=True)
class Kvm:
    """Whether KVM can be used, and how that was found out, in words."""

    usable: bool
    reason: str


def boot_sector() -> bytes:
    """``mov al, 0x2a; out 0xf4, al; cli; hlt; jmp $``, as a BIOS boots it from a floppy disk."""
    code = bytes([0xB0, _EXIT_CODE, 0xE6, 0xF4, 0xFA, 0xF4, 0xEB, 0xFE])
    return code.ljust(510, b"\0") + b"\x55\xaa"


def probe(qemu: str, device: Path = Path("/dev/kvm")) -> Kvm:
    """Try KVM with this QEMU, for at most 5 seconds; the answer is kept until the next boot."""
    if not device.exists():
        return Kvm(False, f"there is no {device}")
    if not os.access(device, os.R_OK | os.W_OK):
        return Kvm(False, f"{device} may not be opened by this user: usermod -aG kvm USER")
    kept = cache_directory() / f"kvm-{_identity(qemu)}.json"
    try:
        return Kvm(**json.loads(kept.read_text()))
    except (OSError, ValueError, TypeError):
        answer = _boot(qemu)
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(asdict(answer)))
    return answer


def _identity(qemu: str) -> str:
    """Changes with each boot of this machine and each version of QEMU."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    version = subprocess.run((qemu, "--version"), capture_output=True, text=True, check=False)
    return hashlib.sha256((boot + qemu + version.stdout).encode()).hexdigest()[:16]


def _boot(qemu: str) -> Kvm:
    with tempfile.NamedTemporaryFile(prefix="usbip-vudc-kvm-") as image:
        image.write(boot_sector())
        image.flush()
        command = (
            *(qemu, "-accel", "kvm", "-cpu", "host", "-m", "16", "-nodefaults", "-no-reboot"),
            *("-display", "none", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"),
            *("-drive", f"if=floppy,format=raw,readonly=on,file={image.name}"),
        )
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_DEADLINE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Kvm(False, f"/dev/kvm hung for {_DEADLINE:.0f} s")
    if done.returncode == _EXIT_STATUS:
        return Kvm(True, "a boot sector ran under it")
    said = (done.stderr.strip().splitlines() or ["nothing"])[0]
    return Kvm(False, f"QEMU ended with status {done.returncode} under KVM and said: {said}")
