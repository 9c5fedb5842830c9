"""Lives: runs the functions of a configuration, each for as long as the host wants it.

A function that is started anew waits for the end of its last run, and of several starts only the
newest counts by then: a host may be quicker than the function. It knows nothing of endpoints'
pipes or of USB/IP.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import anyio
import anyio.abc

from usbip_vudc.errors import EndpointDisabled, SoftDisconnect
from usbip_vudc.function import Endpoint, Function

__all__ = ("Lives",)

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Life:
    """One run of a function, from SET_CONFIGURATION or SET_INTERFACE to the next."""

    function: Function
    endpoints: Mapping[str, Endpoint]
    scope: anyio.CancelScope | None = None
    ended: bool = False


class Lives:
    """The runs of one controller's functions; ``on_crash`` hears of a run that raised.

    ``on_leave`` hears of one that raised SoftDisconnect: for how many seconds. Without tasks (no
    host) nothing runs, but who is alive is still kept.
    """

    def __init__(
        self, name: str, *, on_crash: Callable[[], None], on_leave: Callable[[float], None]
    ) -> None:
        self._name = name
        self._on_crash = on_crash
        self._on_leave = on_leave
        self._tasks: anyio.abc.TaskGroup | None = None
        self._lives: dict[Function, _Life] = {}
        self._running: set[Function] = set()

    def open(self, tasks: anyio.abc.TaskGroup) -> None:
        """A host has come: runs are tasks of this group."""
        self._tasks = tasks

    def close(self) -> None:
        """The host has gone, and with it every run."""
        self._tasks = None
        self._lives.clear()
        self._running.clear()

    @property
    def functions(self) -> tuple[Function, ...]:
        """Those that live now."""
        return tuple(life.function for life in self._lives.values() if not life.ended)

    def begin(self, function: Function, endpoints: Mapping[str, Endpoint]) -> None:
        """Run a function with these endpoints, once its last run is over."""
        life = self._lives[function] = _Life(function, endpoints)
        try:
            function.selected()
        except Exception:
            self._crashed(life)
            return
        if self._tasks is not None and function not in self._running:
            self._running.add(function)
            self._tasks.start_soon(self._run_newest, function)

    def end(self, function: Function) -> None:
        """Cancel its run."""
        life = self._lives[function]
        life.ended = True
        if life.scope is not None:
            life.scope.cancel()

    async def _run_newest(self, function: Function) -> None:
        """One task a function, whatever a host selects meanwhile."""
        last = None
        life = self._lives.get(function)
        while life is not None and life is not last:
            if not life.ended:
                await self._run(life)
            last, life = life, self._lives.get(function)
        self._running.discard(function)

    async def _run(self, life: _Life) -> None:
        try:
            with anyio.CancelScope() as life.scope:
                await life.function.run(life.endpoints)
        except* EndpointDisabled:
            # It let its requests' end be its own.
            if not life.ended:
                self._crashed(life)
        except* SoftDisconnect as group:
            if not life.ended:  # else it is off the bus already, or begins anew as it is
                self._leaves(life, _seconds(group))
        except* Exception:
            self._crashed(life)

    def _leaves(self, life: _Life, seconds: float) -> None:
        log.info("%s: function %s leaves the bus for %g s", self._name, life.function.name, seconds)
        self._on_leave(seconds)

    def _crashed(self, life: _Life) -> None:
        log.exception("%s: function %s crashed", self._name, life.function.name)
        if not life.ended:
            self._on_crash()


def _seconds(error: BaseException) -> float:
    """How long a SoftDisconnect is to last, the longest of a group of them."""
    if isinstance(error, BaseExceptionGroup):
        return max(map(_seconds, error.exceptions))
    return error.seconds if isinstance(error, SoftDisconnect) else 0.0
