"""Endpoints: what a proxy knows of a device's endpoints, from the descriptors that pass it. Pure.

USB/IP says neither the type nor the maxpacket of an endpoint. The host asks for the configuration
descriptor before it uses any, so whoever watches can know; until then bulk of the device's speed
is assumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from usbip_vudc.errors import SchemeError
from usbip_vudc.sglist import Buffer
from usbip_vudc.usb.ch9 import (
    DescriptorType,
    Speed,
    StandardRequest,
    TransferType,
    default_max_packet_size,
    ep0_max_packet_size,
)
from usbip_vudc.wire.pdu import CmdSubmit

__all__ = ("Endpoints", "Known", "address_of")

_GET_CONFIGURATION_DESCRIPTOR: Final = bytes((0x80, StandardRequest.GET_DESCRIPTOR))
_ENDPOINT_SIZE: Final = 7
_MAX_PACKET: Final = 0x7FF  # bits 12..11 are transactions a microframe (USB 2.0 table 9-13)


@dataclass(frozen=True, slots=True)
class Known:
    """An endpoint: its type, and its maxpacket in bytes."""

    type: TransferType
    max_packet_size: int


class Endpoints:
    """The endpoints of one device that runs at ``speed``, by bEndpointAddress."""

    def __init__(self, speed: Speed = Speed.HIGH) -> None:
        self._ep0 = Known(TransferType.CONTROL, ep0_max_packet_size(speed))
        try:
            size = default_max_packet_size(TransferType.BULK, speed)
        except SchemeError:
            size = self._ep0.max_packet_size
        self._unknown = Known(TransferType.BULK, size)
        self._known: dict[int, Known] = {}

    def of(self, submit: CmdSubmit) -> Known:
        """The endpoint that a URB is for."""
        if not submit.ep:
            return self._ep0
        known = self._known.get(address_of(submit), self._unknown)
        if submit.number_of_packets > 0:
            return Known(TransferType.ISOCHRONOUS, known.max_packet_size)
        return known

    def learn(self, submit: CmdSubmit, payload: Buffer) -> None:
        """Look at what a URB brought: endpoint descriptors, where it asked for a configuration."""
        setup = submit.setup
        if submit.ep or setup[:2] != _GET_CONFIGURATION_DESCRIPTOR:
            return
        if setup[3] != DescriptorType.CONFIGURATION:
            return
        data = bytes(payload)
        while len(data) >= 2 and data[0] >= 2:
            if data[1] == DescriptorType.ENDPOINT and len(data) >= data[0] >= _ENDPOINT_SIZE:
                size = int.from_bytes(data[4:6], "little") & _MAX_PACKET
                # Of several alternate settings with this address the first is the default one.
                self._known.setdefault(data[2], Known(TransferType(data[3] & 3), size))
            data = data[data[0] :]


def address_of(submit: CmdSubmit) -> int:
    """The bEndpointAddress of a URB; on endpoint 0 bit 7 is the data stage's direction."""
    return submit.ep | (0x80 if submit.direction else 0)
