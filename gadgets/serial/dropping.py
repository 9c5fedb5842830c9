"""DroppingReceiver: a `Receiver` whose host never waits; what nobody takes in time is dropped."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from gadgets.serial.packets import Receiver
from usbip_vudc.function import Endpoint

__all__ = ("KEPT_SIZE", "DroppingReceiver")

KEPT_SIZE: Final = 64 << 10
"""Bytes that wait for someone to take them; what is lent comes on top."""


class DroppingReceiver:
    """Takes what the host sends as it comes, and keeps at most `KEPT_SIZE` bytes of it.

    Of more it drops the oldest, or with ``keep_oldest`` the newest, and tells ``dropped`` how
    many, and whether they are the first since somebody took bytes. It is used as a `Receiver` is.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        arrived: Callable[[], None],
        *,
        keep_oldest: bool,
        dropped: Callable[[int, bool], None],
        size: int = KEPT_SIZE,
    ) -> None:
        self._ring = Receiver(endpoint, self._came)
        self._arrived = arrived
        self._keep_oldest = keep_oldest
        self._dropped = dropped
        self._size = size
        self._dropping = False
        self._kept = bytearray()
        self._loans: deque[bytearray] = deque()

    def start(self) -> None:
        """Let the host send."""
        self._ring.start()

    def _came(self) -> None:
        segments = self._ring.take()
        if not segments:
            return
        for segment in segments:
            self._keep(segment)
        self._ring.release()
        self._arrived()

    def _keep(self, data: memoryview) -> None:
        excess = max(len(self._kept) + len(data) - self._size, 0)
        if self._keep_oldest:
            self._kept += data[: len(data) - excess]
        else:
            self._kept += data
            del self._kept[:excess]
        if excess:
            self._dropped(excess, not self._dropping)
            self._dropping = True

    def take(self) -> list[memoryview]:
        """Lend all that is kept; empty for nothing. A loan stays valid until its `release`."""
        if not self._kept:
            return []
        self._dropping = False
        self._loans.append(self._kept)
        self._kept = bytearray()
        return [memoryview(self._loans[-1])]

    def release(self) -> None:
        """End the oldest loan."""
        self._loans.popleft()

    def stop(self) -> bytes:
        """The configuration is over: what came and was not taken; nothing comes now."""
        self._keep(memoryview(self._ring.stop()))
        return bytes(self._kept)
