"""Conversations: functions that only wait for requests, as generators instead of tasks.

Standard library and anyio; what a conversation is about its function knows.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

import anyio
import anyio.to_thread

from usbip_vudc.function import Request

__all__ = ("Blocking", "Conversation", "Pause", "converse")


@dataclass(slots=True)
class Blocking:
    """Yielded by a conversation: run ``work`` in a thread (fsync, say) and send its result."""

    work: Callable[[], object]


class Pause:
    """Yielded by a conversation: let ``seconds`` pass, or fewer when `end` is called."""

    __slots__ = ("_ended", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._ended = anyio.Event()

    def end(self) -> None:
        """Resume the conversation soon. One that does not wait for it is left alone."""
        self._ended.set()

    async def wait(self) -> None:
        """Be over after so long."""
        with anyio.move_on_after(self.seconds):
            await self._ended.wait()


Conversation = Generator["Request | Blocking | Pause", object, None]
"""A generator that yields what it waits for: a queued Request, or Blocking work.

It is resumed with the Request (look at ``actual``), or the TransferError is raised in it.
"""


async def converse(conversation: Conversation) -> None:
    """Drive a conversation to its end, each step run by the completion that it waited for.

    A step costs no task switch, which is what makes one command of a disk cheap (an anyio task
    that waits on an Event pays about 10 us for every wake). On cancellation the generator is
    closed; it withdraws nothing itself, since the UDC has then disabled its endpoints.
    """
    driver = _Driver(conversation)
    try:
        driver.resume(None)
        while True:
            await driver.attention.wait()
            driver.attention = anyio.Event()
            if driver.ended:
                break
            await driver.wait()
    finally:
        driver.close()
    if driver.failure is not None:
        raise driver.failure


class _Driver:
    """Steps one conversation; wakes its `converse` task only to end or to do blocking work."""

    __slots__ = ("_conversation", "attention", "ended", "failure", "waiting")

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self.attention = anyio.Event()
        self.waiting: Blocking | Pause | None = None
        self.ended = False
        self.failure: BaseException | None = None

    def resume(self, request: Request | None) -> None:
        """Run the generator until it waits for something that is not done yet."""
        if self.ended:
            return
        if request is None:
            self._step(None, None)
        else:
            request.on_complete = None
            self._step(request, request.error)

    def _step(self, outcome: object, error: BaseException | None) -> None:
        while True:
            try:
                if error is None:
                    waiting = self._conversation.send(outcome)
                else:
                    waiting = self._conversation.throw(error)
            except StopIteration:
                return self._end(None)
            except BaseException as failure:
                return self._end(failure)
            if isinstance(waiting, Blocking | Pause):
                self.waiting = waiting
                self.attention.set()
                return None
            if not waiting.done:
                waiting.on_complete = self.resume
                return None
            outcome, error = waiting, waiting.error

    async def wait(self) -> None:
        """Do the work that the conversation waits for, off the event loop, and resume it."""
        waiting, self.waiting = self.waiting, None
        if waiting is None:
            return
        outcome: object = None
        error: BaseException | None = None
        try:
            if isinstance(waiting, Pause):
                await waiting.wait()
            else:
                outcome = await anyio.to_thread.run_sync(waiting.work)
        except OSError as failure:
            error = failure
        self._step(outcome, error)

    def _end(self, failure: BaseException | None) -> None:
        self.ended = True
        self.failure = failure
        self.attention.set()

    def close(self) -> None:
        self.ended = True
        self._conversation.close()
