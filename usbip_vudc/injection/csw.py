"""A CSW other than the device meant (BOT 5.2). Pure."""

from __future__ import annotations

import struct
from typing import Final

from usbip_vudc.injection.actions import Csw

__all__ = ("rewritten",)

_CSW: Final = struct.Struct("<IIIB")


def rewritten(csw: bytearray, action: Csw) -> bytearray:
    """The 13 bytes as the action says, cut or padded to its length; other data are left alone."""
    if len(csw) != _CSW.size:
        return csw
    signature, tag, residue, status = _CSW.unpack(csw)
    if action.signature is not None:
        signature = action.signature
    if action.tag is not None:
        tag = (tag + action.tag) & 0xFFFF_FFFF
    if action.residue is not None:
        residue = action.residue
    if action.status is not None:
        status = action.status
    made = bytearray(_CSW.pack(signature, tag, residue, status))
    if action.length is not None:
        made = made[: action.length].ljust(action.length, b"\0")
    return made
