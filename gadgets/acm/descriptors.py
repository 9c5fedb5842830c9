"""The functional descriptors of a CDC serial function (CDC 1.2 5.2.3, PSTN 1.2 5.3): pack, parse.

Packing resolves interface roles to numbers; parsing is for the host's side. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final

from usbip_vudc.errors import RemoteProtocolError
from usbip_vudc.usb.ch9 import DescriptorType

__all__ = (
    "BCD_CDC",
    "AbstractControl",
    "AcmCapability",
    "CallManagement",
    "FunctionalDescriptors",
    "Header",
    "NoOtg",
    "Subtype",
    "Union",
    "parse_functional",
)

BCD_CDC: Final = 0x0120
"""CDC release 1.2, in BCD."""


class Subtype(IntEnum):
    """BDescriptorSubtype of a functional descriptor (CDC 1.2 table 13)."""

    HEADER = 0x00
    CALL_MANAGEMENT = 0x01
    ABSTRACT_CONTROL = 0x02
    UNION = 0x06


class AcmCapability(IntFlag):
    """BmCapabilities of the ACM functional descriptor (PSTN 1.2 table 4)."""

    COMM_FEATURE = 0x01
    LINE = 0x02
    """SET/GET_LINE_CODING, SET_CONTROL_LINE_STATE and the SERIAL_STATE notification."""
    SEND_BREAK = 0x04
    NETWORK_CONNECTION = 0x08


def _pack(subtype: Subtype, *values: int) -> bytes:
    """BFunctionLength, CS_INTERFACE, the subtype, then one byte each."""
    return bytes((3 + len(values), DescriptorType.CS_INTERFACE, subtype, *values))


@dataclass(frozen=True, slots=True)
class Header:
    """The Header, which comes first (CDC 1.2 5.2.3.1)."""

    bcdCDC: int = BCD_CDC

    def pack(self, numbers: Mapping[str, int]) -> bytes:  # noqa: ARG002 - names no interface
        """Five bytes."""
        return _pack(Subtype.HEADER, *self.bcdCDC.to_bytes(2, "little"))


@dataclass(frozen=True, slots=True)
class CallManagement:
    """Call Management: with capabilities 0 the device handles no calls (PSTN 1.2 5.3.1)."""

    bmCapabilities: int = 0
    data: str = "data"

    def pack(self, numbers: Mapping[str, int]) -> bytes:
        """Five bytes. Raises KeyError where the function has no interface of that role."""
        return _pack(Subtype.CALL_MANAGEMENT, self.bmCapabilities, numbers[self.data])


@dataclass(frozen=True, slots=True)
class AbstractControl:
    """Abstract Control Management: which requests the device takes (PSTN 1.2 5.3.2)."""

    bmCapabilities: int = AcmCapability.LINE | AcmCapability.SEND_BREAK

    def pack(self, numbers: Mapping[str, int]) -> bytes:  # noqa: ARG002 - names no interface
        """Four bytes."""
        return _pack(Subtype.ABSTRACT_CONTROL, self.bmCapabilities)


@dataclass(frozen=True, slots=True)
class Union:
    """Union: the interface that controls, and the one it controls (CDC 1.2 5.2.3.2)."""

    control: str = "comm"
    data: str = "data"

    def pack(self, numbers: Mapping[str, int]) -> bytes:
        """Five bytes. Raises KeyError where the function has no interface of those roles."""
        return _pack(Subtype.UNION, numbers[self.control], numbers[self.data])


@dataclass(frozen=True, slots=True)
class NoOtg:
    """An OTG descriptor without attributes (OTG 1.3 6.4): three bytes that say nothing.

    cdc-acm of Linux takes an interface for its own, without functional descriptors, only where
    some descriptor stands before its endpoints (drivers/usb/class/cdc-acm.c, acm_probe).
    """

    def pack(self, numbers: Mapping[str, int]) -> bytes:  # noqa: ARG002 - names no interface
        """Three bytes."""
        return bytes((3, DescriptorType.OTG, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionalDescriptors:
    """What the functional descriptors of a communications interface say; None where absent.

    Interfaces are bInterfaceNumbers; ``subordinates`` are those that ``control`` governs.
    """

    bcdCDC: int | None = None
    call_capabilities: int | None = None
    call_interface: int | None = None
    acm_capabilities: int | None = None
    control: int | None = None
    subordinates: tuple[int, ...] = ()


_LENGTHS: Final = {
    Subtype.HEADER: 5,
    Subtype.CALL_MANAGEMENT: 5,
    Subtype.ABSTRACT_CONTROL: 4,
    Subtype.UNION: 5,
}
"""The fewest bytes of each; a Union names one subordinate more for every further byte."""


def parse_functional(data: bytes | bytearray | memoryview) -> FunctionalDescriptors:
    """Read the descriptors between a communications interface and its endpoints.

    Other descriptor types and unknown subtypes are passed over (CDC 1.2 5.2.3). Raises
    RemoteProtocolError for a length that is too short or runs past the end.
    """
    found: dict[str, int | tuple[int, ...]] = {}
    offset = 0
    while offset < len(data):
        length = data[offset]
        body = bytes(data[offset : offset + length])
        if length < 2 or len(body) < length:
            raise RemoteProtocolError(
                f"descriptor at byte {offset}: length {length}, but {len(data) - offset} bytes "
                f"are left and 2 are the least (USB 2.0 9.5)"
            )
        if length > 2 and body[1] == DescriptorType.CS_INTERFACE:
            found.update(_fields(body))
        offset += length
    return FunctionalDescriptors(**found)  # type: ignore[arg-type]


def _fields(body: bytes) -> Mapping[str, int | tuple[int, ...]]:
    """The fields that one functional descriptor gives."""
    subtype = body[2]
    least = _LENGTHS.get(Subtype(subtype)) if subtype in _LENGTHS else None
    if least is None:
        return {}
    if len(body) < least:
        raise RemoteProtocolError(
            f"{Subtype(subtype).name} functional descriptor: length {len(body)}, expected at "
            f"least {least} (CDC 1.2 5.2.3)"
        )
    match subtype:
        case Subtype.HEADER:
            return {"bcdCDC": int.from_bytes(body[3:5], "little")}
        case Subtype.CALL_MANAGEMENT:
            return {"call_capabilities": body[3], "call_interface": body[4]}
        case Subtype.ABSTRACT_CONTROL:
            return {"acm_capabilities": body[3]}
        case _:
            return {"control": body[3], "subordinates": tuple(body[4:])}
