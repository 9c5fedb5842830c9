"""Events: what happens on a line, for any number of listeners that wait for it.

One `EventHub` a serial function. Posting never waits and never forgets; on asyncio and trio alike.
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import Final

import anyio
import anyio.lowlevel

from gadgets.serial.line import LineEvent
from usbip_vudc.errors import LocalProtocolError

__all__ = ("MAX_BEHIND", "EventHub", "Events")

MAX_BEHIND: Final = 4096
"""Events that a listener may leave unread: a host must not fill our memory with its requests."""


class Events:
    """An async iterator over the events from its making on. It ends when nobody holds it."""

    __slots__ = ("__weakref__", "_arrived", "_lost", "_queue")

    def __init__(self) -> None:
        self._queue: deque[LineEvent] = deque()
        self._arrived = anyio.Event()
        self._lost = False

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> LineEvent:
        """The next event in order. Raises LocalProtocolError where `MAX_BEHIND` was passed."""
        await anyio.lowlevel.checkpoint()
        while not self._queue:
            if self._lost:
                raise LocalProtocolError(
                    f"this listener fell {MAX_BEHIND} events behind, and later ones are lost"
                )
            self._arrived = anyio.Event()
            await self._arrived.wait()
        return self._queue.popleft()

    def post(self, event: LineEvent) -> None:
        """Append an event."""
        if len(self._queue) >= MAX_BEHIND:
            self._lost = True
        if not self._lost:
            self._queue.append(event)
        self._arrived.set()


class EventHub:
    """Passes every event to every listener that still exists."""

    def __init__(self) -> None:
        self._listeners: weakref.WeakSet[Events] = weakref.WeakSet()

    def listen(self) -> Events:
        """A new listener, which hears what happens from now on."""
        events = Events()
        self._listeners.add(events)
        return events

    def post(self, event: LineEvent) -> None:
        """Tell every listener."""
        for listener in tuple(self._listeners):
            listener.post(event)
