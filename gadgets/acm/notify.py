"""SERIAL_STATE notifications on an interrupt endpoint (PSTN 1.2 6.5.4), one at a time.

What is posted while one waits for the host is merged into the next: a host that does not read
costs two notifications of memory, and in the end still hears of every bit that was set.
"""

from __future__ import annotations

import anyio

from usbip_vudc.function import Endpoint, Request
from usbip_vudc.usb.cdc import SerialState, pack_serial_state

__all__ = ("SerialStateNotifier",)


class SerialStateNotifier:
    """Tells the host of the serial state of the interface that its endpoint belongs to."""

    def __init__(self) -> None:
        self._endpoint: Endpoint | None = None
        self._request: Request | None = None
        self._taken = _set_event()
        self._next: SerialState | None = None
        self._next_taken = self._taken

    def connect(self, endpoint: Endpoint, state: SerialState) -> None:
        """A host has come: tell it what lasts, if that is anything."""
        self._endpoint = endpoint
        if state:
            self.post(state)

    def disconnect(self) -> None:
        """The host is gone: nobody waits any more."""
        self._endpoint = self._request = self._next = None
        self._taken.set()
        self._next_taken.set()

    def post(self, state: SerialState) -> anyio.Event:
        """Send soon. The event is set when the host has taken it, or when there is no host."""
        if self._endpoint is None:
            return _set_event()
        if self._next is None:
            self._next, self._next_taken = state, anyio.Event()
        else:
            # The newest DCD and DSR, and every bit that is told once.
            self._next = state | (self._next & ~self._next.lasting)
        taken = self._next_taken
        if self._request is None:
            self._send(self._endpoint, self._next)
        return taken

    def _send(self, endpoint: Endpoint, state: SerialState) -> None:
        self._next = None
        self._taken = self._next_taken
        data = pack_serial_state(state, endpoint.interface)
        self._request = Request(data, on_complete=self._completed)
        endpoint.queue(self._request)

    def _completed(self, request: Request) -> None:
        if request is not self._request or request.error is not None:
            return  # of a connection that is over
        self._request = None
        self._taken.set()
        if self._next is not None and self._endpoint is not None:
            self._send(self._endpoint, self._next)


def _set_event() -> anyio.Event:
    event = anyio.Event()
    event.set()
    return event
