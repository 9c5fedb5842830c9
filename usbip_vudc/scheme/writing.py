"""Gadget -> scheme, plain or with a comment at every key. Pure.

Reading it gives a gadget with the same descriptors, and the same tree in configfs.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import tomli_w

from usbip_vudc.function import Function
from usbip_vudc.gadget import Config, Gadget, KernelFunction, OsDescriptors, Text
from usbip_vudc.registry import FUNCTIONS
from usbip_vudc.scheme.functions import function_scheme
from usbip_vudc.scheme.platforms import feature_keys, os_descriptor_keys
from usbip_vudc.usb.ch9 import Speed

__all__ = ("dump_scheme", "template")

_WIDTH: Final = 100

_HEX_DIGITS: Final = {
    "idVendor": 4, "idProduct": 4, "bcdDevice": 4, "bcdUSB": 4, "vendor_code": 2,
    "device_class": 2, "windows_version": 8,
}  # fmt: skip
"""Numbers that are written as their specifications write them."""

_COMMENTS: Final = {
    "name": "what `usbip-vudc list` and `down` call it; its directory in configfs",
    "idVendor": "the USB vendor id, and the product id that the vendor gave",
    "bcdDevice": "the release of the device: 0x0100 is 1.00",
    "manufacturer": 'a string, or one for each language: { 0x0409 = "Acme", 0x0407 = "Akme" }',
    "max_speed": "the fastest that it offers: low, full, high or super",
    "self_powered": "bits 6 and 5 of bmAttributes",
    "max_power_ma": "what it draws from the bus, in mA",
    "type": f"a function of usbip-vudc: {', '.join(FUNCTIONS)}",
}

_HEADER: Final = """\
# A gadget for usbip-vudc. `usbip-vudc check FILE` says what a host will see of it,
# `usbip-vudc serve FILE` exports it over USB/IP, `usbip-vudc up FILE --udc UDC` puts it on a UDC.

