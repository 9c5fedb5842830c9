"""A Runner in a process of another user: what serves the host needs no root, and has none.

The parent keeps what needs root: the tree, the mounts, the UDC. The two talk through pipes: the
child says that the gadget can be bound, and each time that a function leaves the bus; when its end
of a pipe closes, the other one is gone.
"""

from __future__ import annotations

import logging
import os
import pwd
import signal
import struct
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final

import anyio
import anyio.to_thread

from configfs.ffs import Mounted
from configfs.runner import FunctionCrashed, Runner
from usbip_vudc.errors import SchemeError, UsbipVudcError

__all__ = ("DroppedRunner", "user_named")

log = logging.getLogger(__name__)

_PATIENCE: Final = 10.0
"""Seconds for the child to end by itself once it is told to."""

_SECONDS: Final = struct.Struct("d")
"""How long the gadget is to be off the bus; a message of the child, which a pipe never parts."""

_READY: Final = _SECONDS.pack(0)
"""The child's first message: there is nothing yet to leave."""


_PARENTS_ENDS: Final[set[int]] = set()
"""Of the pipes to every child of this process: a later child must not keep them open."""


def user_named(name: str) -> pwd.struct_passwd:
    """The account of a user name or a number. Raises SchemeError where there is none."""
    try:
        return pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except KeyError:
        raise SchemeError(f"user {name!r}: there is no such account on this machine") from None


class DroppedRunner:
    """Starts a Runner in a child process that has become ``user``, and ends it."""

    def __init__(
        self,
        name: str,
        mounted: Sequence[Mounted],
        user: pwd.struct_passwd,
        *,
        on_leave: Callable[[float], None],
        beside: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        self._name = name
        self._mounted = mounted
        self._user = user
        self._on_leave = on_leave
        self._beside = beside
        self._pid = 0
        self._from_child = self._to_child = -1

    async def open(self) -> None:
        """Start the child and wait until the gadget can be bound.

        Raises UsbipVudcError where it ended before that; the log says why.
        """
        from_child, child_says = os.pipe()
        child_hears, to_child = os.pipe()
        self._pid = os.fork()
        _PARENTS_ENDS.update((from_child, to_child))
        if not self._pid:
            for fd in _PARENTS_ENDS:
                os.close(fd)
            _be_child(lambda: self._serve(child_says, child_hears))
        os.close(child_says)
        os.close(child_hears)
        self._from_child, self._to_child = from_child, to_child
        if await self._hear() != _READY:
            raise UsbipVudcError(f"{self._name}: the process of the functions ended at its start")

    async def run(self) -> None:
        """Hear of functions that leave the bus, until the child's end: that is a crash.

        Raises FunctionCrashed.
        """
        while said := await self._hear():
            self._on_leave(*_SECONDS.unpack(said))
        raise FunctionCrashed(f"{self._name}: the process of the functions ended; see the log")

    async def _hear(self) -> bytes:
        """The next message of the child; empty once it has ended."""
        await anyio.wait_readable(self._from_child)
        return os.read(self._from_child, _SECONDS.size)

    def drain(self) -> None:
        """Nothing: the child gives its requests back by itself."""

    async def close(self) -> None:
        """End the child, after the unbind. Idempotent."""
        if not self._pid:
            return
        self._close(self._to_child)
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(_PATIENCE) as deadline:
                while await self._hear():
                    continue
            if deadline.cancelled_caught:
                log.warning("%s: process %d does not end; killed", self._name, self._pid)
                os.kill(self._pid, signal.SIGKILL)
            _, status = await anyio.to_thread.run_sync(os.waitpid, self._pid, 0)
        if os.WIFSIGNALED(status) and not deadline.cancelled_caught:
            killer = signal.strsignal(os.WTERMSIG(status))
            log.error("%s: process %d of the functions: %s", self._name, self._pid, killer)
        self._close(self._from_child)
        self._pid = 0

    @staticmethod
    def _close(fd: int) -> None:
        _PARENTS_ENDS.discard(fd)
        os.close(fd)

    # --- in the child --------------------------------------------------------------------------

    async def _serve(self, says: int, hears: int) -> None:
        _become(self._user)

        def leave(seconds: float) -> None:
            # First, while this life's files are its own: the parent binds again when it likes.
            runner.drain()
            os.write(says, _SECONDS.pack(seconds))

        runner = Runner(self._name, self._mounted, on_leave=leave, beside=self._beside)
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
