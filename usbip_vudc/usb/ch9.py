"""The words of USB 2.0 chapter 9 and USB 3.2: enumerations, the setup packet, limits by speed.

Names keep the specification's spelling. IN and OUT are the host's view. Numbers of `Speed` are
those of the kernel's ``enum usb_device_speed`` and of USB/IP. Standard library only.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from functools import lru_cache
from typing import Final

from usbip_vudc.errors import SchemeError

__all__ = (
    "DescriptorType",
    "Direction",
    "Feature",
    "Recipient",
    "RequestType",
    "SetupPacket",
    "Speed",
    "StandardRequest",
    "TransferType",
    "UsbClass",
    "default_max_packet_size",
    "ep0_max_packet_size",
)


class Speed(IntEnum):
    """Bus speeds (include/uapi/linux/usb/ch9.h, enum usb_device_speed)."""

    UNKNOWN = 0
    LOW = 1
    FULL = 2
    HIGH = 3
    WIRELESS = 4
    SUPER = 5
    SUPER_PLUS = 6

    @classmethod
    def parse(cls, text: str) -> Speed:
        """Read ``low``, ``full``, ``high`` or ``super`` (``-speed`` may follow).

        Raises SchemeError for any other word.
        """
        word = text.strip().lower().removesuffix("-speed")
        speeds = {"low": cls.LOW, "full": cls.FULL, "high": cls.HIGH, "super": cls.SUPER}
        if word not in speeds:
            raise SchemeError(f"speed {text!r} is unknown; use {', '.join(speeds)}")
        return speeds[word]

    @property
    def word(self) -> str:
        """The kernel's word without ``-speed``: ``low``, ``full``, ``high``, ``super``..."""
        return self.name.lower().replace("_", "-")


class Direction(IntEnum):
    """Bit 7 of bEndpointAddress and of bmRequestType, in the host's view."""

    OUT = 0x00
    IN = 0x80


class TransferType(IntEnum):
    """Bits 1..0 of an endpoint's bmAttributes (USB 2.0 table 9-13)."""

    CONTROL = 0
    ISOCHRONOUS = 1
    BULK = 2
    INTERRUPT = 3


class RequestType(IntEnum):
    """Bits 6..5 of bmRequestType (USB 2.0 table 9-2)."""

    STANDARD = 0x00
    CLASS = 0x20
    VENDOR = 0x40
    RESERVED = 0x60


class Recipient(IntEnum):
    """Bits 4..0 of bmRequestType (USB 2.0 table 9-2)."""

    DEVICE = 0
    INTERFACE = 1
    ENDPOINT = 2
    OTHER = 3


class StandardRequest(IntEnum):
    """BRequest of the standard requests (USB 2.0 table 9-4, USB 3.2 table 9-5)."""

    GET_STATUS = 0
    CLEAR_FEATURE = 1
    SET_FEATURE = 3
    SET_ADDRESS = 5
    GET_DESCRIPTOR = 6
    SET_DESCRIPTOR = 7
    GET_CONFIGURATION = 8
    SET_CONFIGURATION = 9
    GET_INTERFACE = 10
    SET_INTERFACE = 11
    SYNCH_FRAME = 12
    SET_SEL = 48
    SET_ISOCH_DELAY = 49


class DescriptorType(IntEnum):
    """BDescriptorType (USB 2.0 table 9-5, USB 3.2 table 9-6)."""

    DEVICE = 1
    CONFIGURATION = 2
    STRING = 3
    INTERFACE = 4
    ENDPOINT = 5
    DEVICE_QUALIFIER = 6
    OTHER_SPEED_CONFIGURATION = 7
    INTERFACE_POWER = 8
    OTG = 9
    INTERFACE_ASSOCIATION = 11
    BOS = 15
    DEVICE_CAPABILITY = 16
    CS_INTERFACE = 0x24
    CS_ENDPOINT = 0x25
    SS_ENDPOINT_COMPANION = 48


class Feature(IntEnum):
    """Feature selectors; the same number means another thing for another recipient.

    USB 2.0 table 9-6, USB 3.2 table 9-7.
    """

    ENDPOINT_HALT = 0
    FUNCTION_SUSPEND = 0
    DEVICE_REMOTE_WAKEUP = 1
    TEST_MODE = 2
    U1_ENABLE = 48
    U2_ENABLE = 49
    LTM_ENABLE = 50


