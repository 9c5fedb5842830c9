"""The table of docs/scsi.md: which kind of unit has which command.

``python -m tests.scsi_page`` prints it; with the page's path it puts it in its place.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Final

from gadgets.mass_storage import RamLun
from gadgets.mass_storage.command import Command
from gadgets.mass_storage.scsi import commands_of
from tests import pages

__all__ = ("filled", "tables")

_SIZE: Final = 1 << 20
_KINDS: Final = {
    "disk": RamLun(_SIZE),
    "removable": RamLun(_SIZE, removable=True),
    "thin": RamLun(_SIZE, thin=True),
    "CD-ROM drive": RamLun(_SIZE, cdrom=True),
}


def tables() -> Mapping[str, str]:
    """Each generated part of the page by its name."""
    found: dict[str, tuple[str, list[str]]] = {}
    for kind, lun in _KINDS.items():
        for one in commands_of(lun):
            found.setdefault(_code(one), (one.name, []))[1].append(kind)
    rows = (
        (code, name, *("yes" if kind in kinds else "" for kind in _KINDS))
        for code, (name, kinds) in sorted(found.items())
    )
    return {"commands": pages.table(("", "command", *_KINDS), rows)}


def _code(one: Command) -> str:
    action = one.service_action
    return f"{one.opcode:02X}" + (f"/{action:02X}" if action is not None else "")


def filled(page: str) -> str:
    """The page with the table as it is now."""
    return pages.filled(page, tables())


if __name__ == "__main__":
    pages.print_or_fill(tables(), sys.argv[1:])
