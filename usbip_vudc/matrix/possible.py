"""Which cells cannot exist, by which rule, and which only this machine cannot run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from usbip_vudc.block.limits import Limits, check
from usbip_vudc.carrier.udcs import DUMMY, USBIP
from usbip_vudc.errors import SchemeError
from usbip_vudc.gadget import Gadget
from usbip_vudc.injection import Rule, check_plan
from usbip_vudc.injection.conditions import Cbw, Phase
from usbip_vudc.injection.layout import layout_text
from usbip_vudc.matrix.bench import make_gadget, wish_of
from usbip_vudc.matrix.cell import Cell
from usbip_vudc.matrix.disk import linux_entries
from usbip_vudc.usb.ch9 import Speed

__all__ = ("CANNOT_EXIST", "NOT_HERE", "Impossible", "why_impossible")

CANNOT_EXIST: Final = "cannot exist"
NOT_HERE: Final = "not here"

_HIGH_KB, _SUPER_KB = 120, 1024
"""max_sectors_kb of usb-storage (drivers/usb/storage/scsiglue.c)."""

_VHCI_ENTRIES, _MANY_ENTRIES = 32, 2048
"""sg_tablesize of vhci_hcd (drivers/usb/usbip/vhci_hcd.c); what SCSI takes where it is no limit."""


@dataclass(frozen=True, slots=True)
class Impossible:
    """``kind`` is `CANNOT_EXIST`, on no machine, or `NOT_HERE`; ``why`` names the rule."""

    kind: str
    why: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.why}"


def why_impossible(cell: Cell) -> Impossible | None:
    """Why this cell cannot be run, None where it can. Nothing is started."""
    for why in _rules_broken(cell):
        return Impossible(CANNOT_EXIST, why)
    lacking = cell.carrier.why_not()
    return None if lacking is None else Impossible(NOT_HERE, lacking)


def _rules_broken(cell: Cell) -> Iterator[str]:
    gadget = make_gadget(cell)
    try:
        gadget.describe(cell.speed)
    except SchemeError as error:
        yield str(error)
        return
    yield from _no_such_way(cell)
    yield from _no_such_plan(cell, gadget)
    yield from _no_such_list(cell)
    if cell.carrier.host == "linux":
        yield from _not_on_linux(cell, gadget)


def _no_such_way(cell: Cell) -> Iterator[str]:
    carrier = cell.carrier
    if carrier.udc.startswith(f"{USBIP}.") and cell.speed > Speed.HIGH:
        yield (
            "usbip-vudc has no SuperSpeed: its probe sets max_speed to high "
            "(drivers/usb/usbip/vudc_dev.c)"
        )
    if carrier.stub and not carrier.on_own_bus:
        yield f"the device of {carrier.udc} is on no bus of a machine, where usbip-host takes it"
    if carrier.host == "pyusb" and not carrier.over_usbip:
        yield f"no USB/IP server stands between {carrier.udc} and our own host: write ,stub,pyusb"


# --- plans --------------------------------------------------------------------------------------


def _no_such_plan(cell: Cell, gadget: Gadget) -> Iterator[str]:
    carrier = cell.carrier
    try:
        check_plan(cell.plan, gadget)
        wish_of(cell, gadget)
    except SchemeError as error:
        yield str(error)
    for rule in cell.plan.rules:
        if rule.where.seam == "host" and carrier.host == "linux":
            yield f"rule '{rule}': the host is Linux itself, which has no seam of ours"
        if rule.where.seam == "cable" and not carrier.over_usbip:
            yield f"rule '{rule}': no USB/IP cable leads from {carrier.udc} to its host"
        if cell.gadget != "storage" and _speaks_of_commands(rule):
            yield f"rule '{rule}': it speaks of Bulk-Only commands, and {cell.gadget} has none"


def _speaks_of_commands(rule: Rule) -> bool:
    return rule.action.name == "csw" or any(isinstance(c, Cbw | Phase) for c in rule.conditions)


# --- SG lists -----------------------------------------------------------------------------------


def _no_such_list(cell: Cell) -> Iterator[str]:
    layout = cell.layout
    if not layout.one_request and not str(layout).startswith("each:"):
        yield (
            f"a transfer has one SG list, and {layout} is several requests: write each:..., or a "
            f"plan with layout(...)"
        )


def _not_on_linux(cell: Cell, gadget: Gadget) -> Iterator[str]:
    """Rules of Linux as the host."""
    if not cell.scatter_gather or not cell.layout.one_request:
        yield (
            "Linux is the host: its controller's sg_tablesize, not we, decides whether an SG list "
            "is one URB (usb_sg_init in drivers/usb/core/message.c)"
        )
    if cell.gadget != "storage":
        if str(cell.layout) != "whole":
            yield "no SG list of ours reaches the pair: usbfs makes its own (core/devio.c)"
        return
    wish = wish_of(cell, gadget)
    entries = linux_entries(wish)
    own_bus = cell.carrier.on_own_bus and not cell.carrier.stub
    kilobytes = _SUPER_KB if cell.speed == Speed.SUPER else _HIGH_KB
    limits = Limits(
        disk="usb-storage",
        max_sectors_kb=kilobytes,
        max_hw_sectors_kb=kilobytes,
        max_segments=_MANY_ENTRIES if own_bus else _VHCI_ENTRIES,
    )
    try:
        check(entries, limits)
    except SchemeError as error:
        yield str(error).replace(layout_text(entries), str(cell.layout))
    unaligned = [e for e in entries[:-1] if e.length % wish.max_packet_size]
    if unaligned and own_bus and cell.carrier.udc.startswith(DUMMY):
        yield (
            f"dummy_hcd has no no_sg_constraint: usb_submit_urb refuses an entry of "
            f"{unaligned[0].length} bytes, no multiple of the maxpacket {wish.max_packet_size} "
            f"(drivers/usb/core/urb.c)"
        )
