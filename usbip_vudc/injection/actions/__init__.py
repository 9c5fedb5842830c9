"""Actions: what a rule does to a transfer, as values. Pure: the wrappers of each seam do it.

``moments`` says where an action can act, ``SEAM.DIRECTION`` -> before the transfer moves or after.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from usbip_vudc.injection.actions.base import AFTER, BEFORE, Action
from usbip_vudc.injection.actions.cable import Actual, Reorder, Status, TcpCut, TcpReset, TcpStall
from usbip_vudc.injection.actions.contents import Corrupt, Csw
from usbip_vudc.injection.actions.loss import BusReset, Disconnect, Drop, Unlink
from usbip_vudc.injection.actions.shape import Babble, PacketSize, Short, UseLayout, Zlp
from usbip_vudc.injection.actions.waiting import Delay, Nak, Stall
from usbip_vudc.injection.arguments import read_call

__all__ = (
    "ACTIONS",
    "AFTER",
    "BEFORE",
    "Action",
    "Actual",
    "Babble",
    "BusReset",
    "Corrupt",
    "Csw",
    "Delay",
    "Disconnect",
    "Drop",
    "Nak",
    "PacketSize",
    "Reorder",
    "Short",
    "Stall",
    "Status",
    "TcpCut",
    "TcpReset",
    "TcpStall",
    "Unlink",
    "UseLayout",
    "Zlp",
    "parse_action",
)

ACTIONS: Final[Mapping[str, type[Action]]] = {
    kind.name: kind
    for kind in (
        UseLayout, PacketSize, Short, Zlp, Babble, Stall, Nak, Delay, Corrupt, Csw, Drop,
        Disconnect, BusReset, Unlink, Reorder, Actual, Status, TcpCut, TcpStall, TcpReset,
    )
}  # fmt: skip
"""Every action by the word it is written with."""


def parse_action(text: str) -> Action:
    """Read one action. Raises SchemeError."""
    return read_call(text, "action", ACTIONS)
