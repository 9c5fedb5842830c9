"""KernelUDC: a gadget on a UDC of the kernel, from the first mkdir to the last rmdir.

The functions of this project run behind FunctionFS mounts, the kernel's own in the kernel; the
tree in configfs joins them. Whatever is made is undone in the reverse order, after errors too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import anyio.abc

from configfs.dropped import DroppedRunner, user_named
from configfs.mount import mount_functionfs, unmount
from configfs.records import claim, mount_directory, release
from configfs.runner import FunctionCrashed, Runner
from configfs.transaction import ConfigfsGadget
from configfs.tree import ffs_instance, userspace_functions
from usbip_vudc.function import UDC, Function
from usbip_vudc.gadget import Gadget

__all__ = ("FunctionCrashed", "KernelUDC")


class KernelUDC(UDC):
    """A gadget to be bound to the UDC named ``controller``; it needs root and libcomposite.

    With ``user`` the functions run in a process of that user; what needs root stays here.
    Raises SchemeError for a user that does not exist.
    """

    def __init__(self, gadget: Gadget, controller: str, *, user: str | None = None) -> None:
        self.gadget = gadget
        self.name = controller
        self._user = user_named(user) if user is not None else None
        self._stop = anyio.Event()

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Create the gadget, bind it, and serve until cancelled or `unplug`; reports when bound.

        Raises ConfigfsError, MountError or OSError for what the kernel refuses, SchemeError for
        what FunctionFS cannot carry, FunctionCrashed when a function raises. Afterwards nothing
        of the gadget is left.
        """
        with self._installed() as (tree, mounts):
            async with self._runner(mounts) as runner:
                await self._serve(tree, runner, task_status)

    async def _serve(
        self,
        tree: ConfigfsGadget,
        runner: Runner | DroppedRunner,
        task_status: anyio.abc.TaskStatus[None],
    ) -> None:
        failure: Exception | None = None

        async def run() -> None:
            nonlocal failure
            try:
                await runner.run()
            except Exception as error:
                failure = error
            self._stop.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            try:
                tree.bind(self.name)
                task_status.started()
                await self._stop.wait()
            except Exception as error:
                failure = error  # raised below, outside the group, so that it stays itself
            finally:
                # First the kernel lets go: it ends what a thread of ours may wait for.
                tree.unbind()
                runner.drain()
                tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    def unplug(self) -> None:
        """Disconnect: `run` undoes everything and returns soon."""
        self._stop.set()

    @contextmanager
    def _installed(self) -> Iterator[tuple[ConfigfsGadget, Mapping[Function, Path]]]:
        """The tree with its mounts, bound to no UDC yet."""
        with ExitStack() as undo:
            record = claim(self.gadget)
            undo.callback(release, record)
            tree = ConfigfsGadget.create(self.gadget)
            undo.callback(tree.remove)
            mounts = {}
            for function in userspace_functions(self.gadget):
                instance = ffs_instance(self.gadget, function)
                where = mounts[function] = mount_directory(self.gadget.name) / instance
                mount_functionfs(
                    instance,
                    where,
                    uid=self._user.pw_uid if self._user else None,
                    gid=self._user.pw_gid if self._user else None,
                )
                undo.callback(unmount, where)
            yield tree, mounts

    @asynccontextmanager
    async def _runner(
        self, mounts: Mapping[Function, Path]
    ) -> AsyncIterator[Runner | DroppedRunner]:
        """What runs the functions, open."""
        if self._user is not None and mounts:
            dropped = DroppedRunner(self.name, mounts, self._user)
            try:
                await dropped.open()
                yield dropped
            finally:
                await dropped.close()
            return
        runner = Runner(self.name, mounts)
        runner.open()
        try:
            yield runner
        finally:
            runner.close()
