"""Traffic: what a pair of endpoints does in each of the firmware's test types.

It works in completion callbacks, starts no task and holds bounded memory. Where the host does not
read what it sent, it soon gets NAK; no byte is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from usbip_vudc.errors import Overflow
from usbip_vudc.function import Endpoint, Request
from usbip_vudc.usb.ch9 import TransferType

__all__ = ("TEST_TYPES", "Traffic", "TrafficType")

_SLOTS: Final = 8
_SLOT_SIZE: Final = 4096
"""Bytes of a transfer that comes back in one piece; a multiple of every maxpacket."""


class TrafficType(IntEnum):
    """The test types of Microchip's benchmark firmware, by their wValue; seen from the host."""

    NONE = 0
    READ = 1
    WRITE = 2
    LOOP = 3


TEST_TYPES: Final[Mapping[str, TrafficType]] = {t.name.lower(): t for t in TrafficType}
"""The same by word."""


class Traffic:
    """Keeps one pair of endpoints busy until `stop`, or until the configuration ends.

    LOOP sends each transfer back as it came: its bytes, its length, a zero-length one too. READ
    sends packets that count 0, 1, 2... without end, WRITE takes everything, NONE moves nothing.

    A transfer that comes back is a request without a ZLP behind it, since a host that asks for
    just as many bytes would find the ZLP in its next transfer.
    """

    def __init__(
        self, test_type: TrafficType, in_endpoint: Endpoint, out_endpoint: Endpoint
    ) -> None:
        self._type = test_type
        self._in = in_endpoint
        self._out = out_endpoint
        self._stopped = False
        self._queued: dict[Request, Endpoint] = {}

    def start(self) -> None:
        """Queue what the test type needs."""
        if self._type == TrafficType.NONE:
            return
        for _ in range(_SLOTS):
            if self._type == TrafficType.READ:
                packet = bytes(i & 0xFF for i in range(self._in.max_packet_size))
                self._queue(self._in, Request(packet, on_complete=self._again))
            else:
                self._receive(memoryview(bytearray(self._size())))

    def stop(self) -> None:
        """Take everything back; bytes that the host has not read are gone."""
        self._stopped = True
        for request, endpoint in tuple(self._queued.items()):
            endpoint.withdraw(request)

    def _size(self) -> int:
        if self._out.transfer_type == TransferType.ISOCHRONOUS:
            return self._out.bytes_per_interval or self._out.max_packet_size
        return _SLOT_SIZE

    def _queue(self, endpoint: Endpoint, request: Request) -> None:
        self._queued[request] = endpoint
        endpoint.queue(request)

    def _receive(self, room: memoryview) -> None:
        def came(request: Request) -> None:
            if self._type == TrafficType.WRITE or request.error is not None:
                self._again(request)
            elif self._over(request):
                self._send(room, request.actual)

        self._queue(self._out, Request(room, partial=True, on_complete=came))

    def _send(self, room: memoryview, length: int) -> None:
        def sent(request: Request) -> None:
            if self._over(request):
                self._receive(room)

        self._queue(self._in, Request(room[:length], on_complete=sent))

    def _again(self, request: Request) -> None:
        endpoint = self._queued[request]
        if self._over(request):
            self._queue(endpoint, request)

    def _over(self, request: Request) -> bool:
        """Note that a request is done; whether its memory is to be used again."""
        del self._queued[request]
        goes_on = request.error is None or isinstance(request.error, Overflow)
        return goes_on and not self._stopped
