"""What works on this machine, what each thing is for, and the command that mends what is missing.

It looks, and changes nothing; only the probe of KVM starts a program.
"""

from __future__ import annotations

import gzip
import importlib.util
import os
import re
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from usbip_vudc.errors import UsbipVudcError
from usbip_vudc.lab.boot import find_qemu
from usbip_vudc.lab.kernels import installed
from usbip_vudc.lab.kvm import probe
from usbip_vudc.lab.packages import NEEDS, install_command

__all__ = ("Check", "State", "System", "all_checks", "userspace_works")


class State(Enum):
    """``n.a.`` is what cannot be known, or does not matter here."""

    OK = "ok"
    MISSING = "missing"
    NOT_APPLICABLE = "n.a."


@dataclass(frozen=True, slots=True)
class Check:
    """One row: ``seen`` is what was found, ``mend`` the command to type, or empty."""

    what: str
    state: State
    seen: str
    why: str
    mend: str = ""
    userspace: bool = False
    """Whether serving gadgets without a kernel depends on it."""

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return {
            "check": self.what,
            "state": self.state.value,
            "seen": self.seen,
            "why": self.why,
            "mend": self.mend,
        }


@dataclass(frozen=True, slots=True)
class System:
    """The machine that is looked at. Tests give another root."""

    root: Path = Path("/")
    release: str = os.uname().release
    euid: int = os.geteuid()

    def text(self, path: str) -> str:
        """The text of a file below the root, empty if it cannot be read."""
        try:
            return (self.root / path).read_text(errors="replace")
        except OSError:
            return ""


_MODULES: Final = {
    "vhci-hcd": "attaching devices to this kernel",
    "usbip-vudc": "kernel gadgets that are exported over USB/IP",
    "usbip-host": "exporting real devices and dummy_hcd's",
    "dummy_hcd": "kernel gadgets that this same kernel is host of",
    "libcomposite": "gadgets in configfs",
    "usb_f_fs": "FunctionFS: our functions on kernel UDCs",
    "usb_f_acm": "the kernel's serial function",
    "usb_f_mass_storage": "the kernel's disk function",
    "usbmon": "looking at URBs",
    "usbtest": "Linux's own test suite as judge (usbip-vudc usbtest)",
}
_OPTIONS: Final = {
    "CONFIG_USB_GADGET": "any kernel gadget",
    "CONFIG_USB_CONFIGFS": "gadgets in configfs",
    "CONFIG_USB_CONFIGFS_F_FS": "FunctionFS",
    "CONFIG_USBIP_DEBUG": "more of USB/IP in dmesg; nothing depends on it",
}
_DISTRIBUTIONS: Final = {
    "usb": ("pyusb", ""),
    "functionfs": ("functionfs", "kernel"),
    "libaio": ("libaio", "kernel"),
    "libconf": ("libconf", "kernel"),
    "virtme": ("virtme-ng", "lab"),
    "pyfatfs": ("pyfatfs", "fat"),
}
_REASONS: Final = {
    "": "the pyusb backend",
    "kernel": "gadgets on kernel UDCs",
    "lab": "usbip-vudc lab",
    "fat": "the demo's disk where there is no mkfs.ext4",
}


def all_checks(system: System) -> list[Check]:
    """Every check, those that most depends on first."""
    return [
        *_userspace_checks(),
        *_python_packages(),
        *_lab_checks(),
        _root(system),
        *(_module(system, name, why) for name, why in _MODULES.items()),
        *_options(system),
        *_kernel_state(system),
    ]


def userspace_works(checks: list[Check]) -> bool:
    """Whether gadgets can be served without any help of the kernel's USB drivers."""
    return all(check.state is State.OK for check in checks if check.userspace)


def _check(good: bool, what: str, seen: str, why: str, mend: str = "", **more: bool) -> Check:
    state = State.OK if good else State.MISSING
    return Check(what, state, seen, why, "" if good else mend, **more)


