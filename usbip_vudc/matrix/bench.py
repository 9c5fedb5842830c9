"""The gadget of a cell, ready to be carried: with its plan, and what a host does with it."""

from __future__ import annotations

from typing import Any, Final

from usbip_vudc.carrier import Carried
from usbip_vudc.gadget import Gadget
from usbip_vudc.injection import Plan, injected
from usbip_vudc.matrix import disk, stream
from usbip_vudc.matrix.cell import Cell
from usbip_vudc.matrix.disk import LinuxDisk, OwnDisk
from usbip_vudc.matrix.stream import EchoStream
from usbip_vudc.matrix.use import SgWish, Use
from usbip_vudc.registry import GadgetOptions, load_gadget
from usbip_vudc.usb.ch9 import Speed, TransferType, default_max_packet_size

__all__ = ("bulk_packet", "make_gadget", "make_use", "transfer_length", "wish_of")

_TIMEOUT: Final = 5.0
_KERNEL_TIMEOUT: Final = 20.0
"""Seconds of one transfer; virtual machines without KVM are slow."""


def make_gadget(cell: Cell) -> Gadget:
    """A new one, without the plan."""
    return load_gadget(cell.gadget, GadgetOptions(size=disk.SIZE, profile="echo"))


def transfer_length(cell: Cell) -> int:
    """Bytes of one transfer of the cell."""
    return disk.LENGTH if cell.gadget == "storage" else stream.LENGTH


def bulk_packet(gadget: Gadget, plan: Plan, speed: Speed) -> int:
    """The wMaxPacketSize of the gadget's bulk endpoints under this plan.

    Raises SchemeError where it has none at that speed, or the plan does not fit the gadget.
    """
    description = injected(gadget, plan).describe(speed)
    slots = [
        slot
        for layout in description.layouts
        for interface in layout.interfaces.values()
        for alternate in interface.alternates
        for slot in alternate
        if slot.spec.transfer_type == TransferType.BULK
    ]
    return slots[0].max_packet_size if slots else default_max_packet_size(TransferType.BULK, speed)


def wish_of(cell: Cell, gadget: Gadget) -> SgWish:
    """The SG list that the cell asks for."""
    packet = bulk_packet(gadget, cell.plan, cell.speed)
    return SgWish(cell.layout, cell.scatter_gather, packet)


def make_use(cell: Cell, gadget: Gadget, device: Carried) -> Use:
    """What a host does with ``gadget``, the one that `make_gadget` made, on ``device``."""
    timeout = _TIMEOUT if cell.way == "vudc" else _KERNEL_TIMEOUT
    wish = wish_of(cell, gadget)
    if cell.gadget != "storage":
        return EchoStream(device, wish, timeout)
    function: Any = gadget.configs[0].functions[0]
    memory = memoryview(function.luns[0].memory).cast("B")
    kind = OwnDisk if cell.carrier.host == "pyusb" else LinuxDisk
    return kind(device, wish, timeout, memory)
