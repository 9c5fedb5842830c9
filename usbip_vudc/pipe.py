"""Pipe: pairs the host's URBs with the function's Requests on one endpoint, by whole packets.

This is where the truth of the bus lives: short packets, ZLPs, NAK (a URB that stays pending),
babble, halts and unlinks, as ``transfer()`` of the kernel's dummy_hcd and usbip-vudc decides
them. Packets are counted, never looped over. Pure: no socket, no event loop.

Three rules:
1. A URB completes exactly once, through ``on_urb``; a Request exactly once, through ``on_request``.
2. Neither is completed from inside `Pipe` while it still refers to it.
3. What an IN URB holds of a request that is over while the URB still waits is a copy: the function
   may write to its memory again.

Packets move as soon as both sides are there, or, where there is a ``pace``, when bus time allows
it (`move`).
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from typing import Final

from usbip_vudc.errors import (
    EndpointDisabled,
    LocalProtocolError,
    Overflow,
    RequestWithdrawn,
    TransferError,
)
from usbip_vudc.function import Request
from usbip_vudc.urb import URB_ZERO_PACKET, Landing, Urb
from usbip_vudc.usb.ch9 import Direction

__all__ = ("NO_LIMIT", "Pipe")

NO_LIMIT: Final = 1 << 62
"""Bytes that may move at once where nothing paces the bus."""


class Pipe:
    """One bulk or interrupt endpoint between a host and a function.

    ``max_packet_size`` is in bytes. ``on_urb`` gets each completed URB, in order; ``on_request``
    each completed request with its error, and decides when the function hears of it. ``pace`` is
    told that there may be something to move, and calls `move` when there is bus time for it;
    None moves everything at once.
    """

    __slots__ = (
        "_is_in",
        "_landing",
        "_on_request",
        "_on_urb",
        "_pace",
        "enabled",
        "halted",
        "max_packet_size",
        "requests",
        "urbs",
        "wedged",
    )

    def __init__(
        self,
        direction: Direction,
        max_packet_size: int,
        *,
        on_urb: Callable[[Urb], None],
        on_request: Callable[[Request, TransferError | None], None],
        pace: Callable[[], None] | None = None,
    ) -> None:
        self._is_in = direction == Direction.IN
        self._on_urb = on_urb
        self._on_request = on_request
        self._pace = pace
        self._landing: Landing | None = None
        self.max_packet_size = max_packet_size
        self.urbs: deque[Urb] = deque()
        self.requests: deque[Request] = deque()
        self.halted = False
        self.wedged = False
        self.enabled = True

    # --- the function's side -------------------------------------------------------------------

    def queue(self, request: Request) -> None:
        """usb_ep_queue: the request completes now (disabled), or when the host moves its bytes.

        Raises LocalProtocolError for one that is queued, or for OUT data in read-only memory.
        """
        if request.queued:
            raise LocalProtocolError(f"{request!r} is queued already")
        if not self._is_in and request.sg.readonly:
            raise LocalProtocolError(f"{request!r}: its memory is read-only (bytes?), for OUT data")
        request.queued = True
        request.done = False
        request.actual = 0
        if not self.enabled:
            # At once, as the seam says: nothing of it can be under way to the host.
            request.complete(EndpointDisabled("the configuration is not selected"))
            return
        self.requests.append(request)
        if self.urbs and not self.halted:
            self._match()

    def withdraw(self, request: Request) -> None:
        """usb_ep_dequeue; a request that is not queued is left alone."""
        if request not in self.requests:
            return
        if request is self.requests[0]:
            self._evict_landing()
        self.requests.remove(request)
        self._on_request(request, RequestWithdrawn(f"{request!r} was withdrawn"))

    def halt(self) -> None:
        """usb_ep_set_halt by the function, refused while IN requests wait (kernel: -EAGAIN)."""
        if self._is_in and self.requests:
            raise LocalProtocolError(
                f"halt with {len(self.requests)} IN request(s) queued; wait for them first"
            )
        self.wedged = False
        self.set_halt()

    def wedge(self) -> None:
        """usb_ep_set_wedge: a halt that only `halt` makes one which the host may clear."""
        self.halt()
        self.wedged = True

    # --- the host's side -----------------------------------------------------------------------

    def landing(self, urb: Urb) -> Landing:
        """Where to receive an OUT payload: the waiting request's memory if all of it fits there."""
        ready = self.requests and not self.urbs and not self.halted and self.enabled
        if ready and self._pace is None:  # else the request could be withdrawn before its time
            request = self.requests[0]
            start = request.actual
            if request.length - start >= urb.length:
                urb.landed = True
                target = request.sg.cut(start, start + urb.length)
                self._landing = Landing(target, urb.length, urb)
                return self._landing
        return Landing.private(urb)

    def submit(self, urb: Urb) -> None:
        """A URB has arrived whole. It completes now or stays pending: NAK."""
        self._landing = None
        if not self.enabled:
            self._finish(urb, -errno.EPROTO)
        elif self.halted:
            self._finish(urb, -errno.EPIPE)
        else:
            self.urbs.append(urb)
            if self.requests:
                self._match()

    def unlink(self, urb: Urb) -> bool:
        """Forget a pending URB: False if it is not pending here. It does not complete."""
        try:
            self.urbs.remove(urb)
        except ValueError:
            return False
        return True

    @property
    def can_halt(self) -> bool:
        """Whether the host may halt it (USB 2.0 9.4.9)."""
        return True

    def set_halt(self) -> None:
        """SET_FEATURE(ENDPOINT_HALT): every pending URB ends with -EPIPE, requests wait."""
        self.halted = True
        while self.urbs:
            self._finish(self.urbs.popleft(), -errno.EPIPE)

    def clear_halt(self) -> None:
        """CLEAR_FEATURE(ENDPOINT_HALT); the data toggle, which USB/IP does not carry, resets."""
        self.halted = self.wedged
        if not self.halted:
            self._match()

    def disable(self, status: int = -errno.ESHUTDOWN) -> None:
        """End the configuration: URBs complete with ``status``, requests with EndpointDisabled."""
        self.enabled = False
        self._evict_landing()
        urbs, self.urbs = self.urbs, deque()
        requests, self.requests = self.requests, deque()
        for urb in urbs:
            self._finish(urb, status)
        for request in requests:
            self._on_request(request, EndpointDisabled("the configuration ended"))

    # --- bus time ------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether there is something to move now."""
        return bool(self.urbs and self.requests) and not self.halted

    def move(self, limit: int) -> int:
        """Move packets for at most ``limit`` bytes of bus time; the bytes that it took.

        A packet takes the time of a whole one, however short it is.
        """
        taken = 0
        size = self.max_packet_size
        step = self._step_in if self._is_in else self._step_out
        while self.ready and limit - taken >= size:
            urb = self.urbs[0]
            before = urb.actual
            step(urb, self.requests[0], (limit - taken) // size * size)
            taken += max(-(-(urb.actual - before) // size), 1) * size
        return taken

    # --- pairing -------------------------------------------------------------------------------

    def _evict_landing(self) -> None:
        if self._landing is not None:
            self._landing.evict()
            self._landing = None

    def _finish(self, urb: Urb, status: int) -> None:
        urb.status = status
        self._on_urb(urb)

    def _match(self) -> None:
        """Move whole packets, then the short one, until one side runs out.

        drivers/usb/usbip/vudc_transfer.c, transfer(); the rows of tests/test_pipe.py.
        """
        if self._pace is not None:
            self._pace()
            return
        step = self._step_in if self._is_in else self._step_out
        while self.urbs and self.requests:
            step(self.urbs[0], self.requests[0])

    def _step_in(self, urb: Urb, request: Request, limit: int = NO_LIMIT) -> None:
        room = urb.length - urb.actual
        have = request.length - request.actual
        length = min(room, have, limit)
        short = length < self.max_packet_size
        if not short:
            length -= length % self.max_packet_size
        over = False
        done = False
        if length:
            start = request.actual
            pieces = request.sg.cut(start, start + length)
            request.actual = start + length
            urb.actual += length
            over = urb.actual == urb.length
            done = request.actual == request.length and not request.zero
            if not over and (done or limit != NO_LIMIT):
                pieces = [memoryview(bytes(piece)) for piece in pieces]
            urb.data = [*urb.data, *pieces] if urb.data else pieces
        if short:
            # A short packet or ZLP ends both sides. One with more bytes than the host has room
            # for is babble: the host keeps what fits, the function's request is over.
            self._end_both(urb, -errno.EOVERFLOW if have > room else 0, request, None)
            return
        if done:
            self._end_request(request, None)
        if over:
            self._end_urb(urb, 0)

    def _step_out(self, urb: Urb, request: Request, limit: int = NO_LIMIT) -> None:
        room = request.length - request.actual
        have = urb.length - urb.actual
        length = min(room, have, limit)
        short = length < self.max_packet_size
        if not short:
            length -= length % self.max_packet_size
        if length:
            if not urb.landed:
                start = urb.actual
                payload = (
                    urb.payload
                    if length == urb.length
                    else (memoryview(urb.payload)[start : start + length])
                )
                request.sg.scatter(payload, request.actual)
            request.actual += length
            urb.actual += length
        if short:
            error = Overflow(f"{have} bytes came, {room} expected") if have > room else None
            self._end_both(urb, 0, request, error)
            return
        over = urb.actual == urb.length
        if request.actual == request.length or (over and request.partial):
            self._end_request(request, None)
        # With URB_ZERO_PACKET the URB still owes a ZLP, which some request must take.
        if over and not urb.flags & URB_ZERO_PACKET:
            self._end_urb(urb, 0)

    def _end_both(
        self, urb: Urb, status: int, request: Request, error: TransferError | None
    ) -> None:
        self._end_urb(urb, status)
        self._end_request(request, error)

    def _end_urb(self, urb: Urb, status: int) -> None:
        self.urbs.popleft()
        urb.status = status
        self._on_urb(urb)

    def _end_request(self, request: Request, error: TransferError | None) -> None:
        self.requests.popleft()
        self._on_request(request, error)
