"""Where else the bytes of a unit can be: an overlay, a pattern, a folder, a sparse file."""

from gadgets.mass_storage.stores.folder import FolderLun
from gadgets.mass_storage.stores.overlay import OverlayLun
from gadgets.mass_storage.stores.pattern import Pattern, PatternLun
from gadgets.mass_storage.stores.temporary import SparseLun
from gadgets.mass_storage.stores.text import STORES, is_store, parse_store

__all__ = (
    "STORES",
    "FolderLun",
    "OverlayLun",
    "Pattern",
    "PatternLun",
    "SparseLun",
    "is_store",
    "parse_store",
)