def _userspace_checks() -> Iterator[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield _check(
        sys.version_info >= (3, 11), "Python", version, "everything; 3.11 or newer",
        "apt-get install python3", userspace=True,
    )  # fmt: skip
    try:
        with socket.create_server(("127.0.0.1", 0)):
            seen = "127.0.0.1 listens"
    except OSError as error:
        seen = str(error)
    yield _check(
        seen == "127.0.0.1 listens", "loopback", seen, "serving gadgets",
        "ip link set lo up", userspace=True,
    )  # fmt: skip


def _python_packages() -> Iterator[Check]:
    for module, (name, extra) in _DISTRIBUTIONS.items():
        there = importlib.util.find_spec(module) is not None
        wanted = f"usbip-vudc[{extra}]" if extra else "usbip-vudc"
        yield _check(
            there, f"Python: {name}", "installed" if there else "not installed", _REASONS[extra],
            f"{sys.executable} -m pip install '{wanted}'", userspace=not extra,
        )  # fmt: skip


def _lab_checks() -> Iterator[Check]:
    for need in NEEDS:
        there = need.present()
        why = f"lab: {need.why}" if need.boots else need.why
        yield _check(
            there, need.what, "found" if there else "not found", why, install_command((need,))
        )
    kernel = installed()
    seen = f"{kernel.version} in /boot" if kernel else "none in /boot: Debian's is downloaded"
    yield Check("kernel for the lab", State.OK, seen, "lab: what it boots")
    try:
        kvm = probe(find_qemu())
    except UsbipVudcError:
        return
    # What is wrong with it is the machine's, and no command of ours mends that.
    state = State.OK if kvm.usable else State.NOT_APPLICABLE
    yield Check("KVM", state, kvm.reason, "lab: ten times as fast as emulation")


def _root(system: System) -> Check:
    root = system.euid == 0
    return _check(
        root, "root", "yes" if root else f"uid {system.euid}", "modules, configfs, attach, bind",
        f"sudo {sys.argv[0]} doctor",
    )  # fmt: skip


def _module(system: System, name: str, why: str) -> Check:
    state = State.OK
    if (system.root / "sys/module" / name.replace("-", "_")).exists():
        return Check(f"module {name}", state, "loaded", why)
    if (index := _index_with(system, name)) is not None:
        seen, mend = (
            ("built in", "") if index == "builtin" else ("to be loaded", f"modprobe {name}")
        )
        return Check(f"module {name}", state, seen, why, mend)
    seen = f"not in {system.release}"
    return Check(f"module {name}", State.MISSING, seen, why, _other_kernel(system))


def _index_with(system: System, name: str) -> str | None:
    """Whether modules.builtin or modules.dep has the module: "builtin", "dep", or None."""
    pattern = re.compile(rf"/{re.sub('[-_]', '[-_]', name)}\.ko")
    for index in ("builtin", "dep"):
        if pattern.search(system.text(f"lib/modules/{system.release}/modules.{index}")):
            return index
    return None


def _other_kernel(system: System) -> str:
    """The distribution's package with the rest of the modules; else a kernel that has them."""
    distribution = re.search(r"^ID=(\w+)$", system.text("etc/os-release"), re.MULTILINE)
    name = distribution[1] if distribution else ""
    if name == "ubuntu":
        return f"apt-get install linux-modules-extra-{system.release}"
    if name == "debian" and "cloud" in system.release:
        return "apt-get install linux-image-amd64 && reboot"
    return "usbip-vudc lab -- COMMAND"


def _options(system: System) -> Iterator[Check]:
    text = _config(system)
    for option, why in _OPTIONS.items():
        match = re.search(rf"^{option}=([ym])$", text, re.MULTILINE)
        if not text:
            yield Check(option, State.NOT_APPLICABLE, "no kernel configuration found", why)
        elif match or option == "CONFIG_USBIP_DEBUG":
            state = State.OK if match else State.NOT_APPLICABLE
            yield Check(option, state, match[1] if match else "not set", why)
        else:
            yield Check(option, State.MISSING, "not set", why, _other_kernel(system))


def _config(system: System) -> str:
    for path in (f"boot/config-{system.release}", f"lib/modules/{system.release}/config"):
        if text := system.text(path):
            return text
    try:
        return gzip.decompress((system.root / "proc/config.gz").read_bytes()).decode()
    except OSError:
        return ""


def _kernel_state(system: System) -> Iterator[Check]:
    def loading(module: str, command: str) -> str:
        return command if _index_with(system, module) else _other_kernel(system)

    there = " configfs " in system.text("proc/self/mounts")
    mount = "modprobe configfs && mount -t configfs none /sys/kernel/config"
    yield _check(
        there, "configfs", "mounted" if there else "not mounted", "gadgets in configfs",
        loading("configfs", mount),
    )  # fmt: skip
    there = "\tfunctionfs\n" in system.text("proc/filesystems")
    yield _check(
        there, "functionfs", "known" if there else "not known", "our functions on kernel UDCs",
        loading("usb_f_fs", "modprobe usb_f_fs"),
    )  # fmt: skip
    directory = system.root / "sys/class/udc"
    names = sorted(path.name for path in directory.iterdir()) if directory.exists() else []
    yield _check(
        bool(names), "UDCs", ", ".join(names) or "none", "binding kernel gadgets",
        loading("usbip-vudc", "modprobe -a usbip-vudc dummy_hcd"),
    )  # fmt: skip
