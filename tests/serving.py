"""A USB/IP server in a background thread, for tests whose host is synchronous."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import anyio.from_thread

from usbip_vudc.gadget import Gadget
from usbip_vudc.server import Server
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.vudc import UserspaceUDC

__all__ = ("served", "served_udcs")


@contextmanager
def served(*gadgets: Gadget, speed: Speed | None = None) -> Iterator[int]:
    """Export gadgets as 1-1, 1-2... at one speed (default: each its fastest); yields the port."""
    with served_udcs(*(UserspaceUDC(gadget, speed=speed) for gadget in gadgets)) as port:
        yield port


@contextmanager
def served_udcs(*udcs: UserspaceUDC) -> Iterator[int]:
    """Export controllers, which the test may then unplug (from the server's thread)."""
    with anyio.from_thread.start_blocking_portal() as portal:
        scope = portal.call(anyio.CancelScope)

        async def serve(*, task_status: anyio.abc.TaskStatus[tuple[str, int]]) -> None:
            with scope:
                await Server(udcs).serve("127.0.0.1", 0, task_status=task_status)

        future, (_, port) = portal.start_task(serve)
        try:
            yield port
        finally:
            portal.call(scope.cancel)
            future.result(timeout=10)
