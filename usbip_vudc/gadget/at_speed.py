"""An endpoint at one speed: what its specification comes to there, and its descriptors.

Whether USB allows that is legality.py's question. Here a value is written as it is given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from usbip_vudc.function import EndpointSpec
from usbip_vudc.usb.ch9 import Speed, TransferType, default_max_packet_size
from usbip_vudc.usb.descriptors import EndpointDescriptor, SuperSpeedEndpointCompanion

__all__ = ("EndpointAtSpeed",)

_PERIODIC: Final = (TransferType.INTERRUPT, TransferType.ISOCHRONOUS)

_LARGEST: Final = 1024
"""Bytes of a packet where several share an interval: USB 2.0 table 9-14, USB 3.2 table 9-26."""


@dataclass(frozen=True, slots=True)
class EndpointAtSpeed:
    """An endpoint specification together with a speed."""

    spec: EndpointSpec
    speed: Speed

    @property
    def transfer_type(self) -> TransferType:
        """Its transfer type, the same at every speed."""
        return self.spec.transfer_type

    @property
    def periodic(self) -> bool:
        """Whether it has service intervals."""
        return self.spec.transfer_type in _PERIODIC

    @property
    def size(self) -> int:
        """Bytes of one packet: given, or the default of its type at this speed."""
        given = self.spec.max_packet_size.get(self.speed)
        if given is not None:
            return given
        if self.periodic and (self.mult or self.max_burst):
            return _LARGEST
        return default_max_packet_size(self.spec.transfer_type, self.speed)

    @property
    def mult(self) -> int:
        """Its ``mult`` where this speed has such a field, else 0.

        An interrupt endpoint has none at SuperSpeed (USB 3.2 table 9-27).
        """
        interrupt = self.spec.transfer_type == TransferType.INTERRUPT
        has_field = self.speed == Speed.HIGH or (self.speed > Speed.HIGH and not interrupt)
        return self.spec.mult if has_field else 0

    @property
    def max_burst(self) -> int:
        """Its ``max_burst`` where this speed has such a field, else 0."""
        return self.spec.max_burst if self.speed >= Speed.SUPER else 0

    @property
    def bInterval(self) -> int:
        """USB 2.0 table 9-13: frames of 1 ms, or 2^(bInterval-1) (micro)frames."""
        given = self.spec.bInterval.get(self.speed)
        if given is not None:
            return given
        if not self.periodic:
            return 0
        interval_ms = self.spec.interval_ms
        if self.speed < Speed.HIGH and self.spec.transfer_type == TransferType.INTERRUPT:
            shortest = 10 if self.speed == Speed.LOW else 1  # USB 2.0 5.7.4
            return min(max(int(interval_ms), shortest), 255)
        periods = interval_ms * (8 if self.speed >= Speed.HIGH else 1)
        return min(int(math.log2(max(periods, 1))) + 1, 16)

    @property
    def bytes_per_interval(self) -> int:
        """Bytes that a periodic endpoint may move in one service interval; 0 for another."""
        if not self.periodic:
            return 0
        return min((self.size & 0x07FF) * (self.max_burst + 1) * (self.mult + 1), 0xFFFF)

    def descriptor(self, address: int) -> EndpointDescriptor:
        """The endpoint descriptor. At high speed bits 12..11 of wMaxPacketSize are ``mult``."""
        extra = self.mult << 11 if self.speed == Speed.HIGH else 0
        return EndpointDescriptor(
            bEndpointAddress=address,
            bmAttributes=self.spec.transfer_type,
            wMaxPacketSize=self.size | extra,
            bInterval=self.bInterval,
        )

    def companion(self) -> bytes:
        """The SuperSpeed endpoint companion (USB 3.2 table 9-27); nothing below SuperSpeed."""
        if self.speed < Speed.SUPER:
            return b""
        return SuperSpeedEndpointCompanion(
            bMaxBurst=self.max_burst,
            bmAttributes=self.mult,
            wBytesPerInterval=self.bytes_per_interval,
        ).pack()
