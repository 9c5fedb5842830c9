"""Stores as ``--image`` names them: ``overlay:base.img``, ``pattern:4T:7``, ``folder:DIR``..."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Unpack

from gadgets.mass_storage.stores.folder import FolderLun
from gadgets.mass_storage.stores.options import LunOptions
from gadgets.mass_storage.stores.overlay import OverlayLun
from gadgets.mass_storage.stores.pattern import PatternLun
from gadgets.mass_storage.stores.temporary import SparseLun
from gadgets.mass_storage.unit import Lun
from usbip_vudc.errors import SchemeError
from usbip_vudc.scheme.size import parse_size

__all__ = ("STORES", "Store", "is_store", "parse_store")


_MOST_SEED: Final = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Store:
    """One kind of store: how it is written, what it is, and what makes it of the words."""

    form: str
    what: str
    words: int
    make: Callable[[list[str], LunOptions], Lun]


def is_store(text: str) -> bool:
    """Whether it begins with the name of a store; everything else is a path."""
    return text.partition(":")[0] in STORES and ":" in text


def parse_store(text: str, **options: Unpack[LunOptions]) -> Lun:
    """The unit over such a store. Raises SchemeError, and OSError where it cannot be opened."""
    name, _, rest = text.partition(":")
    store = STORES[name]
    words = rest.split(":")
    if len(words) > store.words or not all(words):
        raise SchemeError(f"image {text!r}: expected {store.form}")
    return store.make(words, options)


def _overlay(words: list[str], options: LunOptions) -> Lun:
    return OverlayLun(words[0], changes=words[1] if len(words) > 1 else None, **options)


def _pattern(words: list[str], options: LunOptions) -> Lun:
    seed = words[1] if len(words) > 1 else "0"
    if not seed.isdecimal() or len(seed) > 10 or int(seed) > _MOST_SEED:
        raise SchemeError(f"seed {seed!r}: expected a number from 0 to {_MOST_SEED}")
    return PatternLun(parse_size(words[0]), seed=int(seed), **options)


def _folder(words: list[str], options: LunOptions) -> Lun:
    size = parse_size(words[1]) if len(words) > 1 else None
    return FolderLun(words[0], size=size, **options)


def _sparse(words: list[str], options: LunOptions) -> Lun:
    return SparseLun(parse_size(words[0]), **options)


STORES: Final[Mapping[str, Store]] = {
    "overlay": Store(
        "overlay:BASE or overlay:BASE:CHANGES",
        "BASE as it is, and never written: what the host writes goes to the file CHANGES, or is "
        "lost at the end",
        2,
        _overlay,
    ),
    "pattern": Store(
        "pattern:SIZE or pattern:SIZE:SEED",
        "Nothing is stored: it reads as a seeded pattern, and a write of anything else fails",
        2,
        _pattern,
    ),
    "folder": Store(
        "folder:DIR or folder:DIR:SIZE",
        "A FAT32 file system with the files of DIR, made when it is inserted; DIR stays as it is",
        2,
        _folder,
    ),
    "sparse": Store(
        "sparse:SIZE",
        "Zeroes in a file without a name that takes room for what is written only",
        1,
        _sparse,
    ),
}
"""Every kind of store by the word that it begins with."""