"""

_FOOTER: Final = """
# Any function of the kernel may stand beside it, or in its place (then for `up` only); its
# attributes are files below functions/KERNEL.INSTANCE in configfs, written in this order:
#
# [[configs.functions]]
# kernel = "mass_storage"
# instance = "0"
#
# [configs.functions.attributes]
# stall = false
# "lun.0/removable" = true
# "lun.0/file" = "disk.img"
#
# Bytes are written { hex = "05 01 09 06" }. The device class, where the functions are not to
# decide, and the Microsoft OS descriptors of the device (both before [[configs]]):
#
# device_class = [0xef, 2, 1]
# os_descriptors = { vendor_code = 0xcd, signature = "MSFT100", config = 1 }
#
# or, with what Windows is to take a function of usbip-vudc for (2.0 stands in the BOS: `serve`
# only), and the page that a browser offers (WebUSB):
#
# webusb = { vendor_code = 0x22, url = "https://example.org/device" }
#
# [os_descriptors]
# vendor_code = 0xcd
# versions = [1, 2]
#
# [[os_descriptors.features]]
# function = 0
# compatible_id = "WINUSB"
#
# [os_descriptors.features.properties]
# DeviceInterfaceGUIDs = ["{01234567-89ab-cdef-0123-456789abcdef}"]
#
# So are the values that follow from the speed, where they are to be others: 0x0210 brings a BOS
# with link power management, and what USB forbids is served only to test a host with.
#
# bcdUSB = { high = 0x0210 }
# bMaxPacketSize0 = { full = 8 }
# deliberately_illegal = true
"""


def dump_scheme(gadget: Gadget) -> str:
    """The scheme of a gadget, without what goes without saying.

    Raises SchemeError for a function that no scheme can say.
    """
    return "\n".join(_Writer({}, full=False).gadget(gadget)) + "\n"


def template(gadget: Gadget) -> str:
    """The scheme of a gadget with every key, and what each is for."""
    comments = dict(_COMMENTS)
    for config in gadget.configs:
        for function in config.functions:
            if isinstance(function, Function):
                comments |= function_scheme(function.name).comments
    return _HEADER + "\n".join(_Writer(comments, full=True).gadget(gadget)) + "\n" + _FOOTER


class _Writer:
    """Writes lines, each comment before the first key that it belongs to."""

    def __init__(self, comments: Mapping[str, str], *, full: bool) -> None:
        self._comments = dict(comments)
        self._full = full
        self._written: dict[int, str] = {}

    def gadget(self, gadget: Gadget) -> Iterator[str]:
        yield from self._keys(
            name=gadget.name,
            idVendor=gadget.idVendor,
            idProduct=gadget.idProduct,
            bcdDevice=gadget.bcdDevice,
            device_class=gadget.device_class,
            manufacturer=_text(gadget.manufacturer),
            product=_text(gadget.product),
            serial=_text(gadget.serial),
            max_speed=gadget.max_speed.word,
            bcdUSB=_by_speed(gadget.bcdUSB),
            bMaxPacketSize0=_by_speed(gadget.bMaxPacketSize0),
            deliberately_illegal=gadget.deliberately_illegal or None,
        )
        webusb = gadget.webusb
        if webusb is not None:
            yield from self._keys(webusb={"vendor_code": webusb.vendor_code, "url": webusb.url})
        if gadget.os_descriptors is not None:
            yield from self._os_descriptors(gadget.os_descriptors)
        for number, config in enumerate(gadget.configs):
            yield from self._config(config, f"configs[{number}]")

    def _os_descriptors(self, ours: OsDescriptors) -> Iterator[str]:
        if not ours.features:
            yield from self._keys(os_descriptors=os_descriptor_keys(ours))
            return
        yield from ("", "[os_descriptors]")
        yield from self._keys(**os_descriptor_keys(ours))
        for place, features in sorted(ours.features.items()):
            yield from ("", "[[os_descriptors.features]]")
            yield from self._keys(**feature_keys(place, features))
            if features.properties:
                yield from ("", "[os_descriptors.features.properties]")
            for name, value in features.properties.items():
                shown = {"hex": value.hex(" ")} if isinstance(value, bytes) else value
                yield f"{_key(name)} = {_value(shown)}"

    def _config(self, config: Config, path: str) -> Iterator[str]:
        yield ""
        yield "[[configs]]"
        yield from self._keys(
            name=_text(config.name),
            self_powered=config.self_powered if self._full or not config.self_powered else None,
            remote_wakeup=config.remote_wakeup if self._full or config.remote_wakeup else None,
            max_power_ma=config.max_power_ma,
        )
        for number, function in enumerate(config.functions):
            yield ""
            yield "[[configs.functions]]"
            if isinstance(function, KernelFunction):
                yield from self._kernel_function(function)
                continue
            place = f"{path}.functions[{number}]"
            first = self._written.setdefault(id(function), place)
            if first != place:
                yield from self._keys(same_as=first)
            else:
                keys = function_scheme(function.name).to_scheme(function)
                yield from self._keys(**{"type": function.name, **keys})

    def _kernel_function(self, function: KernelFunction) -> Iterator[str]:
        yield from self._keys(kernel=function.driver, instance=function.instance)
        if function.attributes:
            yield ""
            yield "[configs.functions.attributes]"
        for path, value in function.attributes.items():
            shown = value if isinstance(value, str) else {"hex": value.hex(" ")}
            yield f"{_key(path)} = {_value(shown)}"

    def _keys(self, **values: object) -> Iterator[str]:
        for key, value in values.items():
            if value is None or value == "":
                continue
            comment = self._comments.pop(key, None)
            if comment is not None:
                yield from textwrap.wrap(
                    f"# {key}: {comment}", _WIDTH, subsequent_indent="#   ",
                    break_on_hyphens=False,
                )  # fmt: skip
            yield from _assignment(key, value)


def _text(text: Text) -> object:
    return (
        text if isinstance(text, str) else {f"{code:#06x}": words for code, words in text.items()}
    )


def _by_speed(values: Mapping[Speed, int]) -> dict[str, int] | None:
    return {speed.word: values[speed] for speed in sorted(values)} or None


def _assignment(key: str, value: object) -> Iterator[str]:
    line = f"{_key(key)} = {_value(value, _HEX_DIGITS.get(key, 0))}"
    if len(line) <= _WIDTH or not isinstance(value, list):
        yield line
        return
    yield f"{_key(key)} = ["
    yield from (f"    {_value(item)}," for item in value)
    yield "]"


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(key)


def _value(value: object, hex_digits: int = 0) -> str:
    """One value on one line."""
    if isinstance(value, Mapping):
        digits = {**dict.fromkeys(value, hex_digits), **_HEX_DIGITS}
        inner = (f"{_key(k)} = {_value(v, digits[k])}" for k, v in value.items())
        return f"{{ {', '.join(inner)} }}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(_value(item, hex_digits) for item in value)}]"
    if hex_digits and isinstance(value, int):
        return f"{value:#0{hex_digits + 2}x}"
    return tomli_w.dumps({"x": value}).removeprefix("x = ").rstrip("\n")
