"""HeldOut: the OUT endpoint of an FT232R, which takes no bytes while flow control holds the line.

What the host writes meanwhile gets NAK, so its writer blocks, as behind the full FIFO of a chip.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from usbip_vudc.errors import EndpointDisabled, RequestWithdrawn
from usbip_vudc.function import Endpoint, Request
from usbip_vudc.wrapped import WrappedEndpoint

__all__ = ("HeldOut",)


class HeldOut(WrappedEndpoint):
    """An endpoint that can be held: requests wait here while ``may_receive()`` says no."""

    def __init__(self, endpoint: Endpoint, may_receive: Callable[[], bool]) -> None:
        super().__init__(endpoint)
        self._may_receive = may_receive
        self._waiting: deque[Request] = deque()
        self._open: dict[Request, Request] = {}  # the UDC's request -> the profile's
        # What was taken back, in order: the UDC's request -> the profile's, once it is here.
        self._taking_back: dict[Request, Request | None] = {}
        self._ended = False

    def queue(self, request: Request) -> Request:
        """As the seam says."""
        request.begin(self.role)
        if self._ended:
            request.complete(EndpointDisabled(f"{self.role}: the configuration is over"))
            return request
        self._waiting.append(request)
        self.changed()
        return request

    def withdraw(self, request: Request) -> None:
        """As the seam says; one that the UDC has ends by a completion of the UDC."""
        if request in self._waiting:
            self._waiting.remove(request)
            request.complete(RequestWithdrawn(f"{self.role}: {request!r} was withdrawn"))
            return
        for real, own in tuple(self._open.items()):
            if own is request:
                self._taking_back.pop(real, None)
                self._inner.withdraw(real)

    def changed(self) -> None:
        """Look again whether the line is held."""
        if not self._may_receive():
            if not self._taking_back:
                self._taking_back = dict.fromkeys(self._open)
                for real in reversed(tuple(self._open)):
                    self._inner.withdraw(real)
        elif not self._taking_back:
            while self._waiting:
                own = self._waiting.popleft()
                real = Request(own.sg, partial=own.partial, on_complete=self._moved)
                self._open[real] = own
                self._inner.queue(real)

    def end(self) -> None:
        """The configuration is over: what waits here completes with EndpointDisabled."""
        self._ended = True
        for real, own in self._open.items():
            own.actual = real.actual  # bytes that the host knows to be taken
        while self._waiting:
            own = self._waiting.popleft()
            own.complete(EndpointDisabled(f"{self.role}: the configuration is over"))

    def _moved(self, real: Request) -> None:
        own = self._open.pop(real)
        own.actual = real.actual
        held = real in self._taking_back and isinstance(real.error, RequestWithdrawn)
        if held and self._ended:
            own.complete(EndpointDisabled(f"{self.role}: the configuration is over"))
        elif held and not real.actual:
            self._taking_back[real] = own
        else:
            own.complete(None if held else real.error)
        if self._taking_back and not self._open:
            back = [own for own in self._taking_back.values() if own is not None]
            self._taking_back.clear()
            self._waiting.extendleft(reversed(back))
            self.changed()
