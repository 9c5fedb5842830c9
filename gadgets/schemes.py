"""How the functions of this project are written in schemes (registry.FUNCTIONS names these)."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Final

from gadgets.acm.function import AcmFunction
from gadgets.mass_storage.function import MassStorageFunction
from gadgets.mass_storage.lun import FileLun, Lun, RamLun
from gadgets.presets import PROFILES
from gadgets.serial.generic import GenericSerialFunction
from gadgets.serial.profiles import Profile
from usbip_vudc.errors import SchemeError
from usbip_vudc.function import Function
from usbip_vudc.scheme.functions import FunctionScheme
from usbip_vudc.scheme.table import Table
from usbip_vudc.usb.bot import MAX_LUNS

__all__ = ("AcmScheme", "GenericSerialScheme", "MassStorageScheme")

_PROFILE_COMMENT: Final = f"where the bytes of the port go: {', '.join(PROFILES)}"


class AcmScheme(FunctionScheme):
    """``type = "acm"``: a CDC-ACM serial port."""

    comments: ClassVar[Mapping[str, str]] = {
        "profile": _PROFILE_COMMENT,
        "dsr_follows_dtr": "show the host its own DTR as DSR, as through a null modem plug",
    }

    def from_scheme(self, table: Table) -> AcmFunction:
        """Build it of profile and dsr_follows_dtr."""
        table.expect("type", "profile", "dsr_follows_dtr")
        return AcmFunction(
            table.choice("profile", PROFILES, "echo")(),
            dsr_follows_dtr=table.flag("dsr_follows_dtr", False),
        )

    def to_scheme(self, function: Function) -> dict[str, object]:
        """Its keys."""
        assert isinstance(function, AcmFunction)
        return {
            "profile": _profile_name(function, function.profile),
            "dsr_follows_dtr": function.dsr_follows_dtr,
        }


class GenericSerialScheme(FunctionScheme):
    """``type = "generic"``: a serial port without a class, for usbserial."""

    comments: ClassVar[Mapping[str, str]] = {"profile": _PROFILE_COMMENT}

    def from_scheme(self, table: Table) -> GenericSerialFunction:
        """Build it of profile."""
        table.expect("type", "profile")
        return GenericSerialFunction(table.choice("profile", PROFILES, "echo")())

    def to_scheme(self, function: Function) -> dict[str, object]:
        """Its keys."""
        assert isinstance(function, GenericSerialFunction)
        return {"profile": _profile_name(function, function.profile)}


class MassStorageScheme(FunctionScheme):
    """``type = "mass_storage"``: a Bulk-Only disk of 1 to 16 ``luns``."""

    comments: ClassVar[Mapping[str, str]] = {
        "luns": "each has a size (then it is memory), or an image, a file or a block device, with "
        "a size to create it; and of read_only, removable, block_size (512, 4096), vendor, "
        "product, revision, serial what it needs",
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


def _profile_name(function: Function, profile: Profile) -> str:
    for name, kind in PROFILES.items():
        if type(profile) is kind:
            return name
    raise SchemeError(
        f"function {function.name}: profile {type(profile).__name__} belongs to a program; a "
        f"scheme has {', '.join(PROFILES)}"
    )


_IDENTITY: Final = ("vendor", "product", "revision", "serial")


def _lun(table: Table) -> Lun:
    table.expect("image", "size", "read_only", "removable", "block_size", *_IDENTITY)
    block_size = table.integer("block_size", 512, 512, 4096)
    read_only = table.flag("read_only", False)
    removable = table.flag("removable", False)
    identity = {key: table.text(key) for key in _IDENTITY if key in table}
    image, size = table.file("image"), table.size("size")
    if size is not None and size % block_size:
        raise table.error("size", f"a multiple of block_size {block_size}")
    if image is None and (size is not None or not removable):
        if size is None:
            raise table.error("size", "a size, an image, or removable = true to start empty")
        return RamLun(
            size if table.opens_files else block_size,
            block_size=block_size, read_only=read_only, removable=removable, **identity,
        )  # fmt: skip
    if image is not None and size is None and not Path(image).exists():
        raise table.error("image", "a file that exists, or a size to create it with")
    return FileLun(
        image if table.opens_files else None,
        block_size=block_size,
        read_only=read_only,
        removable=removable or not table.opens_files,
        create_size=size,
        **identity,
    )


def _lun_keys(lun: Lun) -> dict[str, object]:
    keys: dict[str, object] = {}
    if isinstance(lun, FileLun) and lun.path is not None:
        keys["image"] = str(lun.path.absolute())
    elif isinstance(lun, RamLun):
        keys["size"] = _size_text(len(lun.memory))
    elif not isinstance(lun, FileLun):
        raise SchemeError(f"lun {type(lun).__name__} belongs to a program; a scheme has files "
                          f"and memory")  # fmt: skip
    flags = {"read_only": lun.read_only, "removable": lun.removable}
    keys |= {key: value for key, value in flags.items() if value}
    if lun.block_size != 512:
        keys["block_size"] = lun.block_size
    usual = inspect.signature(type(lun)).parameters
    identity = {key: getattr(lun, key) for key in _IDENTITY}
    return keys | {k: text for k, text in identity.items() if text != usual[k].default}


def _size_text(size: int) -> int | str:
    for unit, factor in (("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)):
        if size % factor == 0:
            return f"{size // factor}{unit}"
    return size
