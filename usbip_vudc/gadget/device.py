"""Gadget: a device as its host will see it, and its Description at one speed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from usbip_vudc.errors import SchemeError
from usbip_vudc.gadget.config import Config, Text
from usbip_vudc.gadget.legality import HAS_BOS, SPEEDS, DeviceAtSpeed, Violation, violations
from usbip_vudc.gadget.numbering import Layout, Strings, number_config
from usbip_vudc.gadget.platforms import OsDescriptors, Platforms, VendorRequest, WebUsb
from usbip_vudc.usb.ch9 import Speed, ep0_max_packet_size
from usbip_vudc.usb.descriptors import (
    BosDescriptor,
    Capability,
    Configuration,
    DeviceDescriptor,
    DeviceQualifierDescriptor,
    SuperSpeedCapability,
    Usb20Extension,
    as_other_speed,
)

__all__ = ("Description", "Gadget")

_OTHER_SPEED: Final = {Speed.FULL: Speed.HIGH, Speed.HIGH: Speed.FULL}

_WITH_PLATFORMS: Final = 0x0210
"""The bcdUSB at USB 2.0's speeds of a device whose BOS says more than its speed does."""

_LPM: Final = 0x02
"""BmAttributes of a USB 2.0 extension: the device takes part in link power management."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gadget:
    """A device as its host will see it.

    ``device_class`` is (bDeviceClass, bDeviceSubClass, bDeviceProtocol); None lets the functions
    decide (EF/02/01 where there is an interface association). ``max_speed`` is the fastest speed
    it can be asked for. ``os_descriptors`` and ``webusb`` are for Windows and for browsers.
    ``bcdUSB`` and ``bMaxPacketSize0`` (in bytes, at SuperSpeed too) are by speed, where they
    differ from the speed's own. ``deliberately_illegal`` serves what USB
    forbids exactly as it is written, which is how a host is tested: then a ``bMaxPacketSize0``
    that fits its byte is that byte at SuperSpeed too, where a legal one is an exponent.
    """

    name: str
    idVendor: int
    idProduct: int
    bcdDevice: int = 0x0100
    device_class: tuple[int, int, int] | None = None
    manufacturer: Text = ""
    product: Text = ""
    serial: Text = ""
    max_speed: Speed = Speed.SUPER
    bcdUSB: Mapping[Speed, int] = field(default_factory=dict)
    bMaxPacketSize0: Mapping[Speed, int] = field(default_factory=dict)
    deliberately_illegal: bool = False
    os_descriptors: OsDescriptors | None = None
    webusb: WebUsb | None = None
    configs: tuple[Config, ...]

    def __post_init__(self) -> None:
        for name in ("idVendor", "idProduct", "bcdDevice"):
            value = getattr(self, name)
            if not 0 <= value <= 0xFFFF:
                raise SchemeError(f"gadget {self.name}: {name} {value:#x}: expected 0 to 0xffff")
        if not 1 <= len(self.configs) <= 8:
            raise SchemeError(f"gadget {self.name}: {len(self.configs)} configs, expected 1 to 8")
        if self.max_speed not in SPEEDS:
            raise SchemeError(
                f"gadget {self.name}: max_speed {self.max_speed.word}, expected one of "
                f"{', '.join(s.word for s in SPEEDS)}"
            )
        for speed, value in self.bcdUSB.items():
            if not 0 <= value <= 0xFFFF:
                raise SchemeError(
                    f"gadget {self.name}: bcdUSB {value:#x} at {speed.word} speed: expected 0 to "
                    f"0xffff"
                )
        for speed in self.bMaxPacketSize0:
            self._ep0_byte(speed)
        if self.os_descriptors is not None:
            try:
                self.os_descriptors.check(self.configs)
            except SchemeError as error:
                raise SchemeError(f"gadget {self.name}: os_descriptors: {error}") from None

    # --- what USB says of it -------------------------------------------------------------------

    def violations(self, speed: Speed) -> tuple[Violation, ...]:
        """What USB forbids of it at a speed, ``max_speed`` or not; the kernel's functions aside."""
        device = DeviceAtSpeed(
            speed, self._bcdUSB(speed), self._ep0_size(speed), needs_bos=self._platforms.in_bos
        )
        return tuple(violations(device, self.configs))

    def possible(self, speed: Speed) -> bool:
        """Whether it can be had at a speed: not above ``max_speed``, and legal or said not to be.

        For a function of the kernel the kernel decides; it counts as possible.
        """
        if speed not in SPEEDS or speed > self.max_speed:
            return False
        return self.deliberately_illegal or not self.violations(speed)

    @property
    def speeds(self) -> tuple[Speed, ...]:
        """The speeds at which it is `possible`, slowest first."""
        return tuple(speed for speed in SPEEDS if self.possible(speed))

    # --- what a host sees of it ----------------------------------------------------------------

    def describe(self, speed: Speed) -> Description:
        """Number everything for one speed.

        Raises SchemeError where the speed is above ``max_speed``, where USB forbids the gadget
        at it, unless it is ``deliberately_illegal``, and where endpoints, interfaces or strings
        run out.
        """
        self._check(speed)
        strings, device_strings = self._strings()
        built = self._configurations(speed, strings)
        layouts = tuple(layout for layout, _ in built)
        has_iad = any(layout.has_iad for layout in layouts)
        device_class = self.device_class or ((0xEF, 2, 1) if has_iad else (0, 0, 0))
        device = DeviceDescriptor(
            bcdUSB=self._bcdUSB(speed),
            bDeviceClass=device_class[0],
            bDeviceSubClass=device_class[1],
            bDeviceProtocol=device_class[2],
            bMaxPacketSize0=self._ep0_byte(speed),
            idVendor=self.idVendor,
            idProduct=self.idProduct,
            bcdDevice=self.bcdDevice,
            iManufacturer=device_strings[0],
            iProduct=device_strings[1],
            iSerialNumber=device_strings[2],
            bNumConfigurations=len(self.configs),
        )
        other = self._other(speed)
        platforms = self._platforms
        return Description(
            speed=speed,
            device=device,
            configurations=tuple(configuration for _, configuration in built),
            layouts=layouts,
            qualifier=self._qualifier(device, other),
            other_speed=self._other_speed(other),
            bos=self._bos(speed, platforms.capabilities(device, layouts)),
            strings={**strings.table(), **platforms.strings()},
            vendor_replies=platforms.replies(device, layouts),
        )

    def _check(self, speed: Speed) -> None:
        if speed not in SPEEDS or speed > self.max_speed:
            raise SchemeError(
                f"gadget {self.name}: speed {speed.word} is not available; expected one of "
                f"{', '.join(s.word for s in SPEEDS if s <= self.max_speed)}"
            )
        if self.deliberately_illegal:
            return
        found = self.violations(speed)
        if found:
            more = f", and {len(found) - 1} more (usbip-vudc check)" if found[1:] else ""
            raise SchemeError(
                f"gadget {self.name}: {found[0]}{more}; deliberately_illegal "
                f"(--deliberately-illegal) serves it anyway"
            )

    def _strings(self) -> tuple[Strings, list[int]]:
        strings = Strings()
        return strings, [strings.index(t) for t in (self.manufacturer, self.product, self.serial)]

    def _configurations(self, speed: Speed, strings: Strings) -> list[tuple[Layout, Configuration]]:
        # USB 2.0 and USB 3.2 9.2.5.1: 500 mA, and 900 mA in whole units of 8.
        most = 0xFF if self.deliberately_illegal else 112 if speed == Speed.SUPER else 250
        try:
            return [
                number_config(config, value, speed, strings, at_most_units=most)
                for value, config in enumerate(self.configs, start=1)
            ]
        except SchemeError as error:
            raise SchemeError(f"gadget {self.name}: {error}") from None

    @property
    def _platforms(self) -> Platforms:
        return Platforms(self.os_descriptors, self.webusb)

    def _bcdUSB(self, speed: Speed) -> int:
        usb2 = _WITH_PLATFORMS if self._platforms.in_bos else 0x0200
        return self.bcdUSB.get(speed, 0x0320 if speed == Speed.SUPER else usb2)

    def _ep0_size(self, speed: Speed) -> int:
        return self.bMaxPacketSize0.get(speed, ep0_max_packet_size(speed))

    def _ep0_byte(self, speed: Speed) -> int:
        """BMaxPacketSize0 as it is written (USB 2.0 9.6.1, USB 3.2 9.6.1)."""
        size = self._ep0_size(speed)
        if 0 <= size <= 0xFF:
            return size
        is_power = size > 0 and size & (size - 1) == 0
        if speed == Speed.SUPER and is_power:
            return size.bit_length() - 1
        right = "0 to 255" + (" or a power of two" if speed == Speed.SUPER else "")
        raise SchemeError(
            f"gadget {self.name}: bMaxPacketSize0 {size} at {speed.word} speed: expected {right}"
        )

    def _other(self, speed: Speed) -> Speed | None:
        """The other of full and high speed, where it is possible there (USB 2.0 9.6.2)."""
        other = _OTHER_SPEED.get(speed)
        if other is None or self._bcdUSB(speed) < 0x0200:
            return None
        return other if self.possible(other) else None

    def _qualifier(self, device: DeviceDescriptor, other: Speed | None) -> bytes | None:
        if other is None:
            return None  # USB 2.0 9.6.2: a device of one speed only answers with a stall
        return DeviceQualifierDescriptor(
            bcdUSB=device.bcdUSB,
            bDeviceClass=device.bDeviceClass,
            bDeviceSubClass=device.bDeviceSubClass,
            bDeviceProtocol=device.bDeviceProtocol,
            bMaxPacketSize0=self._ep0_byte(other),
            bNumConfigurations=len(self.configs),
        ).pack()

    def _other_speed(self, other: Speed | None) -> tuple[bytes, ...]:
        if other is None:
            return ()
        strings, _ = self._strings()  # filled in the same order, so the numbers are the same
        built = self._configurations(other, strings)
        return tuple(as_other_speed(configuration.pack()) for _, configuration in built)

    def _bos(self, speed: Speed, more: tuple[Capability, ...]) -> bytes | None:
        """What else the device can do (USB 3.2 9.6.2). None below bcdUSB 0x0201: it stalls."""
        if self._bcdUSB(speed) < HAS_BOS:
            return None
        # Low speed has no link power management (USB 2.0 ECN, Link Power Management, 1.3).
        extension = Usb20Extension(bmAttributes=0 if speed == Speed.LOW else _LPM)
        if not self.possible(Speed.SUPER):
            return BosDescriptor((extension, *more)).pack()
        # What it is only against the rules, it does not boast of, but for where it is now.
        bits = [
            bit
            for bit, each in enumerate(SPEEDS)
            if each in (speed, Speed.SUPER) or (self.possible(each) and not self.violations(each))
        ]
        super_speed = SuperSpeedCapability(
            wSpeedsSupported=sum(1 << bit for bit in bits), bFunctionalitySupport=bits[0]
        )
        return BosDescriptor((extension, super_speed, *more)).pack()


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A gadget at one speed: every descriptor it can be asked for, and the numbering.

    ``strings`` maps (index, language code) to a string descriptor; index 0 has code 0, as has
    Microsoft's at 0xEE. ``vendor_replies`` is what vendor requests to the device bring, by their
    bmRequestType, bRequest, wValue and wIndex, before any function hears of them.
    """

    speed: Speed
    device: DeviceDescriptor
    configurations: tuple[Configuration, ...]
    layouts: tuple[Layout, ...]
    qualifier: bytes | None
    other_speed: tuple[bytes, ...]
    bos: bytes | None
    strings: Mapping[tuple[int, int], bytes]
    vendor_replies: Mapping[VendorRequest, bytes] = field(default_factory=dict)
