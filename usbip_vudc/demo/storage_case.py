"""The disk: a real file system read and written over Bulk-Only Transport, and the case of 2019."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import usb.core
from rich.console import Console

from usbip_vudc.demo.disk_image import FileSystem, FileSystemDamaged, some_files
from usbip_vudc.demo.stage import Stage
from usbip_vudc.errors import errno_name
from usbip_vudc.host.storage import UsbStorage
from usbip_vudc.memory import page_aligned
from usbip_vudc.registry import GadgetOptions, load_gadget
from usbip_vudc.report import Row, Stopwatch, progress
from usbip_vudc.sglist import parse_layout

__all__ = ("SG_LAYOUT", "case_of_2019", "disk_round_trip")

SG_LAYOUT: Final = "3584+7x4096"
_LBA: Final = 2048
_COMMAND: Final = 1 << 20


@contextmanager
def _disk(stage: Stage, port: int, *, scatter_gather: bool = True) -> Iterator[UsbStorage]:
    """The exported disk, ready."""
    with stage.device(port, scatter_gather=scatter_gather) as device:
        storage = UsbStorage(device)
        storage.wait_ready()
        yield storage


def disk_round_trip(
    console: Console, stage: Stage, file_system: FileSystem, work: Path
) -> Iterator[Row]:
    """Read a whole disk, write it anew, read it back, and check its file system again."""
    old, new = work / "disk.img", work / "new.img"
    contents = [some_files(part) for part in (0, 1)]
    for image, files in zip((old, new), contents, strict=True):
        folder = work / f"files-{image.stem}"
        folder.mkdir()
        file_system.make(image, files, folder)
    amount = sum(map(len, contents[0].values())) >> 20
    console.print(
        f"disk image: {old.stat().st_size >> 20} MiB, {file_system.name}, "
        f"{len(contents[0])} files, {amount} MiB"
    )
    size = old.stat().st_size
    before, after = _sha256(old), _sha256(new)
    gadget = load_gadget("storage", GadgetOptions(image=old))
    with stage.serving(gadget) as port, _disk(stage, port) as disk:
        block = disk.block_size
        seen, rate = _read_all(console, disk, "reading the disk", size, block)
        yield Row("disk read", f"READ(10), {size >> 20} x 1 MiB",
                  f"sha256 {before[:8]}", f"sha256 {seen[:8]}", rate)  # fmt: skip
        rate = _write_all(console, disk, new, size, block)
        seen, read_rate = _read_all(console, disk, "reading it back", size, block)
        yield Row("disk write", f"WRITE(10), {size >> 20} x 1 MiB, flushed",
                  f"sha256 {after[:8]}", f"sha256 {_sha256(old)[:8]}", rate)  # fmt: skip
        yield Row("read back", f"READ(10), {size >> 20} x 1 MiB",
                  f"sha256 {after[:8]}", f"sha256 {seen[:8]}", read_rate)  # fmt: skip
    folder = work / "files-read-back"
    folder.mkdir()
    try:
        file_system.verify(old, contents[1], folder)
        verdict = "clean, equal"
    except FileSystemDamaged as error:
        verdict = str(error)
    yield Row("file system", f"{file_system.name} check, {len(contents[1])} files",
              "clean, equal", verdict)  # fmt: skip


def case_of_2019(console: Console, stage: Stage) -> Iterator[Row]:
    """A SuperSpeed disk asked for 31.5 KiB with the SG list of the thread, without SG and with."""
    layout = parse_layout(SG_LAYOUT)
    length = sum(layout)
    gadget = load_gadget("storage", GadgetOptions(size=16 << 20))
    with stage.serving(gadget) as port:
        with _disk(stage, port, scatter_gather=False) as disk:
            block = disk.block_size
            data = bytes(i % 251 for i in range(length))
            disk.write(_LBA, data)
            try:
                disk.read_sg(_LBA, layout)
                seen = "no error"
            except usb.core.USBError as error:
                seen = errno_name(error.errno or 0).split()[0]
            yield Row("2019, no SG", f"READ(10) of {length} B as {len(layout)} URBs",
                      errno_name(errno.EOVERFLOW).split()[0], seen)  # fmt: skip
            disk.reset_recovery()
            disk.wait_ready()  # takes the UNIT ATTENTION that a reset leaves behind
            again = disk.read(_LBA, length // block)
            yield Row("2019, recovery", "reset recovery, same READ as 1 URB",
                      "data equal", _compare(again, data))  # fmt: skip
        with _disk(stage, port, scatter_gather=True) as disk:
            whole = disk.read_sg(_LBA, layout)
            yield Row("2019, SG", f"same READ, SG list {SG_LAYOUT}",
                      "data equal", _compare(whole, data))  # fmt: skip
    console.print(
        f"why: without SG the host made one URB of each SG entry; {layout[0]} is no multiple of "
        f"the bulk maxpacket 1024, so the disk's fourth whole packet had only "
        f"{layout[0] % 1024} bytes of room in the first URB and overflowed it; with SG one URB "
        f"holds the whole list."
    )


def _read_all(
    console: Console, disk: UsbStorage, what: str, size: int, block: int
) -> tuple[str, float]:
    digest = hashlib.sha256()
    buffer = page_aligned(_COMMAND)
    busy = 0.0
    with progress(console, what, size) as report:
        for offset in range(0, size, _COMMAND):
            view = buffer[: min(_COMMAND, size - offset)]
            watch = Stopwatch()
            disk.read_into(offset // block, view)
            busy += len(view) / watch.rate(len(view))
            digest.update(view)
            report(offset + len(view))
    return digest.hexdigest(), size / busy


def _write_all(console: Console, disk: UsbStorage, image: Path, size: int, block: int) -> float:
    busy = 0.0
    with progress(console, "writing the disk anew", size) as report, image.open("rb") as file:
        for offset in range(0, size, _COMMAND):
            data = file.read(_COMMAND)
            watch = Stopwatch()
            disk.write(offset // block, data)
            busy += len(data) / watch.rate(len(data))
            report(offset + len(data))
    disk.synchronize_cache()
    return size / busy


def _compare(seen: bytes, expected: bytes) -> str:
    return "data equal" if seen == expected else "data differs"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
