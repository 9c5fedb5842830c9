"""FramedIn: the IN endpoint of an FT232R, where two status bytes head every packet.

It stands between a serial profile, which sends bytes, and the UDC's endpoint, which takes packets:
what a profile queues is cut into batches of packets, and packets of status alone go out when the
lines change, when a batch ends with a full packet, and whenever the latency timer runs out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final
from weakref import WeakSet

import anyio

from gadgets.ftdi.chip import Chip
from usbip_vudc.errors import EndpointDisabled, RequestWithdrawn, TransferError
from usbip_vudc.function import Endpoint, Request
from usbip_vudc.usb.ftdi import STATUS_SIZE, FlowControl, LineStatus, ModemStatus
from usbip_vudc.wrapped import WrappedEndpoint

__all__ = ("FramedIn", "frame")

_BATCH_PACKETS: Final = 64
"""Packets of one request: enough to be cheap, few enough for their status to be a recent one."""

_IN_FLIGHT: Final = 2


def frame(status: bytes, payload: bytes, room: int) -> bytearray:
    """Packets of at most ``room`` bytes of payload behind the status; at least one packet."""
    framed = bytearray()
    for start in range(0, len(payload) or 1, room):
        framed += status
        framed += payload[start : start + room]
    return framed


@dataclass(slots=True)
class _Batch:
    """Packets under way: ``payload`` bytes of the ``owner``, its last ones or not.

    Without an owner it is status; ``told`` wait for the host to have it.
    """

    owner: Request | None = None
    payload: int = 0
    last: bool = False
    told: Collection[anyio.Event] = ()


class FramedIn(WrappedEndpoint):
    """An endpoint whose ``max_packet_size`` is the payload of a packet.

    It lives for one configuration and needs its `run` as a task. ``zero`` of a request asks for a
    packet of status alone where its last one would be full. With XON/XOFF flow control those two
    characters are the chip's: the host does not get them, and ``flow_changed`` is called.
    """

    def __init__(self, endpoint: Endpoint, chip: Chip, flow_changed: Callable[[], None]) -> None:
        super().__init__(endpoint)
        self.max_packet_size -= STATUS_SIZE
        self._chip = chip
        self._flow_changed = flow_changed
        self._waiting: deque[Request] = deque()
        self._offset = 0  # of the first of them
        self._flight: dict[Request, _Batch] = {}
        # Packets that happen once; whether the host must hear of the lines; and who waits for it,
        # who may have gone: a line that moves while nobody reads must cost no memory.
        self._owed: deque[tuple[bytes, anyio.Event]] = deque()
        self._lines_moved = False
        self._untold: WeakSet[anyio.Event] = WeakSet()
        self._status: Request | None = None
        self._status_over = anyio.Event()
        self._ended = False

    # --- for the profile -----------------------------------------------------------------------

    def queue(self, request: Request) -> Request:
        """As the seam says."""
        request.begin(self.role)
        if self._ended:
            request.complete(EndpointDisabled(f"{self.role}: the configuration is over"))
            return request
        self._waiting.append(request)
        self._pump()
        return request

    def withdraw(self, request: Request) -> None:
        """As the seam says; what is under way ends by a completion of the UDC."""
        for real, batch in tuple(self._flight.items()):
            if batch.owner is request:
                self._inner.withdraw(real)
        if request in self._waiting:
            if request is self._waiting[0]:
                self._offset = 0
            self._waiting.remove(request)
            request.complete(RequestWithdrawn(f"{self.role}: {request!r} was withdrawn"))

    # --- for the chip --------------------------------------------------------------------------

    def report(self, errors: LineStatus = LineStatus.NONE) -> anyio.Event:
        """Tell the host of the lines as they are now; the event is set when it knows.

        An error is one of a character, and hosts look for it only in a packet that has one:
        a NUL comes with it.
        """
        told = anyio.Event()
        if self._ended:
            told.set()
            return told
        if errors or ModemStatus.RING in self._chip.modem_status:
            character = b"\0" if errors else b""
            self._owed.append((self._chip.status(errors) + character, told))
        else:
            self._lines_moved = True
            self._untold.add(told)
            if self._status is not None:  # what it says is not true any more
                self._inner.withdraw(self._status)
        self._pump()
        return told

    async def run(self) -> None:
        """The latency timer: a packet of status alone where none with bytes went out."""
        while True:
            await anyio.sleep(self._chip.latency_ms / 1000)
            if not self._flight and not self._ended:
                self._send_status()
            while self._status is not None:
                await self._status_over.wait()

    def end(self) -> None:
        """The configuration is over: every request completes with EndpointDisabled."""
        self._ended = True
        flight, self._flight = self._flight, {}
        for real, batch in flight.items():
            if batch.owner is not None and not batch.owner.done:
                batch.owner.actual += self._payload_of(real.actual, batch)
                self._waiting.appendleft(batch.owner)
            self._untold.update(batch.told)
        for told in (*self._untold, *(told for _, told in self._owed)):
            told.set()
        for request in dict.fromkeys(self._waiting):
            request.complete(EndpointDisabled(f"{self.role}: the configuration is over"))
        self._waiting.clear()

    # --- batches -------------------------------------------------------------------------------

    def _pump(self) -> None:
        while len(self._flight) < _IN_FLIGHT and not self._ended:
            if self._owed:
                packet, told = self._owed.popleft()
                self._send(packet, _Batch(told=[told]))
            elif self._lines_moved and self._status is None:
                self._send_status()
            elif self._waiting:
                self._send_next(self._waiting[0])
            else:
                return

    def _send_next(self, request: Request) -> None:
        """Frame what follows of a request, up to a batch."""
        room = self.max_packet_size
        stop = min(self._offset + _BATCH_PACKETS * room, request.length)
        payload = b"".join(request.sg.cut(self._offset, stop))
        taken = len(payload)
        if FlowControl.XON_XOFF in self._chip.flow:
            payload, taken = self._without_flow_characters(payload)
        self._offset += taken
        last = self._offset == request.length
        data = frame(self._chip.status(), payload, room)
        if last and request.zero and payload and len(payload) % room == 0:
            data += self._chip.status()
        if last:
            self._waiting.popleft()
            self._offset = 0
        self._send(data, _Batch(request, taken, last))

    def _without_flow_characters(self, payload: bytes) -> tuple[bytes, int]:
        """What precedes the first XON or XOFF, or that one alone, which is nothing to send."""
        own = (self._chip.xon, self._chip.xoff)
        found = min((at for at in map(payload.find, own) if at >= 0), default=-1)
        if found < 0:
            return payload, len(payload)
        if found:
            return payload[:found], found
        self._chip.received(payload[0])
        self._flow_changed()
        return b"", 1

    def _send_status(self) -> None:
        told, self._untold = self._untold, WeakSet()
        self._lines_moved = False
        self._status = self._send(self._chip.status(), _Batch(told=told))

    def _send(self, data: bytes | bytearray, batch: _Batch) -> Request:
        real = Request(bytearray(data), on_complete=self._moved)
        self._flight[real] = batch
        return self._inner.queue(real)

    def _moved(self, real: Request) -> None:
        batch = self._flight.pop(real, None)
        if batch is None:
            return  # the configuration is over, and everyone has been told
        if real is self._status:
            self._status = None
            self._status_over.set()
            self._status_over = anyio.Event()
        if isinstance(real.error, RequestWithdrawn):
            self._untold.update(batch.told)
        else:
            for told in batch.told:
                told.set()
        if batch.owner is None:
            self._inner.task_woken()
        else:
            self._credit(batch.owner, batch, real)
        if isinstance(real.error, EndpointDisabled):
            self.end()
        self._pump()

    def _credit(self, owner: Request, batch: _Batch, real: Request) -> None:
        """Add what a batch moved to its request, and complete that where it ended."""
        if owner.done:
            return
        error: TransferError | None = real.error
        owner.actual += batch.payload if error is None else self._payload_of(real.actual, batch)
        if error is not None and owner in self._waiting:
            self._waiting.remove(owner)
            self._offset = 0
        if error is not None or batch.last:
            owner.complete(error)

    def _payload_of(self, actual: int, batch: _Batch) -> int:
        """Bytes of payload among the first ``actual`` of a batch."""
        packets, rest = divmod(actual, self.max_packet_size + STATUS_SIZE)
        moved = packets * self.max_packet_size + max(rest - STATUS_SIZE, 0)
        return min(moved, batch.payload)
