"""Isochronous packets on the wire: their descriptors, and payloads that travel without gaps. Pure.

The descriptors follow the payload of CMD_SUBMIT and RET_SUBMIT. A CMD_SUBMIT brings the transfer
buffer as it is, gaps and all; a RET_SUBMIT brings only what the packets received, one behind the
other, and the host puts it to their offsets (drivers/usb/usbip/usbip_common.c: usbip_recv_iso,
usbip_pad_iso).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from usbip_vudc.errors import RemoteProtocolError
from usbip_vudc.sglist import Buffer, SGList
from usbip_vudc.urb import MAX_ISO_PACKETS, IsoPacket, IsoUrb
from usbip_vudc.usb.ch9 import Direction
from usbip_vudc.wire.pdu import RetSubmit

__all__ = (
    "IsoReply",
    "check_submit",
    "completed",
    "cut_received",
    "inside",
    "pack_packets",
    "parse_packets",
    "spread",
)


def pack_packets(packets: Iterable[IsoPacket]) -> bytes:
    """The descriptors, sixteen bytes each."""
    return b"".join(packet.pack() for packet in packets)


def parse_packets(data: Buffer) -> tuple[IsoPacket, ...]:
    """Read descriptors; what is behind the last whole one is left."""
    raw, size = bytes(data), IsoPacket.SIZE
    return tuple(IsoPacket.parse(raw[at : at + size]) for at in range(0, len(raw) - size + 1, size))


def spread(sg: SGList, payload: Buffer, packets: Sequence[IsoPacket]) -> None:
    """Put packets that travelled without gaps to their places in a transfer buffer.

    A payload that fills the buffer has none, so it is not looked at, as with vhci.
    """
    if len(payload) == sg.length:
        sg.scatter(payload)
        return
    view = memoryview(payload)
    start = 0
    for packet in packets:
        end = start + packet.actual_length
        sg.scatter(view[start:end], packet.offset)
        start = end


def inside(packets: Iterable[IsoPacket], room: int) -> tuple[IsoPacket, ...]:
    """The packets as far as they lie in the first ``room`` bytes of the transfer buffer."""
    return tuple(
        replace(packet, offset=offset, length=min(packet.length, room - offset))
        for packet in packets
        for offset in (min(packet.offset, room),)
    )


def completed(asked: Iterable[IsoPacket], went: Iterable[IsoPacket]) -> tuple[IsoPacket, ...]:
    """The packets that were asked for, with what became of them where they went otherwise."""
    return tuple(
        replace(packet, actual_length=other.actual_length, status=other.status)
        for packet, other in zip(asked, went, strict=False)
    )


def cut_received(packets: Iterable[IsoPacket], room: int) -> tuple[IsoPacket, ...]:
    """The packets as if of all that came only the first ``room`` bytes had."""
    kept = []
    for packet in packets:
        length = min(packet.actual_length, room)
        room -= length
        kept.append(replace(packet, actual_length=length))
    return tuple(kept)


def check_submit(
    seqnum: int, ep: int, length: int, number_of_packets: int, descriptors: Buffer = b""
) -> None:
    """Raises RemoteProtocolError for packets of a CMD_SUBMIT that cannot be.

    ``length`` is transfer_buffer_length; ``descriptors`` are looked at where they have come.
    """
    where = f"CMD_SUBMIT seqnum {seqnum}"
    # usbip_protocol.rst says 0xffffffff where there are none, vhci_hcd says 0.
    if not -1 <= number_of_packets <= MAX_ISO_PACKETS:
        raise RemoteProtocolError(
            f"{where}: number_of_packets {number_of_packets}, at most {MAX_ISO_PACKETS}, and 0 or "
            f"-1 for a URB that is not isochronous"
        )
    if not ep and number_of_packets > 0:
        raise RemoteProtocolError(
            f"{where}: number_of_packets {number_of_packets} on endpoint 0, which is never "
            f"isochronous (0 or -1)"
        )
    room = length
    for number, packet in enumerate(parse_packets(descriptors)):
        room -= packet.length
        if packet.offset + packet.length > length:
            raise RemoteProtocolError(
                f"{where}: packet {number} of {number_of_packets} has offset {packet.offset} and "
                f"length {packet.length}, outside of transfer_buffer_length {length}"
            )
    if room < 0:  # they overlap: no actual_length could count what moves
        raise RemoteProtocolError(
            f"{where}: its packets have {length - room} bytes in all, above "
            f"transfer_buffer_length {length}"
        )


class IsoReply:
    """RET_SUBMIT of an isochronous URB, while what follows its header arrives in ``buffer``.

    Raises RemoteProtocolError for a header that does not fit the URB. Without descriptors and
    without data it says that the URB failed as a whole; vhci takes that, too.
    """

    def __init__(self, urb: IsoUrb, head: RetSubmit) -> None:
        self.urb = urb
        self.head = head
        asked, count = len(urb.packets), head.number_of_packets
        if count != asked and (count or head.actual_length):
            raise self._wrong(f"number_of_packets {count}, but {asked} were asked for")
        if not 0 <= head.actual_length <= urb.length:
            raise self._wrong(
                f"actual_length {head.actual_length}, but {urb.length} bytes were asked for"
            )
        self._payload = head.actual_length if urb.endpoint & Direction.IN else 0
        self.buffer = bytearray(self._payload + count * IsoPacket.SIZE)

    def deliver(self) -> None:
        """All of it has arrived: check it and bring it to the URB, which is then to complete.

        Raises RemoteProtocolError where the packets do not add up; the URB is as it was then.
        """
        urb, head = self.urb, self.head
        view = memoryview(self.buffer)
        packets = parse_packets(view[self._payload :])
        if packets:
            self._check(packets)
            if self._payload:
                spread(urb.sg, view[: self._payload], packets)
            urb.packets = packets
        urb.actual = head.actual_length
        urb.start_frame = head.start_frame
        urb.error_count = head.error_count

    def _check(self, packets: Sequence[IsoPacket]) -> None:
        urb = self.urb
        for number, (packet, asked) in enumerate(zip(packets, urb.packets, strict=True)):
            if packet.actual_length > asked.length:
                raise self._wrong(
                    f"packet {number} has actual_length {packet.actual_length}, above its length "
                    f"{asked.length}"
                )
            if packet.offset + packet.actual_length > urb.length:
                raise self._wrong(
                    f"packet {number} has offset {packet.offset} and actual_length "
                    f"{packet.actual_length}, outside of the {urb.length} bytes of the URB"
                )
        moved = sum(packet.actual_length for packet in packets)
        if moved != self.head.actual_length:
            raise self._wrong(
                f"its packets have an actual_length of {moved} in all, but the URB has "
                f"{self.head.actual_length}"
            )

    def _wrong(self, what: str) -> RemoteProtocolError:
        return RemoteProtocolError(f"RET_SUBMIT seqnum {self.urb.seqnum}: {what}")
