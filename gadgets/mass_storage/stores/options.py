"""What every kind of unit can be told, for the units that are built on others. A type only."""

from __future__ import annotations

from typing import TypedDict

__all__ = ("LunOptions",)


class LunOptions(TypedDict, total=False):
    """The options of `Lun`."""

    block_size: int | None
    read_only: bool
    removable: bool
    cdrom: bool
    thin: bool
    vendor: str
    product: str
    revision: str
    serial: str
