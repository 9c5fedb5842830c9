"""ReportSender: input reports, from any thread or task, one by one to an interrupt endpoint.

What a HID function queues here waits until a host polls. What a host that has polled did not take
is lost when it leaves: the next one must not see the rest of a word. One that never polled has only
looked at the descriptors, and all goes on waiting but what was meant `for_this_host` alone.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import anyio

from usbip_vudc.errors import EndpointDisabled, LocalProtocolError
from usbip_vudc.function import Endpoint, Request

__all__ = ("ReportSender",)


@dataclass(frozen=True, slots=True)
class _Report:
    """``data``, in full. ``passing`` says that another host must not get it.

    A ``repeat`` is no news: nobody waits for it to be taken.
    """

    data: bytes
    passing: bool
    repeat: bool = False


class ReportSender:
    """The reports that one interrupt endpoint is to send, in order.

    ``shape`` makes of each report, as it leaves, what the host has asked for (the protocol).
    ``last`` is what the host was told last, in full; ``rest`` is what stays so when nothing is
    waiting, such as a key that is held.
    """

    def __init__(self, neutral: bytes, shape: Callable[[bytes], bytes]) -> None:
        self.last = self.rest = self._neutral = neutral
        self._shape = shape
        self._waiting: deque[_Report] = deque()
        self._in_flight: _Report | None = None
        self._request: Request | None = None
        self._polled = False
        self._lost = 0
        self._changed = threading.Condition()
        self._endpoint: Endpoint | None = None
        self._wake = -1
        self._carrier = 0
        self._performer = 0
        self._moved = anyio.Event()

    # --- any thread ----------------------------------------------------------------------------

    def send(self, *reports: bytes, rest: bytes | None = None) -> None:
        """Queue reports behind those that wait, which leave ``rest``. Never waits."""
        with self._changed:
            self.rest = self.rest if rest is None else rest
            passing = threading.get_ident() == self._performer
            self._waiting.extend(_Report(report, passing) for report in reports)
            if threading.get_ident() != self._carrier:
                if self._endpoint is not None:
                    os.eventfd_write(self._wake, 1)
                return  # `carry` sends them
        self._pump()

    @contextmanager
    def for_this_host(self) -> Iterator[None]:
        """What this thread sends meanwhile is for no host but the one that is here now."""
        self._performer = threading.get_ident()
        try:
            yield
        finally:
            self._performer = 0

    def wait_taken(self, timeout: float) -> None:
        """Wait until the host has taken every report, at most ``timeout`` seconds.

        Raises TimeoutError, EndpointDisabled where the host left instead, and LocalProtocolError
        in the thread that would have to send them, where a task awaits `taken`.
        """
        if threading.get_ident() == self._carrier:
            raise LocalProtocolError(
                "wait_taken would block the thread that sends the reports; await taken() there"
            )
        with self._changed:
            lost = self._lost
            if not self._changed.wait_for(lambda: not self._untaken or self._lost != lost, timeout):
                raise TimeoutError(
                    f"{self._untaken} report(s) were not taken within {timeout:g} s: does a host "
                    f"poll the device?"
                )
            self._check_lost(lost)

    def _check_lost(self, before: int) -> None:
        if self._lost != before:
            raise EndpointDisabled(f"the host left before {self._lost - before} report(s)")

    @property
    def _untaken(self) -> int:
        reports = [*self._waiting, *([] if self._in_flight is None else [self._in_flight])]
        return sum(not report.repeat for report in reports)

    # --- the UDC's thread ----------------------------------------------------------------------

    async def carry(self, endpoint: Endpoint) -> None:
        """Send to a host, until cancelled: first what waits for one."""
        wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        with self._changed:
            self.last = self._neutral
            self._polled = False
            if not self._waiting and self.rest != self._neutral:
                self._waiting.append(
                    _Report(self.rest, passing=True)
                )  # what a new host cannot know
            self._endpoint, self._wake = endpoint, wake
            self._carrier = threading.get_ident()
        try:
            while True:
                self._pump()
                await anyio.wait_readable(wake)
                os.eventfd_read(wake)
        finally:
            self._disconnect()
            os.close(wake)

    def _disconnect(self) -> None:
        """The host is gone, and what waited for it, if it ever took a report."""
        with self._changed:
            self._endpoint, self._wake, self._carrier = None, -1, 0
            taken = self._request is not None and self._request.actual == self._request.length
            if self._in_flight is not None and not taken:
                self._waiting.appendleft(self._in_flight)
            polled = self._polled or taken
            kept = [report for report in self._waiting if not (polled or report.passing)]
            untaken = sum(not report.repeat for report in self._waiting)
            self._lost += untaken - len(kept)
            self._waiting = deque(kept)
            self._request = self._in_flight = None
            self._changed.notify_all()
        self.touch()

    async def taken(self) -> None:
        """The same for a task of the UDC's own event loop, with no time limit of its own."""
        lost = self._lost
        while self._untaken and self._lost == lost:
            await self._moved.wait()
        self._check_lost(lost)

    async def moved(self) -> None:
        """Wait until a report is queued or taken, or `touch`."""
        await self._moved.wait()

    def touch(self) -> None:
        """Wake who waits in `moved`."""
        self._moved.set()
        self._moved = anyio.Event()

    def repeat(self, report: bytes) -> None:
        """Send a report that is no news, unless there is another one to send."""
        with self._changed:
            if not self._waiting and self._in_flight is None:
                self._waiting.append(_Report(report, passing=True, repeat=True))
        self._pump()

    def _pump(self) -> None:
        with self._changed:
            if self._request is not None or self._endpoint is None or not self._waiting:
                return
            report = self._in_flight = self._waiting.popleft()
            request = self._request = Request(self._shape(report.data), on_complete=self._sent)
            endpoint = self._endpoint
        endpoint.queue(request)
        self.touch()

    def _sent(self, request: Request) -> None:
        if request is not self._request or request.error is not None:
            return  # of a host that has gone, or is about to be gone
        with self._changed:
            assert self._in_flight is not None
            self.last = self._in_flight.data
            self._polled = True
            self._request = self._in_flight = None
            if not self._waiting:
                self._changed.notify_all()
        self.touch()
        self._pump()
