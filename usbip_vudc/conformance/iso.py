"""Rules of isochronous URBs, on devices that have an isochronous IN endpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from usbip_vudc.conformance.peer import NotApplicable, Peer, Reply, Silent, Violation
from usbip_vudc.conformance.rule import MUST, SHOULD, Rule
from usbip_vudc.conformance.subject import Subject
from usbip_vudc.conformance.submits import ends_or_answers
from usbip_vudc.errors import errno_name
from usbip_vudc.urb import MAX_ISO_PACKETS, IsoPacket
from usbip_vudc.usb.ch9 import SetupPacket, StandardRequest

__all__ = ("RULES",)

_PACKETS: Final = 4


@contextmanager
def _selected(subject: Subject) -> Iterator[Peer]:
    """A connection on which the endpoint's alternate setting is selected."""
    iso = subject.iso
    with subject.configured() as peer:
        if iso.alternate:
            reply = peer.control(
                SetupPacket(0x01, StandardRequest.SET_INTERFACE, iso.alternate, iso.interface)
            )
            if reply.status:
                raise Violation(f"SET_INTERFACE: {errno_name(reply.status)}")
        yield peer


def _ask(subject: Subject, peer: Peer, count: int, packets: Sequence[IsoPacket]) -> int:
    """Submit a URB that says ``count``, and has these descriptors."""
    iso = subject.iso
    length = _PACKETS * iso.max_packet_size
    header = peer.submit_bytes(iso.address, length, packets=count)
    peer.send(header + b"".join(packet.pack() for packet in packets))
    return peer.last


def _packets(subject: Subject, count: int) -> list[IsoPacket]:
    size = subject.iso.max_packet_size
    return [IsoPacket(offset=number * size, length=size) for number in range(count)]


def reply_fits(subject: Subject) -> None:
    """As many packets as were asked for; the payload is their bytes without gaps."""
    with _selected(subject) as peer:
        sent = _packets(subject, _PACKETS)
        seqnum = _ask(subject, peer, _PACKETS, sent)
        try:
            reply = peer.reply_to(seqnum)
        except Silent:
            peer.unlink(seqnum)
            raise NotApplicable("the isochronous endpoint had no data in time") from None
        if reply.status:
            raise Violation(f"status {reply.status}; each packet has a status of its own")
        if reply.pdu.number_of_packets != _PACKETS:
            raise Violation(f"number_of_packets {reply.pdu.number_of_packets}, expected {_PACKETS}")
        got = peer.descriptors(_PACKETS)
        _check_packets(reply, sent, got)
        subject.alive(peer)


def _check_packets(reply: Reply, sent: Sequence[IsoPacket], got: Sequence[IsoPacket]) -> None:
    total = sum(packet.actual_length for packet in got)
    if total != len(reply.payload):
        raise Violation(
            f"actual_length {len(reply.payload)}, but the packets received {total}: vhci_hcd "
            f"drops the device"
        )
    for number, (asked, packet) in enumerate(zip(sent, got, strict=True)):
        if packet.actual_length > asked.length:
            raise Violation(
                f"packet {number}: {packet.actual_length} bytes of {asked.length} asked for"
            )
        if (packet.offset, packet.length) != (asked.offset, asked.length):
            raise Violation(f"packet {number}: offset or length came back changed")
    failed = sum(1 for packet in got if packet.status)
    if reply.pdu.error_count != failed:
        raise Violation(f"error_count {reply.pdu.error_count}, but {failed} packets have a status")


def _refused(subject: Subject, count: int, packets: Sequence[IsoPacket]) -> None:
    """An error, or the end of the connection; never data."""
    with _selected(subject) as peer:
        reply = ends_or_answers(peer, _ask(subject, peer, count, packets))
        if reply is not None and not reply.status:
            raise Violation(f"status 0 and {len(reply.payload)} bytes")


def count_none(subject: Subject) -> None:
    """A transfer buffer, and no packet to fill it."""
    for count in (0, -1):
        _refused(subject, count, ())


def count_too_large(subject: Subject) -> None:
    """One packet more than the kernel ever takes, with all its descriptors."""
    count = MAX_ISO_PACKETS + 1
    _refused(subject, count, [IsoPacket(offset=0, length=0)] * count)


def lying(subject: Subject) -> None:
    """Descriptors that point behind the transfer buffer."""
    size = subject.iso.max_packet_size
    end = _PACKETS * size
    for lie in (
        IsoPacket(offset=end, length=size),
        IsoPacket(offset=end - size + 1, length=size),
        IsoPacket(offset=0xFFFF_FF00, length=size),
        IsoPacket(offset=0, length=0xFFFF_FFFF),
    ):
        _refused(subject, _PACKETS, [*_packets(subject, _PACKETS - 1), lie])


_ISO: Final = "drivers/usb/usbip/usbip_common.c, usbip_recv_iso()"
_COUNT: Final = "drivers/usb/usbip/stub_rx.c, get_pipe()"

RULES: Final = (
    Rule(name="iso-reply", check=reply_fits, severity=MUST,
         what="isochronous IN: all descriptors come back, the payload is packed", source=_ISO),
    Rule(name="iso-count-none", check=count_none, severity=SHOULD, hostile=True,
         what="number_of_packets 0 and -1 on an isochronous endpoint: an error, or the end",
         source=_COUNT),
    Rule(name="iso-count-1025", check=count_too_large, severity=MUST, hostile=True,
         what="number_of_packets 1025: an error, or the end", source=_COUNT),
    Rule(name="iso-lies", check=lying, severity=MUST, hostile=True,
         what="packets outside of the transfer buffer: an error, or the end", source=_ISO),
)  # fmt: skip
