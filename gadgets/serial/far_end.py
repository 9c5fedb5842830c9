"""FarEnd: profiles whose bytes go out of this process, through file descriptors.

Such a profile opens its far end for each connection and moves bytes both ways: what the far end
does not take waits in the port, whose host then gets NAK; what the host does not read, the far end
is not asked for. Memory is bounded, and a byte is taken from the port only to be handed over.
When the far end goes away that is an event, and DCD falls; the profile says when it comes again.
"""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Final

import anyio

from gadgets.serial.line import FarEndClosed, FarEndOpened
from gadgets.serial.profile import LineOfPort, Port, Profile
from gadgets.serial.stream import Stream
from usbip_vudc.usb.cdc import SerialState

__all__ = ("GRACE_SECONDS", "FarEnd", "Opened")

log = logging.getLogger(__name__)

GRACE_SECONDS: Final = 1.0
"""How long a host that leaves waits for the far end to take what is there; twice for a process."""

_PIECE: Final = 16 << 10
"""Bytes that are read at once from a far end."""


class Opened(ABC):
    """A far end that is open: two descriptors, which do not block and may be one and the same."""

    reader: int
    writer: int
    where: str

    ends_by_itself = False
    """Whether `over` says that it is over; else the end of its bytes does."""

    async def over(self) -> str:
        """Wait until it is over: why."""
        raise NotImplementedError

    @abstractmethod
    async def close(self, *, hurry: bool) -> None:
        """Close it; it is called once, in a shield.

        Without ``hurry`` it may take `GRACE_SECONDS`, or twice that, to take what was written.
        """

    async def discard(self) -> None:
        """Read to the end of its bytes, so that it can finish; they go nowhere."""
        with suppress(OSError):
            while await _read(self.reader):
                pass


class FarEnd(Profile):
    """Moves bytes between a port and what `open` opens."""

    def __init__(self) -> None:
        self._stream = Stream()
        self._line: LineOfPort | None = None
        self._held = memoryview(b"")  # taken from the port, and not yet written

    # --- for those that are one ----------------------------------------------------------------

    @abstractmethod
    async def open(self) -> Opened:
        """Open the far end. Raises OSError."""

    @abstractmethod
    async def until_again(self, line: LineOfPort, *, rises: int, was_open: bool) -> None:
        """Wait until the far end is to be opened again.

        ``rises`` is how often DTR had risen when it was over, or could not be opened.
        """

    # --- Profile -------------------------------------------------------------------------------

    def connect(self, port: Port) -> None:
        """What the host sends waits for the far end."""
        self._line = port.line
        self._stream.connect(port)

    def disconnect(self) -> None:
        """What came is kept, for `run` to hand it over."""
        self._stream.disconnect()

    async def run(self) -> None:
        """One far end after the other. At the end nothing of this host is left for the next."""
        line = self._line
        assert line is not None, "connect comes before run"
        try:
            while True:
                rises, was_open = await self._session(line)
                await self.until_again(line, rises=rises, was_open=was_open)
        finally:
            self._forget()

    def _forget(self) -> None:
        self._stream.disconnect()
        lost = len(self._held) + len(self._stream.take_unread())
        if lost:
            log.warning("%s did not take the last %d bytes of a host that left", self.text, lost)
        self._held = memoryview(b"")
        self._stream.discard()

    async def _session(self, line: LineOfPort) -> tuple[int, bool]:
        """One life of the far end: DTR's rises when it was over; whether it was open at all."""
        try:
            opened = await self.open()
        except OSError as error:
            self._closed(line, f"{self.text}: {error.strerror or error}")
            return line.dtr_rises, False
        log.info("%s is open: %s", self.text, opened.where)
        line.heard(FarEndOpened(opened.where))
        line.show({SerialState.DCD: True})
        over = False
        try:
            why = await self._move(opened)
            rises, over = line.dtr_rises, True
            if opened.ends_by_itself:
                await self._drain(opened.reader)
        except anyio.get_cancelled_exc_class():
            why = "the host has left"
            with anyio.CancelScope(shield=True):
                await self._hand_over(opened)
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await opened.close(hurry=over)
            line.show({SerialState.DCD: False})
            self._closed(line, f"{opened.where}: {why}", logging.WARNING if over else logging.INFO)
        return rises, True

    async def _move(self, opened: Opened) -> str:
        """Move bytes both ways until the far end is over: why."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._outward, opened.writer)
            if opened.ends_by_itself:
                tasks.start_soon(self._inward, opened.reader)
                why = await opened.over()
            else:
                why = await self._inward(opened.reader)
            tasks.cancel_scope.cancel()
        return why

    async def _drain(self, reader: int) -> None:
        """What it wrote before it was over, and nothing that a child of it may write some day."""
        with suppress(OSError):
            while data := os.read(reader, _PIECE):
                await self._stream.send(data)

    async def _outward(self, writer: int) -> None:
        """To the far end, until it takes no more: then what comes stays in the port."""
        while True:
            if not self._held:
                self._held = memoryview(await self._stream.receive(_PIECE))
            if not await self._write_held(writer):
                return

    async def _write_held(self, writer: int) -> bool:
        """Write what was taken from the port; False where the far end takes no more."""
        try:
            while self._held:
                await anyio.wait_writable(writer)
                try:
                    self._held = self._held[os.write(writer, self._held) :]
                except BlockingIOError:
                    continue
        except OSError as error:
            log.info("%s takes no more: %s", self.text, error)
            return False
        return True

    async def _inward(self, reader: int) -> str:
        """From the far end, until the end of its bytes: why."""
        try:
            while data := await _read(reader):
                await self._stream.send(data)
        except OSError as error:
            return error.strerror or str(error)
        return "closed by the far end"

    def _closed(self, line: LineOfPort, why: str, level: int = logging.WARNING) -> None:
        log.log(level, "%s", why)
        line.heard(FarEndClosed(why))

    async def _hand_over(self, opened: Opened) -> None:
        """The host has left: what it sent goes to the far end all the same, if that takes it."""
        self._stream.disconnect()
        self._held = memoryview(bytes(self._held) + self._stream.take_unread())
        with anyio.move_on_after(GRACE_SECONDS):
            await self._write_held(opened.writer)


async def _read(reader: int) -> bytes:
    """The next bytes, b"" at their end. Raises OSError."""
    while True:
        await anyio.wait_readable(reader)
        try:
            return os.read(reader, _PIECE)
        except BlockingIOError:
            continue
