"""What the room raises, and how long it waits."""

from __future__ import annotations

from typing import Final

from usbip_vudc.errors import UsbipVudcError

__all__ = ("PATIENCE", "CarrierError")

PATIENCE: Final = 30.0
"""Seconds that anything may take before it counts as never, unless the caller says otherwise."""


class CarrierError(UsbipVudcError):
    """A gadget cannot be carried this way, or what was asked for does not exist on it."""
