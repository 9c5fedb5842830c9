"""Lun: what a SCSI target asks of one logical unit, and the state that SCSI keeps for each.

No file and no memory here: lun.py has the units that hold data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import Enum, auto
from typing import ClassVar, Final

from gadgets.mass_storage import sense
from gadgets.mass_storage.sense import Sense
from usbip_vudc.errors import LocalProtocolError, SchemeError
from usbip_vudc.sglist import Buffer

__all__ = ("Lun", "MediumEvent")

_BLOCK_SIZES: Final = (512, 4096)
_WIDTHS: Final = {"vendor": 8, "product": 16, "revision": 4, "serial": 32}


class MediumEvent(Enum):
    """What happened to a medium."""

    INSERTED = auto()
    EJECTED = auto()


class Lun(ABC):
    """One logical unit. ``block_size`` and ``size`` are in bytes; size is 0 with no medium.

    Its methods belong to the thread of the event loop, but for `flush` and `verify`. ``sense``
    and ``attentions`` are SCSI's: what failed last, and what the host must still be told.
    ``bytes_read`` and ``bytes_written`` count what was moved for the host. Raises SchemeError
    for a block size other than 512 or 4096 and for text that INQUIRY cannot carry.
    """

    has_write_cache: ClassVar[bool] = False
    """Whether written data may still be volatile until `flush` (WCE of the caching mode page)."""

    def __init__(
        self,
        *,
        block_size: int = 512,
        read_only: bool = False,
        removable: bool = False,
        vendor: str = "usbip",
        product: str = "vudc disk",
        revision: str = "1.0",
        serial: str = "00000001",
    ) -> None:
        if block_size not in _BLOCK_SIZES:
            raise SchemeError(f"block_size {block_size}: expected 512 or 4096 bytes")
        self.block_size = block_size
        self.read_only = read_only
        self.removable = removable
        self.vendor = _identity("vendor", vendor)
        self.product = _identity("product", product)
        self.revision = _identity("revision", revision)
        self.serial = _identity("serial", serial)
        self.size = 0
        self.block_count = 0
        self.sense: Sense = sense.NO_SENSE
        self.attentions: list[Sense] = []
        self.prevented = False
        self.bytes_read = 0
        self.bytes_written = 0
        self.on_event: Callable[[Lun, MediumEvent], None] | None = None

    # --- the medium ----------------------------------------------------------------------------

    @property
    def medium_present(self) -> bool:
        """Whether there is a medium to read."""
        return self.size > 0

    def insert(self) -> None:
        """Put the medium (back) in; the host learns of it by UNIT ATTENTION 06/28/00.

        Raises LocalProtocolError where there is one already, and SchemeError or OSError where
        it cannot be opened; there is then none.
        """
        self._require_removable()
        if self.medium_present:
            raise LocalProtocolError("there is a medium already; eject it first")
        self._set_size(self._open_medium())
        self.attend(sense.MEDIUM_CHANGED)
        self._tell(MediumEvent.INSERTED)

    def eject(self, *, force: bool = False) -> None:
        """Take the medium out, as a hand would; commands then fail with 02/3A/00.

        ``force`` does so although the host prevents removal; otherwise LocalProtocolError is
        raised. Written data is flushed, so this may block. OSError says that it could not be;
        the medium is out all the same.
        """
        self._require_removable()
        if not self.medium_present:
            return
        if self.prevented and not force:
            raise LocalProtocolError("the host prevents removal of the medium; use force=True")
        self._set_size(0)
        self.prevented = False
        try:
            self._close_medium()
        finally:
            self._tell(MediumEvent.EJECTED)

    def attend(self, attention: Sense) -> None:
        """Queue a UNIT ATTENTION, once (SAM-5 5.14)."""
        if attention not in self.attentions:
            self.attentions.append(attention)

    def reset(self) -> None:
        """Power on, bus reset or Bulk-Only Mass Storage Reset: 06/29/00 comes next."""
        self.sense = sense.NO_SENSE
        self.prevented = False
        if sense.POWER_ON not in self.attentions:
            self.attentions.insert(0, sense.POWER_ON)

    def _set_size(self, size: int) -> None:
        if size % self.block_size:
            raise SchemeError(
                f"medium of {size} bytes: expected a multiple of block_size {self.block_size}"
            )
        self.size = size
        self.block_count = size // self.block_size

    def _require_removable(self) -> None:
        if not self.removable:
            raise LocalProtocolError("the medium is not removable; build it with removable=True")

    def _tell(self, event: MediumEvent) -> None:
        if self.on_event is not None:
            self.on_event(self, event)

    # --- what each kind of unit provides -------------------------------------------------------

    @abstractmethod
    def read(self, offset: int, length: int) -> Buffer:
        """``length`` bytes from byte ``offset``, unchanged until the second read after this.

        Fewer, in whole blocks, where the block behind them cannot be read.
        """

    @abstractmethod
    def write(self, offset: int, data: memoryview) -> int:
        """Write whole blocks at byte ``offset``: bytes written.

        Fewer, in whole blocks, where the block behind them could not be written.
        """

    def landing(self, offset: int, length: int) -> memoryview | None:  # noqa: ARG002 - for others
        """The medium's own memory, to receive into in place of `write`; None where it has none."""
        return None

    def flush(self) -> None:  # noqa: B027 - memory has nothing to flush
        """Make what was written durable. Blocks, in any thread; raises OSError."""

    def verify(self, offset: int, length: int) -> int:
        """Read without keeping: bytes that can be read. Blocks, in any thread."""
        return len(self.read(offset, length))

    def close(self) -> None:  # noqa: B027 - memory has nothing to close
        """Give up what the unit holds. It must not be used again."""

    @abstractmethod
    def _open_medium(self) -> int:
        """Open the medium: its size in bytes."""

    @abstractmethod
    def _close_medium(self) -> None:
        """Flush and close the medium."""


def _identity(name: str, text: str) -> str:
    """Check a string that INQUIRY carries: ASCII 20h to 7Eh (SPC-4 4.3.1), of limited length."""
    width = _WIDTHS[name]
    if len(text) > width or not all(" " <= c <= "~" for c in text):
        raise SchemeError(f"{name} {text!r}: expected at most {width} printable ASCII characters")
    return text
