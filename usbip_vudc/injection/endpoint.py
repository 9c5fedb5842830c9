"""InjectedEndpoint: an Endpoint whose Requests go through an Injector on their way.

A function's Request becomes a `Job`: one or several requests at the endpoint below, laid out,
changed, held back or left out as the plan says. Jobs keep their order; one that is held back, or
whose OUT parts follow one another, holds back those behind it. It stands on the contract of
Endpoint alone, so it works on every UDC.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import anyio
import anyio.abc

from usbip_vudc.errors import (
    EndpointDisabled,
    LocalProtocolError,
    Overflow,
    RequestWithdrawn,
    TransferError,
)
from usbip_vudc.function import Endpoint, Request
from usbip_vudc.injection.actions import (
    AFTER,
    BEFORE,
    Action,
    Corrupt,
    Csw,
    Delay,
    Disconnect,
    Drop,
    Nak,
    Short,
    Stall,
    UseLayout,
    Zlp,
)
from usbip_vudc.injection.injector import Injector
from usbip_vudc.injection.jobs import Job, Part, other_bytes
from usbip_vudc.injection.placing import Laid, lay_out
from usbip_vudc.injection.transfer import Transfer
from usbip_vudc.sglist import SGList
from usbip_vudc.usb.ch9 import Direction, TransferType
from usbip_vudc.wrapped import WrappedEndpoint

__all__ = ("InjectedEndpoint", "Run")


class Run:
    """What the endpoints of one run of a function share: the plan, and tasks that end with it."""

    def __init__(self, function: str, injector: Injector, tasks: anyio.abc.TaskGroup) -> None:
        self.function = function
        self.injector = injector
        self.disconnected = anyio.Event()
        self.away = 0.0
        self._tasks = tasks

    def disconnect(self, seconds: float) -> None:
        """End this run: the device leaves the bus for so long."""
        self.away = seconds
        self.disconnected.set()

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call it after ``seconds``, never at once; not at all where the run ends before."""

        async def wait() -> None:
            await anyio.sleep(seconds)
            call()

        self._tasks.start_soon(wait)


