"""Gadgets up and down: what one process does, and what it does to the process that holds one.

`install` is for gadgets of kernel functions alone, which need no process; KernelUDC holds the
others. `bring_down` removes any gadget.
"""

from __future__ import annotations

import logging
import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from configfs.records import Record, alive, claim, clean, find, keep, locked, release, stale
from configfs.transaction import GADGETS, ConfigfsGadget
from configfs.tree import check_name, userspace_functions
from usbip_vudc.errors import SchemeError, UsbipVudcError
from usbip_vudc.gadget import Gadget

__all__ = ("bring_down", "clean_stale", "install", "stopping_on_sigterm")

log = logging.getLogger(__name__)

_PATIENCE: Final = 15.0
"""Seconds that a process has to undo what it holds, before it is killed."""


def install(gadget: Gadget, udc: str, *, source: str = "", root: Path = GADGETS) -> ConfigfsGadget:
    """Make a gadget of kernel functions and bind it; it then stays without us.

    ``source`` is kept in its record. Raises SchemeError for a gadget that needs a process, and
    ConfigfsError; nothing of it is then left.
    """
    if userspace_functions(gadget):
        raise SchemeError(f"gadget {gadget.name} has functions of userspace: KernelUDC runs those")
    record = claim(gadget, root=root)
    tree = None
    try:
        tree = ConfigfsGadget.create(gadget, root=root)
        tree.bind(udc)
        keep(record, source=source)
    except BaseException:
        if tree is not None:
            tree.remove()
        release(record)
        raise
    return tree


def bring_down(name: str, *, root: Path = GADGETS) -> bool:
    """Remove a gadget, ours or not; False where there was none.

    A process that holds it gets SIGTERM, and has 15 s to undo it all; what is left is removed, but
    not a gadget of that name that another process has made meanwhile.
    Raises SchemeError for an impossible name, ConfigfsError, MountError.
    """
    check_name(name)
    tree = ConfigfsGadget(root / name)
    record = find(name)
    if record is None and not tree.exists:
        return False
    if record is not None and record.held:
        _stop(record)
    with locked():
        left = find(name)
        if record is not None and left is not None and _maker(left) != _maker(record):
            return True  # the one that was meant is gone
        if left is not None:
            clean(left)
        tree.remove()
    return True


def clean_stale() -> Iterator[tuple[Record, UsbipVudcError | OSError | None]]:
    """Remove every gadget whose process is gone: each with the error that it met, or None."""
    if not stale():
        return
    try:
        with locked():
            for record in stale():
                try:
                    clean(record)
                    yield record, None
                except (UsbipVudcError, OSError) as error:
                    yield record, error
    except PermissionError as error:
        for record in stale():
            yield record, error


@contextmanager
def stopping_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, so that what is half done is undone."""

    def stop(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _maker(record: Record) -> tuple[str, int, int]:
    """What no two processes share."""
    return record.boot_id, record.pid, record.start_time


def _stop(record: Record) -> None:
    """End the process that holds a gadget, politely first."""
    with suppress(ProcessLookupError):
        fd = os.pidfd_open(record.pid)
        try:
            ended = select.poll()
            ended.register(fd, select.POLLIN)
            for number in (signal.SIGTERM, signal.SIGKILL):
                if not alive(record):  # also where its number is another one's now
                    return
                signal.pidfd_send_signal(fd, number)
                if ended.poll(_PATIENCE * 1000):
                    return
                log.warning("%s: process %d does not end", record.name, record.pid)
        finally:
            os.close(fd)
