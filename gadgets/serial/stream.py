"""Stream: the port as a byte stream for a program, over all its connections."""

from __future__ import annotations

from collections import deque
from typing import Final

import anyio
import anyio.abc
import anyio.lowlevel

from gadgets.serial.packets import Transmitter
from gadgets.serial.profile import BytesIn, Port, Profile

__all__ = ("Stream",)

_BACKLOG: Final = 64 << 10
"""Bytes that a stream holds before `send` waits, and offers in one IN request."""

_MAX_PIECES: Final = 16
"""Small writes are copied together past this many: cutting an SG list costs its segments."""


class Stream(Profile, anyio.abc.ByteStream):
    """The port as a byte stream that a program reads and writes, over all its connections.

    Where the program does not read, the host gets NAK once the ring of packets is full. Where
    the host does not read, `send` waits. Bytes under way when the host leaves are kept for the
    program, or for the host's return; `discard` throws them away.
    """

    def __init__(self) -> None:
        self._receiver: BytesIn | None = None
        self._transmitter: Transmitter | None = None
        self._unread: deque[memoryview] = deque()
        self._unsent: deque[memoryview] = deque()
        self._sending: deque[int] = deque()
        self._backlog = 0
        self._changed = anyio.Event()
        self._ended = False
        self._closed = False
        self._reading = anyio.ResourceGuard("reading from")
        self._writing = anyio.ResourceGuard("writing to")

    # --- the program's side --------------------------------------------------------------------

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Bytes from the host, at least one and at most ``max_bytes``, waiting for them.

        Raises ClosedResourceError after `aclose`. Waits through disconnects: a port has no end.
        """
        with self._reading:
            await anyio.lowlevel.checkpoint()
            while not self._closed:
                data = self._read(max_bytes)
                if data:
                    return data
                await self._changed.wait()
        raise anyio.ClosedResourceError

    async def send(self, item: bytes) -> None:
        """Send bytes to the host; waits while more than 64 KiB are under way.

        A cancelled wait leaves the bytes queued. Raises ClosedResourceError after `aclose` or
        `send_eof`.
        """
        with self._writing:
            if self._closed or self._ended:
                raise anyio.ClosedResourceError
            if item:
                self._unsent.append(memoryview(bytes(item)))
                self._backlog += len(item)
                if self._transmitter is not None:
                    self._transmitter.pump()
            # Not before: whoever is cancelled here may count on it that the bytes are queued.
            await anyio.lowlevel.checkpoint()
            await self._wait_backlog(_BACKLOG)

    async def drain(self) -> None:
        """Wait until the host has taken every byte sent (tcdrain)."""
        await anyio.lowlevel.checkpoint()
        await self._wait_backlog(0)

    async def send_eof(self) -> None:
        """Send nothing more, and `drain`. A serial line has no end of file to show the host."""
        self._ended = True
        await self.drain()

    async def aclose(self) -> None:
        """Close the program's side for good: nothing more is taken or sent, the host gets NAK."""
        self._closed = True
        self._unsent.clear()
        self._unread.clear()
        self._wake()
        await anyio.lowlevel.checkpoint()

    def discard(self) -> int:
        """Throw away what was not read, and what the UDC was not given yet: how many bytes."""
        unread = len(self.take_unread())
        unsent = sum(map(len, self._unsent))
        self._unsent.clear()
        self._backlog -= unsent
        self._wake()
        return unread + unsent

    def take_unread(self) -> bytes:
        """All bytes from the host that were not received yet, without waiting."""
        return self._read(1 << 62)

    async def _wait_backlog(self, most: int) -> None:
        while self._backlog > most and not self._closed:
            await self._changed.wait()

    def _read(self, max_bytes: int) -> bytes:
        """Take what has come: one copy, out of the ring, which is then free again."""
        if not self._unread and self._receiver is not None:
            segments = self._receiver.take()
            if segments:
                self._unread.append(memoryview(b"".join(segments)))
                self._receiver.release()
        pieces = []
        while self._unread and max_bytes > 0:
            view = self._unread.popleft()
            if len(view) > max_bytes:
                self._unread.appendleft(view[max_bytes:])
                view = view[:max_bytes]
            pieces.append(view)
            max_bytes -= len(view)
        return b"".join(pieces)

    # --- the host's side -----------------------------------------------------------------------

    def connect(self, port: Port) -> None:
        """Go on where the last connection ended."""
        if self._closed:
            return
        self._transmitter = port.transmitter(self._pull, self._sent)
        self._receiver = port.receiver(self._wake)
        self._receiver.start()
        self._transmitter.pump()

    def disconnect(self) -> None:
        """Keep what is under way both ways."""
        if self._receiver is not None:
            if unread := self._receiver.stop():  # `_read` takes what is in here for bytes
                self._unread.append(memoryview(unread))
            self._receiver = None
        if self._transmitter is not None:
            self._unsent.extendleft(reversed(self._transmitter.stop()))
            self._transmitter = None
        self._sending.clear()
        self._backlog = sum(map(len, self._unsent))
        self._wake()

    def _pull(self) -> tuple[list[memoryview], bool]:
        """One batch of at most 64 KiB, unless a single piece is larger."""
        batch: list[memoryview] = []
        length = 0
        while self._unsent and (not batch or length + len(self._unsent[0]) <= _BACKLOG):
            batch.append(self._unsent.popleft())
            length += len(batch[-1])
        if batch:
            self._sending.append(length)
        if len(batch) > _MAX_PIECES:
            batch = [memoryview(b"".join(batch))]
        return batch, not self._unsent

    def _sent(self) -> None:
        self._backlog -= self._sending.popleft()
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
