"""Runner: the functions of one gadget behind their FunctionFS mounts. It needs no root.

It opens the files and follows the events; that a UDC is bound, unbound when a function leaves the
bus, and unbound before it closes, is its caller's work.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import anyio

from configfs.aio import Transfers
from configfs.ffs import FunctionFs, Mounted
from usbip_vudc.errors import UsbipVudcError
from usbip_vudc.lives import Lives

__all__ = ("FunctionCrashed", "Runner")

log = logging.getLogger(__name__)

_DRAIN_SECONDS: Final = 2.0
"""The kernel gives transfers back within a millisecond of the unbind; a stuck one is left."""


class FunctionCrashed(UsbipVudcError):
    """A function raised: its gadget has disconnected, as a device whose firmware crashed."""


class Runner:
    """Runs functions, each on its mount, from `open` to `close`.

    ``on_leave`` hears that one of them leaves the bus, and for how many seconds: the gadget is
    then to be unbound, the requests drained, and after that time it is to be bound again.
    ``beside`` is a task that runs for as long as they do.
    """

    def __init__(
        self,
        name: str,
        mounted: Sequence[Mounted],
        *,
        on_leave: Callable[[float], None],
        beside: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        self._name = name
        self._beside = beside
        self._crashed = anyio.Event()
        self._transfers = Transfers()
        self._lives = Lives(name, on_crash=self._crashed.set, on_leave=on_leave)
        self._functions = [
            FunctionFs(each, self._transfers, self._lives, self._crashed.set) for each in mounted
        ]
        for function in self._functions:
            if function.description.plain:
                log.warning(
                    "%s: function %s is described in its plain form: FunctionFS takes no class-"
                    "specific descriptors and one alternate setting", name, function.function.name,
                )  # fmt: skip

    def open(self) -> None:
        """Tell FunctionFS of every function, so that the gadget can be bound.

        Raises OSError, with nothing left open.
        """
        try:
            for function in self._functions:
                function.open()
        except BaseException:
            self.close()
            raise

    async def run(self) -> None:
        """Follow events until cancelled.

        Raises FunctionCrashed when a function raises, OSError when FunctionFS fails.
        """
        failure: BaseException = FunctionCrashed(
            f"{self._name}: a function crashed; the log says how"
        )
        try:
            async with anyio.create_task_group() as tasks:
                self._lives.open(tasks)
                tasks.start_soon(self._transfers.run)
                if self._beside is not None:
                    tasks.start_soon(self._beside)
                for function in self._functions:
                    tasks.start_soon(function.run)
                    tasks.start_soon(function.keep_wedged)
                await self._crashed.wait()
                tasks.cancel_scope.cancel()
        except* OSError as group:
            failure = _first(group)
        raise failure

    def drain(self) -> None:
        """After an unbind: end every run, and give its requests back for nobody to wait for."""
        for function in self._functions:
            function.disable()
        deadline = time.monotonic() + _DRAIN_SECONDS
        self._transfers.collect()
        while self._transfers.in_flight and time.monotonic() < deadline:
            time.sleep(0.002)
            self._transfers.collect()

    def close(self) -> None:
        """Close every file, after the unbind. Idempotent."""
        self._transfers.close()
        for function in self._functions:
            function.close()
        self._lives.close()


def _first(error: BaseException) -> BaseException:
    """The first error of a group, which is the one that made the others."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
