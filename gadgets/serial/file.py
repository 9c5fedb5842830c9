"""File: a profile that appends what the host sends to a regular file, and sends nothing."""

from __future__ import annotations

import errno
import logging
import os
import stat
from pathlib import Path

from gadgets.serial.line import FarEndClosed, FarEndOpened
from gadgets.serial.profile import BytesIn, LineOfPort, Port, Profile

__all__ = ("File",)

log = logging.getLogger(__name__)


class File(Profile):
    """A log of the port. Each byte is in the file before its memory is given back to the host.

    It is written, not synced, in the callbacks: a slow disk slows the port. Where it cannot be
    opened or written that is an event, and the host gets NAK until it connects anew; what it had
    sent and is not in the file is counted in the log.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = -1
        self._lost = 0  # bytes of this connection
        self._receiver: BytesIn | None = None
        self._line: LineOfPort | None = None

    @property
    def text(self) -> str:
        """``file:PATH``."""
        return f"file:{self.path}"

    def connect(self, port: Port) -> None:
        """Open it, and take what comes."""
        self._line = port.line
        self._lost = 0
        try:
            self._file = _open(self.path)
        except OSError as error:
            self._closed(error.strerror or str(error))
            return
        self._line.heard(FarEndOpened(str(self.path)))
        self._receiver = port.receiver(self._arrived)
        self._receiver.start()

    def _arrived(self) -> None:
        if self._file < 0 or self._receiver is None:
            return
        segments = self._receiver.take()
        if segments and self._write(segments):
            self._receiver.release()

    def _write(self, segments: list[memoryview]) -> bool:
        left = sum(map(len, segments))
        try:
            for segment in segments:
                rest = segment
                while rest:
                    written = os.write(self._file, rest)
                    rest = rest[written:]
                    left -= written
        except OSError as error:
            self._lost += left
            self._close()
            self._closed(error.strerror or str(error))
            return False
        return True

    def disconnect(self) -> None:
        """Write what came last, and close it."""
        if self._receiver is not None:
            rest = self._receiver.stop()
            self._receiver = None
            if self._file < 0:
                self._lost += len(rest)
            elif self._write([memoryview(rest)]):
                self._close()
                self._closed("the host has left", logging.INFO)
            if self._lost:
                log.warning(
                    "%s did not take the last %d bytes of a host that left", self.text, self._lost
                )

    def _close(self) -> None:
        os.close(self._file)
        self._file = -1

    def _closed(self, why: str, level: int = logging.WARNING) -> None:
        log.log(level, "%s: %s", self.text, why)
        if self._line is not None:
            self._line.heard(FarEndClosed(f"{self.text}: {why}"))


def _open(path: Path) -> int:
    # Not blocking for a reader of a FIFO, which is refused below as everything that could block.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    file = os.open(path, flags, 0o644)
    if stat.S_ISREG(os.fstat(file).st_mode):
        return file
    os.close(file)
    raise OSError(errno.EINVAL, "not a regular file; pty, tcp and exec take what can wait")
