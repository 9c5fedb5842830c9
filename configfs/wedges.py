"""Wedges: endpoint files that stay halted whatever the host clears.

FunctionFS has no usb_ep_set_wedge, and tells nobody of CLEAR_FEATURE(ENDPOINT_HALT). So each is
halted again and again. What the host can see of that is an endpoint that is not halted, and NAKs,
for at most `AGAIN` seconds: nothing is queued there meanwhile, so nothing moves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import anyio

__all__ = ("AGAIN", "Wedges")

AGAIN: Final = 0.01
"""Seconds between two halts of an endpoint: far less than a host waits for a transfer."""


class Wedges:
    """The wedged endpoints of one function, each by the call that halts it."""

    def __init__(self) -> None:
        self._halts: dict[object, Callable[[], None]] = {}
        self._added = anyio.Event()

    def add(self, endpoint: object, halt: Callable[[], None]) -> None:
        """Halt it from now on, until it is discarded; the caller halts it the first time."""
        self._halts[endpoint] = halt
        self._added.set()

    def discard(self, endpoint: object) -> None:
        """Leave it alone again. What is not wedged is left alone anyway."""
        self._halts.pop(endpoint, None)

    async def run(self) -> None:
        """Halt them until cancelled; it sleeps while there are none. Raises what ``halt`` does."""
        while True:
            await self._added.wait()
            while self._halts:
                await anyio.sleep(AGAIN)
                for halt in tuple(self._halts.values()):
                    halt()
            self._added = anyio.Event()
