"""Ready-made plans: each a bug of the real world, with where to read of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from usbip_vudc.injection.plan import Plan

__all__ = ("CATALOGUE", "ReadyMade")


@dataclass(frozen=True, slots=True)
class ReadyMade:
    """A plan's rules, the bug that it stands for, and a reference."""

    rules: str
    bug: str
    reference: str

    def plan(self, name: str, seed: int = 0) -> Plan:
        """The plan under this name."""
        made = Plan.parse(self.rules, seed)
        return Plan(made.rules, made.seed, name, self.bug)


CATALOGUE: Final[Mapping[str, ReadyMade]] = {
    "sg-2019": ReadyMade(
        "host.in cbw(0x28) phase(data) layout(each:3584+7x4096)",
        "A host without SG makes a URB of each SG entry; one that ends inside a packet overflows.",
        "Linux 5.4: usbip: Implement SG support to vhci-hcd and stub driver",
    ),
    "stub-without-sg": ReadyMade(
        "cable layout(each:page-offset:0)",
        "A server whose controller has no SG cuts a URB at every page and joins the replies.",
        "Linux: drivers/usb/usbip/stub_rx.c, stub_recv_cmd_submit",
    ),
    "odd-segments": ReadyMade(
        "function layout(odd)",
        "Controllers and DMA code that cannot start a segment at an odd address or length.",
        "Linux: include/linux/usb.h, no_sg_constraint of struct usb_bus",
    ),
    "zero-length-csw": ReadyMade(
        "mass_storage.in phase(status) every(7) zlp",
        "Disks that send an empty packet before their CSW; usb-storage reads the CSW once more.",
        "Linux: drivers/usb/storage/transport.c, usb_stor_Bulk_transport",
    ),
    "stalled-csw": ReadyMade(
        "mass_storage.in phase(status) every(5) stall",
        "Disks that stall the CSW once; the host clears the halt and asks again.",
        "BOT 1.0 figure 2",
    ),
    "wrong-tag": ReadyMade(
        "mass_storage.in phase(status) nth(4) csw(tag=1)",
        "Disks whose dCSWTag is not the command's.",
        "Linux: include/linux/usb_usual.h, US_FL_BULK_IGNORE_TAG",
    ),
    "residue-lies": ReadyMade(
        "mass_storage.in cbw(0x28) phase(status) csw(residue=512)",
        "Disks whose dCSWDataResidue is wrong although all of the data came.",
        "Linux: drivers/usb/storage/unusual_devs.h, US_FL_IGNORE_RESIDUE",
    ),
    "olympus-signature": ReadyMade(
        "mass_storage.in phase(status) csw(signature=0x55425355)",
        "Cameras that sign their CSW with USBU; usb-storage learns the signature of the first.",
        "Linux: drivers/usb/storage/transport.c, us->bcs_signature",
    ),
    "data-with-csw": ReadyMade(
        "mass_storage.in cbw(0x12) csw(merged)",
        "Disks that forget to end the data with a short packet: the CSW comes in the same packet.",
        "BOT 1.0 6.7.2; USB 2.0 5.8.3",
    ),
    "bit-rot": ReadyMade(
        "mass_storage.in cbw(0x28) phase(data) p(0.05) corrupt(100, 0x01)",
        "Storage that returns other data than it was given, without an error.",
        "https://fight-flash-fraud.readthedocs.io",
    ),
    "flaky-wire": ReadyMade(
        "cable.in p(0.02) status(-71)",
        "A cable or hub that breaks transfers now and then: -EPROTO.",
        "Linux: Documentation/driver-api/usb/error-codes.rst",
    ),
    "crumbling-stream": ReadyMade(
        "cable tcp_cut(1, 47, 100)",
        "USB/IP clients that take one read of the socket for one PDU.",
        "Linux: drivers/usb/usbip/usbip_common.c, usbip_recv",
    ),
    "unlink-race": ReadyMade(
        "host.in p(0.2) unlink(0s)",
        "Servers that answer a URB after they have said that it was unlinked; vhci drops them.",
        "https://github.com/dorssel/usbipd-win/issues/538",
    ),
    "unread-port": ReadyMade(
        "acm.out every(3) nak(200ms)",
        "A serial gadget that nobody reads holds up whoever writes to it.",
        "https://github.com/nerves-project/nerves_system_rpi0/issues/106",
    ),
    "pulled-plug": ReadyMade(
        "mass_storage.out cbw(0x2a) phase(data) nth(3) disconnect(1s)",
        "The device goes in the middle of a write, and comes back.",
        "https://github.com/vadimgrn/usbip-win2/issues/88",
    ),
}
"""Name -> ready-made plan."""
