"""Flow: how the bytes of a serial port travel, apart from where they go. A value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from usbip_vudc.errors import SchemeError

__all__ = ("BACK_PRESSURE", "DROP_NEW", "DROP_OLDEST", "NAK", "Flow")

NAK: Final = "nak"
DROP_OLDEST: Final = "drop-oldest"
DROP_NEW: Final = "drop-new"

BACK_PRESSURE: Final = (NAK, DROP_OLDEST, DROP_NEW)
"""What becomes of bytes from the host when nobody takes them. `NAK` makes the host wait and loses
none; the others keep the newest, or the oldest, 64 KiB and the host never waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """How bytes travel. Raises SchemeError for a policy that there is not.

    ``zlp`` ends what the port sends with a ZLP where it is a multiple of the maxpacket, for hosts
    that read with larger buffers. With ``baud_paced`` bytes take, both ways, the time that a UART
    would need at the line coding the host has set. With ``wait_for_dtr`` the port sends only while
    the host holds DTR up, and keeps the rest.
    """

    back_pressure: str = NAK
    zlp: bool = True
    baud_paced: bool = False
    wait_for_dtr: bool = False

    def __post_init__(self) -> None:
        if self.back_pressure not in BACK_PRESSURE:
            raise SchemeError(
                f"back_pressure {self.back_pressure!r}: expected one of {', '.join(BACK_PRESSURE)}"
            )
