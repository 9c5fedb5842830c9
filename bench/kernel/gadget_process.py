"""A gadget in a process of its own, as its users run it, made by a fork: no Python to start."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio

__all__ = ("GadgetProcess", "Serve", "gadget_process")

Serve = Callable[[Callable[[str], None]], Coroutine[Any, Any, None]]
"""Serves until cancelled; says a word when it is ready, and may say more later."""


class GadgetProcess:
    """The parent's end: what the gadget said, and the processor time that it has used."""

    def __init__(self, pid: int, said: int) -> None:
        self.pid = pid
        self._said = os.fdopen(said)

    def hear(self) -> str:
        """Wait for the next word. Raises RuntimeError where the process has ended."""
        word = self._said.readline().strip()
        if not word:
            raise RuntimeError("the gadget's process ended; see above")
        return word

    def cpu_seconds(self) -> tuple[float, float]:
        """Its time in Python and C, and in the kernel, so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        tick = os.sysconf("SC_CLK_TCK")
        return int(fields[11]) / tick, int(fields[12]) / tick


@contextmanager
def gadget_process(serve: Serve) -> Iterator[GadgetProcess]:
    """Run it in a child, ready when the context begins and gone when it ends."""
    said, says = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(said)
        _be_child(serve, says)
    os.close(says)
    process = GadgetProcess(pid, said)
    try:
        process.hear()
        yield process
    finally:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


def _be_child(serve: Serve, says: int) -> None:
    def say(word: str) -> None:
        os.write(says, f"{word}\n".encode())

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve, say)
            with anyio.open_signal_receiver(signal.SIGTERM) as signals:
                async for _ in signals:
                    tasks.cancel_scope.cancel()
                    return

    status = 1
    try:
        anyio.run(main)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)
