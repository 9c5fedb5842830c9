"""A gadget in a process of its own, as its users run it, made by a fork: no Python to start."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

__all__ = ("GadgetProcess", "Serve", "gadget_process")

Serve = Callable[[], AbstractContextManager[str]]
"""Serves while its context lasts, whose value is what it has to say."""


class GadgetProcess:
    """The parent's end: what the gadget ``said``, and the processor time that it has used.

    Raises RuntimeError where the process ends before it has said anything.
    """

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid = pid
        with os.fdopen(pipe) as file:
            self.said = file.readline().strip()
        if not self.said:
            raise RuntimeError("the gadget's process ended; see above")

    def cpu_seconds(self) -> tuple[float, float]:
        """Its time in Python and C, and in the kernel, so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        tick = os.sysconf("SC_CLK_TCK")
        return int(fields[11]) / tick, int(fields[12]) / tick


@contextmanager
def gadget_process(serve: Serve) -> Iterator[GadgetProcess]:
    """Run it in a child, ready when the context begins and gone when it ends."""
    pipe, says = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(pipe)
        _be_child(serve, says)
    os.close(says)
    try:
        yield GadgetProcess(pid, pipe)
    finally:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


def _be_child(serve: Serve, says: int) -> None:
    status = 1
    try:
        # In every thread that is to come, so that it waits for us to ask for it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        with serve() as said:
            os.write(says, f"{said}\n".encode())
            signal.sigwait({signal.SIGTERM})
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)
