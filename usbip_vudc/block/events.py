"""The kprobe events that show each URB which vhci_hcd gets, and what their lines say. Pure.

An event of the kernel fetches what it is told to by offsets (Documentation/trace/kprobetrace.rst);
the offsets come from `btf`. Of an SG list it fetches raw memory, 1024 bytes an event, so that a
line stays within what the kernel prints; which of it are entries is found out here, as for_each_sg
does (include/linux/scatterlist.h).
"""

from __future__ import annotations

import re
import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from usbip_vudc.block.btf import Struct
from usbip_vudc.errors import UsbipVudcError
from usbip_vudc.injection.layout import Segment, layout_text

__all__ = ("GROUP", "STRUCTS", "Events", "TraceError", "TracedUrb")

GROUP: Final = "usbip_vudc_sg"
"""What everything of ours in tracefs is called."""

STRUCTS: Final = ("urb", "usb_device", "usb_bus", "scatterlist")

_LIST: Final = "list"
_CHAIN: Final = "chain"
_CHAINS: Final = 4
"""Events for what is behind a chain link: SCSI allocates 128 entries at a time (SG_CHUNK_SIZE)."""

_ARRAY: Final = 64
"""Elements of an array that an event fetches, of 8 bytes each: the kernel's maximum."""

_DUMPED: Final = 2 * _ARRAY * 8
_POINTER: Final = struct.calcsize("P")

_CHAIN_BIT, _END_BIT = 1, 2
_LINE = re.compile(r"\[(?P<cpu>\d+)\] .*?: (?P<event>\w+): \(\S+(?: \[\w+\])?\) (?P<fields>urb=.*)")
_COUNTS = re.compile(r"^# entries-in-buffer/entries-written: (\d+)/(\d+)", re.MULTILINE)


class TraceError(UsbipVudcError):
    """The kernel's trace is not all there; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class TracedUrb:
    """A URB as vhci_hcd got it: ``length`` in bytes, ``count`` entries in its SG list, 0 for none.

    ``endpoint`` has the direction in bit 7. ``entries`` are the first of the list: of one that is
    chained otherwise than SCSI's, or longer than 129, not all. They may hold more than ``length``:
    Linux touches the last 8 blocks of a USB disk one at a time, whatever list it has for more
    (last_sector_bug in drivers/scsi/sd.c).
    """

    busnum: int
    devnum: int
    endpoint: int
    length: int
    count: int
    entries: tuple[Segment, ...]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Bytes of each entry that was seen."""
        return tuple(entry.length for entry in self.entries)

    def __str__(self) -> str:
        if not self.count:
            return f"{self.length} without an SG list"
        missing = self.count - len(self.entries)
        more = f"+({missing} more entries)" if missing else ""
        if not missing and sum(self.lengths) != self.length:
            more = f", {self.length} bytes of it"
        return layout_text(self.entries) + more


