"""Sans-I/O USB/IP connections after IMPORT: the device's role and the host's.

`Connection` (stream.py) says how a driver moves their bytes. A peer that breaks the protocol
raises RemoteProtocolError, after which the connection must be closed. Memory is bounded by
MAX_TRANSFER, MAX_ISO_PACKETS and what the sink keeps.
"""

from __future__ import annotations

import errno
from collections import deque
from typing import Final, Protocol

from usbip_vudc.errors import LocalProtocolError, RemoteProtocolError
from usbip_vudc.urb import (
    MAX_ISO_PACKETS,
    URB_DIR_IN,
    URB_DMA_MAP_SG,
    HostUrb,
    IsoPacket,
    IsoUrb,
    Landing,
    Urb,
)
from usbip_vudc.usb.ch9 import Direction, SetupPacket
from usbip_vudc.wire.iso import IsoReply, check_submit, pack_packets
from usbip_vudc.wire.pdu import (
    CMD_SUBMIT,
    CMD_UNLINK,
    HEADER_SIZE,
    RET_SUBMIT,
    RET_SUBMIT_STRUCT,
    RET_UNLINK,
    SUBMIT_STRUCT,
    CmdUnlink,
    RetSubmit,
    RetUnlink,
)
from usbip_vudc.wire.stream import MAX_TRANSFER, Connection

__all__ = (
    "MAX_ISO_PACKETS",
    "MAX_LENT",
    "MAX_TRANSFER",
    "Connection",
    "DeviceConnection",
    "HostConnection",
    "UrbSink",
)

_NO_SETUP: Final = bytes(SetupPacket.SIZE)
_IN: Final = int(Direction.IN)
MAX_LENT: Final = 4096
"""OUT payloads up to here are handed on where they arrived; a landing costs more than a copy."""

_RECENT: Final = 64
"""CMD_UNLINK that may come before their URBs, and those that are remembered as no URBs."""

_INLINE: Final = 256
"""Payloads up to here join their header; larger ones go out as views of their own, uncopied."""


class UrbSink(Protocol):
    """What a DeviceConnection talks to: the controller."""

    def landing(self, urb: Urb) -> Landing:
        """Where the payload of this OUT URB should be received."""

    def submit(self, urb: Urb) -> None:
        """A URB has arrived whole. Its payload is lent for the call: copy it to keep it."""

    def submit_iso(self, urb: Urb) -> None:
        """A URB of packets has arrived whole; its payload is its own."""

    def unlink(self, seqnum: int) -> bool:
        """Forget a pending URB; False where it is not pending (unknown or completed)."""


