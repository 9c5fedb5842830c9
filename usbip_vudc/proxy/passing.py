"""Values of a relay that follows a plan: a URB on its way, its parts, and the reply to it. Pure.

A URB that is split goes as ``usbip-host`` without SG sends it (drivers/usb/usbip/stub_rx.c and
stub_tx.c): all parts at once, in order, and one reply once the last of them has completed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from usbip_vudc.injection.layout import Layout
from usbip_vudc.injection.transfer import Transfer
from usbip_vudc.proxy.ends import Reply, Submit, numbered
from usbip_vudc.proxy.relay import Ending
from usbip_vudc.sglist import Buffer
from usbip_vudc.urb import URB_DMA_MAP_SG, URB_ZERO_PACKET
from usbip_vudc.wire.iso import completed, pack_packets, parse_packets
from usbip_vudc.wire.pdu import CmdSubmit, IsoPacket, RetSubmit

__all__ = ("Answer", "Part", "Urb", "cut", "join")


@dataclass(slots=True)
class Part:
    """A URB as the device got it, under a number of ours; ``urb`` is None for one of our own."""

    head: CmdSubmit
    urb: Urb | None
    reply: Reply | None = None


@dataclass(slots=True)
class Urb:
    """A URB as the host sent it, until it has been answered, and what is to be done with it.

    ``open`` parts are at the device. ``unlinks`` are the host's CMD_UNLINKs that wait for them;
    ``unlinking`` says that the device was asked, ``unlinked`` that it gave a part back. ``iso`` is
    the descriptors of packets as the host made them.
    """

    pdu: Submit
    transfer: Transfer
    iso: bytes = b""
    layout: Layout | None = None
    stalled: bool = False
    dropped: bool = False
    reset_first: bool = False
    unlink_after: float | None = None
    ending: Ending | None = None
    parts: list[Part] = field(default_factory=list)
    open: int = 0
    unlinks: list[int] = field(default_factory=list)
    unlinking: bool = False
    unlinked: bool = False

    @property
    def seqnum(self) -> int:
        """The host's number."""
        return self.pdu.head.seqnum

    @property
    def is_in(self) -> bool:
        """Whether the data goes to the host."""
        return bool(self.pdu.head.direction)


@dataclass(slots=True)
class Answer:
    """What the host is to be told of a URB; ``head`` and ``raw`` are what the device said.

    ``delay`` in seconds and ``overtaken``, a number of replies, hold it back; ``cut`` and
    ``pause`` are for the bytes that it travels in. With an ``ending`` it is not told at all.
    """

    status: int = 0
    actual: int = 0
    payload: Buffer = b""
    iso: bytes = b""
    head: RetSubmit = field(default_factory=lambda: RetSubmit(seqnum=0))
    raw: bytes = b""
    delay: float = 0.0
    overtaken: int = 0
    cut: tuple[int, ...] = ()
    pause: float = 0.0
    ending: Ending | None = None

    @classmethod
    def of(cls, reply: Reply) -> Answer:
        """What the device said."""
        head = reply.head
        return cls(head.status, head.actual_length, reply.payload, reply.iso, head, reply.raw)

    @classmethod
    def failed(cls, status: int, urb: Urb) -> Answer:
        """What the device did not say. The packets of an isochronous URB have not moved."""
        count = len(urb.iso) // IsoPacket.SIZE
        return cls(status, iso=urb.iso, head=RetSubmit(seqnum=0, number_of_packets=count))

    def reply(self, seqnum: int) -> Reply:
        """As RET_SUBMIT for this URB of the host; where nothing was changed, as it came."""
        said = self.head
        if self.raw and (said.status, said.actual_length) == (self.status, self.actual):
            return Reply(
                replace(said, seqnum=seqnum), numbered(self.raw, seqnum), self.payload, self.iso
            )
        head = replace(said, seqnum=seqnum, status=self.status, actual_length=self.actual)
        return Reply(head, head.pack(), self.payload, self.iso)

    def resize(self, length: int, *, with_payload: bool) -> None:
        """Say another actual_length; the payload of an IN URB is cut or padded to it."""
        self.actual = length
        if with_payload:
            self.payload = bytes(self.payload[:length]).ljust(length, b"\0")


def cut(urb: Urb, numbers: Iterator[int]) -> list[Submit]:
    """The URBs that the device gets for this one, under these numbers."""
    pdu = urb.pdu
    head = pdu.head
    lengths = [head.transfer_buffer_length]
    # Only bulk and interrupt URBs can be cut: a control transfer has one setup packet.
    if urb.layout is not None and head.ep and head.number_of_packets <= 0 < lengths[0]:
        requests = urb.layout.apply(lengths[0], urb.transfer.max_packet_size)
        lengths = [sum(segment.length for segment in request) for request in requests]
    if len(lengths) == 1:
        seqnum = next(numbers)
        raw = numbered(pdu.raw, seqnum)
        return [Submit(replace(head, seqnum=seqnum), raw, pdu.payload, pdu.iso)]
    made = []
    start = 0
    flags = head.transfer_flags & ~(URB_DMA_MAP_SG | URB_ZERO_PACKET)
    for length in lengths:
        one = replace(
            head, seqnum=next(numbers), transfer_buffer_length=length, transfer_flags=flags
        )
        made.append(Submit(one, one.pack(), pdu.payload[start : start + length]))
        start += length
    if head.transfer_flags & URB_ZERO_PACKET:
        last = made[-1]
        last.head = replace(last.head, transfer_flags=flags | URB_ZERO_PACKET)
        last.raw = last.head.pack()
    return made


def join(urb: Urb) -> Answer:
    """What the parts come to: the sum of their lengths, the first error, their data in order."""
    replies = [part.reply for part in urb.parts if part.reply is not None]
    if len(replies) == 1:
        answer = Answer.of(replies[0])
        if answer.iso and urb.pdu.iso != urb.iso:
            # vhci takes over the lengths of a reply: they are to be those it asked for.
            went = parse_packets(answer.iso)
            answer.iso = pack_packets(completed(parse_packets(urb.iso), went))
        return answer
    return Answer(
        next((reply.head.status for reply in replies if reply.head.status), 0),
        sum(reply.head.actual_length for reply in replies),
        b"".join(reply.payload for reply in replies),
    )
