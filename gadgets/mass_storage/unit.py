"""Lun: what a SCSI target asks of one logical unit, and the state that SCSI keeps for each.

No file and no memory here: lun.py has the units that hold data.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import Enum, auto
from os import PathLike
from typing import Final

from gadgets.mass_storage import sense
from gadgets.mass_storage.sense import Sense
from usbip_vudc.errors import LocalProtocolError, SchemeError
from usbip_vudc.sglist import Buffer

__all__ = ("Lun", "MediumEvent")

_BLOCK_SIZES: Final = (512, 4096)
_CDROM_BLOCK_SIZE: Final = 2048

_ZEROES: Final = memoryview(bytes(1 << 20))
"""What `Lun.unmap` writes where nothing else can be done."""

_WIDTHS: Final = {"vendor": 8, "product": 16, "revision": 4, "serial": 32}


class MediumEvent(Enum):
    """What happened to a medium."""

    INSERTED = auto()
    EJECTED = auto()
    PROTECTED = auto()
    UNPROTECTED = auto()
    EJECT_REQUESTED = auto()


class Lun(ABC):
    """One logical unit. ``block_size`` and ``size`` are in bytes; size is 0 with no medium.

    ``cdrom`` makes it a CD-ROM drive with a data disc: removable, read-only, blocks of 2048
    bytes. ``thin`` lets the host give blocks back (UNMAP and WRITE SAME), which then read as
    zeroes; otherwise it is refused.

    `read`, `write`, `unmap`, `flush` and `verify` may run in a thread, one at a time; the rest
    belongs to the thread of the event loop. ``number`` is its LUN, which its target gives it.
    ``sense`` and ``attentions`` are SCSI's: what failed last, and what the host must still be told;
    ``news`` is what a CD-ROM drive tells when it is polled. ``write_through`` and
    ``software_write_protected`` are the host's to set, until reset. ``bytes_read`` and
    ``bytes_written`` count what was moved for the host, and ``media_seen`` the media that came and
    went: a command does not go on with another one. While a thread works for a command it is
    ``busy``: its medium is then to be left alone. Raises SchemeError for another block size than
    512 or 4096 (CD-ROM: 2048), for a CD-ROM drive that is thin, and for text that INQUIRY cannot
    carry.
    """

    has_write_cache: bool = False
    """Whether written data may still be volatile until `flush` (WCE of the caching mode page)."""

    def __init__(
        self,
        *,
        block_size: int | None = None,
        read_only: bool = False,
        removable: bool = False,
        cdrom: bool = False,
        thin: bool = False,
        vendor: str = "usbip",
        product: str = "vudc disk",
        revision: str = "1.0",
        serial: str = "00000001",
    ) -> None:
        if cdrom and thin:
            raise SchemeError("thin: a CD-ROM drive has no blocks to give back; expected false")
        self.block_size = _checked_block_size(block_size, cdrom=cdrom)
        self.read_only = read_only or cdrom
        self.removable = removable or cdrom
        self.cdrom = cdrom
        self.thin = thin
        self.vendor = _identity("vendor", vendor)
        self.product = _identity("product", product)
        self.revision = _identity("revision", revision)
        self.serial = _identity("serial", serial)
        self.number = 0
        self.size = 0
        self.block_count = 0
        self.sense: Sense = sense.NO_SENSE
        self.attentions: list[Sense] = []
        self.prevented = False
        self.media_seen = 0
        self.busy = False
        self.write_through = False
        self.software_write_protected = False
        self.news: MediumEvent | None = None
        self.bytes_read = 0
        self.bytes_written = 0
        self.on_event: Callable[[Lun, MediumEvent], None] | None = None

    # --- the medium ----------------------------------------------------------------------------

    @property
    def medium_present(self) -> bool:
        """Whether there is a medium to read."""
        return self.size > 0

    @property
    def source(self) -> str:
        """Where the bytes of the medium are, for people; also of one that is out just now."""
        return type(self).__name__

    def insert(self, path: str | PathLike[str] | None = None) -> None:
        """Put a medium in, the last one again or another one; the host hears 06/28/00.

        Raises LocalProtocolError where there is one already or no other can be chosen, and
        SchemeError or OSError where it cannot be opened; there is then none.
        """
        self._require_removable()
        if self.medium_present:
            raise LocalProtocolError("there is a medium already; eject it first")
        if path is not None:
            self._choose(path)
        self._set_size(self._open_medium())
        self.attend(sense.MEDIUM_CHANGED)
        self.news = MediumEvent.INSERTED
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
            self.news = MediumEvent.EJECT_REQUESTED
            raise LocalProtocolError("the host prevents removal of the medium; use force=True")
        self._set_size(0)
        self.media_seen += 1
        self.prevented = False
        self.news = MediumEvent.EJECTED
        try:
            self._close_medium()
        except OSError:
            self.attend(sense.WRITE_ERROR.later())
            raise
        finally:
            self._tell(MediumEvent.EJECTED)

    def swap(self, path: str | PathLike[str], *, force: bool = False) -> None:
        """Take the medium out, where there is one, and put another one in.

        The host is not asked in between and hears 06/28/00. Raises as `eject` and `insert` do;
        what failed to open leaves no medium.
        """
        self.eject(force=force)
        self.insert(path)

    def protect(self, on: bool) -> None:
        """Slide the switch of write protection; the host hears 06/2A/01 and may ask again.

        Raises LocalProtocolError where the medium in it cannot be written at all; the switch is
        then as it was. A write that is under way still ends.
        """
        if on == self.read_only:
            return
        if not on and self.cdrom:
            raise LocalProtocolError("a CD-ROM drive writes nothing: its protection stays")
        if not on and self.medium_present:
            self._require_writable()
        self.read_only = on
        self.attend(sense.MODE_PARAMETERS_CHANGED)
        self._tell(MediumEvent.PROTECTED if on else MediumEvent.UNPROTECTED)

    def attend(self, attention: Sense) -> None:
        """Queue a UNIT ATTENTION or a deferred error, once (SAM-5 5.14, SPC-4 4.5.5)."""
        if attention not in self.attentions:
            self.attentions.append(attention)

    def reset(self) -> None:
        """Power on, bus reset or Bulk-Only Mass Storage Reset: 06/29/00 comes next."""
        self.sense = sense.NO_SENSE
        self.prevented = self.write_through = self.software_write_protected = False
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

    def _require_writable(self) -> None:  # noqa: B027 - most media can be written
        """Raises LocalProtocolError where the medium that is in can be read only."""

    def _choose(self, path: str | PathLike[str]) -> None:
        """Have `_open_medium` open this one next. Raises LocalProtocolError where none can be."""
        raise LocalProtocolError(
            f"{path}: this unit has one medium only ({self.source}); insert it without a path"
        )

    # --- what a unit that misbehaves changes (models/) -----------------------------------------

    def refusal(self, cdb: bytes) -> Sense | None:  # noqa: ARG002 - for others
        """Why it refuses a command, sound or not; None: it looks at it."""
        return None

    def delay(self, offset: int, length: int) -> float:  # noqa: ARG002 - for others
        """Seconds that pass before these bytes move."""
        return 0.0

    def conclude(
        self,
        length: int,  # noqa: ARG002 - for others
        residue: int,
        status: int,
        failure: Sense,  # noqa: ARG002
    ) -> tuple[int, int]:
        """What the CSW of a command of ``length`` bytes says: true residue in bytes, true status.

        ``failure`` is why it failed, where it did.
        """
        return residue, status

    def power_lost(self) -> None:
        """The configuration has ended: unplugged, reset or deselected. No host holds the medium."""
        self.prevented = False

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

    def unmap(self, offset: int, length: int) -> None:
        """Give up what holds these whole blocks, which then read as zeroes.

        Here they are written as such. Blocks; raises OSError where they may not be zeroes now.
        """
        done = 0
        while done < length:
            piece = _ZEROES[: length - done]
            written = self.write(offset + done, piece)
            if written < len(piece):
                raise OSError(errno.EIO, f"block at byte {offset + done + written} was not written")
            done += written

    def extent(self, offset: int) -> tuple[bool, int]:
        """Whether something holds the block at ``offset``, and for how many bytes that is true.

        Raises OSError.
        """
        return True, self.size - offset

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


def _checked_block_size(block_size: int | None, *, cdrom: bool) -> int:
    usual, possible = (_CDROM_BLOCK_SIZE, (_CDROM_BLOCK_SIZE,)) if cdrom else (512, _BLOCK_SIZES)
    if block_size is None:
        return usual
    if block_size not in possible:
        raise SchemeError(
            f"block_size {block_size}: expected {' or '.join(map(str, possible))} bytes"
        )
    return block_size


def _identity(name: str, text: str) -> str:
    """Check a string that INQUIRY carries: ASCII 20h to 7Eh (SPC-4 4.3.1), of limited length."""
    width = _WIDTHS[name]
    if len(text) > width or not all(" " <= c <= "~" for c in text):
        raise SchemeError(f"{name} {text!r}: expected at most {width} printable ASCII characters")
    return text
