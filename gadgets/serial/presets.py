"""What the ready serial gadgets share: their flow, as the command line says it."""

from __future__ import annotations

from gadgets.serial.flow import Flow
from usbip_vudc.registry import GadgetOptions

__all__ = ("flow_of",)


def flow_of(options: GadgetOptions) -> Flow:
    """How the bytes of every port travel. Raises SchemeError for a policy that there is not."""
    return Flow(
        back_pressure=options.back_pressure,
        zlp=options.zlp,
        baud_paced=options.baud_paced,
        wait_for_dtr=options.wait_for_dtr,
    )
