"""What this machine's gadgets of ours are, on paper: a record is written before anything is made.

So whatever ends a process, the next one knows what it left: ``/run/usbip-vudc/gadgets/NAME.json``
(or below USBIP_VUDC_RUNTIME_DIR). A gadget with userspace functions is held by its process and
stale without it; one of kernel functions alone is held by nobody once it is made.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from configfs.advice import ConfigfsError
from configfs.mount import functionfs_mounts, make_passable, unmount
from configfs.transaction import GADGETS, ConfigfsGadget
from configfs.tree import check_name, ffs_instance, plan, userspace_functions
from usbip_vudc.errors import SchemeError
from usbip_vudc.gadget import Gadget

__all__ = (
    "Record",
    "alive",
    "annotate",
    "claim",
    "clean",
    "digest",
    "find",
    "keep",
    "locked",
    "mount_directory",
    "records",
    "release",
    "runtime_dir",
    "save",
    "stale",
)

_DEFAULT_RUNTIME_DIR: Final = Path("/run/usbip-vudc")

_START_TIME: Final = 19
"""Field 22 of /proc/PID/stat, counted from the state, which follows the name (proc_pid_stat(5))."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One gadget of ours. ``path`` is its directory in configfs, ``mounts`` its FunctionFS.

    ``pid`` with ``start_time`` and ``boot_id`` names the process that made it, and that still
    holds it where ``held``. ``plan`` is the digest of its tree, ``source`` that of what it was
    made from, where somebody cares to know.
    """

    name: str
    path: str
    mounts: tuple[str, ...]
    plan: str
    held: bool
    pid: int
    start_time: int
    boot_id: str
    source: str = ""


def runtime_dir() -> Path:
    """Where records, the lock and the mounts are."""
    return Path(os.environ.get("USBIP_VUDC_RUNTIME_DIR") or _DEFAULT_RUNTIME_DIR)


def mount_directory(name: str) -> Path:
    """Where the FunctionFS instances of a gadget are mounted, each below its own name."""
    return runtime_dir() / "functionfs" / name


def digest(gadget: Gadget) -> str:
    """A digest of the tree that a gadget makes in configfs."""
    return hashlib.sha256(repr(plan(gadget)).encode()).hexdigest()


@contextmanager
def locked() -> Iterator[None]:
    """Hold the lock on everything here, waiting for it. It is not reentrant."""
    make_passable(runtime_dir())
    fd = os.open(runtime_dir() / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


# --- the life of a record ----------------------------------------------------------------------


def claim(gadget: Gadget, *, root: Path = GADGETS) -> Record:
    """Write the record of a gadget that is about to be made, held by this process.

    A stale one of that name is cleaned away. Raises ConfigfsError where a gadget of that name is
    there already, and SchemeError where it cannot be made; nothing is then written.
    """
    pid = os.getpid()
    record = Record(
        name=gadget.name,
        path=str(root / gadget.name),
        mounts=tuple(
            str(mount_directory(gadget.name) / ffs_instance(gadget, function))
            for function in userspace_functions(gadget)
        ),
        plan=digest(gadget),
        held=True,
        pid=pid,
        start_time=_start_time(pid) or 0,
        boot_id=_boot_id(),
    )
    with locked():
        last = find(gadget.name)
        if last is not None and _is_stale(last):
            clean(last)
            last = None
        path = Path(record.path)
        if last is not None or path.exists():
            owner = f", process {last.pid}" if last is not None and last.held else ""
            raise ConfigfsError(
                f"gadget {gadget.name} is up already{owner}: usbip-vudc down {gadget.name}",
                errno=errno.EEXIST,
                path=path,
            )
        save(record)
    return record


def save(record: Record) -> None:
    """Write a record, whole or not at all, in place of an older one of that name."""
    path = _path(record.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(f".{record.pid}.new")
    new.write_text(json.dumps(asdict(record), indent=1) + "\n")
    new.replace(path)


def release(record: Record) -> None:
    """Forget a gadget that is gone."""
    with suppress(OSError):
        mount_directory(record.name).rmdir()
    _path(record.name).unlink(missing_ok=True)


def find(name: str) -> Record | None:
    """The record of a gadget, None where there is none. Raises SchemeError for a damaged one."""
    check_name(name)
    path = _path(name)
    try:
        fields = json.loads(path.read_text())
        return Record(**{**fields, "mounts": tuple(fields["mounts"])})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise SchemeError(f"{path}: damaged ({error}); remove it, then the gadget itself") from None


def records() -> tuple[Record, ...]:
    """Every record, by name."""
    try:
        names = sorted(path.stem for path in _path("x").parent.glob("*.json"))
    except FileNotFoundError:
        return ()
    return tuple(record for name in names if (record := find(name)) is not None)


def alive(record: Record) -> bool:
    """Whether the process that made the gadget still runs."""
    return record.boot_id == _boot_id() and _start_time(record.pid) == record.start_time


def stale() -> tuple[Record, ...]:
    """What nobody holds any more, and what was removed behind our back."""
    return tuple(record for record in records() if _is_stale(record))


def _is_stale(record: Record) -> bool:
    if alive(record) and record.held:
        return False
    return record.held or not Path(record.path).exists()


def clean(record: Record) -> None:
    """Remove what is left of a gadget: unbind, unmount, remove the tree, forget it; in that order.

    Raises ConfigfsError or MountError; the record then stays. Done twice is done once.
    """
    gadget = ConfigfsGadget(Path(record.path))
    gadget.unbind()
    for where in {*map(Path, record.mounts), *functionfs_mounts(mount_directory(record.name))}:
        unmount(where)
    gadget.remove()
    release(record)


def annotate(name: str, *, source: str) -> None:
    """Note what a gadget was made from, in its record."""
    record = find(name)
    if record is not None:
        save(replace(record, source=source))


def keep(record: Record, *, source: str = "") -> Record:
    """Note that a gadget is made and needs its process no more; the new record."""
    kept = replace(record, held=False, source=source)
    save(kept)
    return kept


# --- this machine ------------------------------------------------------------------------------


def _path(name: str) -> Path:
    return runtime_dir() / "gadgets" / f"{name}.json"


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _start_time(pid: int) -> int | None:
    """When a process began, in ticks since boot; None where it is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[_START_TIME])
