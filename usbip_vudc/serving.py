"""A server in a background thread, for synchronous programs: tests, demos, a REPL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import anyio.abc
import anyio.from_thread

from usbip_vudc.exportable import Exportable
from usbip_vudc.gadget import Gadget
from usbip_vudc.server import DEFAULT_HOST, Server
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.vudc import UserspaceUDC

__all__ = ("serving", "serving_in", "serving_udcs")


@contextmanager
def serving(
    *gadgets: Gadget, speed: Speed | None = None, host: str = DEFAULT_HOST, port: int = 0
) -> Iterator[int]:
    """Export gadgets as busids 1-1, 1-2... while the context lasts; yields the TCP port.

    ``speed`` defaults to each gadget's ``max_speed``. Raises SchemeError where a gadget cannot
    exist at that speed, OSError where nothing can listen there.
    """
    udcs = [UserspaceUDC(gadget, speed=speed, name=gadget.name) for gadget in gadgets]
    with serving_udcs(*udcs, host=host, port=port) as listening:
        yield listening


@contextmanager
def serving_udcs(
    *udcs: UserspaceUDC | Exportable, host: str = DEFAULT_HOST, port: int = 0
) -> Iterator[int]:
    """The same for controllers that the caller made. They live in the server's thread."""
    with (
        anyio.from_thread.start_blocking_portal() as portal,
        serving_in(portal, *udcs, host=host, port=port) as listening,
    ):
        yield listening


@contextmanager
def serving_in(
    portal: anyio.from_thread.BlockingPortal,
    *udcs: UserspaceUDC | Exportable,
    host: str = DEFAULT_HOST,
    port: int = 0,
) -> Iterator[int]:
    """The same in a thread that the caller has."""
    server = Server(udcs)
    scope = portal.call(anyio.CancelScope)

    async def serve(*, task_status: anyio.abc.TaskStatus[tuple[str, int]]) -> None:
        with scope:
            await server.serve(host, port, task_status=task_status)

    future, (_, listening) = portal.start_task(serve)
    try:
        yield listening
    finally:
        portal.call(scope.cancel)
        future.result(timeout=10)
