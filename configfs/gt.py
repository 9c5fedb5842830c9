"""gt's ``.scheme`` files (libconfig, as libusbgx writes and reads them), read as a Gadget.

The format is libusbgx's doc/gadget_schemes.txt. Every function of it is the kernel's. A scheme
does not name its gadget: the name of the file does. bcdUSB and bMaxPacketSize0 are left to the
kernel, which sets both by the speed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import libconf

from usbip_vudc.errors import SchemeError
from usbip_vudc.gadget import Config, Gadget, KernelFunction, OsDescriptors, Text
from usbip_vudc.scheme import Table
from usbip_vudc.usb.ch9 import ConfigAttributes

__all__ = ("load_gt_scheme", "parse_gt_scheme")

_READ_ONLY: Final = frozenset({"port_num", "ifname", "dev"})
"""Attributes that gt writes into its files and does not read from them."""

_LUN_KEYS: Final = {
    **{key: key for key in ("cdrom", "ro", "nofua", "removable", "inquiry_string")},
    "filename": "file",
}
"""What a LUN's attribute is called by gt -> by configfs, in the order to write."""

_Functions = Mapping[str, KernelFunction]


def load_gt_scheme(path: Path) -> Gadget:
    """Read a ``.scheme`` file. Raises as `parse_gt_scheme`, and OSError."""
    return parse_gt_scheme(path.read_text(), where=str(path), name=path.stem, base=path.parent)


def parse_gt_scheme(text: str, *, where: str, name: str, base: Path) -> Gadget:
    """Read a scheme of gt. ``base`` is where its @include files are.

    Raises SchemeError, naming the setting by its path, the value and what would be right.
    """
    try:
        values = libconf.loads(text, includedir=str(base))
    except libconf.ConfigParseError as error:
        raise SchemeError(f"{where}: not libconfig: {error}") from None
    return _gadget(Table(_plain(values), where=where, base=base), name)


def _plain(value: object) -> dict[str, object]:
    """Libconf's own containers as dict and list, which tables of a scheme are made of."""

    def convert(item: object) -> object:
        if isinstance(item, Mapping):
            return {str(key): convert(inner) for key, inner in item.items()}
        if isinstance(item, list | tuple):
            return [convert(inner) for inner in item]
        return item

    converted = convert(value)
    assert isinstance(converted, dict)
    return converted


def _gadget(table: Table, name: str) -> Gadget:
    table.expect("attrs", "strings", "os_descs", "functions", "configs")
    attrs = _attrs(table)
    attrs.expect(
        "bcdUSB", "bDeviceClass", "bDeviceSubClass", "bDeviceProtocol", "bMaxPacketSize0",
        "idVendor", "idProduct", "bcdDevice",
    )  # fmt: skip
    labels = table.table("functions")
    functions = dict(_labelled(labels)) if labels is not None else {}
    configs = sorted(table.tables("configs"), key=lambda config: config.integer("id", None, 1, 255))
    for number, config in enumerate(configs, start=1):
        if config.integer("id", None, 1, 255) != number:
            raise config.error("id", f"{number}: configurations are numbered from 1 without gaps")
    with table.blamed():
        return Gadget(
            name=name,
            idVendor=attrs.integer("idVendor", 0, 0, 0xFFFF),
            idProduct=attrs.integer("idProduct", 0, 0, 0xFFFF),
            bcdDevice=attrs.integer("bcdDevice", 0x0100, 0, 0xFFFF),
            device_class=(
                attrs.integer("bDeviceClass", 0, 0, 0xFF),
                attrs.integer("bDeviceSubClass", 0, 0, 0xFF),
                attrs.integer("bDeviceProtocol", 0, 0, 0xFF),
            ),
            manufacturer=_strings(table, "manufacturer"),
            product=_strings(table, "product"),
            serial=_strings(table, "serialnumber"),
            os_descriptors=_os_descriptors(table.table("os_descs")),
            configs=tuple(_config(config, functions) for config in configs),
        )


def _attrs(table: Table) -> Table:
    return table.table("attrs") or Table({}, where=table.where, base=table.base)


