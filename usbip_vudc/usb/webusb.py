"""WebUSB: its platform capability, and the URL of a landing page (WebUSB API, 4). Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Self
from uuid import UUID

from usbip_vudc.errors import SchemeError
from usbip_vudc.usb.descriptors import BosDescriptor
from usbip_vudc.usb.platform import PlatformCapability

__all__ = ("GET_URL", "WEBUSB", "WebUsbCapability", "parse_url_descriptor", "url_descriptor")

WEBUSB: Final = UUID("3408b638-09a9-47a0-8bfd-a0768815b665")

GET_URL: Final = 2
"""wIndex of the vendor request that asks for a URL; wValue is the index of the URL."""

_URL: Final = 3
"""bDescriptorType of a URL."""

_SCHEMES: Final = {0: "http://", 1: "https://", 255: ""}
"""What bScheme stands for; 255 leaves the URL as it is."""

_MOST: Final = 255 - 3
"""Bytes of a URL behind its scheme."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebUsbCapability:
    """The CapabilityData. ``iLandingPage`` is the index of a URL, 0 where there is none."""

    bVendorCode: int
    iLandingPage: int = 0
    bcdVersion: int = 0x0100

    _BODY = struct.Struct("<HBB")

    def capability(self) -> PlatformCapability:
        """It under WebUSB's UUID."""
        data = self._BODY.pack(self.bcdVersion, self.bVendorCode, self.iLandingPage)
        return PlatformCapability(WEBUSB, data)

    @classmethod
    def find(cls, bos: BosDescriptor) -> Self | None:
        """The one in a BOS, None where there is none. Raises SchemeError for too few bytes."""
        data = PlatformCapability.find(bos, WEBUSB)
        if data is None:
            return None
        if len(data) < cls._BODY.size:
            raise SchemeError(f"WebUSB: {data.hex(' ')}: expected {cls._BODY.size} bytes")
        bcdVersion, bVendorCode, iLandingPage = cls._BODY.unpack_from(data)
        return cls(bVendorCode=bVendorCode, iLandingPage=iLandingPage, bcdVersion=bcdVersion)


def url_descriptor(url: str) -> bytes:
    """The descriptor of a URL. Raises SchemeError for more than bLength can count."""
    bScheme, scheme = next(
        each for each in _SCHEMES.items() if url[: len(each[1])].lower() == each[1]
    )
    rest = url[len(scheme) :].encode()
    if len(rest) > _MOST:
        raise SchemeError(
            f"webusb: url {url!r}: {len(rest)} bytes{f' after {scheme}' if scheme else ''}: "
            f"expected at most {_MOST}"
        )
    return bytes((3 + len(rest), _URL, bScheme)) + rest


def parse_url_descriptor(data: bytes | bytearray | memoryview) -> str:
    """The URL of a descriptor. Raises SchemeError where it is none."""
    if len(data) < 3 or data[1] != _URL or not 3 <= data[0] <= len(data):
        raise SchemeError(f"WebUSB URL: got {bytes(data[:8]).hex(' ') or 'nothing'}")
    if data[2] not in _SCHEMES:
        raise SchemeError(f"WebUSB URL: bScheme {data[2]}: expected one of 0, 1 and 255")
    return _SCHEMES[data[2]] + bytes(data[3 : data[0]]).decode(errors="replace")
