"""Microsoft OS 1.0 descriptors of a function, as FunctionFS takes them beside the others. Pure.

The kernel answers the host itself; it makes UTF-16 of the texts that it is given, and knows
neither numbers nor lists of texts (drivers/usb/gadget/composite.c, fill_ext_prop).
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

import functionfs

from usbip_vudc.errors import SchemeError
from usbip_vudc.gadget import OsFeatures
from usbip_vudc.usb.os_features import PropertyType, PropertyValue, pack_id, property_type

__all__ = ("os_structures",)

_KNOWN: Final = (PropertyType.SZ, PropertyType.BINARY)

_INTERFACE: Final = 0
"""The function's first interface, as FunctionFS counts them."""


def os_structures(function: str, features: OsFeatures) -> list[ctypes.LittleEndianStructure]:
    """What getDescsV2 wants as its ``os_list``.

    Raises SchemeError for a property whose type the kernel does not answer with, and for text
    that is not ASCII, whose length it would get wrong.
    """
    compatible = functionfs.functionfs.OSExtCompatDesc(
        bFirstInterfaceNumber=_INTERFACE,
        Reserved1=1,
        CompatibleID=_bytes(pack_id(features.compatible_id)),
        SubCompatibleID=_bytes(pack_id(features.sub_compatible_id)),
    )
    made = [functionfs.getOSDesc(_INTERFACE, [compatible])]
    # One header for each property: python-functionfs makes an array of them, all of one length.
    for name, value in features.properties.items():
        named, data = _ascii(function, name, name) + b"\0", _data(function, name, value)
        made.append(functionfs.getOSDesc(_INTERFACE, [_property(value, named, data)]))
    return made


def _property(value: PropertyValue, named: bytes, data: bytes) -> Any:
    """As functionfs.getOSExtPropDesc, whose arrays of characters end at the first NUL."""
    fields = [
        ("bPropertyName", ctypes.c_uint8 * len(named)),
        ("dwPropertyDataLength", functionfs.common.le32),
        ("bProperty", ctypes.c_uint8 * len(data)),
    ]
    head = functionfs.functionfs.OSExtPropDescHead
    kind: Any = type("Property", (head,), {"_pack_": 1, "_layout_": "ms", "_fields_": fields})
    return kind(
        dwSize=ctypes.sizeof(kind),
        dwPropertyDataType=property_type(value),
        wPropertyNameLength=len(named),
        bPropertyName=_bytes(named),
        dwPropertyDataLength=len(data),
        bProperty=_bytes(data),
    )


def _data(function: str, name: str, value: PropertyValue) -> bytes:
    if isinstance(value, bytes):
        return value
    if property_type(value) not in _KNOWN or not isinstance(value, str):
        raise SchemeError(
            f"function {function}: property {name} = {value!r}: the kernel's gadgets answer with "
            f"text and bytes only (drivers/usb/gadget/composite.c); usbip-vudc serve has all"
        )
    return _ascii(function, name, value) + b"\0"


def _ascii(function: str, name: str, text: str) -> bytes:
    if not text.isascii():
        raise SchemeError(
            f"function {function}: property {name}: {text!r}: expected ASCII on a UDC of the "
            f"kernel, which counts two bytes for each of UTF-8"
        )
    return text.encode("ascii")


def _bytes(data: bytes) -> ctypes.Array[ctypes.c_uint8]:
    return (ctypes.c_uint8 * len(data))(*data)
