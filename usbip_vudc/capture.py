"""Capture: URBs in a pcapng file that Wireshark opens, in the records of Linux's usbmon.

Link type 220 (LINKTYPE_USB_LINUX_MMAPPED): ``struct mon_bin_hdr`` of drivers/usb/mon/mon_bin.c in
64 bytes, then iso descriptors, then data. Submission (S), completion (C), and an error (E) for
a URB that its connection took along. Everything is on its way to the disk when a call returns.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from pcapng import FileWriter
from pcapng.blocks import EnhancedPacket, InterfaceDescription, SectionHeader

from usbip_vudc import __version__
from usbip_vudc.sglist import Buffer
from usbip_vudc.urb import IsoPacket
from usbip_vudc.usb.ch9 import TransferType
from usbip_vudc.wire.connection import MAX_TRANSFER
from usbip_vudc.wire.iso import parse_packets
from usbip_vudc.wire.pdu import CmdSubmit, RetSubmit

__all__ = ("LINKTYPE_USB_LINUX_MMAPPED", "Capture", "Recording")

log = logging.getLogger(__name__)

LINKTYPE_USB_LINUX_MMAPPED: Final = 220

_HEADER: Final = struct.Struct("<QBBBBHBBqiiII8siiII")
_ISO_STATE: Final = struct.Struct("<ii")
_ISO: Final = struct.Struct("<iIII")
_MAX_ISO: Final = 128  # ISODESC_MAX

_PIPES: Final = {
    TransferType.ISOCHRONOUS: 0,
    TransferType.INTERRUPT: 1,
    TransferType.CONTROL: 2,
    TransferType.BULK: 3,
}
"""PIPE_* (include/linux/usb.h)."""

_NO_SETUP: Final = ord("-")
_NO_DATA: Final = {True: ord("<"), False: ord(">")}
_HERE: Final = 0


class Capture:
    """A capture file with one interface for each side that is recorded; a context manager.

    Raises OSError where it cannot be created. Where it cannot be written any more, it says so in
    the log and records nothing further.
    """

    def __init__(self, path: Path, *, clock: Callable[[], int] = time.time_ns) -> None:
        self.path = path
        self.records = 0
        self._clock = clock
        self._connections = 0
        # pcapng writes a block in many small pieces: a buffer makes one write of them.
        self._file = path.open("wb")
        self._section = SectionHeader(options={"shb_userappl": f"usbip-vudc {__version__}"})
        self._interfaces: dict[str, int] = {}
        self._writer = FileWriter(self._file, self._section)
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; recordings that go on are lost."""
        self._file.close()

    def fileno(self) -> int:
        """The file's descriptor."""
        return self._file.fileno()

    def connection(self, *sides: str) -> tuple[Recording, ...]:
        """A recording for each side of a new connection, such as ``host`` and ``device``."""
        self._connections += 1
        return tuple(
            Recording(self, self._interface(side), self._connections << 32) for side in sides
        )

    def _interface(self, name: str) -> int:
        if name not in self._interfaces:
            interface = self._section.new_member(
                InterfaceDescription,
                link_type=LINKTYPE_USB_LINUX_MMAPPED,
                options={"if_name": name},
            )
            self._interfaces[name] = interface.interface_id
            self._write(interface)
        return self._interfaces[name]

    def record(self, interface: int, make: Callable[[int], bytes]) -> None:
        """Write one packet; ``make`` gets the time in microseconds since 1970."""
        if self._file.closed:
            return
        now = self._clock() // 1000
        packet = self._section.new_member(
            EnhancedPacket,
            interface_id=interface,
            timestamp_high=now >> 32,
            timestamp_low=now & 0xFFFF_FFFF,
            packet_data=make(now),
        )
        self.records += 1
        self._write(packet)

    def _write(self, block: Any) -> None:
        try:
            self._writer.write_block(block)
            self._file.flush()
        except OSError as error:
            log.error("%s: the capture ends here: %s", self.path, error)
            with contextlib.suppress(OSError):
                self._file.close()


