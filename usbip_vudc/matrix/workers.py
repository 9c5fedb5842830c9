"""Workers: cells spread over processes, each with servers of its own.

Cells of the userspace UDC go to whoever is free. A UDC of the kernel carries one gadget at a
time, so its cells are one worker's, one after the other.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Final

from usbip_vudc.carrier import OURS
from usbip_vudc.matrix.cell import Cell
from usbip_vudc.matrix.results import Result, examine

__all__ = ("examine_all",)

_TERMINATED: Final = 128 + signal.SIGTERM

_GRACE: Final = 10.0
"""Seconds that a worker which is to end may take to undo what it has made."""


def examine_all(cells: Sequence[Cell], processes: int = 1) -> Iterator[Result]:
    """Each cell's result, as soon as it is there; in order where there is one process.

    Closing the iterator, and any exception at it, ends the workers; each unwinds what it has.
    """
    if processes == 1:
        yield from map(examine, cells)
        return
    # A fork would take the threads' locks along, and not the threads.
    context = multiprocessing.get_context("spawn")
    level = logging.getLogger().getEffectiveLevel()
    groups = _groups(cells)
    with _interrupts_ignored():
        pool = context.Pool(min(processes, len(groups)) or 1, _begin, (level,))
    with pool:
        for results in pool.imap_unordered(_work, groups):
            yield from results


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """What is started meanwhile ignores SIGINT from its first moment: it is the parent's affair."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _groups(cells: Sequence[Cell]) -> list[list[str]]:
    """The texts of the cells that go together."""
    groups: defaultdict[object, list[str]] = defaultdict(list)
    for number, cell in enumerate(cells):
        udc = cell.carrier.udc
        groups[number if udc == OURS else udc].append(str(cell))
    return list(groups.values())


def _begin(level: int) -> None:
    """In a worker, which its parent ends with SIGTERM."""
    logging.basicConfig(level=level, format="%(name)s: %(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, _unwind)


def _unwind(_number: int, _frame: FrameType | None) -> None:
    # An exception that comes while a thread is being started can leave its starter waiting for
    # it for ever (anyio's portal, for one). What then stays is found by the next start.
    deadline = threading.Timer(_GRACE, os._exit, (_TERMINATED,))
    deadline.daemon = True
    deadline.start()
    sys.exit(_TERMINATED)


def _work(texts: list[str]) -> list[Result]:
    return [examine(Cell.parse(text)) for text in texts]
