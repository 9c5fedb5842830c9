"""A Runner in a process of another user: what serves the host needs no root, and has none.

The parent keeps what needs root: the tree, the mounts, the UDC. The two talk through pipes: the
child says that the gadget can be bound; when its end of a pipe closes, the other one is gone.
"""

from __future__ import annotations

import logging
import os
import pwd
import signal
import threading
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from configfs.runner import FunctionCrashed, Runner
from usbip_vudc.errors import SchemeError, UsbipVudcError
from usbip_vudc.function import Function

__all__ = ("DroppedRunner", "user_named")

log = logging.getLogger(__name__)

_PATIENCE: Final = 10.0
"""Seconds for the child to end by itself once it is told to."""

_READY: Final = b"\1"


def user_named(name: str) -> pwd.struct_passwd:
    """The account of a user name or a number. Raises SchemeError where there is none."""
    try:
        return pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except KeyError:
        raise SchemeError(f"user {name!r}: there is no such account on this machine") from None


class DroppedRunner:
    """Starts a Runner in a child process that has become ``user``, and ends it."""

    def __init__(self, name: str, mounts: Mapping[Function, Path], user: pwd.struct_passwd) -> None:
        self._name = name
        self._mounts = mounts
        self._user = user
        self._pid = 0
        self._from_child = self._to_child = -1

    async def open(self) -> None:
        """Start the child and wait until the gadget can be bound.

        Raises UsbipVudcError where it ended before that; the log says why.
        """
        from_child, child_says = os.pipe()
        child_hears, to_child = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            os.close(from_child)
            os.close(to_child)
            _be_child(lambda: self._serve(child_says, child_hears))
        os.close(child_says)
        os.close(child_hears)
        self._from_child, self._to_child = from_child, to_child
        await anyio.wait_readable(from_child)
        if os.read(from_child, 1) != _READY:
            raise UsbipVudcError(f"{self._name}: the process of the functions ended at its start")

    async def run(self) -> None:
        """Wait for the child's end, which is a crash. Raises FunctionCrashed."""
        await anyio.wait_readable(self._from_child)
        raise FunctionCrashed(f"{self._name}: the process of the functions ended; see the log")

    def drain(self) -> None:
        """Nothing: the child gives its requests back by itself."""

    async def close(self) -> None:
        """End the child, after the unbind. Idempotent."""
        if not self._pid:
            return
        os.close(self._to_child)
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(_PATIENCE) as deadline:
                await anyio.wait_readable(self._from_child)
            if deadline.cancelled_caught:
                log.warning("%s: process %d does not end; killed", self._name, self._pid)
                os.kill(self._pid, signal.SIGKILL)
            await anyio.to_thread.run_sync(os.waitpid, self._pid, 0)
        os.close(self._from_child)
        self._pid = 0

    # --- in the child --------------------------------------------------------------------------

    async def _serve(self, says: int, hears: int) -> None:
        _become(self._user)
        runner = Runner(self._name, self._mounts)
        runner.open()
        try:
            os.write(says, _READY)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(runner.run)
                await anyio.wait_readable(hears)
                runner.drain()
                tasks.cancel_scope.cancel()
        finally:
            runner.close()


def _be_child(serve: Callable[[], Awaitable[None]]) -> None:
    """Be a process of its own until it exits; never returns into the parent's code."""
    status = 1

    def run() -> None:
        nonlocal status
        try:
            anyio.run(serve)
            status = 0
        except BaseException:
            log.exception("the process of the functions ended")

    try:
        # The parent hears Ctrl-C and ends us; that it was killed we see on the pipe.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # This thread remembers the parent's event loop; a new one begins afresh.
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    finally:
        os._exit(status)


def _become(user: pwd.struct_passwd) -> None:
    """Drop root for good: groups first, while that is still allowed."""
    os.initgroups(user.pw_name, user.pw_gid)
    os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
