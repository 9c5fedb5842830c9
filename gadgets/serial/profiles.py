"""Where the bytes of a serial port go: small strategies, one to a port.

`Echo`, `Sink` and `Source` are for tests of hosts; `Stream` hands the port to a program. What is
for them they take without losing a byte: where one cannot take more, the host gets NAK.
"""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from collections import deque
from typing import Final

import anyio
import anyio.abc
import anyio.lowlevel

from gadgets.serial.packets import Receiver, Transmitter
from usbip_vudc.errors import LocalProtocolError, SchemeError
from usbip_vudc.function import Endpoint
from usbip_vudc.sglist import Buffer

__all__ = ("Echo", "Profile", "Sink", "Source", "Stream", "pattern")

_CHUNK: Final = 64 << 10
"""Bytes that a source offers in one IN request, and that a stream holds before `send` waits."""

_MAX_PIECES: Final = 16
"""Small writes are copied together past this many: cutting an SG list costs its segments."""


class Profile(ABC):
    """What a serial port does with its bytes. It belongs to one function.

    `connect` and `disconnect` alternate, once for every configuration that a host selects.
    """

    @abstractmethod
    def connect(self, in_endpoint: Endpoint, out_endpoint: Endpoint) -> None:
        """Bytes can flow: queue requests. Never waits; go on in their callbacks."""

    @abstractmethod
    def disconnect(self) -> None:
        """The configuration is over: what is queued has ended or is about to end."""


class Echo(Profile):
    """Bytes go back to the host at once, in the memory they came in.

    All that has come when the IN endpoint is free goes as one request. Bytes that the host has
    not read when it disconnects are gone with it: another session must not see them.
    """

    def connect(self, in_endpoint: Endpoint, out_endpoint: Endpoint) -> None:
        """Begin with empty hands."""

        def arrived() -> None:
            transmitter.pump()

        receiver = Receiver(out_endpoint, arrived)
        transmitter = Transmitter(in_endpoint, lambda: (receiver.take(), True), receiver.release)
        receiver.start()

    def disconnect(self) -> None:
        """Nothing is kept."""


class Sink(Profile):
    """Takes everything. ``received`` counts bytes, ``sha256`` (where asked for) digests them.

    Both go on over reconnects until `reset`.
    """

    def __init__(self, *, sha256: bool = False) -> None:
        self._with_digest = sha256
        self.reset()

    def reset(self) -> None:
        """Start counting again from 0."""
        self.received = 0
        self._digest = hashlib.sha256()
        self._grown = anyio.Event()

    @property
    def sha256(self) -> str:
        """The digest of all bytes so far, in hex. Raises LocalProtocolError if not asked for."""
        if not self._with_digest:
            raise LocalProtocolError("this sink keeps no digest; make it with Sink(sha256=True)")
        return self._digest.hexdigest()

    async def wait_received(self, length: int) -> None:
        """Wait until at least ``length`` bytes have come since the last `reset`."""
        await anyio.lowlevel.checkpoint()
        while self.received < length:
            await self._grown.wait()

    def connect(self, in_endpoint: Endpoint, out_endpoint: Endpoint) -> None:  # noqa: ARG002
        """Take what comes; the IN endpoint answers NAK."""

        def arrived() -> None:
            segments = receiver.take()
            if not segments:
                return
            for segment in segments:
                self.received += len(segment)
                if self._with_digest:
                    self._digest.update(segment)
            receiver.release()
            self._grown.set()
            self._grown = anyio.Event()

        receiver = Receiver(out_endpoint, arrived)
        receiver.start()

    def disconnect(self) -> None:
        """The counters stay."""


_PERIOD: Final = 65_521
"""Bytes after which `pattern` repeats: a prime, so a lost or doubled packet always shows."""


def _block(seed: int) -> bytes:
    return random.Random(seed).randbytes(_PERIOD)


