"""What the ready serial gadgets share: their profiles and their flow, as the command line says."""

from __future__ import annotations

from gadgets.serial.ends import Pty
from gadgets.serial.flow import Flow
from gadgets.serial.naming import make_profile
from gadgets.serial.profile import Profile
from usbip_vudc.errors import SchemeError
from usbip_vudc.registry import GadgetOptions

__all__ = ("flow_of", "profiles_of")


def profiles_of(options: GadgetOptions) -> tuple[Profile, ...]:
    """A profile for each port. Raises SchemeError for one that there is not, or not so often."""
    profiles = tuple(make_profile(options.profile) for _ in range(options.ports))
    first = profiles[0]
    if len(profiles) > 1 and isinstance(first, Pty) and first.link is not None:
        raise SchemeError(
            f"ports {options.ports}: profile {options.profile!r}: expected pty, since a link leads "
            f"to one port; or a scheme with a link for each"
        )
    return profiles


def flow_of(options: GadgetOptions) -> Flow:
    """How the bytes of every port travel. Raises SchemeError for a policy that there is not."""
    return Flow(
        back_pressure=options.back_pressure,
        zlp=options.zlp,
        baud_paced=options.baud_paced,
        wait_for_dtr=options.wait_for_dtr,
    )
