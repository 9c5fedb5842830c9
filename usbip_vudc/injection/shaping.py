"""The URB that goes in the place of a host's, and what that one then says. Pure."""

from __future__ import annotations

from usbip_vudc.injection.actions import Action, Corrupt, Short
from usbip_vudc.sglist import SGList
from usbip_vudc.urb import HostUrb, IsoUrb
from usbip_vudc.wire.iso import completed, inside

__all__ = ("place_of", "received", "shaped_by", "take_over")


def take_over(urb: HostUrb, shaped: HostUrb) -> None:
    """A URB ended: the caller's, in whose place it went, ended like it."""
    urb.actual, urb.status = shaped.actual, shaped.status
    if isinstance(urb, IsoUrb) and isinstance(shaped, IsoUrb):
        urb.packets = completed(urb.packets, shaped.packets)
        urb.error_count, urb.start_frame = shaped.error_count, shaped.start_frame


def received(urb: HostUrb) -> bytes:
    """What came, without the gaps behind short packets."""
    return b"".join(urb.received if isinstance(urb, IsoUrb) else urb.sg.cut(0, urb.actual))


def place_of(urb: HostUrb, offset: int) -> int:
    """Where in the buffer this byte of what came lies."""
    if isinstance(urb, IsoUrb):
        for packet in urb.packets:
            if offset < packet.actual_length:
                return packet.offset + offset
            offset -= packet.actual_length
    return offset


def shaped_by(urb: HostUrb, before: tuple[Action, ...]) -> HostUrb:
    """The URB as `Short` and `Corrupt` want it; the same where they do not."""
    sg = urb.sg
    for action in before:
        if isinstance(action, Short):
            sg = SGList(*sg.cut(0, action.length))
        elif isinstance(action, Corrupt) and action.offset < sg.length:
            data = bytearray(sg.gather())
            data[action.offset] ^= action.xor
            sg = SGList(data)
    if sg is urb.sg:
        return urb
    if isinstance(urb, IsoUrb):
        packets = inside(urb.packets, sg.length)
        return IsoUrb(
            urb.endpoint,
            sg,
            [packet.length for packet in packets],
            offsets=[packet.offset for packet in packets],
            interval=urb.interval,
            flags=urb.flags,
        )
    return HostUrb(urb.endpoint, sg, setup=urb.setup, flags=urb.flags)
