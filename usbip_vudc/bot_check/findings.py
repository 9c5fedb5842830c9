"""What a check may find instead of nothing: that a rule is broken, or cannot be tried."""

from __future__ import annotations

from usbip_vudc.errors import UsbipVudcError

__all__ = ("NotApplicable", "Silent", "Violation")


class Violation(UsbipVudcError):
    """The device broke the rule that is being checked; the message says how."""


class Silent(Violation):
    """The device did not answer in time: neither data nor STALL."""


class NotApplicable(UsbipVudcError):
    """The rule cannot be tried on this device; the message says why."""
