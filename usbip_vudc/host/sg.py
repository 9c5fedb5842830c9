"""How a host makes URBs of an SG list: with SG one URB, without it one URB an entry.

The rule is that of ``usb_sg_init`` and ``usb_sg_wait`` in drivers/usb/core/message.c. It is what
the thread of 2019 was about: without SG, an entry that is no multiple of the maxpacket makes a
URB that ends inside a packet, and a device that sends whole packets overflows it. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from usbip_vudc.sglist import SGList
from usbip_vudc.urb import URB_SHORT_NOT_OK, HostUrb
from usbip_vudc.usb.ch9 import Direction

__all__ = ("SgResult", "outcome", "split")


@dataclass(frozen=True, slots=True)
class SgResult:
    """How a scatter-gather transfer ended: bytes moved in all, and the first failure's status."""

    actual: int
    status: int
    urbs: tuple[HostUrb, ...]


def split(endpoint: int, sg: SGList, *, scatter_gather: bool) -> tuple[HostUrb, ...]:
    """The URBs for one transfer of this SG list, to be submitted all at once and in order.

    IN URBs carry URB_SHORT_NOT_OK, as those of usb_sg_init do.
    """
    flags = URB_SHORT_NOT_OK if endpoint & Direction.IN else 0
    if scatter_gather or not sg.segments:
        return (HostUrb(endpoint, sg, flags=flags),)
    return tuple(HostUrb(endpoint, segment, flags=flags) for segment in sg.segments)


def outcome(urbs: Sequence[HostUrb]) -> SgResult:
    """Sum up completed URBs: the first failure counts, later ones were only unlinked for it."""
    failures = (urb.status for urb in urbs if urb.status)
    return SgResult(sum(urb.actual for urb in urbs), next(failures, 0), tuple(urbs))
