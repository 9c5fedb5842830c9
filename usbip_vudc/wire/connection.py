"""Sans-I/O USB/IP connections after IMPORT: the device's role and the host's.

A driver (cable.py) asks `get_buffers` where the next bytes go, says with `advance` how many came,
sends what lies in ``outgoing``, and then makes the calls of ``when_sent``. Payloads land in the
memory that wants them; there is no growing copy. A peer that breaks the protocol raises
RemoteProtocolError, after which the connection must be closed. Memory is bounded by the limits
below.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from usbip_vudc.errors import LocalProtocolError, RemoteProtocolError
from usbip_vudc.memory import page_aligned
from usbip_vudc.sglist import Buffer
from usbip_vudc.urb import URB_DIR_IN, URB_DMA_MAP_SG, HostUrb, Landing, Urb
from usbip_vudc.usb.ch9 import Direction, SetupPacket
from usbip_vudc.wire.pdu import (
    CMD_SUBMIT,
    CMD_UNLINK,
    HEADER_SIZE,
    RET_SUBMIT,
    RET_SUBMIT_STRUCT,
    RET_UNLINK,
    SUBMIT_STRUCT,
    CmdUnlink,
    IsoPacket,
    RetUnlink,
)

__all__ = (
    "MAX_ISO_PACKETS",
    "MAX_LENT",
    "MAX_TRANSFER",
    "Connection",
    "DeviceConnection",
    "HostConnection",
    "UrbSink",
)

MAX_TRANSFER: Final = 16 << 20
"""Bytes of one URB. The kernel's stub fails to allocate 16 MiB; usbfs has 16 MiB in all."""

MAX_ISO_PACKETS: Final = 1024
"""USBIP_MAX_ISO_PACKETS, drivers/usb/usbip/usbip_common.h."""

_RECEIVE_SIZE: Final = 64 << 10
_NO_SETUP: Final = bytes(SetupPacket.SIZE)
MAX_LENT: Final = 4096
"""OUT payloads up to here are handed on where they arrived; a landing costs more than a copy."""

_INLINE: Final = 256
"""Payloads up to here join their header; larger ones go out as views of their own, uncopied."""


class Connection(ABC):
    """What a cable drives: a stream of 48-byte headers with payloads between them.

    ``when_sent`` holds what to call once everything in ``outgoing`` has left: requests whose
    memory the replies still point into.
    """

    def __init__(self) -> None:
        self.outgoing: list[Buffer] = []
        self.when_sent: list[Callable[[], None]] = []
        self._view = page_aligned(_RECEIVE_SIZE)
        self._whole = (self._view,)
        self._start = 0
        self._end = 0
        self._landing: Landing | None = None

    def get_buffers(self) -> Sequence[memoryview]:
        """Where the next bytes go, in order. Ask again before every receive."""
        if self._landing is not None:
            return self._landing.remaining()
        return (self._view[self._end :],) if self._end else self._whole

    def advance(self, length: int) -> None:
        """``length`` bytes have arrived where `get_buffers` said; act on all that is complete.

        Raises RemoteProtocolError where the peer broke the protocol.
        """
        landing = self._landing
        if landing is None:
            self._end += length
        else:
            landing.received += length
            if landing.received < landing.length:
                return
            self._landing = None
            self._landed()
        self._parse()
        rest = self._end - self._start
        if rest and self._start:
            # What is left is less than a header: keep it at the front.
            self._view[:rest] = bytes(self._view[self._start : self._end])
        self._start = 0
        self._end = rest

    @property
    def awaited(self) -> int:
        """Bytes of a payload that are still to come, 0 between PDUs."""
        landing = self._landing
        return landing.length - landing.received if landing is not None else 0

    @property
    def at_boundary(self) -> bool:
        """Whether the stream may end here: no PDU is half received."""
        return self._landing is None and self._end == 0

    def _header(self) -> bytes:
        """Take the next header out of the buffer."""
        start = self._start
        self._start += HEADER_SIZE
        return bytes(self._view[start : self._start])

    def _receive(self, landing: Landing) -> bool:
        """Give a landing what has come of it already; False if the rest is still to come."""
        available = min(self._end - self._start, landing.length)
        if available:
            landing.put(self._view[self._start : self._start + available])
            self._start += available
        if available < landing.length:
            self._landing = landing
            return False
        return True

    @abstractmethod
    def _parse(self) -> None:
        """Act on each complete header in the buffer, until one is cut or a payload is awaited."""

    @abstractmethod
    def _landed(self) -> None:
        """The payload that was awaited is complete."""


