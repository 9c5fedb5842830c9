"""The words of human interface devices, which device and host share (HID 1.11).

Requests, the HID descriptor, and the reports of the boot protocols: values and their bytes, no
behaviour. Names keep the specification's spelling. Standard library only.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final

from usbip_vudc.errors import RemoteProtocolError, SchemeError

__all__ = (
    "BOOT_SUBCLASS",
    "MAX_KEYS",
    "ROLL_OVER",
    "BootProtocol",
    "Button",
    "HidDescriptor",
    "HidDescriptorType",
    "HidProtocol",
    "HidRequest",
    "KeyboardReport",
    "Led",
    "Modifier",
    "MouseReport",
    "ReportType",
)

BOOT_SUBCLASS: Final = 1
"""bInterfaceSubClass of a device with a boot protocol (HID 1.11 4.2)."""

ROLL_OVER: Final = 0x01
"""The usage in every place of a keyboard's report that cannot say which keys are down (B.1)."""

MAX_KEYS: Final = 6


class HidRequest(IntEnum):
    """The class requests: their bRequest (HID 1.11 7.2)."""

    GET_REPORT = 0x01
    GET_IDLE = 0x02
    GET_PROTOCOL = 0x03
    SET_REPORT = 0x09
    SET_IDLE = 0x0A
    SET_PROTOCOL = 0x0B


class HidDescriptorType(IntEnum):
    """BDescriptorType (HID 1.11 7.1)."""

    HID = 0x21
    REPORT = 0x22
    PHYSICAL = 0x23


class ReportType(IntEnum):
    """The high byte of wValue of GET_REPORT and SET_REPORT (HID 1.11 7.2.1)."""

    INPUT = 1
    OUTPUT = 2
    FEATURE = 3


class BootProtocol(IntEnum):
    """BInterfaceProtocol of a boot device (HID 1.11 4.3)."""

    KEYBOARD = 1
    MOUSE = 2


class HidProtocol(IntEnum):
    """WValue of SET_PROTOCOL: which reports the device sends (HID 1.11 7.2.5)."""

    BOOT = 0
    REPORT = 1


class Led(IntFlag):
    """The output report of a boot keyboard (HID 1.11 B.1)."""

    NUM_LOCK = 0x01
    CAPS_LOCK = 0x02
    SCROLL_LOCK = 0x04
    COMPOSE = 0x08
    KANA = 0x10


class Modifier(IntFlag):
    """The first byte of a boot keyboard's input report (HID 1.11 8.3)."""

    LEFT_CTRL = 0x01
    LEFT_SHIFT = 0x02
    LEFT_ALT = 0x04
    LEFT_GUI = 0x08
    RIGHT_CTRL = 0x10
    RIGHT_SHIFT = 0x20
    RIGHT_ALT = 0x40
    RIGHT_GUI = 0x80


class Button(IntFlag):
    """The first byte of a boot mouse's input report (HID 1.11 B.2)."""

    LEFT = 0x01
    RIGHT = 0x02
    MIDDLE = 0x04


@dataclass(frozen=True, slots=True)
class HidDescriptor:
    """The HID descriptor of an interface with one report descriptor (HID 1.11 6.2.1).

    ``report_length`` is the report descriptor's, in bytes; ``bCountryCode`` 33 is a US keyboard.
    """

    report_length: int
    bCountryCode: int = 0
    bcdHID: int = 0x0111

    def pack(self, numbers: Mapping[str, int]) -> bytes:  # noqa: ARG002 - names no interface
        """Nine bytes."""
        return struct.pack(
            "<BBHBBBH", 9, HidDescriptorType.HID, self.bcdHID, self.bCountryCode, 1,
            HidDescriptorType.REPORT, self.report_length,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class KeyboardReport:
    """What a boot keyboard says is down (HID 1.11 B.1): modifiers, and usages of page 7."""

    modifiers: Modifier = Modifier(0)  # noqa: RUF009 - a value
    keys: tuple[int, ...] = ()

    SIZE = 8

    def pack(self) -> bytes:
        """Eight bytes; with more than six keys none of them can be named (`ROLL_OVER`)."""
        keys = self.keys if len(self.keys) <= MAX_KEYS else (ROLL_OVER,) * MAX_KEYS
        return bytes((self.modifiers, 0, *keys)).ljust(self.SIZE, b"\0")

    @classmethod
    def parse(cls, data: bytes) -> KeyboardReport:
        """Read eight bytes. Raises RemoteProtocolError for another length."""
        if len(data) != cls.SIZE:
            raise RemoteProtocolError(
                f"keyboard report has {len(data)} bytes, expected {cls.SIZE} (HID 1.11 B.1)"
            )
        return cls(Modifier(data[0]), tuple(key for key in data[2:] if key))


@dataclass(frozen=True, slots=True)
class MouseReport:
    """Buttons, and how far it moved: x to the right, y down, wheel away from the user.

    The wheel is not in the boot protocol (HID 1.11 B.2).
    """

    buttons: Button = Button(0)  # noqa: RUF009 - a value
    x: int = 0
    y: int = 0
    wheel: int = 0

    SIZE = 4
    BOOT_SIZE = 3

    def pack(self) -> bytes:
        """Four bytes. Raises SchemeError for a movement beyond -127 to 127."""
        for name in ("x", "y", "wheel"):
            value = getattr(self, name)
            if not -127 <= value <= 127:
                raise SchemeError(f"mouse report: {name} {value}: expected -127 to 127")
        return struct.pack("<Bbbb", self.buttons, self.x, self.y, self.wheel)

    @classmethod
    def parse(cls, data: bytes) -> MouseReport:
        """Read three or four bytes. Raises RemoteProtocolError for another length."""
        if len(data) not in (cls.BOOT_SIZE, cls.SIZE):
            raise RemoteProtocolError(
                f"mouse report has {len(data)} bytes, expected {cls.BOOT_SIZE} or {cls.SIZE} "
                f"(HID 1.11 B.2)"
            )
        buttons, x, y, wheel = struct.unpack("<Bbbb", data.ljust(cls.SIZE, b"\0"))
        return cls(Button(buttons), x, y, wheel)