class UsbClass(IntEnum):
    """Class codes that this project uses (usb.org, defined class codes)."""

    PER_INTERFACE = 0x00
    COMMUNICATIONS = 0x02
    HID = 0x03
    MASS_STORAGE = 0x08
    HUB = 0x09
    CDC_DATA = 0x0A
    MISCELLANEOUS = 0xEF
    VENDOR_SPECIFIC = 0xFF


class ConfigAttributes(IntFlag):
    """BmAttributes of a configuration descriptor (USB 2.0 table 9-10)."""

    REMOTE_WAKEUP = 0x20
    SELF_POWERED = 0x40
    ONE = 0x80


_SETUP: Final = struct.Struct("<BBHHH")


@dataclass(frozen=True, slots=True)
class SetupPacket:
    """The eight bytes of a SETUP stage (USB 2.0 9.3)."""

    bmRequestType: int
    bRequest: int
    wValue: int = 0
    wIndex: int = 0
    wLength: int = 0

    SIZE = 8

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview) -> SetupPacket:
        """Read eight bytes, little endian. Raises SchemeError for any other length."""
        if len(data) != cls.SIZE:
            raise SchemeError(f"setup packet has {len(data)} bytes, expected 8 (USB 2.0 9.3)")
        return _setup(bytes(data))

    def pack(self) -> bytes:
        """The eight bytes as they travel."""
        return _SETUP.pack(
            self.bmRequestType, self.bRequest, self.wValue, self.wIndex, self.wLength
        )

    @property
    def direction(self) -> Direction:
        """The direction of the data stage; OUT when there is none (USB 2.0 table 9-2)."""
        return Direction(self.bmRequestType & 0x80)

    @property
    def type(self) -> RequestType:
        """Standard, class, vendor or reserved."""
        return RequestType(self.bmRequestType & 0x60)

    @property
    def recipient(self) -> int:
        """A `Recipient`, or a reserved number from 4 to 31."""
        return self.bmRequestType & 0x1F

    def __str__(self) -> str:
        return (
            f"{self.bmRequestType:02x} {self.bRequest:02x} "
            f"{self.wValue:04x} {self.wIndex:04x} {self.wLength:04x}"
        )


@lru_cache(maxsize=256)
def _setup(data: bytes) -> SetupPacket:
    """Hosts repeat a few requests without end; the value is frozen, so it can be shared."""
    return SetupPacket(*_SETUP.unpack(data))


# What a gadget uses unless told otherwise: the largest wMaxPacketSize that each speed allows, but
# for interrupt endpoints, whose default alternate setting may have 64 at most. USB 2.0 5.6.3,
# 5.7.3, 5.8.3; USB 3.2 table 9-26. Bulk and isochronous endpoints are illegal at low speed; whoever
# has them there all the same has the largest packet of the speed.
_DEFAULT_MAX_PACKET: Final = {
    TransferType.BULK: {Speed.LOW: 8, Speed.FULL: 64, Speed.HIGH: 512, Speed.SUPER: 1024},
    TransferType.INTERRUPT: {Speed.LOW: 8, Speed.FULL: 64, Speed.HIGH: 64, Speed.SUPER: 64},
    TransferType.ISOCHRONOUS: {Speed.LOW: 8, Speed.FULL: 1023, Speed.HIGH: 1024, Speed.SUPER: 1024},
}


def default_max_packet_size(transfer_type: TransferType, speed: Speed) -> int:
    """Bytes of wMaxPacketSize for an endpoint that asks for no other.

    Raises SchemeError for a speed of no such endpoint (wireless, unknown).
    """
    sizes = _DEFAULT_MAX_PACKET.get(transfer_type, {})
    if speed not in sizes:
        raise SchemeError(
            f"a {transfer_type.name.lower()} endpoint at {speed.word} speed: expected one of "
            f"{', '.join(s.word for s in sizes) or 'no such endpoint'}"
        )
    return sizes[speed]


def ep0_max_packet_size(speed: Speed) -> int:
    """Bytes of a packet on endpoint 0 (USB 2.0 5.5.3, USB 3.2 9.6.1)."""
    return {Speed.LOW: 8, Speed.SUPER: 512}.get(speed, 64)