class Recording:
    """One side of one connection; ``numbers`` tells its URBs from those of others."""

    def __init__(self, capture: Capture, interface: int, numbers: int) -> None:
        self._capture = capture
        self._interface = interface
        self._numbers = numbers

    def submit(self, head: CmdSubmit, payload: Buffer, iso: bytes, kind: TransferType) -> None:
        """A URB was submitted."""
        data = _descriptors([(p.status, p.offset, p.length) for p in parse_packets(iso)])
        control = kind is TransferType.CONTROL
        event = _Event(
            "S",
            -errno.EINPROGRESS,
            head.transfer_buffer_length,
            has_data=not head.direction,
            has_setup=control,
            state=head.setup if control else _iso_state(iso, 0),
            descriptors=_shown(iso),
            start_frame=head.start_frame,
        )
        self._record(event, head, kind, data + bytes(payload))

    def complete(
        self, asked: CmdSubmit, reply: RetSubmit, payload: Buffer, iso: bytes, kind: TransferType
    ) -> None:
        """It completed: 0 or a negative errno."""
        packets = parse_packets(iso)
        data = _descriptors([(p.status, p.offset, p.actual_length) for p in packets])
        event = _Event(
            "C",
            reply.status,
            max(reply.actual_length, 0),
            has_data=bool(asked.direction),
            state=_iso_state(iso, reply.error_count),
            descriptors=_shown(iso),
            start_frame=reply.start_frame if iso else asked.start_frame,
        )
        payload = _spread(payload, packets) if iso else payload
        self._record(event, asked, kind, data + bytes(payload))

    def lost(self, asked: CmdSubmit, kind: TransferType) -> None:
        """Its connection ended before it did."""
        event = _Event("E", -errno.ENODEV, 0, start_frame=asked.start_frame)
        self._record(event, asked, kind, b"")

    def _record(self, event: _Event, head: CmdSubmit, kind: TransferType, data: bytes) -> None:
        def make(now: int) -> bytes:
            header = _HEADER.pack(
                self._numbers | head.seqnum,
                ord(event.letter),
                _PIPES[kind],
                head.ep | (0x80 if head.direction else 0),
                head.devid & 0xFF,
                head.devid >> 16 & 0xFFFF,
                _HERE if event.has_setup else _NO_SETUP,
                _HERE if event.has_data else _NO_DATA[bool(head.direction)],
                now // 1_000_000,
                now % 1_000_000,
                event.status,
                event.length,
                len(data),
                event.state,
                head.interval,
                event.start_frame,
                head.transfer_flags,
                event.descriptors,
            )
            return header + data

        self._capture.record(self._interface, make)


@dataclass(frozen=True, slots=True)
class _Event:
    """What a record says beside the URB: ``length`` was asked for, or has moved, in bytes."""

    letter: str
    status: int
    length: int
    has_data: bool = False
    has_setup: bool = False
    state: bytes = bytes(8)
    descriptors: int = 0
    start_frame: int = 0


def _iso_state(iso: bytes, errors: int) -> bytes:
    return _ISO_STATE.pack(errors, len(iso) // IsoPacket.SIZE)


def _shown(iso: bytes) -> int:
    """Descriptors that a record has room for."""
    return min(len(iso) // IsoPacket.SIZE, _MAX_ISO)


def _descriptors(packets: Sequence[tuple[int, int, int]]) -> bytes:
    """``struct mon_bin_isodesc``: status, offset, and the length that is asked for or has moved."""
    return b"".join(_ISO.pack(*packet, 0) for packet in packets[:_MAX_ISO])


def _spread(payload: Buffer, packets: Sequence[IsoPacket]) -> bytes:
    """Packets, which travel without gaps, at their places in the transfer buffer.

    Of no more packets than there are descriptors, as mon_bin_collate_isodesc has it.
    """
    shown = packets[:_MAX_ISO]
    size = max((p.offset + p.actual_length for p in shown if p.actual_length), default=0)
    if sum(p.actual_length for p in packets) != len(payload) or size > MAX_TRANSFER:
        return bytes(payload)  # OUT has none; what does not add up is shown as it came
    buffer = bytearray(size)
    start = 0
    for packet in shown:
        end = start + packet.actual_length
        buffer[packet.offset : packet.offset + packet.actual_length] = payload[start:end]
        start = end
    return bytes(buffer)