class UrbSink(Protocol):
    """What a DeviceConnection talks to: the controller."""

    def landing(self, urb: Urb) -> Landing:
        """Where the payload of this OUT URB should be received."""

    def submit(self, urb: Urb) -> None:
        """A URB has arrived whole. Its payload is lent for the call: copy it to keep it."""

    def unlink(self, seqnum: int) -> bool:
        """Forget a pending URB; False where it is not pending (unknown or completed)."""


class DeviceConnection(Connection):
    """The exporter's end: CMD_SUBMIT and CMD_UNLINK in, RET_SUBMIT and RET_UNLINK out."""

    def __init__(self, sink: UrbSink) -> None:
        super().__init__()
        self._sink = sink
        self._arriving: Urb | None = None

    def ret_submit(self, urb: Urb) -> None:
        """Reply to a completed URB: its status, and for IN its data whatever the status."""
        data = urb.data
        header = RET_SUBMIT_STRUCT.pack(
            RET_SUBMIT, urb.seqnum, 0, 0, 0, urb.status, urb.actual, urb.start_frame,
            urb.number_of_packets, 0,
        )  # fmt: skip
        if urb.actual <= _INLINE and not urb.iso_packets:
            self.outgoing.append(b"".join((header, *data)) if data else header)
            return
        self.outgoing.append(header)
        self.outgoing.extend(data)
        if urb.iso_packets:
            self.outgoing.append(urb.iso_packets)

    def _parse(self) -> None:
        unpack = SUBMIT_STRUCT.unpack_from
        submit = self._sink.submit
        while self._end - self._start >= HEADER_SIZE:
            (command, seqnum, _devid, direction, ep, flags, length, start_frame, packets,
             _interval, setup) = unpack(self._view, self._start)  # fmt: skip
            if command != CMD_SUBMIT:
                self._unlink(command)
                continue
            self._start += HEADER_SIZE
            if direction > 1 or ep > 15 or not 0 <= length <= MAX_TRANSFER:
                raise RemoteProtocolError(
                    f"CMD_SUBMIT seqnum {seqnum}: direction {direction} (0 or 1), ep {ep} (0 to "
                    f"15), transfer_buffer_length {length} (0 to {MAX_TRANSFER})"
                )
            urb = Urb(seqnum, ep | direction << 7, length, flags, setup)
            if start_frame or packets:
                urb.start_frame = start_frame
                urb.number_of_packets = packets
            if packets > 0:
                if not self._receive_iso(urb, packets):
                    self._arriving = urb
                    return
            elif length and not direction:
                start = self._start
                if length <= MAX_LENT and length <= self._end - start:
                    # Lent, not given: the sink copies what it keeps.
                    urb.payload = self._view[start : start + length]
                    self._start = start + length
                elif not self._receive(self._sink.landing(urb)):
                    self._arriving = urb
                    return
            submit(urb)

    def _receive_iso(self, urb: Urb, packets: int) -> bool:
        if packets > MAX_ISO_PACKETS:
            raise RemoteProtocolError(
                f"CMD_SUBMIT seqnum {urb.seqnum}: number_of_packets {packets}, at most "
                f"{MAX_ISO_PACKETS}"
            )
        payload = 0 if urb.endpoint & Direction.IN else urb.length
        buffer = bytearray(payload + packets * IsoPacket.SIZE)
        urb.payload = buffer
        if not self._receive(Landing([memoryview(buffer)], len(buffer))):
            return False
        self._split_iso(urb)
        return True

    @staticmethod
    def _split_iso(urb: Urb) -> None:
        """The packet descriptors came behind the payload, into the same buffer."""
        cut = len(urb.payload) - urb.number_of_packets * IsoPacket.SIZE
        urb.iso_packets = bytes(urb.payload[cut:])
        urb.payload = urb.payload[:cut]

    def _landed(self) -> None:
        urb, self._arriving = self._arriving, None
        if urb is not None:
            if urb.number_of_packets > 0:
                self._split_iso(urb)
            self._sink.submit(urb)

    def _unlink(self, command: int) -> None:
        if command != CMD_UNLINK:
            raise RemoteProtocolError(
                f"command {command:#x}, expected CMD_SUBMIT (1) or CMD_UNLINK (2)"
            )
        pdu = CmdUnlink.parse(self._header())
        # vhci: -ECONNRESET says the URB will get no RET_SUBMIT, 0 that it has had one.
        status = -errno.ECONNRESET if self._sink.unlink(pdu.unlink_seqnum) else 0
        self.outgoing.append(RetUnlink(seqnum=pdu.seqnum, status=status).pack())


