"""Byte streams over bulk endpoints: what every serial profile shares.

`Receiver` takes bytes from the host through a ring of requests; `Transmitter` sends batches to
it. Both live as long as one configuration, work in completion callbacks, start no task, copy no
byte and hold bounded memory. They know nothing of lines or profiles.

A serial host that writes a multiple of the maxpacket sends no ZLP after it (Linux cdc-acm), so
its bytes would wait in a larger request for the next write. The requests here are therefore
``partial``. Requests of one packet, as u_serial queues them, do the same at 6 us a packet: 8 MiB
echoed in URBs of 64 KiB went at 100 MB/s each way at SuperSpeed and 10 at full speed, against
300 and 120 with these.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from usbip_vudc.errors import Overflow
from usbip_vudc.function import Endpoint, Request
from usbip_vudc.memory import page_aligned
from usbip_vudc.sglist import SGList

__all__ = ("RING_SLOTS", "SLOT_SIZE", "Receiver", "Transmitter")

RING_SLOTS: Final = 16
SLOT_SIZE: Final = 16 << 10
"""Bytes of one request, a multiple of every maxpacket: a ring is 256 KiB."""

_IN_FLIGHT: Final = 2
"""IN requests queued at once: one that moves, and one so that no NAK comes between them."""


class Receiver:
    """A ring of partial OUT requests, all queued at once; full slots lie side by side.

    ``arrived`` is called when bytes have come and no more are known to follow at once. `take`
    lends what has come, `release` gives the oldest loan back to the host. When nothing is given
    back the ring is full and the host gets NAK: no byte is lost.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        arrived: Callable[[], None],
        *,
        slots: int = RING_SLOTS,
        size: int = SLOT_SIZE,
    ) -> None:
        self._size = size
        self._endpoint = endpoint
        self._arrived = arrived
        self._slots = slots
        self._memory = page_aligned(slots * size)
        self._rooms = [SGList(self._memory[i * size : (i + 1) * size]) for i in range(slots)]
        self._requests: list[Request] = []
        self._stopped = False
        # Slots counted since the start: taken <= came <= queued <= taken + lent + slots.
        self._queued = 0
        self._came = 0
        self._taken = 0
        self._loans: deque[int] = deque()
        # What has come and is not taken: finished runs of bytes, and the one that still grows.
        self._runs: list[memoryview] = []
        self._start = self._stop = 0

    def start(self) -> None:
        """Queue every slot of the ring."""
        self._requests = [self._request(room) for room in self._rooms]
        self._queued = self._slots
        for request in self._requests:
            self._endpoint.queue(request)

    def _request(self, room: SGList) -> Request:
        return Request(room, partial=True, on_complete=self._came_in)

    def _came_in(self, request: Request) -> None:
        over = request.error is not None and not isinstance(request.error, Overflow)
        if over or self._stopped:
            return  # the configuration is over, and so is this receiver
        # An Overflow lost bytes, and not the slot: the ring goes on behind it.
        self._add(request)
        # Our UDC fills requests before it calls back, so the next one's `actual` says whether
        # more is on its way and the batch can grow. Where a UDC shows nothing, batches are small.
        if not self._next_has_come():
            self._arrived()

    def _next_has_come(self) -> bool:
        came = self._came
        return came != self._queued and self._requests[came % self._slots].actual > 0

    def _add(self, request: Request) -> None:
        """Append a slot to the run of bytes that grows, or start another run."""
        came = self._came
        begin = came % self._slots * self._size
        if begin != self._stop:
            # After a slot that was not filled, or round the end of the ring.
            if self._stop != self._start:
                self._runs.append(self._memory[self._start : self._stop])
            self._start = begin
        self._stop = begin + request.actual
        self._came = came + 1

    def take(self) -> list[memoryview]:
        """Lend all that has come, in order, as few segments as it can be; empty for nothing.

        A loan that is not empty stays valid until its `release`.
        """
        slots = self._came - self._taken
        if not slots:
            return []
        runs, self._runs = self._runs, []
        if self._stop != self._start:
            runs.append(self._memory[self._start : self._stop])
        self._start = self._stop
        self._taken = self._came
        self._loans.append(slots)
        if not runs and not self._stopped:
            self.release()  # nothing but ZLPs
        return runs

    def release(self) -> None:
        """Give the slots of the oldest loan back, to be filled by the host again."""
        for _ in range(self._loans.popleft()):
            slot = self._queued % self._slots
            request = self._request(self._rooms[slot])
            self._requests[slot] = request
            self._queued += 1
            self._endpoint.queue(request)

    def stop(self) -> bytes:
        """The configuration is over: a copy of what came and was not taken; nothing comes now.

        That includes bytes which the host knows to be taken, but of which we were not told yet.
        """
        self._stopped = True
        while self._came != self._queued:  # a ZLP may stand before bytes, so all are looked at
            self._add(self._requests[self._came % self._slots])
        return b"".join(self.take())


class Transmitter:
    """Keeps an IN endpoint busy with batches that ``pull`` hands out, two requests at a time.

    ``pull`` returns the segments to send, and whether they are the last for now; no segments
    when there is nothing. A last batch that is a multiple of the maxpacket ends with a ZLP, for
    a host that reads with larger buffers, unless ``zlp`` is False. ``sent`` is called for each
    batch, in order, once the host has all of it and its memory is free.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        pull: Callable[[], tuple[list[memoryview], bool]],
        sent: Callable[[], None],
        *,
        zlp: bool = True,
    ) -> None:
        self._endpoint = endpoint
        self._pull = pull
        self._sent = sent
        self._zlp = zlp
        self._requests: deque[Request] = deque()
        self._stopped = False

    def pump(self) -> None:
        """Queue what there is to send, as far as it may; call it when there may be more."""
        while len(self._requests) < _IN_FLIGHT:
            segments, last = self._pull()
            if not segments:
                return
            sg = SGList(*segments)
            zero = self._zlp and last and sg.length % self._endpoint.max_packet_size == 0
            request = Request(sg, zero=zero, on_complete=self._completed)
            self._requests.append(request)
            self._endpoint.queue(request)

    def _completed(self, request: Request) -> None:
        if request.error is not None or self._stopped:
            return
        self._requests.popleft()
        self._sent()
        self.pump()

    def stop(self) -> list[memoryview]:
        """The configuration is over: the bytes of its batches that the host did not take.

        ``sent`` is not called any more.
        """
        self._stopped = True
        return [
            piece
            for request in self._requests
            for piece in request.sg.cut(request.actual, request.length)
        ]
