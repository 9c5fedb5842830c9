"""URBs, as both ends of the cable know them, and where the bytes of one go while they arrive.

`Urb` is the device's side (it came as CMD_SUBMIT), `HostUrb` the host's (it is to be sent).
Numbers of ``transfer_flags`` are the kernel's (include/linux/usb.h). Standard library only.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from usbip_vudc.errors import LocalProtocolError
from usbip_vudc.memory import page_aligned
from usbip_vudc.sglist import Buffer, SGList
from usbip_vudc.usb.ch9 import Direction, SetupPacket

__all__ = (
    "MAX_ISO_PACKETS",
    "URB_DIR_IN",
    "URB_DMA_MAP_SG",
    "URB_ISO_ASAP",
    "URB_SHORT_NOT_OK",
    "URB_ZERO_PACKET",
    "HostUrb",
    "IsoPacket",
    "IsoUrb",
    "Landing",
    "Urb",
)

URB_SHORT_NOT_OK: Final = 0x0001
"""transfer_flags: a short IN transfer is an error, -EREMOTEIO (the host's side decides it)."""

URB_ISO_ASAP: Final = 0x0002
"""transfer_flags: the first packet goes in the next free frame, whatever start_frame says."""

URB_ZERO_PACKET: Final = 0x0040
"""transfer_flags: end an OUT transfer that is a multiple of the maxpacket with a ZLP."""


URB_DIR_IN: Final = 0x0200
URB_DMA_MAP_SG: Final = 0x40000
"""transfer_flags: the URB has an SG list; of its entries only this flag travels."""

MAX_ISO_PACKETS: Final = 1024
"""Packets of one URB: USBIP_MAX_ISO_PACKETS, drivers/usb/usbip/usbip_common.h."""

_ISO: Final = struct.Struct(">IIIi")


class Urb:
    """A USB request block as the device's side sees it (``struct urb``, usbip CMD_SUBMIT).

    ``length`` is transfer_buffer_length in bytes. An OUT URB has its bytes in ``payload`` unless
    they ``landed`` in a request already; an IN URB collects views of them in ``data``. ``status``
    is None while pending, then 0 or a negative errno; ``actual`` is in bytes. ``iso_packets`` is
    the raw descriptors of an isochronous URB, ``number_of_packets`` goes back as it came, and
    ``error_count`` says how many of its packets have a status.
    """

    # Class-level values stand until something is set: one of these is made for every URB, and
    # most never need more than what the constructor sets.
    payload: bytes | bytearray | memoryview = b""
    data: Sequence[memoryview] = ()
    actual: int = 0
    status: int | None = None
    landed: bool = False
    start_frame: int = 0
    number_of_packets: int = 0
    error_count: int = 0
    iso_packets: bytes = b""

    def __init__(
        self, seqnum: int, endpoint: int, length: int, flags: int = 0, setup: bytes = b""
    ) -> None:
        self.seqnum = seqnum
        self.endpoint = endpoint
        self.length = length
        self.flags = flags
        self.setup = setup

    @property
    def held(self) -> int:
        """Bytes that came with it, which stay while it is pending."""
        return len(self.payload) + len(self.iso_packets)

    def __repr__(self) -> str:
        way = "IN" if self.endpoint & Direction.IN else "OUT"
        state = "pending" if self.status is None else str(self.status)
        return (
            f"<Urb seqnum={self.seqnum} ep{self.endpoint & 15} {way} "
            f"{self.actual}/{self.length} {state}>"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class IsoPacket:
    """``struct usbip_iso_packet_descriptor``: bytes within the transfer buffer."""

    offset: int
    length: int
    actual_length: int = 0
    status: int = 0

    SIZE = _ISO.size

    def pack(self) -> bytes:
        """Sixteen bytes."""
        return _ISO.pack(self.offset, self.length, self.actual_length, self.status)

    @classmethod
    def parse(cls, data: bytes) -> IsoPacket:
        """Read sixteen bytes."""
        offset, length, actual, status = _ISO.unpack(data)
        return cls(offset=offset, length=length, actual_length=actual, status=status)


class Landing:
    """Where a payload of ``length`` bytes goes while it arrives: somebody's memory, or our own.

    ``target`` is re-read before every receive, since a request may be withdrawn meanwhile.
    """

    __slots__ = ("length", "received", "target", "urb")

    def __init__(self, target: list[memoryview], length: int, urb: Urb | None = None) -> None:
        self.target = target
        self.length = length
        self.urb = urb
        self.received = 0

    @classmethod
    def private(cls, urb: Urb) -> Landing:
        """A landing in memory of our own, for an OUT URB that no request waits for yet."""
        buffer = page_aligned(urb.length)
        urb.payload = buffer
        return cls([buffer], urb.length, urb)

    def remaining(self) -> list[memoryview]:
        """The views that the rest of the payload goes to, in order."""
        if not self.received:
            return self.target
        views = []
        skip = self.received
        for view in self.target:
            size = len(view)
            if skip < size:
                views.append(view[skip:] if skip else view)
                skip = 0
            else:
                skip -= size
        return views

    def put(self, data: memoryview) -> None:
        """Copy bytes that arrived elsewhere to their place."""
        taken = 0
        for view in self.remaining():
            piece = data[taken : taken + len(view)]
            view[: len(piece)] = piece
            taken += len(piece)
            if taken == len(data):
                break
        self.received += len(data)

    def evict(self) -> None:
        """Leave the request's memory: keep what has come so far, receive the rest in ours."""
        moved = b"".join(self.target)[: self.received]
        buffer = page_aligned(self.length)
        buffer[: len(moved)] = moved
        self.target = [buffer]
        if self.urb is not None:
            self.urb.payload = buffer
            self.urb.landed = False


class HostUrb:
    """A URB as the host submits it: bulk or interrupt, or control with a ``setup``.

    ``endpoint`` is bEndpointAddress (0 for control); for control the direction is the setup's.
    ``data`` is the transfer buffer or its SG list, to send from or to receive into, and must stay
    untouched until completion. Then ``status`` is 0 or a negative errno, ``actual`` is in bytes,
    and ``on_complete`` has been called once. ``length`` is transfer_buffer_length in bytes.
    """

    # As in Urb, class-level values stand until something is set.
    is_iso: bool = False
    seqnum: int = 0
    actual: int = 0
    status: int | None = None
    on_complete: Callable[[HostUrb], None] | None = None

    def __init__(
        self,
        endpoint: int,
        data: SGList | Buffer,
        *,
        setup: SetupPacket | None = None,
        flags: int = 0,
    ) -> None:
        self.endpoint = endpoint if setup is None else setup.bmRequestType & Direction.IN
        self.sg = data if isinstance(data, SGList) else SGList(data)
        self.length = self.sg.length
        self.setup = setup
        self.flags = flags

    @classmethod
    def control(cls, setup: SetupPacket, data: SGList | Buffer = b"") -> HostUrb:
        """A control transfer: with ``data`` as its OUT data stage, or with room for an IN one.

        Raises LocalProtocolError for an OUT data stage that is not of wLength bytes, which the
        kernel's exporters take for a broken peer.
        """
        if setup.direction == Direction.IN:
            return cls(0, bytearray(setup.wLength), setup=setup)
        if len(data) != setup.wLength:
            raise LocalProtocolError(
                f"control request {setup}: an OUT data stage of {len(data)} bytes, expected "
                f"wLength {setup.wLength}"
            )
        return cls(0, data, setup=setup)

    @property
    def is_in(self) -> bool:
        """Whether the data goes to the host."""
        return bool(self.endpoint & Direction.IN)

    def complete(self, status: int) -> None:
        """Called once, when the device or the loss of it has decided the URB."""
        if status == 0 and self.flags & URB_SHORT_NOT_OK and self.actual < self.length:
            status = -errno.EREMOTEIO
        self.status = status
        if self.on_complete is not None:
            self.on_complete(self)

    def __repr__(self) -> str:
        way = "IN" if self.is_in else "OUT"
        state = "pending" if self.status is None else str(self.status)
        return (
            f"<HostUrb seqnum={self.seqnum} ep{self.endpoint & 15} {way} "
            f"{self.actual}/{self.length} {state}>"
        )


class IsoUrb(HostUrb):
    """An isochronous URB: a packet of each of ``lengths`` bytes, one behind the other in ``data``.

    ``offsets`` puts them elsewhere. ``interval`` is the service interval in frames, or microframes
    from high speed on. The URB completes with status 0 even where packets fail: then ``packets``
    has how each of them went, ``error_count`` how many have a status by the device's count, and
    ``start_frame`` the frame of the first. What came of a packet lies at its offset. Raises
    LocalProtocolError for packets that are none, too many, or outside of ``data``.
    """

    is_iso = True
    error_count: int = 0
    start_frame: int = 0

    def __init__(
        self,
        endpoint: int,
        data: SGList | Buffer,
        lengths: Iterable[int],
        *,
        offsets: Iterable[int] | None = None,
        interval: int = 1,
        flags: int = URB_ISO_ASAP,
    ) -> None:
        super().__init__(endpoint, data, flags=flags)
        self.interval = interval
        sizes = tuple(lengths)
        places = list(accumulate(sizes, initial=0))[:-1] if offsets is None else list(offsets)
        if len(places) != len(sizes):
            raise LocalProtocolError(f"{self!r}: {len(sizes)} lengths, but {len(places)} offsets")
        # -EXDEV, "not moved", is what usb_submit_urb sets (drivers/usb/core/urb.c).
        self.packets = tuple(
            IsoPacket(offset=offset, length=length, status=-errno.EXDEV)
            for offset, length in zip(places, sizes, strict=True)
        )
        self._check()

    def _check(self) -> None:
        if not 1 <= len(self.packets) <= MAX_ISO_PACKETS:
            raise LocalProtocolError(
                f"{self!r}: {len(self.packets)} packets, expected 1 to {MAX_ISO_PACKETS}"
            )
        for number, packet in enumerate(self.packets):
            if min(packet.offset, packet.length, self.length - packet.offset - packet.length) < 0:
                raise LocalProtocolError(
                    f"{self!r}: packet {number} with offset {packet.offset} and length "
                    f"{packet.length}, outside of the {self.length} bytes of its data"
                )

    @property
    def received(self) -> tuple[bytes, ...]:
        """What came of each packet of an IN URB, or went of each of an OUT one; a copy."""
        return tuple(
            b"".join(self.sg.cut(packet.offset, packet.offset + packet.actual_length))
            for packet in self.packets
        )
