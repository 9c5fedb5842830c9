"""How disks are written in schemes (registry.FUNCTIONS names this)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, Final

from gadgets.mass_storage.function import MassStorageFunction
from gadgets.mass_storage.lun import FileLun, Lun, RamLun
from gadgets.mass_storage.models import models_of, with_models
from gadgets.mass_storage.stores import FolderLun, OverlayLun, PatternLun, SparseLun
from gadgets.mass_storage.stores.options import LunOptions
from usbip_vudc.errors import SchemeError
from usbip_vudc.function import Function
from usbip_vudc.scheme.functions import FunctionScheme
from usbip_vudc.scheme.table import Table
from usbip_vudc.usb.bot import MAX_LUNS

__all__ = ("MassStorageScheme",)


class MassStorageScheme(FunctionScheme):
    """``type = "mass_storage"``: a Bulk-Only disk of 1 to 16 ``luns``."""

    comments: ClassVar[Mapping[str, str]] = {
        "luns": "each has a size (then it is memory), or an image, a file or a block device, with "
        "a size to create it, or overlay (with changes), folder, pattern or sparse, as "
        "docs/storage.md has them; and of read_only, removable, cdrom, thin, block_size (512, "
        "4096), vendor, product, revision, serial, and models that misbehave, what it needs",
    }

    def from_scheme(self, table: Table) -> MassStorageFunction:
        """Build it of luns. Images are opened, and made where they have a size."""
        table.expect("type", "luns")
        entries = table.tables("luns")
        if not 1 <= len(entries) <= MAX_LUNS:
            raise table.error("luns", f"1 to {MAX_LUNS} tables, such as [{{ size = '64M' }}]")
        luns: list[Lun] = []
        try:
            for entry in entries:
                with entry.blamed():
                    luns.append(_lun(entry))
        except BaseException:
            for lun in luns:
                lun.close()
            raise
        return MassStorageFunction(luns)

    def to_scheme(self, function: Function) -> dict[str, object]:
        """Its keys."""
        assert isinstance(function, MassStorageFunction)
        return {"luns": [_lun_keys(lun) for lun in function.luns]}


_IDENTITY: Final = ("vendor", "product", "revision", "serial")
_FLAGS: Final = ("read_only", "removable", "cdrom", "thin")

_Make = Callable[[Table, LunOptions], Lun]


def _lun(table: Table) -> Lun:
    table.expect(*_STORES, "size", "changes", "models", "block_size", *_FLAGS, *_IDENTITY)
    options = _options(table)
    block_size = options.get("block_size") or (2048 if options.get("cdrom") else 512)
    size = table.size("size")
    if size is not None and size % block_size:
        raise table.error("size", f"a multiple of block_size {block_size}")
    named = [key for key in _STORES if key in table]
    if len(named) > 1:
        raise table.error(named[1], f"one store only, and there is {named[0]}")
    if "changes" in table and "overlay" not in table:
        raise table.error("changes", "overlay = 'BASE', whose changes they are")
    if table.opens_files:
        lun = _STORES[named[0]](table, options) if named else _memory(table, options)
    else:
        lun = RamLun(block_size, **options)  # to be described only
    return _misbehaving(lun, table)


def _options(table: Table) -> LunOptions:
    options: LunOptions = {
        "read_only": table.flag("read_only", False),
        "removable": table.flag("removable", False),
        "cdrom": table.flag("cdrom", False),
        "thin": table.flag("thin", False),
    }
    if "block_size" in table:
        options["block_size"] = table.integer("block_size", None, 512, 4096)
    for key in _IDENTITY:
        if key in table:
            options[key] = table.text(key)
    return options


def _misbehaving(lun: Lun, table: Table) -> Lun:
    texts = table.values.get("models", [])
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        lun.close()
        raise table.error("models", "an array of models, such as ['bad(100-199)']")
    if not table.opens_files:
        return lun
    try:
        return with_models(lun, texts)
    except SchemeError as error:
        lun.close()
        raise table.error("models", str(error)) from None


def _memory(table: Table, options: LunOptions) -> Lun:
    size = table.size("size")
    if size is not None:
        return RamLun(size, **options)
    if not (options["removable"] or options["cdrom"]):
        raise table.error("size", "a size, an image, or removable = true to start empty")
    return FileLun(**options)


def _image(table: Table, options: LunOptions) -> Lun:
    image, size = table.file("image"), table.size("size")
    assert image is not None
    if size is None and not Path(image).exists():
        raise table.error("image", "a file that exists, or a size to create it with")
    return FileLun(image, create_size=size, **options)


def _overlay(table: Table, options: LunOptions) -> Lun:
    base, changes = table.file("overlay"), table.file("changes")
    assert base is not None
    if not Path(base).exists():
        raise table.error("overlay", "a file that exists")
    if "size" in table:
        raise table.error("size", "none: an overlay is as large as what it lies over")
    return OverlayLun(base, changes=changes, **options)


def _folder(table: Table, options: LunOptions) -> Lun:
    folder = table.file("folder")
    assert folder is not None
    if not Path(folder).is_dir():
        raise table.error("folder", "a folder that exists")
    return FolderLun(folder, size=table.size("size"), **options)


def _pattern(table: Table, options: LunOptions) -> Lun:
    seed = table.integer("pattern", None, 0, 0xFFFF_FFFF)
    return PatternLun(_needed_size(table), seed=seed, **options)


def _sparse(table: Table, options: LunOptions) -> Lun:
    if not table.flag("sparse", False):
        raise table.error("sparse", "true, or another store")
    return SparseLun(_needed_size(table), **options)


def _needed_size(table: Table) -> int:
    size = table.size("size")
    if size is None:
        raise table.error("size", "a size such as '4T'")
    return size


_STORES: Final[Mapping[str, _Make]] = {
    "image": _image,
    "overlay": _overlay,
    "folder": _folder,
    "pattern": _pattern,
    "sparse": _sparse,
}
"""What makes a unit, by the key that asks for it."""


# --- writing -----------------------------------------------------------------------------------


def _lun_keys(lun: Lun) -> dict[str, object]:
    lun, models = models_of(lun)
    if type(lun) not in _PRODUCTS:
        raise SchemeError(f"lun {type(lun).__name__} belongs to a program; a scheme has files and "
                          f"memory")  # fmt: skip
    keys = _store_keys(lun)
    implied = ("read_only", "removable") if lun.cdrom else ()
    keys |= {key: True for key in _FLAGS if getattr(lun, key) and key not in implied}
    if lun.block_size != (2048 if lun.cdrom else 512):
        keys["block_size"] = lun.block_size
    usual = {"vendor": "usbip", "product": _PRODUCTS[type(lun)], "revision": "1.0"}
    usual["serial"] = "00000001" if isinstance(lun, RamLun) else ""  # others make theirs
    identity = {key: getattr(lun, key) for key in _IDENTITY}
    keys |= {key: text for key, text in identity.items() if text != usual[key]}
    return keys | ({"models": models} if models else {})


def _store_keys(lun: Lun) -> dict[str, object]:
    match lun:
        case OverlayLun():
            changes = {"changes": str(lun.changes.absolute())} if lun.changes is not None else {}
            return {"overlay": str(lun.base.absolute()), **changes}
        case PatternLun():
            return {"pattern": lun.pattern.seed, "size": _size_text(lun.pattern_size)}
        case SparseLun():
            return {"sparse": True, "size": _size_text(lun.sparse_size)}
        case FolderLun():
            size = {"size": _size_text(lun.folder_size)} if lun.folder_size else {}
            return {"folder": str(lun.folder.absolute()), **size}
        case FileLun():
            return {"image": str(lun.path.absolute())} if lun.path is not None else {}
    assert isinstance(lun, RamLun)
    return {"size": _size_text(len(lun.memory))}


_PRODUCTS: Final[Mapping[type[Lun], str]] = {
    FileLun: "vudc file",
    RamLun: "vudc ram",
    OverlayLun: "vudc overlay",
    PatternLun: "vudc pattern",
    SparseLun: "vudc sparse",
    FolderLun: "vudc folder",
}
"""What each is called unless it is told otherwise."""


def _size_text(size: int) -> int | str:
    for unit, factor in (("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)):
        if size % factor == 0:
            return f"{size // factor}{unit}"
    return size
