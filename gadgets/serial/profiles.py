"""Profiles that need nothing but memory: `Echo`, `Sink` and `Source`, for tests of hosts.

What is for them they take without losing a byte: where one cannot take more, the host gets NAK.
`Stream`, which hands the port to a program, is offered here, too.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections import deque
from typing import Final

import anyio
import anyio.lowlevel

from gadgets.serial.profile import Port, Profile
from gadgets.serial.stream import Stream
from usbip_vudc.errors import LocalProtocolError, SchemeError
from usbip_vudc.sglist import Buffer

__all__ = ("Echo", "Profile", "Sink", "Source", "Stream", "pattern")

log = logging.getLogger(__name__)

_CHUNK: Final = 64 << 10
"""Bytes that a source offers in one IN request."""


class Echo(Profile):
    """Bytes go back to the host at once, in the memory they came in.

    All that has come when the IN endpoint is free goes as one request. Bytes that the host has
    not read when it disconnects are gone with it: another session must not see them.
    """

    @property
    def text(self) -> str:
        """``echo``."""
        return "echo"

    def connect(self, port: Port) -> None:
        """Begin with empty hands."""

        def arrived() -> None:
            transmitter.pump()

        receiver = port.receiver(arrived)
        transmitter = port.transmitter(lambda: (receiver.take(), True), receiver.release)
        receiver.start()

    def disconnect(self) -> None:
        """Nothing is kept."""


class Sink(Profile):
    """Takes everything. ``received`` counts bytes, ``sha256`` (where asked for) digests them.

    With a ``seed`` the bytes must be that `pattern`: ``first_wrong`` is the offset of the first
    that was not, None as long as all were. All go on over reconnects until `reset`.
    """

    def __init__(self, *, sha256: bool = False, seed: int | None = None) -> None:
        self._with_digest = sha256
        self._seed = seed
        self._expected = memoryview(b"" if seed is None else _block(seed) * 2)
        self.reset()

    @property
    def text(self) -> str:
        """``sink``, or ``sink:SEED``."""
        return "sink" if self._seed is None else f"sink:{self._seed}"

    def reset(self) -> None:
        """Start counting again from 0."""
        self.received = 0
        self.first_wrong: int | None = None
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

    def connect(self, port: Port) -> None:
        """Take what comes; the IN endpoint answers NAK."""

        def arrived() -> None:
            segments = receiver.take()
            if not segments:
                return
            for segment in segments:
                self._take(segment)
            receiver.release()
            self._grown.set()
            self._grown = anyio.Event()

        receiver = port.receiver(arrived)
        receiver.start()

    def _take(self, segment: memoryview) -> None:
        if self._with_digest:
            self._digest.update(segment)
        if self._seed is not None and self.first_wrong is None:
            self._verify(segment)
        self.received += len(segment)

    def _verify(self, segment: memoryview) -> None:
        for start in range(0, len(segment), _PERIOD):
            piece = segment[start : start + _PERIOD]
            begin = (self.received + start) % _PERIOD
            expected = self._expected[begin : begin + len(piece)]
            if piece != expected:
                wrong = next(i for i, value in enumerate(piece) if value != expected[i])
                self.first_wrong = self.received + start + wrong
                log.warning(
                    "sink: byte %d is %#04x, expected %#04x of the pattern of seed %d",
                    self.first_wrong, piece[wrong], expected[wrong], self._seed,
                )  # fmt: skip
                return

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
        self._text = "" if data is not None else _source_text(seed, length)
        self.length = len(data) if data is not None and length is None else length
        self._data = memoryview(data if data is not None else _block(seed)).cast("B")
        # A pattern lies here twice and a bit, so that any chunk of it is one view.
        if data is None:
            self._data = memoryview(bytearray(bytes(self._data) * 2))
        self._period = _PERIOD if data is None else 0
        self.sent = 0

    @property
    def text(self) -> str:
        """``source``, ``source:SEED`` or ``source:SEED:LENGTH``."""
        return self._text

    def connect(self, port: Port) -> None:
        """Start at the first byte."""

        def arrived() -> None:
            if receiver.take():
                receiver.release()

        receiver = port.receiver(arrived)
        receiver.start()
        self._send(port)

    def _send(self, port: Port) -> None:
        self.sent = 0
        offset = 0
        lengths: deque[int] = deque()
        # Whole packets until the last one, or each chunk would end a transfer of the host's.
        chunk = min(_CHUNK, _PERIOD) // port.max_packet_size * port.max_packet_size

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

        port.transmitter(pull, sent).pump()

    def disconnect(self) -> None:
        """The next connection starts over."""


def _source_text(seed: int, length: int | None) -> str:
    if length is not None:
        return f"source:{seed}:{length}"
    return f"source:{seed}" if seed else "source"
