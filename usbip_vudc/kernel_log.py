"""The kernel's log, followed from one moment on.

Reads /dev/kmsg, which needs root or kernel.dmesg_restrict=0. It never writes there. Standard
library only; what a line means is for others to say.
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import Final, Self

__all__ = ("KernelLog",)

_RECORD_SIZE: Final = 8192
"""Bytes: one read of /dev/kmsg returns one record, and none is longer (kernel/printk/printk.c)."""


class KernelLog:
    """Reads on from where it stopped: the first ``read`` begins at the moment of construction.

    Where the log is closed to us it raises OSError, or, not ``required``, has no lines.
    """

    def __init__(self, path: str = "/dev/kmsg", *, required: bool = True) -> None:
        self._fd = -1
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._fd, 0, os.SEEK_END)
        except OSError:
            self.close()
            if required:
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; twice does no harm."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def mark(self) -> None:
        """Forget what has come so far."""
        if self._fd >= 0:
            os.lseek(self._fd, 0, os.SEEK_END)

    def read(self) -> list[str]:
        """The lines that came since the last call, oldest first; never waits.

        Lines that the kernel's ring has lost meanwhile are left out.
        """
        lines: list[str] = []
        while self._fd >= 0:
            try:
                record = os.read(self._fd, _RECORD_SIZE)
            except BlockingIOError:
                return lines
            except BrokenPipeError:  # overwritten before we came: the next read is the oldest kept
                continue
            if not record:  # a regular file, in tests
                return lines
            # "6,1234,5678901,-;text", then lines of the form " KEY=value" (Documentation/ABI,
            # dev-kmsg).
            _, _, text = record.decode(errors="replace").partition(";")
            lines.append(text.split("\n", 1)[0])
        return lines
