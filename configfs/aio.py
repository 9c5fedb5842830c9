"""Transfers on FunctionFS files as libaio blocks, whose completions one eventfd announces.

A block is one usb_request of the kernel: its iovec is the SG list. Blocks that are queued while
completions are being handed out go to the kernel together afterwards, in one io_submit. This room
knows files, buffers and results; what a result means to a function is ffs.py's.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import anyio
import libaio

__all__ = ("MAX_TRANSFER", "Transfer", "Transfers")

log = logging.getLogger(__name__)

MAX_TRANSFER: Final = 4 << 20
"""Bytes of one transfer: f_fs takes one kmalloc for it (drivers/usb/gadget/function/f_fs.c)."""

_MAX_EVENTS: Final = 1024
"""Blocks in flight at once; more wait here. The whole system has 65536 (fs.aio-max-nr)."""

_AT_ONCE: Final = 64
"""Completions fetched by one io_getevents."""


class Transfer(libaio.AIOBlock):  # type: ignore[misc]  # python-libaio has no types
    """A block that is in flight, waits to be, or is spare.

    ``done`` gets it with its result, in bytes or -errno, and must not keep it.
    """

    done: Callable[[Transfer, int], None]


class Transfers:
    """One AIO context. Close it when the endpoint files' device is unbound, before they close."""

    def __init__(self) -> None:
        self._eventfd = libaio.EventFD(flags=libaio.EFD_NONBLOCK | libaio.EFD_CLOEXEC)
        try:
            self._context = libaio.AIOContext(_MAX_EVENTS)
        except OSError as error:
            self._eventfd.close()
            raise OSError(
                error.errno, f"io_setup: {error.strerror}; is fs.aio-max-nr used up?"
            ) from error
        self._waiting: deque[Transfer] = deque()
        self._flying: set[Transfer] = set()
        self._cancelled: list[Transfer] = []
        # By file and direction: a block of the same file needs only new buffers.
        self._spare: dict[tuple[object, bool], list[Transfer]] = defaultdict(list)
        self._holding = False

    def queue(
        self,
        file: object,
        buffers: Sequence[memoryview | bytearray],
        done: Callable[[Transfer, int], None],
        *,
        is_in: bool,
    ) -> Transfer:
        """Queue one transfer behind those of the same file; ``buffers`` are writable memory.

        ``done`` is called from `run` or `collect`, never from here, and must not raise.
        """
        spare = self._spare[file, is_in]
        if spare:
            transfer = spare.pop()
            transfer.buffer_list = buffers
        else:
            transfer = Transfer(
                mode=libaio.AIOBLOCK_MODE_WRITE if is_in else libaio.AIOBLOCK_MODE_READ,
                target_file=file,
                buffer_list=buffers,
                eventfd=self._eventfd,
                onCompletion=partial(self._completed, spare),
            )
        transfer.done = done
        self._waiting.append(transfer)
        if not self._holding:
            self._flush()
        return transfer

    def cancel(self, transfer: Transfer) -> None:
        """Take a transfer back: ``done`` hears -ECONNRESET, or its bytes where it was too late."""
        if transfer in self._waiting:
            self._waiting.remove(transfer)
            self._cancelled.append(transfer)
            self._eventfd.write(1)
            return
        # EINPROGRESS (returned as None) is the rule: its completion comes as all others do.
        # EINVAL: it is done already, and its completion is on the way.
        with contextlib.suppress(OSError):
            self._context.cancel(transfer)

    async def run(self) -> None:
        """Hand completions out until cancelled."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            while True:
                await anyio.wait_readable(self._eventfd)
                self.collect()
        # A reader that stays spares each wake two epoll_ctl and a task switch.
        loop.add_reader(self._eventfd.fileno(), self.collect)
        try:
            await anyio.sleep_forever()
        finally:
            loop.remove_reader(self._eventfd.fileno())

    def collect(self) -> None:
        """Hand out what has completed by now."""
        with contextlib.suppress(BlockingIOError):
            self._eventfd.read()
        self._holding = True
        try:
            while self._cancelled:
                transfer = self._cancelled.pop(0)
                transfer.done(transfer, -errno.ECONNRESET)
            while len(self._context.getEvents(0, _AT_ONCE)) == _AT_ONCE:
                pass
        finally:
            self._holding = False
        self._flush()

    @property
    def in_flight(self) -> int:
        """Transfers that the kernel holds."""
        return len(self._flying)

    def close(self) -> None:
        """End what is in flight, waiting for it, and free the context; ``done`` is not called."""
        self._waiting.clear()
        self._context.close()
        self._eventfd.close()
        self._flying.clear()

    def _completed(
        self, spare: list[Transfer], transfer: Transfer, result: int, _again: int
    ) -> None:
        self._flying.discard(transfer)
        transfer.done(transfer, result)
        # The block keeps its buffers alive; a spare one must not.
        transfer.buffer_list = ()
        spare.append(transfer)

    def _flush(self) -> None:
        """Give the kernel as many waiting transfers as it takes, in order."""
        while self._waiting:
            transfers: list[Transfer] = []
            while self._waiting and len(self._flying) + len(transfers) < _MAX_EVENTS:
                transfers.append(self._waiting.popleft())
            if not transfers:
                return
            taken = self._submit(transfers)
            self._flying.update(transfers[:taken])
            self._waiting.extendleft(reversed(transfers[taken:]))
            if taken < len(transfers):
                return  # the next completion tries again

    def _submit(self, transfers: list[Transfer]) -> int:
        """How many were taken. Errors of a file come as results; only EAGAIN is left."""
        try:
            return int(self._context.submit(transfers))
        except BlockingIOError:
            return 0
