"""The commands that tell how large a medium is (SBC-3 5.12 and 5.13, UFI 4.10). Pure."""

from __future__ import annotations

import struct
from typing import Final

from gadgets.mass_storage.command import Answer, Command, command, is_disk
from gadgets.mass_storage.unit import Lun

__all__ = ("COMMANDS",)

_LBPME, _LBPRZ = 0x80, 0x40
_FORMATTED: Final = 2


def _read_capacity10(lun: Lun, _cdb: bytes) -> Answer:
    """SBC-3 5.12. FFFFFFFFh sends the host to READ CAPACITY(16)."""
    last = min(lun.block_count - 1, 0xFFFF_FFFF)
    return Answer.reply(struct.pack(">II", last, lun.block_size), 8)


def _read_capacity16(lun: Lun, cdb: bytes) -> Answer:
    """SBC-3 5.13: blocks that a thin unit was given back read as zeroes."""
    (allocation,) = struct.unpack_from(">I", cdb, 10)
    provisioning = _LBPME | _LBPRZ if lun.thin else 0
    data = struct.pack(">QIxxBB16x", lun.block_count - 1, lun.block_size, provisioning, 0)
    return Answer.reply(data, allocation)


def _read_format_capacities(lun: Lun, cdb: bytes) -> Answer:
    """UFI 4.10: one descriptor, of formatted media."""
    (allocation,) = struct.unpack_from(">H", cdb, 7)
    blocks = min(lun.block_count, 0xFFFF_FFFF)
    data = struct.pack(">3xBII", 8, blocks, _FORMATTED << 24 | lun.block_size)
    return Answer.reply(data, allocation)


COMMANDS: Final[tuple[Command, ...]] = (
    # PMI and its LBA are obsolete.
    command(
        "READ CAPACITY(10)", "25 00 00000000 0000 00 00", _read_capacity10, needs_medium=True
    ),
    command(
        "READ CAPACITY(16)", "9e 10 0000000000000000 ffffffff 00 00", _read_capacity16,
        needs_medium=True, fits=is_disk, service_action=True,
    ),
    command(
        "READ FORMAT CAPACITIES", "23 00 00000000 00 ffff 00", _read_format_capacities,
        needs_medium=True, fits=is_disk,
    ),
)  # fmt: skip
