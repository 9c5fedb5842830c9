"""Connection: a stream of USB/IP headers with payloads between them, whichever end it is. Sans-I/O.

A driver (cable.py) asks `get_buffers` where the next bytes go, says with `advance` how many came,
sends what lies in ``outgoing``, and then makes the calls of ``when_sent``. Payloads land in the
memory that wants them; there is no growing copy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Final

from usbip_vudc.memory import page_aligned
from usbip_vudc.sglist import Buffer
from usbip_vudc.urb import Landing
from usbip_vudc.wire.pdu import HEADER_SIZE

__all__ = ("MAX_TRANSFER", "Connection")

MAX_TRANSFER: Final = 16 << 20
"""Bytes of one URB. The kernel's stub fails to allocate 16 MiB; usbfs has 16 MiB in all."""

_RECEIVE_SIZE: Final = 64 << 10


class Connection(ABC):
    """What a cable drives: a stream of 48-byte headers with payloads between them.

    ``when_sent`` holds what to call once everything in ``outgoing`` has left: requests whose
    memory the replies still point into.
    """

    def __init__(self) -> None:
        self.outgoing: list[Buffer] = []
        self.when_sent: list[Callable[[], None]] = []
        self._view = page_aligned(_RECEIVE_SIZE)
        self._whole = (self._view,)
        self._start = 0
        self._end = 0
        self._landing: Landing | None = None

    def get_buffers(self) -> Sequence[memoryview]:
        """Where the next bytes go, in order. Ask again before every receive."""
        if self._landing is not None:
            return self._landing.remaining()
        return (self._view[self._end :],) if self._end else self._whole

    def advance(self, length: int) -> None:
        """``length`` bytes have arrived where `get_buffers` said; act on all that is complete.

        Raises RemoteProtocolError where the peer broke the protocol.
        """
        landing = self._landing
        if landing is None:
            self._end += length
        else:
            landing.received += length
            if landing.received < landing.length:
                return
            self._landing = None
            self._landed()
        self._parse()
        rest = self._end - self._start
        if rest and self._start:
            # What is left is less than a header: keep it at the front.
            self._view[:rest] = bytes(self._view[self._start : self._end])
        self._start = 0
        self._end = rest

    def keep_outgoing(self) -> None:
        """Copy what waits in ``outgoing``: from now on its owners may change it."""
        self.outgoing[:] = map(bytes, self.outgoing)

    @property
    def awaited(self) -> int:
        """Bytes of a payload that are still to come, 0 between PDUs."""
        landing = self._landing
        return landing.length - landing.received if landing is not None else 0

    @property
    def at_boundary(self) -> bool:
        """Whether the stream may end here: no PDU is half received."""
        return self._landing is None and self._end == 0

    def _header(self) -> bytes:
        """Take the next header out of the buffer."""
        start = self._start
        self._start += HEADER_SIZE
        return bytes(self._view[start : self._start])

    def _receive(self, landing: Landing) -> bool:
        """Give a landing what has come of it already; False if the rest is still to come."""
        available = min(self._end - self._start, landing.length)
        if available:
            landing.put(self._view[self._start : self._start + available])
            self._start += available
        if available < landing.length:
            self._landing = landing
            return False
        return True

    @abstractmethod
    def _parse(self) -> None:
        """Act on each complete header in the buffer, until one is cut or a payload is awaited."""

    @abstractmethod
    def _landed(self) -> None:
        """The payload that was awaited is complete."""
