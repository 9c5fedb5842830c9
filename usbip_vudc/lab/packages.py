"""What the lab and the kernel tests need of the system: one list, and apt to install it."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from usbip_vudc.errors import UsbipVudcError

__all__ = ("NEEDS", "QEMU", "Need", "can_install", "install", "install_command", "library", "tool",
           "why_no_boot")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Need:
    """One thing and the Debian packages that bring it; ``a|b`` is whichever there is."""

    what: str
    packages: tuple[str, ...]
    why: str
    present: Callable[[], bool]
    boots: bool = False
    """Whether the lab cannot boot without it; the others are for what runs inside."""


def tool(name: str) -> str | None:
    """Path of a program; also those of the administrator, whatever this user's PATH is."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin")


def library(soname: str) -> bool:
    """Whether the dynamic linker finds it."""
    try:
        ctypes.CDLL(soname)
    except OSError:
        return False
    return True


def _static_busybox() -> bool:
    for name in ("busybox-static", "busybox.static", "busybox"):
        path = tool(name)
        if path is not None:
            # A dynamic program names its loader in the first page (ELF PT_INTERP).
            return b"/ld-" not in Path(path).read_bytes()[:4096]
    return False


def _udevd() -> bool:
    places = ("/usr/lib/systemd/systemd-udevd", "/lib/systemd/systemd-udevd")
    return any(Path(place).exists() for place in places) or tool("udevd") is not None


def _programs(*names: str) -> Callable[[], bool]:
    return lambda: all(tool(name) is not None for name in names)


QEMU: Final = f"qemu-system-{os.uname().machine}"

NEEDS: Final = (
    Need(QEMU, ("qemu-system-x86",), "the virtual machine", _programs(QEMU), boots=True),
    Need("busybox, static", ("busybox-static",), "the initramfs", _static_busybox, boots=True),
    Need("file", ("file",), "virtme-ng reads versions with it", _programs("file"), boots=True),
    Need("modprobe", ("kmod",), "loading modules", _programs("modprobe", "depmod"), boots=True),
    Need("ip", ("iproute2",), "the guest's loopback", _programs("ip"), boots=True),
    Need("udev", ("udev",), "the guest's device nodes", _udevd, boots=True),
    Need("gpgv", ("gpgv",), "the signature on Debian's kernels", _programs("gpgv")),
    Need("libaio", ("libaio1t64|libaio1",), "FunctionFS transfers",
         lambda: library("libaio.so.1") or library("libaio.so.1t64")),
    Need("libusb-1.0", ("libusb-1.0-0",), "pyusb with real devices",
         lambda: library("libusb-1.0.so.0")),
    Need("usbip", ("usbip",), "tests with Linux's own tools", _programs("usbip", "usbipd")),
    Need("mkfs.ext4", ("e2fsprogs",), "disk images of tests", _programs("mkfs.ext4", "e2fsck")),
    Need("mkfs.vfat", ("dosfstools",), "disk images of tests", _programs("mkfs.vfat", "fsck.vfat")),
    Need("sg3_utils", ("sg3-utils",), "SCSI commands by hand", _programs("sg_turs", "sg_opcodes")),
    Need("fio", ("fio",), "transfers that verify themselves", _programs("fio")),
    Need("f3probe", ("f3",), "telling fake disks from true ones", _programs("f3probe")),
    Need("lrzsz", ("lrzsz",), "files over the serial port", _programs("sz", "rz")),
    Need("picocom", ("picocom",), "a session on the serial port", _programs("picocom")),
    Need("lsusb", ("usbutils",), "looking at descriptors", _programs("lsusb")),
    Need("gcc and make", ("gcc", "make"), "a vhci-hcd without SG", _programs("gcc", "make")),
)  # fmt: skip
"""In the order of how much is lost without them."""


def why_no_boot() -> str:
    """What the lab lacks to boot here, with the command that mends it; empty if nothing."""
    if importlib.util.find_spec("virtme") is None:
        return "no virtme-ng: pip install 'usbip-vudc[lab]'"
    lacking = [need for need in NEEDS if need.boots and not need.present()]
    if not lacking:
        return ""
    return f"no {', no '.join(need.what for need in lacking)}: {install_command(lacking)}"


def can_install() -> bool:
    """Whether this is root on a system with apt."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install_command(needs: Sequence[Need]) -> str:
    """What mends it, to be typed; of alternatives the last, since apt is not asked here."""
    names = " ".join(name.split("|")[-1] for need in needs for name in need.packages)
    return f"apt-get install --no-install-recommends {names}"


def install(needs: Sequence[Need]) -> None:
    """Install what these needs lack; apt's own words go where ours go.

    Raises UsbipVudcError if apt cannot.
    """
    wanted = [name for need in needs if not need.present() for name in need.packages]
    if not wanted:
        return
    names = _candidates(wanted)
    if len(names) < len(wanted):
        _apt("update")
        names = _candidates(wanted)
    if names:
        _apt("install", "--yes", "--no-install-recommends", *names)


def _candidates(wanted: Sequence[str]) -> list[str]:
    """Those of the packages that apt can have now; of alternatives the first such."""
    done = subprocess.run(
        ("apt-cache", "policy", *(one for name in wanted for one in name.split("|"))),
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "C"},
        check=False,
    )
    there = set(re.findall(r"^(\S+):\n.*\n  Candidate: (?!\(none\))", done.stdout, re.MULTILINE))
    chosen = (next((one for one in name.split("|") if one in there), None) for name in wanted)
    return [name for name in chosen if name is not None]


def _apt(*arguments: str) -> None:
    done = subprocess.run(
        ("apt-get", "--quiet", *arguments),
        stdin=subprocess.DEVNULL,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        check=False,
    )
    if done.returncode:
        raise UsbipVudcError(f"apt-get {' '.join(arguments)}: status {done.returncode}")