class DeviceConnection(Connection):
    """The exporter's end: CMD_SUBMIT and CMD_UNLINK in, RET_SUBMIT and RET_UNLINK out."""

    def __init__(self, sink: UrbSink) -> None:
        super().__init__()
        self._sink = sink
        self._arriving: Urb | None = None
        self._newest = 0
        self._early: dict[int, CmdUnlink] = {}
        self._unlinks: deque[int] = deque(maxlen=_RECENT)

    def ret_submit(self, urb: Urb) -> None:
        """Reply to a completed URB: its status, and for IN its data whatever the status."""
        if urb.iso_packets:
            self._ret_iso(urb)
            return
        data = urb.data
        header = RET_SUBMIT_STRUCT.pack(
            RET_SUBMIT, urb.seqnum, 0, 0, 0, urb.status, urb.actual, urb.start_frame,
            urb.number_of_packets, 0,
        )  # fmt: skip
        if urb.actual <= _INLINE:
            self.outgoing.append(b"".join((header, *data)) if data else header)
            return
        self.outgoing.append(header)
        self.outgoing.extend(data)

    def _ret_iso(self, urb: Urb) -> None:
        """The packets' bytes without gaps, and their descriptors behind them."""
        header = RET_SUBMIT_STRUCT.pack(
            RET_SUBMIT, urb.seqnum, 0, 0, 0, urb.status, urb.actual, urb.start_frame,
            urb.number_of_packets, urb.error_count,
        )  # fmt: skip
        self.outgoing.extend((header, *urb.data, urb.iso_packets))

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
            self._newest = seqnum
            if direction > 1 or ep > 15 or not 0 <= length <= MAX_TRANSFER:
                raise RemoteProtocolError(
                    f"CMD_SUBMIT seqnum {seqnum}: direction {direction} (0 or 1), ep {ep} (0 to "
                    f"15), transfer_buffer_length {length} (0 to {MAX_TRANSFER})"
                )
            urb = Urb(seqnum, ep | direction << 7, length, flags, setup)
            if start_frame or packets:
                check_submit(seqnum, ep, length, packets)
                urb.start_frame = start_frame
                urb.number_of_packets = packets
            if packets > 0:
                if not self._receive_iso(urb, packets):
                    self._arriving = urb
                    return
                self._sink.submit_iso(urb)
                self._unlink_early()
                continue
            if length and not direction:
                start = self._start
                if length <= MAX_LENT and length <= self._end - start:
                    # Lent, not given: the sink copies what it keeps.
                    urb.payload = self._view[start : start + length]
                    self._start = start + length
                elif not self._receive(self._sink.landing(urb)):
                    self._arriving = urb
                    return
            submit(urb)
            if self._early:
                self._unlink_early()

    def _receive_iso(self, urb: Urb, packets: int) -> bool:
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
        check_submit(
            urb.seqnum, urb.endpoint & 15, urb.length, urb.number_of_packets, urb.iso_packets
        )

    def _landed(self) -> None:
        urb, self._arriving = self._arriving, None
        if urb is not None:
            if urb.number_of_packets > 0:
                self._split_iso(urb)
                self._sink.submit_iso(urb)
            else:
                self._sink.submit(urb)
            self._unlink_early()

    def _unlink(self, command: int) -> None:
        if command != CMD_UNLINK:
            raise RemoteProtocolError(
                f"command {command:#x}, expected CMD_SUBMIT (1) or CMD_UNLINK (2)"
            )
        pdu = CmdUnlink.parse(self._header())
        target = pdu.unlink_seqnum
        self._unlinks.append(pdu.seqnum)
        known = target in self._early or target in self._unlinks
        if 0 < self._newest < target < pdu.seqnum and not known:
            # vhci_tx.c sends every unlink that waits before it looks for URBs again: this one has
            # overtaken its own. Answered now, vhci would take the URB's reply for a stranger's.
            # Before the first URB it is for one of the port's last connection, which never comes.
            if len(self._early) == _RECENT:
                raise RemoteProtocolError(f"{_RECENT + 1} CMD_UNLINK came before their URBs")
            self._early[target] = pdu
            return
        self._ret_unlink(pdu)

    def _unlink_early(self) -> None:
        """Answer what overtook its URB, once that has come, or cannot: later ones have."""
        for target in [seqnum for seqnum in self._early if seqnum <= self._newest]:
            self._ret_unlink(self._early.pop(target))

    def _ret_unlink(self, pdu: CmdUnlink) -> None:
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
        self._pending_iso: dict[int, IsoUrb] = {}
        self._unlinks: dict[int, HostUrb] = {}
        self._reply: tuple[HostUrb, int] | None = None
        self._iso_reply: IsoReply | None = None
        self._lost: int | None = None

    @property
    def pending(self) -> int:
        """URBs that the device has not answered yet."""
        return len(self._pending) + len(self._pending_iso)

    def submit(self, urb: HostUrb) -> None:
        """Put CMD_SUBMIT, the OUT payload and the descriptors of packets into ``outgoing``.

        Raises LocalProtocolError where the URB is pending or used already, or too long, and for
        an IN URB whose memory is read-only. On a connection that is lost the URB completes at
        once with that status.
        """
        if urb.seqnum or urb.status is not None:
            raise LocalProtocolError(f"{urb!r} was submitted before; make a new one")
        if urb.length > MAX_TRANSFER:
            raise LocalProtocolError(f"{urb!r}: at most {MAX_TRANSFER} bytes in one URB")
        if urb.endpoint & _IN and urb.sg.readonly:
            raise LocalProtocolError(f"{urb!r}: its memory is read-only (bytes?), for IN data")
        urb.seqnum = self._next_seqnum()
        if self._lost is not None:
            urb.complete(self._lost)
            return
        if urb.is_iso:
            self._submit_iso(urb)
            return
        is_in = urb.endpoint & _IN
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

    def _submit_iso(self, urb: HostUrb) -> None:
        assert isinstance(urb, IsoUrb)
        header = SUBMIT_STRUCT.pack(
            CMD_SUBMIT, urb.seqnum, self._devid, int(urb.is_in), urb.endpoint & 15,
            urb.flags | URB_DIR_IN if urb.is_in else urb.flags, urb.length, urb.start_frame,
            len(urb.packets), urb.interval, _NO_SETUP,
        )  # fmt: skip
        self._pending_iso[urb.seqnum] = urb
        payload = () if urb.is_in else urb.sg.segments
        self.outgoing.extend((header, *payload, pack_packets(urb.packets)))

    def unlink(self, urb: HostUrb) -> None:
        """Ask for a pending URB back; it completes with -ECONNRESET, or as it just did."""
        pending = self._pending_iso if urb.is_iso else self._pending
        if urb.status is None and urb.seqnum in pending:
            seqnum = self._next_seqnum()
            self._unlinks[seqnum] = urb
            pdu = CmdUnlink(seqnum=seqnum, devid=self._devid, unlink_seqnum=urb.seqnum)
            self.outgoing.append(pdu.pack())

    def lost(self, status: int) -> None:
        """The connection is gone: every pending URB completes with this negative errno."""
        self._lost = status
        self._unlinks.clear()
        # One by one: the host may be reading in another thread (host/blocking.py), and whoever
        # takes a URB out completes it.
        for pending in (self._pending, self._pending_iso):
            for seqnum in tuple(pending):
                urb = pending.pop(seqnum, None)
                if urb is not None:
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
                if not self._ret_iso(seqnum):
                    return
                continue
            if not 0 <= actual <= urb.length:
                raise RemoteProtocolError(
                    f"RET_SUBMIT seqnum {seqnum}: actual_length {actual}, but "
                    f"{urb.length} bytes were asked for"
                )
            urb.actual = actual
            if actual and urb.endpoint & _IN:
                segments = urb.sg.segments
                if actual <= self._end - self._start and len(segments) == 1:
                    segments[0][:actual] = self._view[self._start : self._start + actual]
                    self._start += actual
                elif not self._receive(Landing(urb.sg.cut(0, actual), actual)):
                    self._reply = urb, status  # still pending: the connection may break here
                    return
            if self._pending.pop(seqnum, None) is not None:
                urb.complete(status)

    def _landed(self) -> None:
        if self._reply is not None:
            (urb, status), self._reply = self._reply, None
            if self._pending.pop(urb.seqnum, None) is not None:
                urb.complete(status)
        elif self._iso_reply is not None:
            self._end_iso(self._iso_reply)

    def _ret_iso(self, seqnum: int) -> bool:
        """The reply to an isochronous URB, or to none; False while the rest is still to come."""
        urb = self._pending_iso.get(seqnum)
        if urb is None:
            raise RemoteProtocolError(
                f"RET_SUBMIT for seqnum {seqnum}, which is not pending (last sent {self._seqnum})"
            )
        header = self._view[self._start - HEADER_SIZE : self._start]
        reply = IsoReply(urb, RetSubmit.parse(bytes(header)))
        if not self._receive(Landing([memoryview(reply.buffer)], len(reply.buffer))):
            self._iso_reply = reply
            return False
        self._end_iso(reply)
        return True

    def _end_iso(self, reply: IsoReply) -> None:
        self._iso_reply = None
        reply.deliver()  # it stays pending where that fails: the connection breaks then
        if self._pending_iso.pop(reply.urb.seqnum, None) is not None:
            reply.urb.complete(reply.head.status)

    def _ret_unlink(self, command: int) -> None:
        if command != RET_UNLINK:
            raise RemoteProtocolError(
                f"command {command:#x}, expected RET_SUBMIT (3) or RET_UNLINK (4)"
            )
        pdu = RetUnlink.parse(self._header())
        urb = self._unlinks.pop(pdu.seqnum, None)
        if urb is None:
            return
        pending = self._pending_iso if urb.is_iso else self._pending
        # As vhci does: the URB is given back even where status 0 came without a RET_SUBMIT.
        if pending.pop(urb.seqnum, None) is not None:
            urb.complete(pdu.status or -errno.ECONNRESET)