def pattern(seed: int, length: int) -> bytes:
    """The first ``length`` bytes of what ``Source(seed=seed)`` sends."""
    block = _block(seed)
    return (block * (length // _PERIOD + 1))[:length]


class Source(Profile):
    """Sends for as long as the host reads: the bytes given, or a pattern that a seed decides.

    ``length`` is in bytes; None is without end for a pattern, and all of ``data``. Every
    connection starts at the first byte. ``sent`` counts what this one's host has taken. Bytes
    from the host are thrown away: a Linux tty that is not yet raw echoes what it gets, and would
    wait for ever for a port that does not take it.
    """

    def __init__(
        self, data: Buffer | None = None, *, seed: int = 0, length: int | None = None
    ) -> None:
        if length is not None and (length < 0 or (data is not None and length > len(data))):
            raise SchemeError(f"source length {length}: expected 0 to what there is to send")
        self.length = len(data) if data is not None and length is None else length
        self._data = memoryview(data if data is not None else _block(seed)).cast("B")
        # A pattern lies here twice and a bit, so that any chunk of it is one view.
        if data is None:
            self._data = memoryview(bytearray(bytes(self._data) * 2))
        self._period = _PERIOD if data is None else 0
        self.sent = 0

    def connect(self, in_endpoint: Endpoint, out_endpoint: Endpoint) -> None:
        """Start at the first byte."""

        def arrived() -> None:
            if receiver.take():
                receiver.release()

        receiver = Receiver(out_endpoint, arrived)
        receiver.start()
        self._send(in_endpoint)

    def _send(self, in_endpoint: Endpoint) -> None:
        self.sent = 0
        offset = 0
        lengths: deque[int] = deque()
        # Whole packets until the last one, or each chunk would end a transfer of the host's.
        chunk = min(_CHUNK, _PERIOD) // in_endpoint.max_packet_size * in_endpoint.max_packet_size

        def pull() -> tuple[list[memoryview], bool]:
            nonlocal offset
            length = chunk if self.length is None else min(chunk, self.length - offset)
            if not length:
                return [], True
            start = offset % self._period if self._period else offset
            offset += length
            lengths.append(length)
            return [self._data[start : start + length]], offset == self.length

        def sent() -> None:
            self.sent += lengths.popleft()

        Transmitter(in_endpoint, pull, sent).pump()

    def disconnect(self) -> None:
        """The next connection starts over."""


class Stream(Profile, anyio.abc.ByteStream):
    """The port as a byte stream that a program reads and writes, over all its connections.

    Where the program does not read, the host gets NAK once the ring of packets is full. Where
    the host does not read, `send` waits. Bytes under way when the host leaves are kept for the
    program, or for the host's return; `discard` throws them away.
    """

    def __init__(self) -> None:
        self._receiver: Receiver | None = None
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
            await anyio.lowlevel.checkpoint()
            if self._closed or self._ended:
                raise anyio.ClosedResourceError
            if not item:
                return
            self._unsent.append(memoryview(bytes(item)))
            self._backlog += len(item)
            if self._transmitter is not None:
                self._transmitter.pump()
            await self._wait_backlog(_CHUNK)

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
        unread = len(self._read(1 << 62))
        unsent = sum(map(len, self._unsent))
        self._unsent.clear()
        self._backlog -= unsent
        self._wake()
        return unread + unsent

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

    def connect(self, in_endpoint: Endpoint, out_endpoint: Endpoint) -> None:
        """Go on where the last connection ended."""
        if self._closed:
            return
        self._transmitter = Transmitter(in_endpoint, self._pull, self._sent)
        self._receiver = Receiver(out_endpoint, self._wake)
        self._receiver.start()
        self._transmitter.pump()

    def disconnect(self) -> None:
        """Keep what is under way both ways."""
        if self._receiver is not None:
            self._unread.append(memoryview(self._receiver.stop()))
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
        while self._unsent and (not batch or length + len(self._unsent[0]) <= _CHUNK):
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
