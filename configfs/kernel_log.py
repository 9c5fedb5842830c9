"""What the kernel says in its log while we ask something of it: the reason behind an errno.

The write of a UDC's name answers EBUSY or ENODEV whatever went wrong; the log has the rest. It
is read from /dev/kmsg (Documentation/ABI/testing/dev-kmsg), and is empty where that is closed to
us.
"""

from __future__ import annotations

import os
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

__all__ = ("KernelLog",)

_RECORD_MAX: Final = 8192
"""Bytes: CONSOLE_EXT_LOG_MAX of the kernel."""

_LINES: Final = 3


class KernelLog:
    """The end of the log from `mark` on. Used as a context manager; it never fails."""

    def __init__(self) -> None:
        self._fd = -1

    def __enter__(self) -> Self:
        with suppress(OSError):
            self._fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self.mark()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def mark(self) -> None:
        """Forget what was said so far."""
        if self._fd >= 0:
            with suppress(OSError):
                os.lseek(self._fd, 0, os.SEEK_END)

    def lines(self) -> tuple[str, ...]:
        """The last few messages since the mark, as dmesg shows them without their time."""
        found: list[str] = []
        while self._fd >= 0:
            try:
                record = os.read(self._fd, _RECORD_MAX)
            except BrokenPipeError:  # the ring overran us; the next read goes on behind
                continue
            except OSError:
                break
            if not record:
                break
            head, _, rest = record.partition(b";")
            if head and rest:
                found.append(rest.split(b"\n", 1)[0].decode(errors="backslashreplace"))
        return tuple(found[-_LINES:])
