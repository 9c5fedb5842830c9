"""What FunctionFS is given, and what it asks of the UDC for it: the kernel is asked, not us.

A kprobe on each of f_fs's two ways in for data fetches the iov_iter, that is the segments of one
libaio block; udc-core's tracepoint usb_ep_queue says the usb_request that f_fs makes of it.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from usbip_vudc.block.btf import Btf
from usbip_vudc.injection.layout import PAGE
from usbip_vudc.sysfs import write_attribute

__all__ = ("FfsRequest", "FfsTrace", "ffs_trace")

_GROUP: Final = "usbip_vudc_ffs"
_WAYS_IN: Final = {"take": "ffs_epfile_read_iter", "give": "ffs_epfile_write_iter"}
"""Events by what the device does, each at the entry of a function of f_fs.c."""

_ON_STACK: Final = 8
"""Segments that the kernel keeps on its stack (UIO_FASTIOV): no more can be read there."""

_MOST: Final = 64
"""Segments that an event fetches."""

_ARRAY: Final = 64
"""Numbers in an array of an event, at most."""

_PROBED = re.compile(r": (?P<event>give|take)(?P<long>_long)?: \(\S+(?: \[\w+\])?\) (?P<fields>.*)")
_QUEUED = re.compile(
    r": usb_ep_queue: (?P<name>\S+): req \S+ length \d+/(?P<length>\d+) sgs \d+/(?P<sgs>\d+) "
    r"stream \d+ (?P<flags>\S+) status -?\d+ --> (?P<result>-?\d+)"
)


@dataclass(frozen=True, slots=True)
class FfsRequest:
    """A libaio block as f_fs got it, and the length of the usb_request that it queued for it.

    ``segments`` are (bytes, where in its page it begins).
    """

    is_in: bool
    segments: tuple[tuple[int, int], ...]
    queued: int

    @property
    def lengths(self) -> list[int]:
        return [length for length, _ in self.segments]


class FfsTrace:
    """The trace so far."""

    def __init__(self, instance: Path) -> None:
        self._instance = instance

    def requests(self) -> list[FfsRequest]:
        """All of them, in order. Those of endpoint 0 do not come this way."""
        found: list[FfsRequest] = []
        segments: tuple[tuple[int, int], ...] = ()
        is_in = False
        for line in (self._instance / "trace").read_text().splitlines():
            if (probed := _PROBED.search(line)) is not None:
                is_in = probed["event"] == "give"
                segments = _segments(probed["fields"], segments, is_long=bool(probed["long"]))
            elif (queued := _QUEUED.search(line)) is not None and queued["name"] != "ep0":
                assert queued["result"] == "0", line
                assert queued["flags"][0] == "z", "f_fs cannot ask for a ZLP so"
                found.append(FfsRequest(is_in, segments, int(queued["length"])))
        return found


def _segments(
    fields: str, before: tuple[tuple[int, int], ...], *, is_long: bool
) -> tuple[tuple[int, int], ...]:
    """Of the two events of a block, each shows what the other cannot."""
    values = dict(re.findall(r"(\w+)=(\S+)", fields))
    count = int(values["count"])
    assert count <= _MOST, f"{count} segments: more than the trace fetches"
    if is_long != (count > _ON_STACK):
        return before
    if count == 1 and "length" in values:
        return ((int(values["length"], 0), int(values["base"], 0) % PAGE),)
    words = [int(w, 0) for name in "ab" if name in values for w in values[name][1:-1].split(",")]
    pairs = zip(words[::2], words[1::2], strict=True)
    return tuple((length, base % PAGE) for base, length in pairs)[:count]


@contextmanager
def ffs_trace() -> Iterator[FfsTrace]:
    """A trace instance of our own with these events in it; all are gone afterwards."""
    root = next(
        path
        for path in (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
        if (path / "kprobe_events").exists()
    )
    instance = root / "instances" / _GROUP
    defined: list[str] = []
    try:
        for name, definition in _definitions().items():
            _define(root, definition)
            defined.append(name)
        instance.mkdir()
        try:
            for events in (_GROUP, "gadget/usb_ep_queue"):
                write_attribute(instance / "events" / events / "enable", "1")
            yield FfsTrace(instance)
            for events in (_GROUP, "gadget/usb_ep_queue"):
                write_attribute(instance / "events" / events / "enable", "0")
        finally:
            instance.rmdir()
    finally:
        for name in defined:
            _define(root, f"-:{_GROUP}/{name}")


@functools.cache
def _definitions() -> dict[str, str]:
    """Name of an event -> the line that makes it (Documentation/trace/kprobetrace.rst)."""
    members = Btf(Path("/sys/kernel/btf/vmlinux").read_bytes()).structs("iov_iter")["iov_iter"]
    # A pointer to the segments, in a union without a name: behind the number of bytes, and since
    # 6.4 before it, where a single segment takes the place of both (include/linux/uio.h). The
    # number of segments is 32 bytes in either way.
    if "count" in members.members:
        segments, count = "+24($arg2)", "count=+32($arg2):u64"
    else:
        segments = "+16($arg2)"
        count = "count=+32($arg2):u64 base=+16($arg2):x64 length=+24($arg2):x64"
    made = {}
    for name, function in _WAYS_IN.items():
        probe = f"usb_f_fs:{function} {count}"
        short = f"a=+0({segments}):x64[{2 * _ON_STACK}]"
        long = " ".join(
            f"{letter}=+{offset}({segments}):x64[{_ARRAY}]"
            for letter, offset in (("a", 0), ("b", 8 * _ARRAY))
        )
        made[name] = f"p:{_GROUP}/{name} {probe} {short}"
        made[f"{name}_long"] = f"p:{_GROUP}/{name}_long {probe} {long}"
    return made


def _define(root: Path, command: str) -> None:
    """One line for kprobe_events: opened to append, as opening it to write removes all others."""
    fd = os.open(root / "kprobe_events", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        os.write(fd, command.encode())
    finally:
        os.close(fd)
