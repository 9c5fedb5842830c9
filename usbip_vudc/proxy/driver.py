"""Driver: moves the bytes of a relay between two connected stream sockets, TCP or AF_UNIX.

It reads from one end only while the other takes what comes of it, so that a host or a device
that does not read stops its peer as it would without a proxy. Runs on asyncio and trio.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import cycle
from typing import Final

import anyio
import anyio.lowlevel

from usbip_vudc.errors import RemoteProtocolError
from usbip_vudc.proxy.ends import End
from usbip_vudc.proxy.relay import Cut, Pause, Relay
from usbip_vudc.sglist import Buffer, drop_front

__all__ = ("carry",)

_HIGH_WATER: Final = 1 << 20
"""Bytes that may wait to be sent before nothing more is read for them."""

_LAST_WORDS: Final = 1.0
"""Seconds that an end may take to receive what was sent to it before the other one closed."""

_MAX_IOVECS: Final = 512
_MAX_TURNS: Final = 16
"""Batches handled before other tasks get their turn."""

_RST: Final = struct.pack("ii", 1, 0)
"""SO_LINGER on, 0 seconds: close() sends RST and drops what waits."""


async def carry(relay: Relay, host: socket.socket, device: socket.socket) -> None:
    """Relay until one end closes or the relay ends it; both sockets are then closed.

    Both are non-blocking. Raises RemoteProtocolError where an end broke the protocol or left
    inside a PDU, and OSError where one was lost; either says which.
    """
    try:
        await _Driver(relay, host, device).run()
    finally:
        relay.closed()
        for sock in (host, device):
            if relay.ending is not None and relay.ending.reset:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
            sock.close()


class _Writer:
    """Sends what a relay has for one end, and does what the marks in it say."""

    def __init__(self, name: str, sock: socket.socket, queue: deque[Buffer | Cut | Pause]) -> None:
        self.name = name
        self._sock = sock
        self._queue = queue
        self._batch: list[Buffer] = []
        self._sizes: cycle[int] | None = None
        self._asleep = True
        self._wake = anyio.Event()
        self._room = anyio.Event()

    @property
    def busy(self) -> bool:
        """Whether something has not left yet."""
        return bool(self._queue or self._batch) or not self._asleep

    def flush(self) -> None:
        """Send what can leave at once; the rest is left to `run`."""
        if not self._queue or not self._asleep:
            return
        while self._batch or self._gather():
            if self._sizes is not None or not self._send_batch():
                break
        if self._queue or self._batch:
            self._asleep = False
            self._wake.set()

    async def run(self) -> None:
        """Send all that `flush` could not, for ever."""
        while True:
            await self._wake.wait()
            while self._queue or self._batch:
                await self._step()
                self._tell_room()
            self._wake = anyio.Event()
            self._asleep = True
            self._tell_room()

    async def drain(self) -> None:
        """Wait until everything has left."""
        while self.busy:
            await self._wait_room()

    async def has_room(self) -> None:
        """Wait until so little waits to be sent that more may be read."""
        while self.busy and self._waiting() > _HIGH_WATER:
            await self._wait_room()

    def _waiting(self) -> int:
        queued = sum(len(item) for item in self._queue if not isinstance(item, Cut | Pause))
        return queued + sum(map(len, self._batch))

    async def _wait_room(self) -> None:
        room = self._room
        await room.wait()

    def _tell_room(self) -> None:
        room, self._room = self._room, anyio.Event()
        room.set()

    def _gather(self) -> bool:
        """Take the next bytes, up to a mark; False where a mark or nothing is next."""
        queue, batch = self._queue, self._batch
        while queue and len(batch) < _MAX_IOVECS:
            item = queue[0]
            if isinstance(item, Cut | Pause):
                break
            batch.append(item)
            queue.popleft()
        return bool(batch)

    def _send_batch(self) -> bool:
        """Send the batch; False when the socket is full."""
        batch = self._batch
        while batch:
            try:
                count = self._sock.send(batch[0]) if len(batch) == 1 else self._sock.sendmsg(batch)
            except BlockingIOError:
                return False
            except OSError as error:
                raise _lost(self.name, error) from error
            drop_front(batch, count)
        return True

    async def _step(self) -> None:
        if self._batch or self._gather():
            if self._sizes is not None:
                await self._send_cut(self._sizes)
            elif not self._send_batch():
                await anyio.wait_writable(self._sock)
            return
        mark = self._queue.popleft()
        if isinstance(mark, Pause):
            await anyio.sleep(mark.seconds)
        elif isinstance(mark, Cut):
            self._sizes = cycle(mark.sizes)

    async def _send_cut(self, sizes: cycle[int]) -> None:
        """Send the batch in pieces, each a write of its own, with time between for it to leave."""
        data, self._batch = memoryview(b"".join(self._batch)), []
        for size in sizes:
            piece = data[:size]
            while piece:
                try:
                    piece = piece[self._sock.send(piece) :]
                except BlockingIOError:
                    await anyio.wait_writable(self._sock)
                except OSError as error:
                    raise _lost(self.name, error) from error
            data = data[size:]
            if not data:
                return
            await anyio.lowlevel.checkpoint()


class _Driver:
    """The tasks of one relay: a reader and a writer for each end, and its clock."""

    def __init__(self, relay: Relay, host: socket.socket, device: socket.socket) -> None:
        self._relay = relay
        self._host = host
        self._device = device
        self._to_host = _Writer("host", host, relay.to_host)
        self._to_device = _Writer("device", device, relay.to_device)
        self._scope = anyio.CancelScope()
        self._error: Exception | None = None
        self._armed: float | None = None
        self._rearmed = anyio.Event()
        self._ended = anyio.Event()

    async def run(self) -> None:
        """Until the first task returns or fails."""
        relay = self._relay
        async with anyio.create_task_group() as tasks:
            self._scope = tasks.cancel_scope
            for task in (
                partial(self._read, self._host, relay.host, self._to_device),
                partial(self._read, self._device, relay.device, self._to_host),
                self._to_host.run,
                self._to_device.run,
                self._keep_time,
                self._end,
            ):
                tasks.start_soon(self._guarded, task)
        if self._error is not None:
            raise self._error

    async def _guarded(self, task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        except Exception as error:  # raised by `run`, outside the group, so that it stays itself
            self._error = self._error or error
        self._scope.cancel()

    async def _read(self, sock: socket.socket, end: End, onward: _Writer) -> None:
        """Take what an end says until it closes; then what it said goes its way."""
        turns = 0
        while count := await self._receive(sock, end):
            self._relay.timers.now = time.monotonic()
            end.advance(count)
            self._flush()
            if self._relay.ending is not None:
                return await anyio.sleep_forever()
            turns += 1
            if turns % _MAX_TURNS == 0:
                await anyio.lowlevel.checkpoint()
            await onward.has_room()
            await self._to_host.has_room()  # the relay answers some of what the host says itself
        with anyio.move_on_after(_LAST_WORDS):
            await onward.drain()
        if not end.at_boundary:
            raise RemoteProtocolError(f"the {end.name} closed the connection inside a PDU")
        return None

    async def _receive(self, sock: socket.socket, end: End) -> int:
        """Bytes that came, 0 at the end."""
        while True:
            try:
                return sock.recvmsg_into(end.get_buffers())[0]
            except BlockingIOError:
                await anyio.wait_readable(sock)
            except OSError as error:
                raise _lost(end.name, error) from error

    def _flush(self) -> None:
        """The relay has been at work: send, and see when it wants to be called again."""
        self._to_device.flush()
        self._to_host.flush()
        if self._relay.timers.deadline != self._armed:
            self._rearmed.set()
        if self._relay.ending is not None:
            self._ended.set()

    async def _keep_time(self) -> None:
        timers = self._relay.timers
        while True:
            self._rearmed = anyio.Event()
            self._armed = timers.deadline
            left = None if self._armed is None else max(self._armed - time.monotonic(), 0)
            with anyio.move_on_after(left):
                await self._rearmed.wait()
            timers.advance(time.monotonic())
            self._flush()

    async def _end(self) -> None:
        """The relay wants to end: in order, when what it has said before has left."""
        await self._ended.wait()
        if self._relay.ending is not None and not self._relay.ending.reset:
            with anyio.move_on_after(_LAST_WORDS):
                await self._to_host.drain()


def _lost(name: str, error: OSError) -> OSError:
    return OSError(error.errno, f"the {name}: {error.strerror}")
