"""Microsoft OS 1.0 descriptors: the string at 0xEE, extended compatible IDs and properties. Pure.

A host asks for the string first; its bMS_VendorCode is the bRequest of what it asks next, with
`COMPATIBLE_ID` or `PROPERTIES` in wIndex.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from usbip_vudc.errors import SchemeError
from usbip_vudc.usb.ch9 import DescriptorType
from usbip_vudc.usb.os_features import (
    OsFeatures,
    PropertyValue,
    decode_property,
    encode_property,
    pack_id,
    parse_id,
    property_type,
    text_of,
    utf16,
)

__all__ = (
    "COMPATIBLE_ID",
    "OS_STRING_INDEX",
    "PROPERTIES",
    "OsString",
    "compatible_ids",
    "parse_compatible_ids",
    "parse_properties",
    "properties",
)

OS_STRING_INDEX: Final = 0xEE
"""Where the string is; hosts ask for it in language 0."""

COMPATIBLE_ID: Final = 0x0004
PROPERTIES: Final = 0x0005

_VERSION: Final = 0x0100

_SIGNATURE_SIZE: Final = 14
"""Bytes of qwSignature: seven UTF-16 code units."""

_COMPATIBLE_HEAD: Final = struct.Struct("<IHHB7x")
_COMPATIBLE: Final = struct.Struct("<BB8s8s6x")
_PROPERTIES_HEAD: Final = struct.Struct("<IHHH")


@dataclass(frozen=True, slots=True, kw_only=True)
class OsString:
    """The string descriptor that says that there is more, and by which bRequest."""

    vendor_code: int
    signature: str = "MSFT100"

    SIZE = 18

    def __post_init__(self) -> None:
        if len(self.signature.encode("utf-16-le")) > _SIGNATURE_SIZE:
            raise SchemeError(
                f"os_descriptors: signature {self.signature!r}: expected at most 7 characters"
            )

    def pack(self) -> bytes:
        """Eighteen bytes."""
        text = self.signature.encode("utf-16-le").ljust(_SIGNATURE_SIZE, b"\0")
        return bytes((self.SIZE, DescriptorType.STRING)) + text + bytes((self.vendor_code, 0))

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview) -> Self:
        """Read it. Raises SchemeError where it is none."""
        if len(data) < cls.SIZE or data[0] != cls.SIZE or data[1] != DescriptorType.STRING:
            raise SchemeError(f"OS string: got {bytes(data[:18]).hex(' ') or 'nothing'}")
        return cls(vendor_code=data[16], signature=text_of(bytes(data[2:16])))


def compatible_ids(functions: Mapping[int, OsFeatures]) -> bytes:
    """The extended compatible ID descriptor: a section for each function by its first interface."""
    total = _COMPATIBLE_HEAD.size + len(functions) * _COMPATIBLE.size
    sections = (
        # The second byte is reserved, and is 1.
        _COMPATIBLE.pack(first, 1, pack_id(each.compatible_id), pack_id(each.sub_compatible_id))
        for first, each in sorted(functions.items())
    )
    head = _COMPATIBLE_HEAD.pack(total, _VERSION, COMPATIBLE_ID, len(functions))
    return head + b"".join(sections)


def parse_compatible_ids(data: bytes) -> dict[int, tuple[str, str]]:
    """First interface -> compatible ID and sub-compatible ID. Raises SchemeError."""
    count = _head(data, _COMPATIBLE_HEAD, COMPATIBLE_ID)
    if len(data) != _COMPATIBLE_HEAD.size + count * _COMPATIBLE.size:
        raise SchemeError(f"compatible IDs: {count} sections, but {len(data)} bytes came")
    sections = _COMPATIBLE.iter_unpack(data[_COMPATIBLE_HEAD.size :])
    return {first: (parse_id(own), parse_id(sub)) for first, _, own, sub in sections}


def properties(values: Mapping[str, PropertyValue]) -> bytes:
    """The extended properties descriptor of one interface."""
    sections = b"".join(_property(name, value) for name, value in values.items())
    total = _PROPERTIES_HEAD.size + len(sections)
    return _PROPERTIES_HEAD.pack(total, _VERSION, PROPERTIES, len(values)) + sections


def _property(name: str, value: PropertyValue) -> bytes:
    named, data = utf16(name), encode_property(value)
    size = 14 + len(named) + len(data)
    head = struct.pack("<IIH", size, property_type(value), len(named))
    return head + named + struct.pack("<I", len(data)) + data


def parse_properties(data: bytes) -> dict[str, PropertyValue]:
    """Name -> value. Raises SchemeError where a length does not fit."""
    count = _head(data, _PROPERTIES_HEAD, PROPERTIES)
    found: dict[str, PropertyValue] = {}
    offset = _PROPERTIES_HEAD.size
    try:
        for _ in range(count):
            size, kind, name_size = struct.unpack_from("<IIH", data, offset)
            name = data[offset + 10 : offset + 10 + name_size]
            (length,) = struct.unpack_from("<I", data, offset + 10 + name_size)
            if size != 14 + name_size + length or offset + size > len(data):
                raise SchemeError(f"property at byte {offset}: dwSize {size} does not fit")
            found[text_of(name)] = decode_property(kind, data[offset + size - length :][:length])
            offset += size
    except struct.error as error:
        raise SchemeError(f"property at byte {offset}: {error}") from None
    return found


def _head(data: bytes, layout: struct.Struct, wIndex: int) -> int:
    """The count in a header. Raises SchemeError where it is another one's, or cut short."""
    if len(data) < layout.size:
        raise SchemeError(f"OS descriptor: {len(data)} bytes, expected at least {layout.size}")
    total, version, kind, count = layout.unpack_from(data)
    if (total, version, kind) != (len(data), _VERSION, wIndex):
        raise SchemeError(
            f"OS descriptor: dwLength {total}, bcdVersion {version:#06x}, wIndex {kind}: expected "
            f"{len(data)}, {_VERSION:#06x} and {wIndex}"
        )
    return int(count)
