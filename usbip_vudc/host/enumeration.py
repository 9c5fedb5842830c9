"""What a host does with a new device: reads its descriptors, selects, remembers what it selected.

Pure: no socket, no event loop. `read_descriptors` is a generator that yields the requests and is
sent the answers, so a synchronous and an asynchronous host drive the same one:

    descriptors = drive(read_descriptors(), ask)
    descriptors = await drive_async(read_descriptors(), ask)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Final, TypeVar

from usbip_vudc.errors import SchemeError
from usbip_vudc.usb.ch9 import DescriptorType, Feature, SetupPacket, StandardRequest
from usbip_vudc.usb.descriptors import (
    BosDescriptor,
    Configuration,
    ConfigurationDescriptor,
    DeviceDescriptor,
    Interface,
)

__all__ = (
    "DescriptorReading",
    "DeviceDescriptors",
    "Selection",
    "alternates_of",
    "clear_halt",
    "drive",
    "drive_async",
    "get_descriptor",
    "read_descriptors",
    "set_configuration",
    "set_interface",
)

_HAS_BOS: Final = 0x0201
"""bcdUSB from which on a device has a BOS (USB 2.0 ECN, LPM; USB 3.2 9.6.2)."""

_T = TypeVar("_T")

_FIRST_LOOK: Final = 8
"""Bytes of the device descriptor that fit in one packet at any speed: up to bMaxPacketSize0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceDescriptors:
    """What a device says of itself.

    The raw bytes are as they came; None where the device stalled. A parsed value is None also
    where the bytes are malformed. Configurations are in the order of their index.
    """

    raw_device: bytes
    device: DeviceDescriptor
    raw_bos: bytes | None
    bos: BosDescriptor | None
    raw_configurations: tuple[bytes | None, ...]
    configurations: tuple[Configuration | None, ...]


DescriptorReading = Generator[SetupPacket, bytes | None, DeviceDescriptors]
"""Yields a request, is sent its IN data stage, or None where the device stalled."""


def get_descriptor(
    descriptor_type: DescriptorType, length: int, *, index: int = 0, langid: int = 0
) -> SetupPacket:
    """GET_DESCRIPTOR (USB 2.0 9.4.3) for ``length`` bytes."""
    wValue = descriptor_type << 8 | index
    return SetupPacket(0x80, StandardRequest.GET_DESCRIPTOR, wValue, langid, length)


def set_configuration(value: int) -> SetupPacket:
    """SET_CONFIGURATION (USB 2.0 9.4.7)."""
    return SetupPacket(0x00, StandardRequest.SET_CONFIGURATION, value)


def set_interface(interface: int, alternate: int) -> SetupPacket:
    """SET_INTERFACE (USB 2.0 9.4.10)."""
    return SetupPacket(0x01, StandardRequest.SET_INTERFACE, alternate, interface)


def clear_halt(address: int) -> SetupPacket:
    """CLEAR_FEATURE(ENDPOINT_HALT) of the endpoint at bEndpointAddress (USB 2.0 9.4.1)."""
    return SetupPacket(0x02, StandardRequest.CLEAR_FEATURE, Feature.ENDPOINT_HALT, address)


class Selection:
    """What a host has selected of a device, kept as Linux keeps it: to restore after a reset."""

    def __init__(self) -> None:
        self.configuration = 0
        self.alternates: dict[int, int] = {}

    def note(self, setup: SetupPacket) -> None:
        """A request has succeeded: take over what it selects, if it does."""
        if setup.bmRequestType == 0x00 and setup.bRequest == StandardRequest.SET_CONFIGURATION:
            self.configuration = setup.wValue
            self.alternates.clear()
        elif setup.bmRequestType == 0x01 and setup.bRequest == StandardRequest.SET_INTERFACE:
            self.alternates[setup.wIndex] = setup.wValue

    def restore(self) -> list[SetupPacket]:
        """The requests that select the same again, as usb_reset_and_verify_device sends them."""
        if not self.configuration:
            return []
        changed = [(i, a) for i, a in self.alternates.items() if a]
        return [set_configuration(self.configuration), *(set_interface(*pair) for pair in changed)]


def alternates_of(configuration: Configuration, index: int) -> list[Interface]:
    """The alternate settings of the interface that comes ``index``-th. Raises IndexError."""
    numbers = dict.fromkeys(i.descriptor.bInterfaceNumber for i in configuration.interfaces)
    number = list(numbers)[index]
    return [i for i in configuration.interfaces if i.descriptor.bInterfaceNumber == number]


def read_descriptors() -> DescriptorReading:
    """Read the device descriptor, the BOS where there is one, and every configuration.

    Only the device descriptor is needed: raises SchemeError where it is stalled or malformed.
    """
    first = yield get_descriptor(DescriptorType.DEVICE, _FIRST_LOOK)
    if first is None or len(first) < _FIRST_LOOK:
        raise SchemeError(f"device descriptor: {_shown(first)}, expected {_FIRST_LOOK} bytes")
    raw_device = yield get_descriptor(DescriptorType.DEVICE, DeviceDescriptor.SIZE)
    if raw_device is None:
        raise SchemeError(f"device descriptor: a stall, expected {DeviceDescriptor.SIZE} bytes")
    device = DeviceDescriptor.parse(raw_device)
    raw_bos = None
    if device.bcdUSB >= _HAS_BOS:
        raw_bos = yield from _read_whole(DescriptorType.BOS, 0, BosDescriptor.SIZE)
    raw_configurations = []
    for index in range(device.bNumConfigurations):
        size = ConfigurationDescriptor.SIZE
        raw = yield from _read_whole(DescriptorType.CONFIGURATION, index, size)
        raw_configurations.append(raw)
    return DeviceDescriptors(
        raw_device=raw_device,
        device=device,
        raw_bos=raw_bos,
        bos=_parsed(BosDescriptor.parse, raw_bos),
        raw_configurations=tuple(raw_configurations),
        configurations=tuple(_parsed(Configuration.parse, raw) for raw in raw_configurations),
    )


def _read_whole(
    descriptor_type: DescriptorType, index: int, header_size: int
) -> Generator[SetupPacket, bytes | None, bytes | None]:
    """Read the header, then wTotalLength bytes. None for a stall of either."""
    header = yield get_descriptor(descriptor_type, header_size, index=index)
    if header is None or len(header) < 4:
        return header
    wTotalLength = int.from_bytes(header[2:4], "little")
    if wTotalLength <= len(header):
        return header
    return (yield get_descriptor(descriptor_type, wTotalLength, index=index))


def _parsed(parse: Callable[[bytes], _T], raw: bytes | None) -> _T | None:
    try:
        return parse(raw) if raw is not None else None
    except SchemeError:
        return None


def _shown(data: bytes | None) -> str:
    return "a stall" if data is None else f"{len(data)} bytes"


def drive(
    reading: DescriptorReading, ask: Callable[[SetupPacket], bytes | None]
) -> DeviceDescriptors:
    """Answer a reading's requests with ``ask``, which returns None for a stall."""
    try:
        setup = next(reading)
        while True:
            setup = reading.send(ask(setup))
    except StopIteration as end:
        descriptors: DeviceDescriptors = end.value
        return descriptors


async def drive_async(
    reading: DescriptorReading, ask: Callable[[SetupPacket], Awaitable[bytes | None]]
) -> DeviceDescriptors:
    """`drive` for an asynchronous host."""
    try:
        setup = next(reading)
        while True:
            setup = reading.send(await ask(setup))
    except StopIteration as end:
        descriptors: DeviceDescriptors = end.value
        return descriptors
