"""PlanSwitch: an Injector that can be put to rest, so that a gadget shows that it recovers.

A plan may break every transfer for ever; whether the gadget works again is seen without it. The
gadget, its function and its endpoints stay as they are.
"""

from __future__ import annotations

from usbip_vudc.injection import Injector, Plan, Transfer
from usbip_vudc.injection.actions import Action

__all__ = ("PlanSwitch",)


class PlanSwitch(Injector):
    """While ``resting`` nothing acts, and the rules do not count."""

    def __init__(self, plan: Plan, seam: str) -> None:
        super().__init__(plan, seam)
        self.resting = False

    def actions(self, transfer: Transfer, moment: str) -> tuple[Action, ...]:
        """As of every Injector, and none at rest."""
        return () if self.resting else super().actions(transfer, moment)
