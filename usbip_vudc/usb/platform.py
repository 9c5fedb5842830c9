"""Platform capabilities of a BOS: what the owner of a UUID has to say (USB 3.2 9.6.2.4). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from usbip_vudc.usb.descriptors import BosDescriptor, RawCapability

__all__ = ("PlatformCapability",)

_PLATFORM: Final = 0x05
"""bDevCapabilityType (USB 3.2 table 9-14)."""

_HEAD: Final = 1 + 16
"""Bytes before CapabilityData: bReserved and PlatformCapabilityUUID."""


@dataclass(frozen=True, slots=True)
class PlatformCapability:
    """A UUID, and the CapabilityData that its owner has defined."""

    uuid: UUID
    data: bytes

    def capability(self) -> RawCapability:
        """It as a device capability. The first three fields of the UUID are little-endian."""
        return RawCapability(_PLATFORM, b"\0" + self.uuid.bytes_le + self.data)

    @classmethod
    def find(cls, bos: BosDescriptor, uuid: UUID) -> bytes | None:
        """The CapabilityData of a UUID in a BOS; None where it is not there."""
        for each in bos.capabilities:
            if (
                isinstance(each, RawCapability)
                and each.bDevCapabilityType == _PLATFORM
                and each.body[1:_HEAD] == uuid.bytes_le
            ):
                return each.body[_HEAD:]
        return None