class InjectedEndpoint(WrappedEndpoint):
    """An endpoint of the function's own kind over ``inner``, for one run."""

    def __init__(self, run: Run, inner: Endpoint) -> None:
        super().__init__(inner)
        self._own = run
        self._is_in = inner.direction == Direction.IN
        self._jobs: deque[Job] = deque()  # those that the function has not heard of again
        self._waiting: deque[Job] = deque()  # of these, those with more to come below
        self._merging = b""
        self._is_going = False
        self._is_over = False
        self._one_at_a_time = not self._is_in and run.injector.may(Drop)

    # --- Endpoint ------------------------------------------------------------------------------

    def queue(self, request: Request) -> Request:
        """As the seam says; the plan decides what becomes of it."""
        if self._is_over:
            return self._inner.queue(request)
        request.begin(self.role)
        job = Job(request, self._transfer(request))
        job.before = self._own.injector.actions(job.transfer, BEFORE)
        self._jobs.append(job)
        self._waiting.append(job)
        self._go_on()
        return request

    def withdraw(self, request: Request) -> None:
        """As the seam says; a request that is held back ends at once."""
        job = next((job for job in self._jobs if job.request is request), None)
        if job is None:
            return
        job.parts.clear()
        if job.flying:
            for part in tuple(job.flying):
                self._inner.withdraw(part)
        elif job.is_over:
            self._report(job, request.error)
        else:
            self._report(job, RequestWithdrawn(f"{request!r} was withdrawn"))

    def halt(self) -> None:
        """As the seam says."""
        self._check_idle()
        self._inner.halt()

    def wedge(self) -> None:
        """As the seam says."""
        self._check_idle()
        self._inner.wedge()

    def _check_idle(self) -> None:
        if self._is_in and self._waiting:
            raise LocalProtocolError(
                f"halt with {len(self._waiting)} IN request(s) queued; wait for them first"
            )

    def close(self) -> None:
        """The run is over: what was held back ends, and what comes now is the UDC's affair."""
        self._is_over = True
        for job in self._jobs:
            job.parts.clear()
        self._end_what_waits()

    # --- in order ------------------------------------------------------------------------------

    def _transfer(self, request: Request) -> Transfer:
        segments = request.sg.segments
        known = self._is_in and bool(segments)
        return Transfer(
            seam="function",
            function=self._own.function,
            role=self.role,
            address=self.address,
            direction=self.direction,
            length=request.length,
            max_packet_size=self.max_packet_size,
            is_iso=self.transfer_type == TransferType.ISOCHRONOUS,
            data=(segments[0] if len(segments) == 1 else request.sg.gather()) if known else b"",
        )

    def _go_on(self) -> None:
        """Issue what may be issued, in order."""
        if self._is_going:
            return  # whoever is in the loop comes to it
        self._is_going = True
        try:
            while self._waiting and not self._is_over:
                job = self._waiting[0]
                if not self._advance(job):
                    return
                if self._waiting and self._waiting[0] is job:
                    self._waiting.popleft()
        finally:
            self._is_going = False

    def _advance(self, job: Job) -> bool:
        """Take a job as far as it may go; whether all of it is at the endpoint below, or over."""
        if job.is_held or self._must_wait(job):
            return False
        if not job.parts:
            self._begin(job)
        if job.is_over or not job.parts:
            return job.is_over
        while job.parts:
            self._issue(job)
            if job.parts and not self._is_in:
                return False  # OUT parts follow one another: a short one ends them all
        return True

    def _must_wait(self, job: Job) -> bool:
        """OUT: for the part of this job that is under way, and where what comes may be lost."""
        if self._is_in:
            return False
        return bool(job.flying) or (self._one_at_a_time and any(j.flying for j in self._jobs))

    def _begin(self, job: Job) -> None:
        """Do what comes before a job, and make its parts; none where it is held back or over."""
        waiting = [action for action in job.before if isinstance(action, Disconnect | Nak | Stall)]
        for action in waiting:
            if isinstance(action, Disconnect):
                job.is_held = True  # for ever: it goes with the bus
                self._own.disconnect(action.seconds)
                return
            if isinstance(action, Nak):
                self._hold(job, action, action.seconds)
                return
            if any(earlier.flying for earlier in self._jobs if earlier is not job):
                return  # what goes before it ends first: then we are called again
            job.before = _without(job.before, action)
            self._inner.halt()
        if self._is_in:
            self._shape_in(job)
        else:
            self._lay_out(job, _cut_short(job.request.sg, job.before))

    def _hold(self, job: Job, action: Action, seconds: float) -> None:
        job.is_held = True
        job.before = _without(job.before, action)

        def release() -> None:
            job.is_held = False
            self._go_on()

        self._own.later(seconds, release)

    def _issue(self, job: Job) -> None:
        part = job.parts.popleft()

        def ended(moved: Request) -> None:
            job.flying.remove(moved)
            self._moved(job, part, moved)

        request = Request(
            part.laid.sg, zero=part.zero, partial=job.request.partial, on_complete=ended
        )
        job.flying.append(request)
        self._inner.queue(request)

    def _moved(self, job: Job, part: Part, moved: Request) -> None:
        """A part has ended below."""
        if part.counts:
            job.received += moved.actual
        if not self._is_in:
            part.laid.bring_back(moved.actual)
        if moved.error is not None:
            job.parts.clear()
            job.request.error = job.request.error or moved.error
            self._is_over = self._is_over or isinstance(moved.error, EndpointDisabled)
        elif not self._is_in and (moved.actual < part.laid.sg.length or job.request.partial):
            job.parts.clear()  # a short packet has ended the transfer
        if job.parts:
            self._go_on()
        elif not job.flying:
            self._finish(job)

    # --- shape ---------------------------------------------------------------------------------

    def _shape_in(self, job: Job) -> None:
        """Make the parts of an IN job, or lose it."""
        before = job.before
        sg = other_bytes(job.request.sg, self._merging, before)
        self._merging = b""
        if any(isinstance(action, Csw) and action.merged for action in before):
            self._merging = sg.gather()
            self._lose(job)
            return
        if any(isinstance(action, Drop) for action in before):
            self._lose(job)
            return
        sg = _cut_short(sg, before)
        if any(isinstance(action, Zlp) for action in before):
            job.parts.append(Part(Laid(SGList(b"")), counts=False))
        split = next((a.split for a in before if isinstance(a, Csw) and a.split), None)
        if split is not None and split < sg.length:
            ends = ((0, split), (split, sg.length))
            job.parts.extend(Part(Laid(SGList(*sg.cut(*piece)))) for piece in ends)
        else:
            self._lay_out(job, sg)

    def _lay_out(self, job: Job, sg: SGList) -> None:
        layout = next((a.layout for a in job.before if isinstance(a, UseLayout)), None)
        if layout is None:
            job.parts.append(Part(Laid(sg), zero=job.request.zero))
            return
        laid = lay_out(layout, sg, self.max_packet_size, copy_in=self._is_in)
        parts = list(map(Part, laid))
        parts[-1].zero = job.request.zero
        job.parts.extend(parts)

    def _lose(self, job: Job) -> None:
        """The function believes that it went out."""
        job.received = job.request.length
        job.is_over = True
        self._own.later(0, lambda: self._finish(job))

    # --- the end -------------------------------------------------------------------------------

    def _finish(self, job: Job) -> None:
        """All of a job has moved, or failed: the rules that act afterwards, and the function."""
        if job not in self._jobs:
            return  # withdrawn, or ended with its run, since it was lost
        request = job.request
        job.is_over = True
        moved = request.actual = min(job.received, request.length)
        after = self._acting_after(job, moved)
        if self._is_over or isinstance(request.error, RequestWithdrawn):
            self._report(job, request.error)  # whatever goes before it
            return
        if any(isinstance(action, Drop) for action in after):
            self._again(job)
            return
        delay = sum(action.seconds for action in after if isinstance(action, Delay))
        if delay:
            self._own.later(delay, lambda: self._tell_in_order(job))
            self._go_on()
        else:
            self._tell_in_order(job)

    def _acting_after(self, job: Job, moved: int) -> tuple[Action, ...]:
        """The rules that act on what has moved. `Corrupt` is done."""
        request, transfer = job.request, job.transfer
        after: tuple[Action, ...] = ()
        if request.error is None or isinstance(request.error, Overflow):
            if not self._is_in:
                transfer.data = b"".join(request.sg.cut(0, moved))
            after = self._own.injector.actions(transfer, AFTER)
        self._own.injector.finished(transfer, moved)
        for action in after:
            if isinstance(action, Corrupt) and action.offset < moved:
                (byte,) = request.sg.cut(action.offset, action.offset + 1)
                byte[0] ^= action.xor
        return after

    def _again(self, job: Job) -> None:
        """What came is lost: the same room waits for more."""
        job.received = 0
        job.is_over = False
        job.request.error = None
        job.transfer = self._transfer(job.request)
        job.before = ()
        self._waiting.appendleft(job)
        self._go_on()

    def _tell_in_order(self, job: Job) -> None:
        """Tell the function, but not before it has heard of what went before."""
        job.may_be_told = True
        while self._jobs and self._jobs[0].may_be_told:
            self._report(self._jobs[0], self._jobs[0].request.error)

    def _report(self, job: Job, error: TransferError | None) -> None:
        """Give the request back to the function."""
        if job not in self._jobs:
            return
        self._jobs.remove(job)
        if job in self._waiting:
            self._waiting.remove(job)
        if not job.is_over:
            self._own.injector.finished(job.transfer, 0)
        job.request.actual = min(job.received, job.request.length)
        job.request.complete(error)
        if self._is_over:
            self._end_what_waits()
        else:
            self._go_on()

    def _end_what_waits(self) -> None:
        """The configuration is over: every job ends, in order, once it has left the UDC."""
        while self._jobs and not self._jobs[0].flying:
            job = self._jobs[0]
            over = EndpointDisabled(f"{self.role}: the configuration is over")
            self._report(job, job.request.error if job.is_over else over)


def _without(actions: tuple[Action, ...], done: Action) -> tuple[Action, ...]:
    return tuple(action for action in actions if action is not done)


def _cut_short(sg: SGList, actions: tuple[Action, ...]) -> SGList:
    for action in actions:
        if isinstance(action, Short):
            sg = SGList(*sg.cut(0, action.length))
    return sg
