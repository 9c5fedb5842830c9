"""Scheme -> Gadget. Pure but for reading a file, and for what functions open (disk images)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from usbip_vudc.errors import SchemeError
from usbip_vudc.function import Function
from usbip_vudc.gadget import MAX_POWER_MA, Config, Gadget, KernelFunction
from usbip_vudc.registry import FUNCTIONS
from usbip_vudc.scheme.functions import function_scheme
from usbip_vudc.scheme.platforms import read_os_descriptors, read_webusb
from usbip_vudc.scheme.table import Table
from usbip_vudc.scheme.toml import parse_toml, read_toml
from usbip_vudc.usb.ch9 import Speed

__all__ = ("is_scheme", "load_scheme", "parse_scheme")

_SPEEDS: Final = {s.word: s for s in (Speed.LOW, Speed.FULL, Speed.HIGH, Speed.SUPER)}

_KINDS: Final = f"one of type ({', '.join(FUNCTIONS)}), kernel (a function of the kernel), same_as"

# Attributes that name a file: the kernel would look for it from wherever we are.
_FILES: Final = {"mass_storage": re.compile(r"lun\.\d+/file")}

_Functions = dict[str, Function | KernelFunction]


def is_scheme(name: str) -> bool:
    """Whether a word of the command line means a scheme's file, not a ready-made gadget."""
    return "/" in name or name.endswith(".toml")


def load_scheme(path: Path, *, opens_files: bool = True) -> Gadget:
    """Read a scheme from a file; paths in it are relative to it. Raises as `parse_scheme` does.

    Also OSError for a file that cannot be read.
    """
    return parse_scheme(read_toml(path), where=str(path), base=path.parent, opens_files=opens_files)


def parse_scheme(
    text: str, *, where: str, base: Path | None = None, opens_files: bool = True
) -> Gadget:
    """Read a scheme. ``where`` is what messages call it; relative paths start from ``base``.

    With ``opens_files`` False images are not opened nor made: the gadget can be described and
    compared, not served. Raises SchemeError, naming the key by its path, the value and what
    would be right, and OSError for an image that does not open.
    """
    values = parse_toml(text, where=where)
    return _gadget(Table(values, where=where, base=base, opens_files=opens_files))


def _gadget(table: Table) -> Gadget:
    table.expect(
        "name", "idVendor", "idProduct", "bcdDevice", "device_class", "manufacturer", "product",
        "serial", "max_speed", "bcdUSB", "bMaxPacketSize0", "deliberately_illegal",
        "os_descriptors", "webusb", "configs",
    )  # fmt: skip
    triple = table.integers("device_class", 3, 0xFF)
    functions: _Functions = {}
    configs = table.tables("configs")
    if not configs:
        raise table.error("configs", "at least one [[configs]]")
    with table.blamed():
        return Gadget(
            name=_name(table),
            idVendor=table.integer("idVendor", None, 0, 0xFFFF),
            idProduct=table.integer("idProduct", None, 0, 0xFFFF),
            bcdDevice=table.integer("bcdDevice", 0x0100, 0, 0xFFFF),
            device_class=(triple[0], triple[1], triple[2]) if triple else None,
            manufacturer=table.strings("manufacturer"),
            product=table.strings("product"),
            serial=table.strings("serial"),
            max_speed=table.choice("max_speed", _SPEEDS, "super"),
            bcdUSB=table.by_speed("bcdUSB", _SPEEDS, 0xFFFF),
            bMaxPacketSize0=table.by_speed("bMaxPacketSize0", _SPEEDS, 0xFFFF),
            deliberately_illegal=table.flag("deliberately_illegal", False),
            os_descriptors=read_os_descriptors(table.table("os_descriptors")),
            webusb=read_webusb(table.table("webusb")),
            configs=tuple(_config(config, functions) for config in configs),
        )


def _name(table: Table) -> str:
    """One word, since programs read it in lines; configfs.tree wants more of it."""
    name = table.text("name")
    if not name.isprintable() or name.split() != [name]:
        raise table.error("name", "one word")
    return name


def _config(table: Table, functions: _Functions) -> Config:
    table.expect("name", "self_powered", "remote_wakeup", "max_power_ma", "functions")
    made: list[Function | KernelFunction] = []
    for entry in table.tables("functions"):
        with entry.blamed():
            function = _function(entry, functions)
        functions[entry.path] = function
        made.append(function)
    return Config(
        functions=tuple(made),
        name=table.strings("name"),
        self_powered=table.flag("self_powered", True),
        remote_wakeup=table.flag("remote_wakeup", False),
        max_power_ma=table.integer("max_power_ma", 100, 0, MAX_POWER_MA),
    )


def _function(table: Table, functions: _Functions) -> Function | KernelFunction:
    kinds = [key for key in ("type", "kernel", "same_as") if key in table]
    if len(kinds) != 1:
        said = " and ".join(kinds) or "no function"
        raise SchemeError(f"{table.where}: {table.path} has {said}: expected {_KINDS}")
    if kinds == ["type"]:
        kind = table.choice("type", {kind: kind for kind in FUNCTIONS})
        return function_scheme(kind).from_scheme(table)
    if kinds == ["kernel"]:
        return _kernel_function(table)
    table.expect("same_as")
    return table.choice("same_as", functions)


def _kernel_function(table: Table) -> KernelFunction:
    table.expect("kernel", "instance", "attributes")
    driver = table.text("kernel")
    below = table.table("attributes")
    attributes = {} if below is None else {
        key: _attribute(below, key, _FILES.get(driver)) for key in below.values
    }  # fmt: skip
    return KernelFunction(
        driver=driver, instance=table.text("instance", "0"), attributes=attributes
    )


def _attribute(table: Table, key: str, files: re.Pattern[str] | None) -> str | bytes:
    match table.values[key]:
        case bool(flag):
            return "1" if flag else "0"
        case int(number):
            return str(number)
        case str(text):
            is_file = files is not None and files.fullmatch(key) and text
            return str(table.file(key)) if is_file else text
        case list(numbers) if all(type(n) is int and 0 <= n <= 0xFF for n in numbers):
            return bytes(numbers)
        case {"hex": str(digits), **rest} if not rest:
            try:
                return bytes.fromhex(digits)
            except ValueError:
                pass
    raise table.error(
        key, "text, a number, true or false, an array of bytes, or { hex = '05 01 ...' }"
    )