class HostConnection(Connection):
    """The importer's end, as vhci_hcd speaks: many URBs pending, each completed once.

    ``devid`` is the one that IMPORT returned.
    """

    def __init__(self, devid: int) -> None:
        super().__init__()
        self._devid = devid
        self._seqnum = 0
        self._pending: dict[int, HostUrb] = {}
        self._unlinks: dict[int, HostUrb] = {}
        self._reply: tuple[HostUrb, int] | None = None
        self._lost: int | None = None

    @property
    def pending(self) -> int:
        """URBs that the device has not answered yet."""
        return len(self._pending)

    def submit(self, urb: HostUrb) -> None:
        """Put CMD_SUBMIT and the OUT payload into ``outgoing``.

        Raises LocalProtocolError where the URB is pending or used already, or too long. On a
        connection that is lost the URB completes at once with that status.
        """
        if urb.seqnum or urb.status is not None:
            raise LocalProtocolError(f"{urb!r} was submitted before; make a new one")
        if urb.length > MAX_TRANSFER:
            raise LocalProtocolError(f"{urb!r}: at most {MAX_TRANSFER} bytes in one URB")
        urb.seqnum = self._next_seqnum()
        if self._lost is not None:
            urb.complete(self._lost)
            return
        is_in = urb.endpoint & Direction.IN
        flags = urb.flags | URB_DIR_IN if is_in else urb.flags
        segments = urb.sg.segments
        if len(segments) > 1:
            flags |= URB_DMA_MAP_SG
        header = SUBMIT_STRUCT.pack(
            CMD_SUBMIT, urb.seqnum, self._devid, 1 if is_in else 0, urb.endpoint & 15, flags,
            urb.length, 0, 0, 0, _NO_SETUP if urb.setup is None else urb.setup.pack(),
        )  # fmt: skip
        self._pending[urb.seqnum] = urb
        if is_in or not urb.length:
            self.outgoing.append(header)
        elif urb.length <= _INLINE:
            self.outgoing.append(b"".join((header, *segments)))
        else:
            self.outgoing.append(header)
            self.outgoing.extend(segments)

    def unlink(self, urb: HostUrb) -> None:
        """Ask for a pending URB back; it completes with -ECONNRESET, or as it just did."""
        if urb.status is None and urb.seqnum in self._pending:
            seqnum = self._next_seqnum()
            self._unlinks[seqnum] = urb
            pdu = CmdUnlink(seqnum=seqnum, devid=self._devid, unlink_seqnum=urb.seqnum)
            self.outgoing.append(pdu.pack())

    def lost(self, status: int) -> None:
        """The connection is gone: every pending URB completes with this negative errno."""
        self._lost = status
        pending, self._pending = self._pending, {}
        self._unlinks.clear()
        for urb in pending.values():
            urb.complete(status)

    def _next_seqnum(self) -> int:
        self._seqnum = self._seqnum % 0xFFFF_FFFF + 1
        return self._seqnum

    def _parse(self) -> None:
        unpack = RET_SUBMIT_STRUCT.unpack_from
        while self._end - self._start >= HEADER_SIZE:
            command, seqnum, _, _, _, status, actual, _, _, _ = unpack(self._view, self._start)
            if command != RET_SUBMIT:
                self._ret_unlink(command)
                continue
            self._start += HEADER_SIZE
            urb = self._pending.get(seqnum)
            if urb is None:
                raise RemoteProtocolError(
                    f"RET_SUBMIT for seqnum {seqnum}, which is not pending (last sent "
                    f"{self._seqnum})"
                )
            if not 0 <= actual <= urb.length:
                raise RemoteProtocolError(
                    f"RET_SUBMIT seqnum {seqnum}: actual_length {actual}, but "
                    f"{urb.length} bytes were asked for"
                )
            urb.actual = actual
            if actual and urb.endpoint & Direction.IN:
                segments = urb.sg.segments
                if actual <= self._end - self._start and len(segments) == 1:
                    segments[0][:actual] = self._view[self._start : self._start + actual]
                    self._start += actual
                elif not self._receive(Landing(urb.sg.cut(0, actual), actual)):
                    self._reply = urb, status  # still pending: the connection may break here
                    return
            del self._pending[seqnum]
            urb.complete(status)

    def _landed(self) -> None:
        if self._reply is not None:
            (urb, status), self._reply = self._reply, None
            del self._pending[urb.seqnum]
            urb.complete(status)

    def _ret_unlink(self, command: int) -> None:
        if command != RET_UNLINK:
            raise RemoteProtocolError(
                f"command {command:#x}, expected RET_SUBMIT (3) or RET_UNLINK (4)"
            )
        pdu = RetUnlink.parse(self._header())
        urb = self._unlinks.pop(pdu.seqnum, None)
        # As vhci does: the URB is given back even where status 0 came without a RET_SUBMIT.
        if urb is not None and self._pending.pop(urb.seqnum, None) is not None:
            urb.complete(pdu.status or -errno.ECONNRESET)
