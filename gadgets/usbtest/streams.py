"""Source and Sink: one endpoint each, kept busy by a few requests that are queued again and again.

Both live as long as one setting of the interface, work in completion callbacks and start no task.
A host never waits for them longer than a completion takes, so what usbtest measures is the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Final

from gadgets.usbtest.pattern import ANYTHING, pattern_bytes, wrong_byte
from usbip_vudc.errors import Overflow
from usbip_vudc.function import Endpoint, Request
from usbip_vudc.memory import page_aligned
from usbip_vudc.sglist import SGList
from usbip_vudc.usb.ch9 import TransferType

__all__ = ("Sink", "Source")

log = logging.getLogger(__name__)

_POISON: Final = 0x55
"""What a request's memory holds before the host fills it, as in f_sourcesink.c."""


def _request_size(endpoint: Endpoint, buflen: int) -> int:
    """Bytes of a request: whole packets, or the data of one service interval."""
    if endpoint.transfer_type == TransferType.ISOCHRONOUS:
        return endpoint.bytes_per_interval or endpoint.max_packet_size
    return endpoint.round_up(buflen)


def _goes_on(request: Request) -> bool:
    """Whether a request that is done is to be queued again: not after the configuration."""
    return request.error is None or isinstance(request.error, Overflow)


class _Stream:
    """Requests of one endpoint that are queued again as they are done."""

    _endpoint: Endpoint
    _requests: Sequence[Request]

    def start(self) -> None:
        """Queue everything."""
        for request in self._requests:
            self._endpoint.queue(request)

    def _again(self, request: Request) -> None:
        if _goes_on(request):
            self._endpoint.queue(request)


class Source(_Stream):
    """Sends whole packets of the pattern for as long as the host reads.

    ``qlen`` requests of ``buflen`` bytes share the same memory, which never changes. The pattern
    begins anew after ``period`` bytes, which is a packet unless told otherwise.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        pattern: int,
        *,
        buflen: int,
        qlen: int,
        period: int | None = None,
    ) -> None:
        self._endpoint = endpoint
        size = _request_size(endpoint, buflen)
        memory = page_aligned(size)
        memory[:] = pattern_bytes(pattern, period or endpoint.max_packet_size, size)
        data = SGList(memory)
        self._requests = [Request(data, on_complete=self._again) for _ in range(qlen)]


class Sink(_Stream):
    """Takes whatever comes, in ``qlen`` requests of ``buflen`` bytes.

    A byte that is not of the pattern halts the endpoint, as f_sourcesink does, and is logged;
    isochronous data may be lost or damaged by right, so nothing is asked of it. The host's data
    is looked at when a request is full or a short packet has ended it. ``period`` as in `Source`.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        pattern: int,
        *,
        buflen: int,
        qlen: int,
        period: int | None = None,
    ) -> None:
        self._endpoint = endpoint
        size = _request_size(endpoint, buflen)
        checks = pattern != ANYTHING and endpoint.transfer_type != TransferType.ISOCHRONOUS
        self._expected = (
            pattern_bytes(pattern, period or endpoint.max_packet_size, size) if checks else None
        )
        self._poison = bytes([_POISON]) * size if checks else b""
        self._requests = [self._request(page_aligned(size)) for _ in range(qlen)]

    def _request(self, memory: memoryview) -> Request:
        if self._expected is None:
            return Request(memory, on_complete=self._again)
        memory[:] = self._poison
        return Request(memory, on_complete=partial(self._check, memory))

    def _check(self, memory: memoryview, request: Request) -> None:
        if not _goes_on(request):
            return
        came = memory[: request.actual]
        wrong = wrong_byte(came, self._expected or b"")
        if wrong is not None:
            log.warning(
                "endpoint %#04x: byte %d of %d is %#04x, not of the pattern; halted",
                self._endpoint.address, wrong, request.actual, came[wrong],
            )  # fmt: skip
            self._endpoint.halt()
        came[:] = self._poison[: request.actual]
        self._endpoint.queue(request)