class Events:
    """The events for a kernel whose `STRUCTS` are these."""

    def __init__(self, structs: Mapping[str, Struct]) -> None:
        self._structs = structs
        self._entry = structs["scatterlist"].size

    def _offset(self, struct: str, member: str) -> int:
        return self._structs[struct].offset(member)

    def definitions(self) -> dict[str, str]:
        """Name of an event -> the line that makes it, for kprobe_events."""
        device = f"+{self._offset('urb', 'dev')}($arg2)"
        bus = f"+{self._offset('usb_device', 'bus')}({device})"
        entries = f"+{self._offset('urb', 'sg')}($arg2)"
        # SCSI's list begins with two entries in its command, of which the second is the link to
        # all others if there are more (SCSI_INLINE_SG_CNT in drivers/scsi/scsi_lib.c).
        link = f"+{self._entry + self._offset('scatterlist', 'page_link')}({entries})"
        common = (
            "urb=$arg2:x64",
            f"bus=+{self._offset('usb_bus', 'busnum')}({bus}):s32",
            f"device=+{self._offset('usb_device', 'devnum')}({device}):s32",
            f"pipe=+{self._offset('urb', 'pipe')}($arg2):u32",
            f"length=+{self._offset('urb', 'transfer_buffer_length')}($arg2):u32",
            f"count=+{self._offset('urb', 'num_sgs')}($arg2):s32",
        )
        made = {_LIST: self._definition(_LIST, *common, *_dump(entries, 0))}
        for number in range(_CHAINS):
            # Bit 0 of the link says that it is one: taken off by reading from a byte less.
            dump = _dump(link, number * _DUMPED - 1)
            made[f"{_CHAIN}{number}"] = self._definition(f"{_CHAIN}{number}", *common, *dump)
        return made

    def _definition(self, event: str, *fields: str) -> str:
        return f"p:{GROUP}/{event} vhci_hcd:vhci_urb_enqueue {' '.join(fields)}"

    def filters(self, busnum: int, devnum: int) -> dict[str, str]:
        """Name of an event -> what it is limited to: one device, and lists of that length."""
        device = f"bus == {busnum} && device == {devnum}"
        made = {_LIST: device}
        for number in range(_CHAINS):
            made[f"{_CHAIN}{number}"] = f"{device} && count > {1 + self._behind(number)}"
        return made

    def _behind(self, number: int) -> int:
        """Whole entries in the chain's events before this one."""
        return number * _DUMPED // self._entry

    def urbs(self, trace: str) -> tuple[TracedUrb, ...]:
        """The URBs in a trace, in order, but not those at its ends of which it has a part.

        Raises TraceError where events were lost.
        """
        counts = _COUNTS.search(trace)
        if counts is not None and counts[1] != counts[2]:
            raise TraceError(f"the trace kept {counts[1]} events of {counts[2]}: trace less")
        groups = _groups(trace)
        first = {group.cpu: group for group in reversed(groups)}
        last = {group.cpu: group for group in groups}
        whole = []
        for group in groups:
            if group.events.keys() == self._expected(group.count):
                whole.append(self._urb(group.events))
            elif group not in (first[group.cpu], last[group.cpu]):
                raise TraceError(f"of an SG list the trace has {', '.join(group.events)} only")
        return tuple(whole)

    def _expected(self, count: int) -> set[str]:
        """The events of a URB with so many entries."""
        chains = (n for n in range(_CHAINS) if count > 1 + self._behind(n))
        return {_LIST, *(f"{_CHAIN}{number}" for number in chains)}

    def _urb(self, group: Mapping[str, Mapping[str, str]]) -> TracedUrb:
        fields = group[_LIST]
        chain = b"".join(
            _dumped(group[event])
            for number in range(_CHAINS)
            if (event := f"{_CHAIN}{number}") in group
        )
        count, pipe = int(fields["count"]), int(fields["pipe"])
        return TracedUrb(
            busnum=int(fields["bus"]),
            devnum=int(fields["device"]),
            endpoint=pipe & 0x80 | pipe >> 15 & 0x0F,  # usb_pipein, usb_pipeendpoint
            length=int(fields["length"]),
            count=count,
            entries=tuple(self._entries(_dumped(fields), chain, count)),
        )

    def _entries(self, first: bytes, chain: bytes, count: int) -> Iterator[Segment]:
        """The entries of a list, as far as its memory was fetched."""
        memory, position = first, 0
        while count and position + self._entry <= len(memory):
            flags = self._number(memory, position, "page_link", _POINTER)
            if flags & _CHAIN_BIT:
                if memory is chain or position != self._entry:
                    return
                memory, position = chain, 0
                continue
            yield Segment(
                self._number(memory, position, "length", 4),
                self._number(memory, position, "offset", 4),
            )
            if flags & _END_BIT:
                return
            position += self._entry
            count -= 1

    def _number(self, memory: bytes, position: int, member: str, size: int) -> int:
        begin = position + self._offset("scatterlist", member)
        return int.from_bytes(memory[begin : begin + size], sys.byteorder)


def _dump(pointer: str, offset: int) -> tuple[str, str]:
    """Fields that fetch `_DUMPED` bytes behind a pointer."""
    return (
        f"a={offset:+d}({pointer}):x64[{_ARRAY}]",
        f"b={offset + _DUMPED // 2:+d}({pointer}):x64[{_ARRAY}]",
    )


def _dumped(fields: Mapping[str, str]) -> bytes:
    words = [int(word, 16) for name in "ab" for word in fields[name].strip("{}").split(",")]
    return struct.pack(f"={len(words)}Q", *words)


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """What one CPU said of one use of a URB: event -> field -> value."""

    cpu: str
    urb: str
    count: int
    events: dict[str, dict[str, str]]


def _groups(trace: str) -> list[_Group]:
    """The events of each use of a URB, in the order of the first of them.

    They come one behind the other on their CPU, in an order that is the kernel's: the same URB is
    used again and again, but other URBs of the disk come between.
    """
    groups: list[_Group] = []
    latest: dict[str, _Group] = {}
    for line in trace.splitlines():
        match = _LINE.search(line)
        if match is None:
            if "[LINE TOO BIG]" in line:
                raise TraceError("the kernel found a line of the trace too long to print")
            continue
        fields = dict(re.findall(r"(\w+)=(\S+)", match["fields"]))
        event, cpu, urb, count = match["event"], match["cpu"], fields["urb"], int(fields["count"])
        group = latest.get(cpu)
        if group is None or (group.urb, group.count) != (urb, count) or event in group.events:
            group = latest[cpu] = _Group(cpu, urb, count, {})
            groups.append(group)
        group.events[event] = fields
    return groups
