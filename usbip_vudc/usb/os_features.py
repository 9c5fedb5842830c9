"""What Microsoft OS descriptors say of a function: compatible IDs and registry properties. Pure.

Both versions say the same in different layouts; those are os_descriptors_1.py's and
os_descriptors_2.py's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from usbip_vudc.errors import SchemeError

__all__ = (
    "OsFeatures",
    "PropertyType",
    "PropertyValue",
    "decode_property",
    "encode_property",
    "pack_id",
    "parse_id",
    "property_type",
    "text_of",
    "utf16",
)

PropertyValue = str | bytes | int | tuple[str, ...]
"""REG_SZ, REG_BINARY, REG_DWORD and REG_MULTI_SZ."""

_ID_SIZE: Final = 8


class PropertyType(IntEnum):
    """DwPropertyDataType, or wPropertyDataType: the kinds of values that a registry has."""

    SZ = 1
    EXPAND_SZ = 2
    BINARY = 3
    DWORD_LITTLE_ENDIAN = 4
    DWORD_BIG_ENDIAN = 5
    LINK = 6
    MULTI_SZ = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class OsFeatures:
    """The compatible ID that Windows takes a driver by (WINUSB, say), and what it registers.

    ``properties`` maps a name to a value: text is REG_SZ, several texts are REG_MULTI_SZ, a
    number is REG_DWORD, bytes are REG_BINARY. WinUSB wants ``DeviceInterfaceGUID`` (text) or
    ``DeviceInterfaceGUIDs`` (several).
    """

    compatible_id: str = ""
    sub_compatible_id: str = ""
    properties: Mapping[str, PropertyValue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("compatible_id", "sub_compatible_id"):
            if not re.fullmatch(r"[A-Z0-9_]{0,8}", value := getattr(self, name)):
                raise SchemeError(
                    f"{name} {value!r}: expected at most 8 of A to Z, 0 to 9 and _ "
                    f"(Microsoft OS descriptors)"
                )
        for name, property_value in self.properties.items():
            _check(name, property_value)


def _check(name: str, value: PropertyValue) -> None:
    """Refuse what a registry could not hold, or would not give back as it was."""
    if not name or "\0" in name:
        raise SchemeError(f"property {name!r}: expected a name")
    if isinstance(value, int) and not 0 <= value <= 0xFFFFFFFF:
        raise SchemeError(f"property {name}: {value}: expected 0 to 0xffffffff")
    if isinstance(value, str) and "\0" in value:
        raise SchemeError(f"property {name}: {value!r}: expected no NUL")
    if isinstance(value, tuple) and not all(text and "\0" not in text for text in value):
        # REG_MULTI_SZ ends with an empty string, so none can stand within.
        raise SchemeError(f"property {name}: {list(value)}: expected no empty text, and no NUL")


def property_type(value: PropertyValue) -> PropertyType:
    """What a value is to a registry."""
    match value:
        case str():
            return PropertyType.SZ
        case bytes():
            return PropertyType.BINARY
        case int():
            return PropertyType.DWORD_LITTLE_ENDIAN
        case _:
            return PropertyType.MULTI_SZ


def encode_property(value: PropertyValue) -> bytes:
    """The bytes of a value: texts are UTF-16 and end with a NUL each."""
    match value:
        case str(text):
            return utf16(text)
        case bytes(data):
            return data
        case int(number):
            return number.to_bytes(4, "little")
        case texts:
            return b"".join(map(utf16, texts)) + utf16("")


def decode_property(kind: int, data: bytes) -> PropertyValue:
    """The value of bytes. Raises SchemeError for a type that is none, or not of that length."""
    if kind in (PropertyType.SZ, PropertyType.EXPAND_SZ, PropertyType.LINK):
        return text_of(data)
    if kind == PropertyType.BINARY:
        return data
    if kind == PropertyType.MULTI_SZ:
        return tuple(text for text in data.decode("utf-16-le", "replace").split("\0") if text)
    if kind == PropertyType.DWORD_LITTLE_ENDIAN and len(data) == 4:
        return int.from_bytes(data, "little")
    if kind == PropertyType.DWORD_BIG_ENDIAN and len(data) == 4:
        return int.from_bytes(data, "big")
    raise SchemeError(f"property of type {kind} with {len(data)} bytes: expected type 1 to 7")


def utf16(text: str) -> bytes:
    """A text as both versions write it, with its NUL."""
    return text.encode("utf-16-le") + b"\0\0"


def text_of(data: bytes) -> str:
    """The text before the first NUL."""
    return data.decode("utf-16-le", "replace").partition("\0")[0]


def pack_id(text: str) -> bytes:
    """A compatible ID in its eight bytes."""
    return text.encode("ascii").ljust(_ID_SIZE, b"\0")


def parse_id(data: bytes) -> str:
    """The compatible ID in eight bytes."""
    return data.rstrip(b"\0").decode("ascii", "replace")
