"""FunctionFS mounts, by mount(2) and umount2(2). It needs root, and no mount command."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

from usbip_vudc.errors import UsbipVudcError

__all__ = ("MountError", "functionfs_mounts", "make_passable", "mount_functionfs", "unmount")

log = logging.getLogger(__name__)

_FLAGS: Final = 0x2 | 0x4 | 0x8
"""MS_NOSUID, MS_NODEV and MS_NOEXEC (include/uapi/linux/mount.h)."""

_MNT_DETACH: Final = 2

_BUSY_SECONDS: Final = 2.0
"""How long `unmount` waits for files that are being closed."""

_ADVICE: Final = {
    errno.ENODEV: "the kernel has no FunctionFS; modprobe usb_f_fs",
    errno.ENOENT: "there is no function ffs.{instance} in configfs; make it first",
    errno.EBUSY: "it is mounted already; umount the other one first",
    errno.EPERM: "run as root",
    errno.EACCES: "run as root",
}


class MountError(UsbipVudcError):
    """The kernel refused a mount or an unmount. ``errno`` is positive, as in OSError."""

    def __init__(self, errno_: int, what: str, advice: str = "") -> None:
        name = errno.errorcode.get(errno_, str(errno_))
        super().__init__(
            f"{what}: {os.strerror(errno_)} ({name})" + (f"; {advice}" if advice else "")
        )
        self.errno = errno_


def make_passable(directory: Path) -> None:
    """Make a directory and its parents, where they are missing, passable for every user.

    Whatever root's umask is: functions that run as another user open their files below.
    """
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        path.chmod(0o755)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def mount_functionfs(
    instance: str,
    where: Path,
    *,
    uid: int | None = None,
    gid: int | None = None,
    mode: int = 0o600,
) -> None:
    """Mount the FunctionFS of function ``ffs.INSTANCE`` on a directory, made where missing.

    ``uid``, ``gid`` and ``mode`` are those of its files. Raises MountError; a directory made
    for it is then removed.
    """
    made = not where.exists()
    make_passable(where)
    options = [f"fmode=0{mode:o}"]  # f_fs reads numbers as C does
    options += [f"{name}={value}" for name, value in (("uid", uid), ("gid", gid))
                if value is not None]  # fmt: skip
    failed = _libc().mount(
        instance.encode(),
        os.fsencode(where),
        b"functionfs",
        ctypes.c_ulong(_FLAGS),
        ",".join(options).encode(),
    )
    if failed:
        number = ctypes.get_errno()
        if made:
            where.rmdir()
        advice = _ADVICE.get(number, "").format(instance=instance)
        raise MountError(number, f"{where}: mounting FunctionFS {instance}", advice)


def unmount(where: Path) -> None:
    """Unmount a directory, where it is mounted, and remove it, where it is there and empty.

    Files of it that are being closed are waited for; then it is detached, to go when the last of
    them does. Raises MountError.
    """
    deadline = time.monotonic() + _BUSY_SECONDS
    number = _umount(where, 0)
    while number == errno.EBUSY and time.monotonic() < deadline:
        time.sleep(0.02)
        number = _umount(where, 0)
    if number == errno.EBUSY:
        log.warning("%s: files are still open; detached, it goes when they are closed", where)
        number = _umount(where, _MNT_DETACH)
    if number not in (0, errno.EINVAL, errno.ENOENT):
        advice = "run as root" if number == errno.EPERM else ""
        raise MountError(number, f"{where}: unmounting", advice)
    with suppress(OSError):
        where.rmdir()


def _umount(where: Path, flags: int) -> int:
    """The errno of umount2, 0 for none."""
    failed = _libc().umount2(os.fsencode(where), flags)
    return ctypes.get_errno() if failed else 0


def functionfs_mounts(below: Path) -> tuple[Path, ...]:
    """Where FunctionFS is mounted, at or below a directory."""
    return tuple(path for path in _functionfs_mounts() if path.is_relative_to(below))


def _functionfs_mounts() -> Iterator[Path]:
    # "36 35 0:32 / /mnt rw,relatime shared:1 - functionfs name rw" (proc_pid_mountinfo(5))
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        left, _, right = line.partition(b" - ")
        if right.split(b" ", 1)[0] == b"functionfs":
            escaped = left.split(b" ")[4]
            yield Path(os.fsdecode(re.sub(rb"\\([0-7]{3})", _unescape, escaped)))


def _unescape(match: re.Match[bytes]) -> bytes:
    return bytes((int(match[1], 8),))
