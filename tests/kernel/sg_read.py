"""Reads a disk with an SG list of our choice, and sees what list usb-storage was given for it."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from usbip_vudc.sysfs import write_attribute

__all__ = ("SgProbe", "read_sg", "watched_lists")

_PAGE: Final = mmap.PAGESIZE
_CANDIDATES: Final = 128
"""Pages to choose from: neighbours in memory are often neighbours in physical memory too."""

_PFN: Final = (1 << 55) - 1
"""The bits of an entry of pagemap that are the frame (Documentation/admin-guide/mm/pagemap)."""

TRACING: Final = Path("/sys/kernel/tracing")
_NAME: Final = "usbip_vudc_sg"
_ENTRIES: Final = 8


def read_sg(node: str, offset: int, layout: Sequence[int]) -> bytes:
    """Read a disk with O_DIRECT so that the request has exactly these SG entries, in bytes.

    Each entry lies at the end of a page of its own, and no page follows the one before in
    physical memory, where the block layer would make one entry of both. ``offset`` and lengths
    are multiples of 512. Needs root. Raises OSError as the kernel says.
    """
    memory = mmap.mmap(-1, _CANDIDATES * _PAGE)
    memory.write(b"\xff" * len(memory))
    view = memoryview(memory)
    ends = [(page + 1) * _PAGE for page in _scattered(memory, len(layout))]
    entries = [view[end - length : end] for end, length in zip(ends, layout, strict=True)]
    fd = os.open(node, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    try:
        count = os.preadv(fd, entries, offset)
    finally:
        os.close(fd)
    return b"".join(entries)[:count]


def _scattered(memory: mmap.mmap, count: int) -> list[int]:
    """Pages of ``memory``, by number, of which none follows its predecessor physically."""
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        entries = memoryview(os.pread(fd, _CANDIDATES * 8, start // _PAGE * 8)).cast("Q")
    finally:
        os.close(fd)
    frames = [entry & _PFN for entry in entries]
    assert all(frames), "pagemap shows no frames: not root"
    chosen: list[int] = []
    for page, frame in enumerate(frames):
        if not chosen or frame != frames[chosen[-1]] + 1:
            chosen.append(page)
    assert len(chosen) >= count, f"{len(chosen)} scattered pages in {_CANDIDATES}, {count} needed"
    return chosen[:count]


class SgProbe:
    """The SG lists that usb_sg_init was given, which usb-storage calls for each data stage."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def lists(self) -> list[tuple[int, ...]]:
        """Lengths of the entries in bytes, one tuple a call; of long lists the first 8."""
        text = self._trace.read_text()
        calls = [dict(re.findall(r"(\w+)=(\w+)", line)) for line in text.splitlines()]
        return [_lengths(call) for call in calls if "nents" in call]


def _lengths(call: dict[str, str]) -> tuple[int, ...]:
    count = min(int(call["nents"]), _ENTRIES)
    # page_link's bit 0 says that this is no entry but the address of the next array of them.
    chained = count > 1 and int(call["link"], 0) & 1
    names = ["f0", *(f"{'c' if chained else 'f'}{number}" for number in range(1, count))]
    return tuple(int(call[name]) for name in names)


@contextmanager
def watched_lists() -> Iterator[SgProbe]:
    """A kprobe on usb_sg_init in a trace instance of its own; both are gone afterwards.

    struct scatterlist has 32 bytes on 64-bit machines: page_link at 0, length at 12. SCSI puts
    two in the command and chains the rest (drivers/scsi/scsi_lib.c), so that of a longer list the
    second is a link, whose bit 0 is taken off here by reading from one byte less.
    """
    mounted = not (TRACING / "kprobe_events").exists()
    if mounted:
        subprocess.run(("mount", "-t", "tracefs", "none", str(TRACING)), check=True)
    flat = [f"f{n}=+{32 * n + 12}($arg5):u32" for n in range(_ENTRIES)]
    chained = [f"c{n}=+{32 * (n - 1) + 11}(+32($arg5)):u32" for n in range(1, _ENTRIES)]
    what = " ".join(("nents=$arg6:s32", "link=+32($arg5):x64", *flat, *chained))
    instance = TRACING / "instances" / _NAME
    _events(f"p:{_NAME}/sg usb_sg_init {what}")
    try:
        instance.mkdir()
        try:
            enable = instance / "events" / _NAME / "sg" / "enable"
            write_attribute(enable, "1")
            yield SgProbe(instance / "trace")
            write_attribute(enable, "0")
        finally:
            instance.rmdir()
    finally:
        _events(f"-:{_NAME}/sg")
        if mounted:
            subprocess.run(("umount", str(TRACING)), check=True)


def _events(command: str) -> None:
    """One line for kprobe_events: opened to append, as opening it to write removes all others."""
    fd = os.open(TRACING / "kprobe_events", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        os.write(fd, command.encode())
    finally:
        os.close(fd)
