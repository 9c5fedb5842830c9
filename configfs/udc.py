"""KernelUDC: a gadget on a UDC of the kernel, from the first mkdir to the last rmdir.

The functions of this project run behind FunctionFS mounts, the kernel's own in the kernel; the
tree in configfs joins them. Whatever is made is undone in the reverse order, after errors too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import anyio
import anyio.abc

from configfs.dropped import DroppedRunner, user_named
from configfs.ffs import Mounted
from configfs.ffs_descriptors import FfsDescription, describe
from configfs.mount import mount_functionfs, unmount
from configfs.records import claim, mount_directory, release
from configfs.runner import FunctionCrashed, Runner
from configfs.transaction import ConfigfsGadget
from configfs.tree import check_platforms, check_speed, ffs_instance, userspace_functions
from usbip_vudc.function import UDC, Function
from usbip_vudc.gadget import Gadget

__all__ = ("FunctionCrashed", "KernelUDC")


class KernelUDC(UDC):
    """A gadget to be bound to the UDC named ``controller``; it needs root and libcomposite.

    With ``user`` the functions run in a process of that user; what needs root stays here.
    ``beside`` is a task that runs for as long as they do, in their process.
    Raises SchemeError for a user that does not exist, for a function that FunctionFS cannot carry
    or USB forbids, for a gadget of low speed and for Microsoft OS 2.0 descriptors.
    """

    def __init__(
        self,
        gadget: Gadget,
        controller: str,
        *,
        user: str | None = None,
        beside: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        self.gadget = gadget
        self._beside = beside
        self.name = controller
        self._user = user_named(user) if user is not None else None
        check_speed(gadget)
        check_platforms(gadget)
        self._described = [(each, _described(gadget, each)) for each in userspace_functions(gadget)]
        self._stop = anyio.Event()
        self._left = anyio.Event()
        self._pause = 0.0

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Create the gadget, bind it, and serve until cancelled or `unplug`; reports when bound.

        Raises ConfigfsError, MountError or OSError for what the kernel refuses, SchemeError for
        what configfs has no place for, FunctionCrashed when a function raises. Afterwards nothing
        of the gadget is left.
        """
        with self._installed() as (tree, mounted):
            async with self._runner(mounted) as runner:
                await self._serve(tree, runner, task_status)

    async def _serve(
        self,
        tree: ConfigfsGadget,
        runner: Runner | DroppedRunner,
        task_status: anyio.abc.TaskStatus[None],
    ) -> None:
        failure: Exception | None = None

        async def until_stop(work: Callable[[], Awaitable[None]]) -> None:
            nonlocal failure
            try:
                await work()
            except Exception as error:
                # The first one is raised below, outside the group, so that it stays itself.
                failure = failure or error
            self._stop.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(until_stop, runner.run)
            tasks.start_soon(until_stop, partial(self._stay, tree, runner, task_status))
            try:
                await self._stop.wait()
            finally:
                self._take_off(tree, runner)
                tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _stay(
        self,
        tree: ConfigfsGadget,
        runner: Runner | DroppedRunner,
        task_status: anyio.abc.TaskStatus[None],
    ) -> None:
        """Be on the bus until `unplug`, but for the pauses that functions ask for."""
        tree.bind(self.name)
        task_status.started()
        while True:
            await self._left.wait()
            self._left = anyio.Event()
            # Not soft_connect: dummy_hcd enumerates nothing that disconnects and connects again.
            self._take_off(tree, runner)
            with anyio.move_on_after(self._pause):
                await self._stop.wait()
            if self._stop.is_set():
                return
            tree.bind(self.name)

    @staticmethod
    def _take_off(tree: ConfigfsGadget, runner: Runner | DroppedRunner) -> None:
        """Unbind, and end what ran. First the kernel lets go: a thread of ours may wait for it."""
        tree.unbind()
        runner.drain()

    def _leave(self, seconds: float) -> None:
        """A function leaves the bus for so many seconds."""
        self._pause = seconds
        self._left.set()

    def unplug(self) -> None:
        """Disconnect: `run` undoes everything and returns soon."""
        self._stop.set()

    @contextmanager
    def _installed(self) -> Iterator[tuple[ConfigfsGadget, Sequence[Mounted]]]:
        """The tree with its mounts, bound to no UDC yet."""
        with ExitStack() as undo:
            record = claim(self.gadget)
            undo.callback(release, record)
            tree = ConfigfsGadget.create(self.gadget)
            undo.callback(tree.remove)
            mounted = []
            for function, description in self._described:
                instance = ffs_instance(self.gadget, function)
                where = mount_directory(self.gadget.name) / instance
                mount_functionfs(
                    instance,
                    where,
                    uid=self._user.pw_uid if self._user else None,
                    gid=self._user.pw_gid if self._user else None,
                )
                undo.callback(unmount, where)
                mounted.append(Mounted(function, description, where))
            yield tree, mounted

    @asynccontextmanager
    async def _runner(self, mounted: Sequence[Mounted]) -> AsyncIterator[Runner | DroppedRunner]:
        """What runs the functions, open."""
        if self._user is not None and mounted:
            dropped = DroppedRunner(
                self.name, mounted, self._user, on_leave=self._leave, beside=self._beside
            )
            try:
                await dropped.open()
                yield dropped
            finally:
                await dropped.close()
            return
        runner = Runner(self.name, mounted, on_leave=self._leave, beside=self._beside)
        runner.open()
        try:
            yield runner
        finally:
            runner.close()


def _described(gadget: Gadget, function: Function) -> FfsDescription:
    """A function for FunctionFS, with what Windows should know of it."""
    ours = gadget.os_descriptors
    features = ours.features_of(function, gadget.configs) if ours is not None else None
    return describe(function, deliberately_illegal=gadget.deliberately_illegal, features=features)
