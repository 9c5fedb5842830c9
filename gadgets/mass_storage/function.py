"""MassStorageFunction: disks behind one Bulk-Only interface, 08/06/50 (BOT 4).

The class requests are answered here; transport.py holds the conversation on the bulk endpoints.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from gadgets.mass_storage.scsi import Target
from gadgets.mass_storage.transport import PIECE, Transport
from gadgets.mass_storage.unit import Lun, MediumEvent
from usbip_vudc.conversation import converse
from usbip_vudc.errors import EndpointDisabled, SchemeError
from usbip_vudc.function import (
    AltSetting,
    ControlRequest,
    Endpoint,
    EndpointSpec,
    Function,
    InterfaceSpec,
)
from usbip_vudc.memory import page_aligned
from usbip_vudc.sglist import Buffer
from usbip_vudc.usb.bot import (
    BULK_ONLY,
    BULK_ONLY_MASS_STORAGE_RESET,
    GET_MAX_LUN,
    MAX_LUNS,
    SCSI_TRANSPARENT,
)
from usbip_vudc.usb.ch9 import UsbClass

__all__ = ("MassStorageFunction",)

log = logging.getLogger(__name__)


class MassStorageFunction(Function):
    """A USB disk of 1 to 16 ``luns``.

    ``on_event`` hears of every medium that comes or goes, with its unit. ``refused`` counts the
    CBWs that were not valid or not meaningful. Raises SchemeError for no LUN or more than 16.
    """

    name: ClassVar[str] = "mass_storage"
    interfaces: Sequence[InterfaceSpec] = (
        InterfaceSpec(
            role="msc",
            bInterfaceClass=UsbClass.MASS_STORAGE,
            bInterfaceSubClass=SCSI_TRANSPARENT,
            bInterfaceProtocol=BULK_ONLY,
            alternates=(
                AltSetting(
                    endpoints=(
                        EndpointSpec.bulk_in("in"),
                        EndpointSpec.bulk_out("out"),
                    )
                ),
            ),
        ),
    )

    def __init__(
        self,
        luns: Sequence[Lun],
        *,
        on_event: Callable[[Lun, MediumEvent], None] | None = None,
    ) -> None:
        if not 1 <= len(luns) <= MAX_LUNS:
            raise SchemeError(f"{len(luns)} LUNs: expected 1 to {MAX_LUNS} (BOT 5.1)")
        self.luns = tuple(luns)
        self.refused = 0
        self._target = Target(self.luns)
        self._transport: Transport | None = None
        self._buffer = page_aligned(PIECE)
        for lun in self.luns:
            if on_event is not None:
                lun.on_event = on_event

    async def run(self, endpoints: Mapping[str, Endpoint]) -> None:
        """Serve commands until the configuration ends. Every unit starts with 06/29/00."""
        self._target.reset()
        self._transport = Transport(
            self._target, endpoints["in"], endpoints["out"], self._buffer, self._on_refused
        )
        try:
            await converse(self._transport.commands())
        except EndpointDisabled:
            pass  # the configuration ended before we were cancelled
        finally:
            self._transport = None
            for lun in self.luns:
                lun.power_lost()

    def setup(self, request: ControlRequest) -> Buffer | None:
        """Get Max LUN (BOT 3.2) and Bulk-Only Mass Storage Reset (BOT 3.1)."""
        setup = request.setup
        if setup.wValue or request.interface != "msc":
            return None
        match (setup.bmRequestType, setup.bRequest, setup.wLength):
            case (0xA1, bRequest, 1) if bRequest == GET_MAX_LUN:
                return bytes((len(self.luns) - 1,))
            case (0x21, bRequest, 0) if bRequest == BULK_ONLY_MASS_STORAGE_RESET:
                self._target.reset()
                if self._transport is not None:
                    self._transport.reset()
                return b""
        return None

    def _on_refused(self, reason: str) -> None:
        self.refused += 1
        log.warning("%s: %s; waiting for Bulk-Only Mass Storage Reset", self.name, reason)
