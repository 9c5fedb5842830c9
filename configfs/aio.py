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
from collections import deque
from collections.abc import Callable, Sequence
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


class Transfer:
    """A block that is in flight or waits to be; ``done`` gets its result in bytes or -errno."""

    __slots__ = ("block", "done")

    def __init__(self, block: libaio.AIOBlock, done: Callable[[int], None]) -> None:
        self.block = block
        self.done = done


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
        self._spare: list[libaio.AIOBlock] = []
        self._holding = False

    def queue(
        self,
        file: object,
        buffers: Sequence[memoryview | bytearray],
        done: Callable[[int], None],
        *,
        is_in: bool,
    ) -> Transfer:
        """Queue one transfer behind those of the same file; ``buffers`` are writable memory.

        ``done`` is called from `run` or `collect`, never from here, and must not raise.
        """
        mode = libaio.AIOBLOCK_MODE_WRITE if is_in else libaio.AIOBLOCK_MODE_READ
        if self._spare:
            block = self._spare.pop()
            block.mode = mode
            block.target_file = file
            block.buffer_list = buffers
        else:
            block = libaio.AIOBlock(
                mode=mode, target_file=file, buffer_list=buffers, eventfd=self._eventfd
            )
        transfer = Transfer(block, done)
        block.onCompletion = self._completion(transfer)
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
            self._context.cancel(transfer.block)

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
                self._cancelled.pop(0).done(-errno.ECONNRESET)
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

    def _completion(self, transfer: Transfer) -> Callable[[libaio.AIOBlock, int, int], None]:
        def completed(block: libaio.AIOBlock, result: int, _again: int) -> None:
            self._flying.discard(transfer)
            # The block keeps its buffers alive; a spare one must not.
            block.buffer_list = ()
            self._spare.append(block)
            transfer.done(result)

        return completed

    def _flush(self) -> None:
        """Give the kernel as many waiting transfers as it takes, in order."""
        while self._waiting:
            transfers: list[Transfer] = []
            while self._waiting and len(self._flying) + len(transfers) < _MAX_EVENTS:
                transfers.append(self._waiting.popleft())
            if not transfers:
                return
            taken = self._submit([transfer.block for transfer in transfers])
            self._flying.update(transfers[:taken])
            self._waiting.extendleft(reversed(transfers[taken:]))
            if taken < len(transfers):
                return  # the next completion tries again

    def _submit(self, blocks: list[libaio.AIOBlock]) -> int:
        """How many were taken. Errors of a file come as results; only EAGAIN is left."""
        try:
            return int(self._context.submit(blocks))
        except BlockingIOError:
            return 0
