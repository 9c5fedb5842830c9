"""Microsoft OS 2.0 descriptors: the platform capability, and the descriptor set. Pure.

A host finds the capability in the BOS; its bMS_VendorCode is the bRequest of the request that
brings the set, with `DESCRIPTOR_SET` in wIndex.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Self
from uuid import UUID

from usbip_vudc.errors import SchemeError
from usbip_vudc.usb.descriptors import BosDescriptor
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
from usbip_vudc.usb.platform import PlatformCapability

__all__ = ("DESCRIPTOR_SET", "MS_OS_20", "WINDOWS_8_1", "OsCapability", "OsDescriptorSet")

MS_OS_20: Final = UUID("d8dd60df-4589-4cc7-9cd2-659d9e648a9f")

DESCRIPTOR_SET: Final = 0x0007
"""wIndex of the request for the set."""

WINDOWS_8_1: Final = 0x06030000
"""dwWindowsVersion: the first that asks."""

_SET_HEADER, _CONFIGURATION, _FUNCTION, _COMPATIBLE_ID, _PROPERTY = range(5)
"""wDescriptorType."""

_HEAD: Final = struct.Struct("<HH")
_SET: Final = struct.Struct("<HHIH")
_SUBSET: Final = struct.Struct("<HHBxH")


@dataclass(frozen=True, slots=True, kw_only=True)
class OsCapability:
    """The CapabilityData of one descriptor set. ``total_length`` is its length in bytes."""

    vendor_code: int
    total_length: int
    windows_version: int = WINDOWS_8_1
    alt_enum_code: int = 0

    _BODY = struct.Struct("<IHBB")

    def capability(self) -> PlatformCapability:
        """It under Microsoft's UUID."""
        data = self._BODY.pack(
            self.windows_version, self.total_length, self.vendor_code, self.alt_enum_code
        )
        return PlatformCapability(MS_OS_20, data)

    @classmethod
    def find(cls, bos: BosDescriptor) -> Self | None:
        """The first one in a BOS, None where there is none. Raises SchemeError if cut short."""
        data = PlatformCapability.find(bos, MS_OS_20)
        if data is None:
            return None
        if len(data) < cls._BODY.size:
            raise SchemeError(f"Microsoft OS 2.0: {data.hex(' ')}: expected {cls._BODY.size} bytes")
        version, length, code, alternate = cls._BODY.unpack_from(data)
        return cls(vendor_code=code, total_length=length, windows_version=version,
                   alt_enum_code=alternate)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class OsDescriptorSet:
    """A descriptor set: what the whole device is, or each function by its first interface.

    ``configuration`` is the index, from 0, of the configuration that the functions are in: the
    field is called bConfigurationValue, and Windows takes it for the index.
    """

    windows_version: int = WINDOWS_8_1
    device: OsFeatures = OsFeatures()  # noqa: RUF009 - a value
    functions: Mapping[int, OsFeatures] = field(default_factory=dict)
    configuration: int = 0

    def pack(self) -> bytes:
        """The set as it travels. Raises SchemeError for more than 65535 bytes."""
        subsets = b"".join(
            _subset(_FUNCTION, first, _features(each))
            for first, each in sorted(self.functions.items())
        )
        if subsets:
            subsets = _subset(_CONFIGURATION, self.configuration, subsets)
        body = _features(self.device) + subsets
        total = _SET.size + len(body)
        _fits("descriptor set", total)
        return _SET.pack(_SET.size, _SET_HEADER, self.windows_version, total) + body

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a set. Raises SchemeError where a length or a header does not fit.

        Descriptors of other kinds than this module writes are passed over.
        """
        if len(data) < _SET.size:
            raise SchemeError(f"descriptor set: {len(data)} bytes, expected at least {_SET.size}")
        length, kind, version, total = _SET.unpack_from(data)
        if (length, kind, total) != (_SET.size, _SET_HEADER, len(data)):
            raise SchemeError(
                f"descriptor set: wLength {length}, wDescriptorType {kind}, wTotalLength {total}: "
                f"expected {_SET.size}, {_SET_HEADER} and {len(data)}"
            )
        reader = _Reader()
        reader.read(data[_SET.size :])
        return cls(
            windows_version=version,
            device=reader.features.get(None, OsFeatures()),
            functions={first: f for first, f in reader.features.items() if first is not None},
            configuration=reader.configuration,
        )


# --- writing -----------------------------------------------------------------------------------


def _subset(kind: int, number: int, body: bytes) -> bytes:
    total = _SUBSET.size + len(body)
    _fits("descriptor subset", total)
    return _SUBSET.pack(_SUBSET.size, kind, number, total) + body


def _features(features: OsFeatures) -> bytes:
    ids = b""
    if features.compatible_id or features.sub_compatible_id:
        ids = pack_id(features.compatible_id) + pack_id(features.sub_compatible_id)
        ids = _HEAD.pack(_HEAD.size + len(ids), _COMPATIBLE_ID) + ids
    return ids + b"".join(_property(name, v) for name, v in features.properties.items())


def _property(name: str, value: PropertyValue) -> bytes:
    named, data = utf16(name), encode_property(value)
    _fits(f"property {name}", _HEAD.size + 6 + len(named) + len(data))
    parts = (
        struct.pack("<HH", property_type(value), len(named)),
        named,
        struct.pack("<H", len(data)),
        data,
    )
    body = b"".join(parts)
    return _HEAD.pack(_HEAD.size + len(body), _PROPERTY) + body


def _fits(what: str, length: int) -> None:
    if length > 0xFFFF:
        raise SchemeError(f"Microsoft OS 2.0: {what} of {length} bytes: expected at most 65535")


# --- reading -----------------------------------------------------------------------------------


class _Reader:
    """Reads the descriptors of a set; ``features`` are by first interface, None is the device."""

    def __init__(self) -> None:
        self.features: dict[int | None, OsFeatures] = {}
        self.configuration = 0
        self._function: int | None = None
        self._kinds: dict[int, Callable[[bytes], None]] = {
            _CONFIGURATION: self._read_configuration,
            _FUNCTION: self._read_function,
            _COMPATIBLE_ID: self._read_ids,
            _PROPERTY: self._read_property,
        }

    def read(self, data: bytes) -> None:
        try:
            for kind, raw in _walk(data):
                reader = self._kinds.get(kind)
                if reader is not None:
                    reader(raw)
        except struct.error as error:
            raise SchemeError(f"descriptor set: {error}") from None

    def _read_configuration(self, raw: bytes) -> None:
        self.configuration = _SUBSET.unpack(raw)[2]

    def _read_function(self, raw: bytes) -> None:
        self._function = _SUBSET.unpack(raw)[2]
        self.features.setdefault(self._function, OsFeatures())

    def _read_ids(self, raw: bytes) -> None:
        own, sub = struct.unpack("<4x8s8s", raw)
        so_far = self.features.get(self._function, OsFeatures())
        self.features[self._function] = OsFeatures(
            compatible_id=parse_id(own),
            sub_compatible_id=parse_id(sub),
            properties=so_far.properties,
        )

    def _read_property(self, raw: bytes) -> None:
        kind, size = struct.unpack_from("<HH", raw, _HEAD.size)
        name = text_of(raw[8 : 8 + size])
        (length,) = struct.unpack_from("<H", raw, 8 + size)
        data = raw[10 + size :]
        if len(data) != length:
            raise SchemeError(f"property {name}: wPropertyDataLength {length}, {len(data)} bytes")
        so_far = self.features.get(self._function, OsFeatures())
        self.features[self._function] = OsFeatures(
            compatible_id=so_far.compatible_id,
            sub_compatible_id=so_far.sub_compatible_id,
            properties={**so_far.properties, name: decode_property(kind, data)},
        )


def _walk(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and bytes of each descriptor. A header's wLength is of itself, so subsets lie flat."""
    offset = 0
    while offset < len(data):
        length, kind = _HEAD.unpack_from(data, offset)
        if length < _HEAD.size or offset + length > len(data):
            raise SchemeError(
                f"descriptor set: wLength {length} at byte {offset + _SET.size}: expected "
                f"{_HEAD.size} to {len(data) - offset}"
            )
        yield kind, data[offset : offset + length]
        offset += length
