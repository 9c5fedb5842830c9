"""Metered endpoints: an endpoint of the UDC, and what a UART behind it would make of its bytes.

They stand between a serial profile and the real endpoint where bytes are to take their time or to
wait for DTR, and are not there where they are not: requests go through them in small pieces, one
after the other. Each lives as long as one configuration and needs its `run` as a task.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Final

import anyio

from usbip_vudc.errors import EndpointDisabled, RequestWithdrawn, TransferError
from usbip_vudc.function import Endpoint, Request
from usbip_vudc.sglist import SGList
from usbip_vudc.wrapped import WrappedEndpoint

__all__ = ("MeteredEndpoint", "MeteredIn", "MeteredOut", "UartClock")

_TICK_SECONDS: Final = 0.01
"""Bytes move in pieces of about this long: what a UART's FIFO does with them."""


class UartClock:
    """When the next byte may follow, at ``rate()`` bytes per second; None for no clock at all."""

    def __init__(self, rate: Callable[[], float] | None) -> None:
        self._rate = rate
        self._free_at = 0.0

    def piece(self, length: int) -> int:
        """How many of ``length`` bytes may go together."""
        if self._rate is None:
            return length
        return min(length, max(int(self._rate() * _TICK_SECONDS), 1))

    async def spend(self, length: int) -> None:
        """Wait as long as ``length`` bytes take on the line."""
        if self._rate is None:
            return
        now = anyio.current_time()
        self._free_at = max(now, self._free_at) + length / self._rate()
        await anyio.sleep(self._free_at - now)


class MeteredEndpoint(WrappedEndpoint):
    """What both directions share: requests in order, each moved by a task.

    A piece under way when the configuration ends counts as far as the host moved it.
    """

    def __init__(self, endpoint: Endpoint, clock: UartClock) -> None:
        super().__init__(endpoint)
        self._clock = clock
        self._requests: deque[Request] = deque()
        self._piece: Request | None = None
        self._offset = 0
        self._changed = anyio.Event()
        self._ended = False

    def queue(self, request: Request) -> Request:
        """As the seam says."""
        request.begin(self.role)
        if self._ended:
            request.complete(EndpointDisabled("the configuration is over"))
        else:
            self._requests.append(request)
            self.changed()
        return request

    def withdraw(self, request: Request) -> None:
        """As the seam says, but for the one that moves: it is finished. No profile withdraws."""
        if request in self._requests and request is not self._requests[0]:
            self._requests.remove(request)
            request.complete(RequestWithdrawn(f"{request!r} was withdrawn"))

    def changed(self) -> None:
        """Look again: a request came, a piece is done, or the line is another."""
        self._changed.set()
        self._changed = anyio.Event()

    def end(self) -> None:
        """The configuration is over: every request completes with EndpointDisabled."""
        self._ended = True
        if self._piece is not None and self._requests:
            self._requests[0].actual = self._offset + self._piece.actual
        self._piece = None
        while self._requests:
            self._requests.popleft().complete(EndpointDisabled("the configuration is over"))

    async def run(self) -> None:
        """Move requests until cancelled, or until the endpoint is disabled."""
        try:
            while not self._ended:
                if self._requests:
                    self._offset = 0
                    error = await self._move(self._requests[0])
                    if self._requests:  # else `end` came between
                        self._requests.popleft().complete(error)
                else:
                    await self._changed.wait()
        except EndpointDisabled:
            pass
        finally:
            self.end()

    @abstractmethod
    async def _move(self, request: Request) -> TransferError | None:
        """Move one request: how it ended. Raises EndpointDisabled."""

    def _offer(self, request: Request, length: int, **options: bool) -> Request:
        """Queue the next ``length`` bytes of a request."""
        piece = Request(
            SGList(*request.sg.cut(self._offset, self._offset + length)),
            on_complete=self._piece_done,
            **options,
        )
        self._piece = piece
        return self._inner.queue(piece)

    def _piece_done(self, piece: Request) -> None:
        if piece is self._piece:
            # At once: what the host knows to be taken must not be lost if all ends just now.
            self._requests[0].actual = self._offset + piece.actual
        self.changed()
        self._inner.task_woken()

    def _account(self, request: Request, piece: Request) -> None:
        """Add what a finished piece moved. Raises EndpointDisabled where that ended it."""
        self._offset += piece.actual
        request.actual = self._offset
        self._piece = None
        if isinstance(piece.error, EndpointDisabled):
            raise piece.error


class MeteredIn(MeteredEndpoint):
    """To the host: each piece after its time, and only while ``may_send()``.

    Then pieces are single packets, which have gone or have not: what is offered when that ends is
    taken back, and no byte of it is lost or doubled.
    """

    def __init__(
        self, endpoint: Endpoint, clock: UartClock, may_send: Callable[[], bool] | None
    ) -> None:
        super().__init__(endpoint, clock)
        self._may_send = may_send

    async def _move(self, request: Request) -> TransferError | None:
        while True:
            most = request.length - self._offset
            if self._may_send is not None:
                most = min(most, self.max_packet_size)
            length = self._clock.piece(most)
            await self._clock.spend(length)
            error = await self._send(request, length)
            if error is not None or self._offset == request.length:
                return error

    async def _send(self, request: Request, length: int) -> TransferError | None:
        """Send the next piece, however often it must be taken back."""
        goal = self._offset + length
        while True:
            while self._may_send is not None and not self._may_send():
                await self._changed.wait()
            piece = self._offer(request, goal - self._offset, zero=self._ends(request, goal))
            withdrawn = False
            while not piece.done:
                await self._changed.wait()
                if self._may_send is not None and not (withdrawn or self._may_send()):
                    withdrawn = True
                    self._inner.withdraw(piece)
            self._account(request, piece)
            if not isinstance(piece.error, RequestWithdrawn):
                return piece.error

    def _ends(self, request: Request, goal: int) -> bool:
        """Whether the piece up to ``goal`` must end the host's transfer, as the request would.

        The request's last packet may be short, and that of its last piece be full all the same.
        """
        short = request.length % self.max_packet_size != 0
        return goal == request.length and (request.zero or short)


class MeteredOut(MeteredEndpoint):
    """From the host: whole packets, and no more of them than the line has time for.

    Requests must be ``partial``; each completes with one piece. While its time passes the host
    gets NAK.
    """

    async def _move(self, request: Request) -> TransferError | None:
        length = self.round_up(self._clock.piece(request.length))
        piece = self._offer(request, min(length, request.length), partial=True)
        while not piece.done:
            await self._changed.wait()
        self._account(request, piece)
        await self._clock.spend(piece.actual)
        return piece.error