def _strings(table: Table, key: str) -> Text:
    """One string in every language that has it."""
    texts: dict[int, str] = {}
    for entry in table.tables("strings"):
        entry.expect("lang", "manufacturer", "product", "serialnumber", "configuration")
        text = entry.text(key, "")
        if text:
            texts[entry.integer("lang", None, 0, 0xFFFF)] = text
    return texts or ""


def _os_descriptors(table: Table | None) -> OsDescriptors | None:
    if table is None:
        return None
    table.expect("use", "b_vendor_code", "qw_sign", "config_id")
    if not table.values.get("use", 0) or "config_id" not in table:
        return None
    return OsDescriptors(
        vendor_code=table.integer("b_vendor_code", 0, 0, 0xFF),
        signature=table.text("qw_sign", "MSFT100"),
        config=table.integer("config_id", None, 1, 255),
    )


# --- configurations and functions --------------------------------------------------------------


def _config(table: Table, functions: _Functions) -> Config:
    table.expect("id", "name", "attrs", "strings", "functions")
    attrs = _attrs(table)
    attrs.expect("bmAttributes", "bMaxPower")
    bmAttributes = ConfigAttributes(attrs.integer("bmAttributes", 0x80, 0, 0xFF))
    return Config(
        functions=tuple(_bindings(table, functions)),
        name=_strings(table, "configuration"),
        self_powered=ConfigAttributes.SELF_POWERED in bmAttributes,
        remote_wakeup=ConfigAttributes.REMOTE_WAKEUP in bmAttributes,
        max_power_ma=attrs.integer("bMaxPower", 2, 0, 900),  # gt writes it to MaxPower as it is
    )


def _bindings(table: Table, functions: _Functions) -> Iterator[KernelFunction]:
    """What a configuration's functions name: a label, or a group with a label or a function."""
    entries = table.values.get("functions", [])
    if not isinstance(entries, list):
        raise table.error("functions", "a list of labels or groups")
    for number, entry in enumerate(entries):
        path = f"{table.path}.functions[{number}]"
        values = entry if isinstance(entry, dict) else {"function": entry}
        binding = Table(values, where=table.where, path=path, base=table.base)
        binding.expect("name", "function")
        if isinstance(values.get("function"), dict):
            inline = binding.table("function")
            assert inline is not None
            yield _function(inline)
        else:
            yield binding.choice("function", functions)


def _labelled(table: Table) -> Iterator[tuple[str, KernelFunction]]:
    for label in table.values:
        function = table.table(label)
        assert function is not None
        made = _function(function)
        yield label, made
        yield f"{made.driver}_{made.instance}", made  # gt's own name for a function


def _function(table: Table) -> KernelFunction:
    table.expect("type", "instance", "attrs", "os_descs")
    driver = table.text("type")
    attrs = _attrs(table)
    attributes: dict[str, str | bytes] = {}
    for key in attrs.values:
        if key == "luns" and driver == "mass_storage":
            for number, lun in enumerate(attrs.tables("luns")):
                attributes |= _lun(lun, f"lun.{number}")
        elif key not in _READ_ONLY:
            attributes[key] = _value(attrs, key)
    for entry in table.tables("os_descs"):
        entry.expect("interface", "compatible_id", "sub_compatible_id")
        below = f"os_desc/interface.{entry.text('interface')}"
        for key in ("compatible_id", "sub_compatible_id"):
            if entry.text(key, ""):
                attributes[f"{below}/{key}"] = entry.text(key)
    with table.blamed():
        return KernelFunction(driver=driver, instance=table.text("instance"), attributes=attributes)


def _lun(table: Table, directory: str) -> dict[str, str | bytes]:
    table.expect("id", *_LUN_KEYS)
    return {
        f"{directory}/{ours}": _value(table, theirs)
        for theirs, ours in _LUN_KEYS.items()
        if theirs in table and table.values[theirs] != ""
    }


def _value(table: Table, key: str) -> str | bytes:
    match table.values[key]:
        case bool(flag):
            return "1" if flag else "0"
        case int(number):
            return str(number)
        case str(text):
            return text
        case list(numbers) if all(type(n) is int and 0 <= n <= 0xFF for n in numbers):
            return bytes(numbers)
    raise table.error(key, "text, a number, true or false, or a list of bytes")
