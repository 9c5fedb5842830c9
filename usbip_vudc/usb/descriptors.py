"""Descriptors of USB 2.0 chapter 9 and USB 3.2 chapter 9.6: frozen values with pack and parse.

Field names keep the specification's spelling. What a class puts between the standard descriptors
is kept as raw bytes at the place where it stood (``extra``), so that a parsed configuration packs
to the same bytes. Standard library only.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, field, fields, replace
from typing import ClassVar, Final, Self

from usbip_vudc.errors import SchemeError
from usbip_vudc.usb.ch9 import DescriptorType, Direction, TransferType

__all__ = (
    "LANGID_ENGLISH_US",
    "BosDescriptor",
    "Capability",
    "Configuration",
    "ConfigurationDescriptor",
    "DeviceDescriptor",
    "DeviceQualifierDescriptor",
    "Endpoint",
    "EndpointDescriptor",
    "Interface",
    "InterfaceAssociationDescriptor",
    "InterfaceDescriptor",
    "RawCapability",
    "SuperSpeedCapability",
    "SuperSpeedEndpointCompanion",
    "Usb20Extension",
    "as_other_speed",
    "langid_descriptor",
    "parse_string_descriptor",
    "string_descriptor",
    "walk",
)

LANGID_ENGLISH_US: Final = 0x0409


def walk(data: bytes | bytearray | memoryview) -> Iterator[memoryview]:
    """Yield each descriptor of a run of descriptors, as a view with its two-byte header.

    Raises SchemeError where bLength is below 2 or points past the end.
    """
    view = memoryview(data)
    offset = 0
    while offset < len(view):
        bLength = view[offset]
        if bLength < 2 or offset + bLength > len(view):
            raise SchemeError(
                f"descriptor at byte {offset}: bLength {bLength}, expected 2 to "
                f"{len(view) - offset} (USB 2.0 9.5)"
            )
        yield view[offset : offset + bLength]
        offset += bLength


@dataclass(frozen=True, slots=True, kw_only=True)
class _FixedDescriptor:
    """A descriptor of fixed size whose dataclass fields are its fields, in order."""

    TYPE: ClassVar[DescriptorType]
    SIZE: ClassVar[int]
    _body: ClassVar[struct.Struct]

    def pack(self) -> bytes:
        """The bytes as they travel. Raises SchemeError where a value does not fit its field."""
        try:
            return bytes((self.SIZE, self.TYPE)) + self._body.pack(*astuple(self))
        except struct.error as error:
            raise SchemeError(f"{self!r}: {error}") from None

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview) -> Self:
        """Read the first SIZE bytes; longer descriptors (a later revision's) are accepted.

        Raises SchemeError for a wrong bDescriptorType or too few bytes.
        """
        if len(data) < cls.SIZE or data[0] < cls.SIZE or data[1] != cls.TYPE:
            raise SchemeError(
                f"{cls.__name__}: got {bytes(data[:4]).hex(' ') or 'nothing'}... "
                f"({len(data)} bytes), expected bLength {cls.SIZE}, bDescriptorType {cls.TYPE:#04x}"
            )
        values = cls._body.unpack_from(data, 2)
        return cls(**{f.name: value for f, value in zip(fields(cls), values, strict=True)})


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceDescriptor(_FixedDescriptor):
    """USB 2.0 table 9-8. At SuperSpeed bMaxPacketSize0 is an exponent: 9 means 512 bytes."""

    TYPE = DescriptorType.DEVICE
    SIZE = 18
    _body = struct.Struct("<HBBBBHHHBBBB")

    bcdUSB: int
    bDeviceClass: int = 0
    bDeviceSubClass: int = 0
    bDeviceProtocol: int = 0
    bMaxPacketSize0: int
    idVendor: int
    idProduct: int
    bcdDevice: int = 0x0100
    iManufacturer: int = 0
    iProduct: int = 0
    iSerialNumber: int = 0
    bNumConfigurations: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceQualifierDescriptor(_FixedDescriptor):
    """USB 2.0 table 9-9: what the device would be at the other of full and high speed."""

    TYPE = DescriptorType.DEVICE_QUALIFIER
    SIZE = 10
    _body = struct.Struct("<HBBBBBB")

    bcdUSB: int
    bDeviceClass: int = 0
    bDeviceSubClass: int = 0
    bDeviceProtocol: int = 0
    bMaxPacketSize0: int
    bNumConfigurations: int = 1
    bReserved: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationDescriptor(_FixedDescriptor):
    """USB 2.0 table 9-10. bMaxPower counts 2 mA, and 8 mA at SuperSpeed."""

    TYPE = DescriptorType.CONFIGURATION
    SIZE = 9
    _body = struct.Struct("<HBBBBB")

    wTotalLength: int = 9
    bNumInterfaces: int = 0
    bConfigurationValue: int = 1
    iConfiguration: int = 0
    bmAttributes: int = 0x80
    bMaxPower: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceAssociationDescriptor(_FixedDescriptor):
    """USB 2.0 ECN, Interface Association Descriptor, table 9-Z."""

    TYPE = DescriptorType.INTERFACE_ASSOCIATION
    SIZE = 8
    _body = struct.Struct("<BBBBBB")

    bFirstInterface: int
    bInterfaceCount: int
    bFunctionClass: int
    bFunctionSubClass: int = 0
    bFunctionProtocol: int = 0
    iFunction: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceDescriptor(_FixedDescriptor):
    """USB 2.0 table 9-12."""

    TYPE = DescriptorType.INTERFACE
    SIZE = 9
    _body = struct.Struct("<BBBBBBB")

    bInterfaceNumber: int
    bAlternateSetting: int = 0
    bNumEndpoints: int = 0
    bInterfaceClass: int = 0xFF
    bInterfaceSubClass: int = 0
    bInterfaceProtocol: int = 0
    iInterface: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointDescriptor(_FixedDescriptor):
    """USB 2.0 table 9-13."""

    TYPE = DescriptorType.ENDPOINT
    SIZE = 7
    _body = struct.Struct("<BBHB")

    bEndpointAddress: int
    bmAttributes: int
    wMaxPacketSize: int
    bInterval: int = 0

    @property
    def direction(self) -> Direction:
        """IN or OUT, the host's view."""
        return Direction(self.bEndpointAddress & 0x80)

    @property
    def transfer_type(self) -> TransferType:
        """Bits 1..0 of bmAttributes."""
        return TransferType(self.bmAttributes & 0x03)

    @property
    def max_packet_size(self) -> int:
        """Bytes of one packet: bits 10..0 of wMaxPacketSize, without the HS multiplier."""
        return self.wMaxPacketSize & 0x07FF


@dataclass(frozen=True, slots=True, kw_only=True)
class SuperSpeedEndpointCompanion(_FixedDescriptor):
    """USB 3.2 table 9-27. bMaxBurst is packets in a burst less one."""

    TYPE = DescriptorType.SS_ENDPOINT_COMPANION
    SIZE = 6
    _body = struct.Struct("<BBH")

    bMaxBurst: int = 0
    bmAttributes: int = 0
    wBytesPerInterval: int = 0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint descriptor and the raw descriptors that follow it (companion, class)."""

    descriptor: EndpointDescriptor
    extra: bytes = b""

    @property
    def companion(self) -> SuperSpeedEndpointCompanion | None:
        """The SuperSpeed companion among ``extra``, if there is one."""
        for raw in walk(self.extra):
            if raw[1] == DescriptorType.SS_ENDPOINT_COMPANION:
                return SuperSpeedEndpointCompanion.parse(raw)
        return None


@dataclass(frozen=True, slots=True)
class Interface:
    """One alternate setting of an interface, with the raw class descriptors that follow it."""

    descriptor: InterfaceDescriptor
    endpoints: tuple[Endpoint, ...] = ()
    extra: bytes = b""


@dataclass(frozen=True, slots=True)
class Configuration:
    """A configuration descriptor with all that GET_DESCRIPTOR(CONFIGURATION) returns."""

    descriptor: ConfigurationDescriptor
    interfaces: tuple[Interface, ...] = ()
    extra: bytes = b""

    def pack(self) -> bytes:
        """All bytes in order, with wTotalLength, bNumInterfaces and bNumEndpoints as they stand."""
        parts = [self.descriptor.pack(), self.extra]
        for interface in self.interfaces:
            parts += (interface.descriptor.pack(), interface.extra)
            for endpoint in interface.endpoints:
                parts += (endpoint.descriptor.pack(), endpoint.extra)
        return b"".join(parts)

    def with_counts(self) -> Configuration:
        """The same configuration with every count and wTotalLength made true."""
        interfaces = tuple(
            replace(i, descriptor=replace(i.descriptor, bNumEndpoints=len(i.endpoints)))
            for i in self.interfaces
        )
        numbers = {i.descriptor.bInterfaceNumber for i in interfaces}
        counted = Configuration(self.descriptor, interfaces, self.extra)
        header = replace(
            self.descriptor, bNumInterfaces=len(numbers), wTotalLength=len(counted.pack())
        )
        return replace(counted, descriptor=header)

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview) -> Configuration:
        """Read a whole configuration. Raises SchemeError where it is malformed or cut short."""
        header = ConfigurationDescriptor.parse(data)
        if header.wTotalLength > len(data):
            raise SchemeError(
                f"configuration: wTotalLength {header.wTotalLength}, but {len(data)} bytes came"
            )
        extra = bytearray()
        interfaces: list[_OpenInterface] = []
        for raw in walk(memoryview(data)[ConfigurationDescriptor.SIZE : header.wTotalLength]):
            if raw[1] == DescriptorType.INTERFACE:
                interfaces.append(_OpenInterface(InterfaceDescriptor.parse(raw)))
            elif raw[1] == DescriptorType.ENDPOINT and interfaces:
                interfaces[-1].endpoints.append((EndpointDescriptor.parse(raw), bytearray()))
            elif not interfaces:
                extra += raw
            else:
                interfaces[-1].tail += raw
        return cls(header, tuple(i.close() for i in interfaces), bytes(extra))


@dataclass(slots=True)
class _OpenInterface:
    """An interface while its descriptors are still arriving."""

    descriptor: InterfaceDescriptor
    extra: bytearray = field(default_factory=bytearray)
    endpoints: list[tuple[EndpointDescriptor, bytearray]] = field(default_factory=list)

    @property
    def tail(self) -> bytearray:
        return self.endpoints[-1][1] if self.endpoints else self.extra

    @tail.setter
    def tail(self, _value: bytearray) -> None:
        """Nothing to do: ``tail += raw`` has grown the bytearray in place."""

    def close(self) -> Interface:
        endpoints = tuple(Endpoint(d, bytes(extra)) for d, extra in self.endpoints)
        return Interface(self.descriptor, endpoints, bytes(self.extra))


def as_other_speed(configuration: bytes) -> bytes:
    """The same bytes as an OTHER_SPEED_CONFIGURATION descriptor (USB 2.0 table 9-11)."""
    return bytes((configuration[0], DescriptorType.OTHER_SPEED_CONFIGURATION)) + configuration[2:]


def string_descriptor(text: str) -> bytes:
    """A string descriptor (USB 2.0 table 9-16).

    Raises SchemeError for more than 126 UTF-16 code units, all that bLength can count.
    """
    encoded = text.encode("utf-16-le")
    if len(encoded) > 252:
        raise SchemeError(
            f"string {text!r} has {len(encoded) // 2} UTF-16 code units, at most 126 fit "
            f"(USB 2.0 9.6.7)"
        )
    return bytes((2 + len(encoded), DescriptorType.STRING)) + encoded


def langid_descriptor(langids: Sequence[int]) -> bytes:
    """String descriptor zero: the language codes (USB 2.0 table 9-15).

    Raises SchemeError for a code that is none, and for more than 126, all that bLength can count.
    """
    for langid in langids:
        if not 0 <= langid <= 0xFFFF:
            raise SchemeError(f"language code {langid:#x}: expected 0 to 0xffff (USB 2.0 9.6.7)")
    if len(langids) > 126:
        raise SchemeError(f"{len(langids)} languages: at most 126 fit (USB 2.0 9.6.7)")
    return bytes((2 + 2 * len(langids), DescriptorType.STRING)) + struct.pack(
        f"<{len(langids)}H", *langids
    )


def parse_string_descriptor(data: bytes | bytearray | memoryview) -> str:
    """The text of a string descriptor. Raises SchemeError where it is none."""
    if len(data) < 2 or data[1] != DescriptorType.STRING or not 2 <= data[0] <= len(data):
        raise SchemeError(f"string descriptor: got {bytes(data[:8]).hex(' ') or 'nothing'}")
    return bytes(data[2 : data[0] & ~1]).decode("utf-16-le", errors="replace")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usb20Extension:
    """USB 3.2 9.6.2.1: LPM support of a device at its USB 2.0 speeds."""

    CAPABILITY: ClassVar[int] = 0x02

    bmAttributes: int = 0x02

    def pack(self) -> bytes:
        """Seven bytes."""
        return struct.pack("<BBBI", 7, DescriptorType.DEVICE_CAPABILITY, 2, self.bmAttributes)


@dataclass(frozen=True, slots=True, kw_only=True)
class SuperSpeedCapability:
    """USB 3.2 9.6.2.2. wSpeedsSupported: bit 0 low to bit 3 SuperSpeed. Latencies in us."""

    CAPABILITY: ClassVar[int] = 0x03

    bmAttributes: int = 0
    wSpeedsSupported: int = 0x000E
    bFunctionalitySupport: int = 1
    bU1DevExitLat: int = 1
    wU2DevExitLat: int = 500

    def pack(self) -> bytes:
        """Ten bytes."""
        return struct.pack(
            "<BBBBHBBH", 10, DescriptorType.DEVICE_CAPABILITY, self.CAPABILITY, *astuple(self)
        )


@dataclass(frozen=True, slots=True)
class RawCapability:
    """Any other device capability: its type and the bytes after it."""

    bDevCapabilityType: int
    body: bytes

    def pack(self) -> bytes:
        """Header and body."""
        head = (3 + len(self.body), DescriptorType.DEVICE_CAPABILITY, self.bDevCapabilityType)
        return bytes(head) + self.body


Capability = Usb20Extension | SuperSpeedCapability | RawCapability


@dataclass(frozen=True, slots=True)
class BosDescriptor:
    """The Binary device Object Store (USB 3.2 9.6.2)."""

    SIZE: ClassVar[int] = 5

    capabilities: tuple[Capability, ...]

    def pack(self) -> bytes:
        """Header with true wTotalLength, then each capability."""
        body = b"".join(capability.pack() for capability in self.capabilities)
        return struct.pack(
            "<BBHB", 5, DescriptorType.BOS, 5 + len(body), len(self.capabilities)
        ) + (body)

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview) -> BosDescriptor:
        """Read a BOS with all its capabilities. Raises SchemeError where it is malformed."""
        if len(data) < 5 or data[1] != DescriptorType.BOS:
            raise SchemeError(f"BOS: got {bytes(data[:5]).hex(' ') or 'nothing'}")
        _, _, total, count = struct.unpack_from("<BBHB", data)
        if total > len(data):
            raise SchemeError(f"BOS: wTotalLength {total}, but {len(data)} bytes came")
        capabilities = tuple(_capability(raw) for raw in walk(memoryview(data)[5:total]))
        if len(capabilities) != count:
            raise SchemeError(f"BOS: bNumDeviceCaps {count}, but {len(capabilities)} came")
        return cls(capabilities)


def _capability(raw: memoryview) -> Capability:
    if len(raw) < 3 or raw[1] != DescriptorType.DEVICE_CAPABILITY:
        raise SchemeError(f"BOS: {bytes(raw).hex(' ')} is no device capability")
    kind = raw[2]
    if kind == Usb20Extension.CAPABILITY and len(raw) == 7:
        return Usb20Extension(bmAttributes=struct.unpack_from("<I", raw, 3)[0])
    if kind == SuperSpeedCapability.CAPABILITY and len(raw) == 10:
        names = (f.name for f in fields(SuperSpeedCapability))
        values = struct.unpack_from("<BHBBH", raw, 3)
        return SuperSpeedCapability(**dict(zip(names, values, strict=True)))
    return RawCapability(kind, bytes(raw[3:]))
