"""A directory that behaves as configfs does where the kernel acts by itself.

Making a gadget, a configuration, a language or a function makes its attributes and the
directories below it (default groups); removing one takes them along; a directory of the kernel's
own cannot be removed (EPERM), and none that still holds something of ours (ENOTEMPTY, EBUSY).
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

GADGET = {
    "UDC": "\n", "bDeviceClass": "0x00\n", "bDeviceSubClass": "0x00\n", "bDeviceProtocol": "0x00\n",
    "bcdDevice": "0x0601\n", "bcdUSB": "0x0000\n", "idProduct": "0x0000\n", "idVendor": "0x0000\n",
    "max_speed": "super-speed-plus\n",
    "os_desc/b_vendor_code": "0x00\n", "os_desc/qw_sign": "\n", "os_desc/use": "0\n",
}  # fmt: skip
LUN = {"cdrom": "0\n", "file": "", "nofua": "0\n", "removable": "1\n", "ro": "0\n"}
FUNCTIONS: dict[str, dict[str, str]] = {
    "acm": {"port_num": "0\n"},
    "ffs": {},
    "hid": {"protocol": "0\n", "report_desc": "", "report_length": "0\n", "subclass": "0\n"},
    "mass_storage": {"stall": "0", **{f"lun.0/{name}": value for name, value in LUN.items()}},
    "ncm": {"ifname": "(unnamed net_device)\n", "qmult": "5\n"},
    "rndis": {
        "qmult": "5\n",
        "os_desc/interface.rndis/compatible_id": "\0" * 8,
        "os_desc/interface.rndis/sub_compatible_id": "\0" * 8,
    },
}
READ_ONLY = frozenset({"port_num"})
EMPTY_GROUPS = {"gadget": ("configs", "functions", "strings"), "config": ("strings",)}


class FakeConfigfs:
    """``root`` stands for /sys/kernel/config/usb_gadget.

    ``calls`` lists what was done to the tree, as (verb, path relative to root): mkdir, rmdir, link,
    unlink, write. ``refuse`` maps "VERB PATH" to the errno that it gets.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.calls: list[tuple[str, str]] = []
        self.refuse: dict[str, int] = {}
        root.mkdir(parents=True)
        self._mkdir, self._rmdir = os.mkdir, os.rmdir
        self._symlink, self._unlink = os.symlink, os.unlink
        self._open = os.open
        monkeypatch.setattr(os, "open", self._opened)
        monkeypatch.setattr(os, "mkdir", self._made)
        monkeypatch.setattr(os, "rmdir", self._removed)
        monkeypatch.setattr(os, "symlink", self._linked)
        monkeypatch.setattr(os, "unlink", self._unlinked)
        # As root sees it: EPERM then means the kernel's own directory.
        monkeypatch.setattr(os, "geteuid", lambda: 0)

    def _below(self, verb: str, path: Any) -> str | None:
        """The path relative to the root, None where it is not below it. Notes the call."""
        name = os.fspath(path)
        if not str(name).startswith(f"{self.root}/"):
            return None
        relative = os.path.relpath(name, self.root)
        self.calls.append((verb, relative))
        number = self.refuse.get(f"{verb} {relative}")
        if number is not None:
            raise OSError(number, os.strerror(number), str(name))
        return relative

    def _opened(self, path: Any, flags: int, *more: Any, **options: Any) -> int:
        if flags & os.O_WRONLY and self._below("write", path) is not None:
            if Path(path).exists() and not Path(path).stat().st_mode & 0o200:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            flags |= os.O_TRUNC  # an attribute has no old bytes behind the new
        return self._open(path, flags, *more, **options)

    # --- what the kernel makes by itself -------------------------------------------------------

    def _made(self, path: Any, mode: int = 0o777, **more: Any) -> None:
        relative = self._below("mkdir", path)
        if relative is not None:
            self._admit(relative, Path(os.fspath(path)))
        self._mkdir(path, mode, **more)
        if relative is not None:
            self._populate(relative)

    def _admit(self, relative: str, path: Path) -> None:
        driver = re.fullmatch(r"[^/]+/functions/([^/.]+)\.[^/]+", relative)
        if driver and driver[1] not in FUNCTIONS:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        if re.fullmatch(r"[^/]+/functions/[^/]+/os_desc/[^/]+", relative):
            raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    def _populate(self, relative: str) -> None:
        base = self.root / relative
        for pattern, (groups, attributes) in self._kinds().items():
            match = re.fullmatch(pattern, relative)
            if match:
                for group in groups:
                    self._mkdir(base / group)
                found = attributes(match) if callable(attributes) else attributes
                for name, value in found.items():
                    self._attribute(base / name, value)

    @staticmethod
    def _kinds() -> Mapping[
        str,
        tuple[tuple[str, ...], Mapping[str, str] | Callable[[re.Match[str]], Mapping[str, str]]],
    ]:
        return {
            r"[^/]+": (EMPTY_GROUPS["gadget"], GADGET),
            r"[^/]+/strings/[^/]+": (
                (), dict.fromkeys(("manufacturer", "product", "serialnumber"), "\n"),
            ),
            r"[^/]+/configs/[^/]+": (
                EMPTY_GROUPS["config"], {"bmAttributes": "0x80\n", "MaxPower": "2\n"},
            ),
            r"[^/]+/configs/[^/]+/strings/[^/]+": ((), {"configuration": "\n"}),
            r"[^/]+/functions/([^/.]+)\.[^/]+": ((), lambda match: FUNCTIONS[match[1]]),
            r"[^/]+/functions/mass_storage\.[^/]+/lun\.\d+": ((), LUN),
        }  # fmt: skip

    def _attribute(self, path: Path, value: str) -> None:
        for parent in reversed(path.parents):
            if not parent.exists():
                self._mkdir(parent)
        path.write_text(value)
        if path.name in READ_ONLY:
            path.chmod(0o444)

    # --- what it removes, and does not ---------------------------------------------------------

    def _removed(self, path: Any, **more: Any) -> None:
        relative = self._below("rmdir", path)
        if relative is None:
            self._rmdir(path, **more)
            return
        if not (self.root / relative).is_dir():
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        if self._is_default(relative):
            raise PermissionError(errno.EPERM, "Operation not permitted", str(path))
        if self._holds_ours(relative):
            raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))
        if "/functions/" in relative and self._linked_from(relative):
            raise OSError(errno.EBUSY, "Device or resource busy", str(path))
        self._clear(self.root / relative)

    @staticmethod
    def _is_default(relative: str) -> bool:
        return bool(
            re.fullmatch(
                r"[^/]+/(configs|functions|strings|os_desc)|[^/]+/configs/[^/]+/strings"
                r"|[^/]+/functions/[^/]+/(lun\.0|os_desc(/.*)?)",
                relative,
            )
        )

    def _holds_ours(self, relative: str) -> bool:
        base = self.root / relative
        for parent, directories, _ in os.walk(base):
            for name in directories:
                path = Path(parent, name)
                if path.is_symlink() or not self._is_default(os.path.relpath(path, self.root)):
                    return True
        return False

    def _linked_from(self, relative: str) -> bool:
        target = self.root / relative
        gadget = self.root / relative.split("/")[0]
        return any(p.is_symlink() and p.resolve() == target for p in gadget.glob("configs/*/*"))

    def _clear(self, base: Path) -> None:
        for path in sorted(base.rglob("*"), reverse=True):
            if path.is_dir():
                self._rmdir(path)
            else:
                path.chmod(0o600)
                self._unlink(path)
        self._rmdir(base)

    def _linked(self, target: Any, path: Any, *more: Any, **options: Any) -> None:
        self._below("link", path)
        self._symlink(target, path, *more, **options)

    def _unlinked(self, path: Any, **options: Any) -> None:
        self._below("unlink", path)
        self._unlink(path, **options)


@pytest.fixture
def configfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeConfigfs:
    """An empty configfs, and a runtime directory of its own."""
    monkeypatch.setenv("USBIP_VUDC_RUNTIME_DIR", str(tmp_path / "run"))
    return FakeConfigfs(tmp_path / "config/usb_gadget", monkeypatch)


def add_udc(root: Path, name: str, driver: str, **attributes: str) -> None:
    """A UDC as /sys/class/udc shows it."""
    device = root.parent / "devices" / name
    device.mkdir(parents=True)
    (device / "driver").symlink_to(root.parent / "drivers" / driver)
    udc = root / name
    udc.mkdir(parents=True)
    (udc / "device").symlink_to(device)
    usual = {"current_speed": "UNKNOWN", "maximum_speed": "super-speed", "state": "not attached"}
    for key, value in {**usual, "function": "", **attributes}.items():
        (udc / key).write_text(f"{value}\n")
