"""Units that do their work and then say something wrong, or sulk."""

from __future__ import annotations

from gadgets.mass_storage.models.base import Model
from gadgets.mass_storage.sense import Sense
from gadgets.mass_storage.unit import Lun
from usbip_vudc.usb.bot import CswStatus

__all__ = ("NeedsReset", "ResidueLie")

_REQUEST_SENSE = 0x03
_INTERNAL_TARGET_FAILURE = Sense(0x4, 0x44)
_NOT_READY, _UNIT_ATTENTION = 0x2, 0x6


class ResidueLie(Model):
    """Every good command says that ``residue`` bytes did not move, though all did.

    At most as many as the host expected. As the bridges do that Linux lists with
    US_FL_IGNORE_RESIDUE (include/linux/usb_usual.h).
    """

    def __init__(self, inner: Lun, residue: int = 512) -> None:
        super().__init__(inner)
        self.text = f"residue({residue})"
        self._residue = residue

    def conclude(self, length: int, residue: int, status: int, failure: Sense) -> tuple[int, int]:
        """Lie about the residue."""
        residue, status = self.inner.conclude(length, residue, status, failure)
        if status == CswStatus.PASSED and not residue:
            residue = min(self._residue, length)
        return residue, status


class NeedsReset(Model):
    """After an error every command but REQUEST SENSE ends with a phase error, until it is reset.

    UNIT ATTENTION and NOT READY are no errors here. A bus reset and a Bulk-Only Mass Storage
    Reset both mend it, which is what a phase error has the host do (BOT 5.3.3.1).
    """

    def __init__(self, inner: Lun) -> None:
        super().__init__(inner)
        self.text = "needs_reset"
        self._sulks = False
        self._refused = False

    def refusal(self, cdb: bytes) -> Sense | None:
        """Anything, once an error was told."""
        self._refused = self._sulks and cdb[0] != _REQUEST_SENSE
        return _INTERNAL_TARGET_FAILURE if self._refused else self.inner.refusal(cdb)

    def conclude(self, length: int, residue: int, status: int, failure: Sense) -> tuple[int, int]:
        """A phase error for what was refused."""
        residue, status = self.inner.conclude(length, residue, status, failure)
        if self._refused:
            return residue, CswStatus.PHASE_ERROR
        if status == CswStatus.FAILED and failure.key not in (_NOT_READY, _UNIT_ATTENTION):
            self._sulks = True
        return residue, status

    def reset(self) -> None:
        """As good as new."""
        super().reset()
        self._sulks = self._refused = False
