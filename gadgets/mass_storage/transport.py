"""The conversation of one Bulk-Only interface: command, data, status, for ever (BOT figure 1).

It moves data between a pair of Endpoints and the Luns as bot.py and scsi.py decide. It lives as
long as the configuration does.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Generator
from typing import Final, TypeVar

from gadgets.mass_storage import sense
from gadgets.mass_storage.bot import InvalidCbw, decide, receive_cbw
from gadgets.mass_storage.scsi import Answer, Target
from gadgets.mass_storage.sense import Sense
from gadgets.mass_storage.unit import Lun
from usbip_vudc.conversation import Blocking, Conversation, Pause
from usbip_vudc.errors import Overflow, RequestWithdrawn
from usbip_vudc.function import Endpoint, Request
from usbip_vudc.sglist import Buffer, SGList
from usbip_vudc.usb.bot import CBW_SIZE, Cbw, CswStatus, pack_csw
from usbip_vudc.usb.ch9 import Direction

__all__ = ("PIECE", "Transport")

log = logging.getLogger(__name__)

PIECE: Final = 1 << 20
"""Bytes of one data Request at most: a multiple of every wMaxPacketSize."""

_AHEAD: Final = 2
"""IN pieces queued at once: the host takes one while the next is being read."""

T = TypeVar("T")

Step = Generator[Request | Blocking | Pause, object, T]
"""A part of the conversation that ends with a value."""


class Transport:
    """Serves CBWs on one pair of endpoints. ``on_refused`` hears of every invalid CBW.

    ``buffer`` of PIECE bytes receives written data on its way to the medium.
    """

    def __init__(
        self,
        target: Target,
        in_ep: Endpoint,
        out_ep: Endpoint,
        buffer: memoryview,
        on_refused: Callable[[str], None],
    ) -> None:
        self._target = target
        self._max_lun = len(target.luns) - 1
        self._in = in_ep
        self._out = out_ep
        self._buffer = buffer
        self._on_refused = on_refused
        # BOT 5.1 wants a CBW in one packet: a longer one shows in `actual`.
        self._command = bytearray(out_ep.round_up(CBW_SIZE))
        self._command_sg = SGList(self._command)
        self._out_request = Request(b"")
        self._in_requests: list[Request] = []
        self._waiting = Pause(0.0)
        self._media_seen = 0
        self._is_reset = False
        self._is_wedged = False

    def commands(self) -> Conversation:
        """Serve for ever. Ends with EndpointDisabled when the configuration does."""
        self._await_command()
        while True:
            try:
                yield self._out_request
                cbw = self._received_command()
                if self._in_requests and not self._in_requests[-1].done:
                    # A host that did not wait for the CSW: still one command at a time.
                    yield self._in_requests[-1]
                self._in_requests = []
                answer = self._target.execute(self._target.luns[cbw.bCBWLUN], cbw.CBWCB)
                yield from self._carry_out(cbw, answer)
                self._await_command()
            except (InvalidCbw, Overflow) as error:
                self._on_refused(str(error))
                with contextlib.suppress(RequestWithdrawn):
                    yield from self._refuse()
                self._await_command()
            except RequestWithdrawn:
                self._await_command()  # Bulk-Only Mass Storage Reset, BOT 3.1

    def reset(self) -> None:
        """Drop whatever goes on and expect a CBW next; halts stay (BOT 3.1, 5.3.4)."""
        self._is_reset = True
        if self._is_wedged:  # from now on these are halts that the host may clear
            self._is_wedged = False
            self._in.halt()
            self._out.halt()
        self._waiting.end()
        out_request = self._out_request  # another one, where a withdrawal resumes us at once
        for request in self._in_requests:
            self._in.withdraw(request)
        self._out.withdraw(out_request)

    # --- command (BOT 5.3.1) -------------------------------------------------------------------

    def _await_command(self) -> None:
        self._is_reset = False
        self._out_request = self._out.queue(Request(self._command_sg))

    def _received_command(self) -> Cbw:
        self._check_reset()
        return receive_cbw(self._command[: self._out_request.actual], self._max_lun)

    def _check_reset(self) -> None:
        """After every wait: a request may have ended by itself just before the reset came."""
        if self._is_reset:
            raise RequestWithdrawn("Bulk-Only Mass Storage Reset")

    def _refuse(self) -> Conversation:
        """BOT 6.6.1: halt both endpoints and keep them so until reset."""
        yield from self._withdraw_in()
        self._in_requests = []
        self._in.wedge()
        self._out.wedge()
        self._is_wedged = True
        self._waiting = Pause(math.inf)
        yield self._waiting

    def _withdraw_in(self) -> Conversation:
        """Take back what the host has not fetched; a kernel's endpoint gives it back in its time.

        Until then it is queued, and such an endpoint cannot halt.
        """
        for request in self._in_requests:
            self._in.withdraw(request)
            if not request.done:
                with contextlib.suppress(RequestWithdrawn):
                    yield request
        self._check_reset()

    # --- data and status (BOT 5.3.2, 5.3.3) ----------------------------------------------------

    def _carry_out(self, cbw: Cbw, answer: Answer) -> Conversation:
        """Move the data of one command, and queue its CSW."""
        lun = self._target.luns[cbw.bCBWLUN]
        host, host_length = cbw.direction, cbw.dCBWDataTransferLength
        case, length = decide(host, host_length, answer.direction, answer.length)
        failed = answer.failed
        moved, is_over = 0, not host_length
        self._media_seen = lun.media_seen
        moves_blocks = answer.data is None and answer.take is None
        on_medium = answer.touches or (length if moves_blocks else 0)
        if on_medium:
            yield from self._pause(lun.delay(answer.offset, on_medium))
        if answer.direction is Direction.OUT:
            if length:
                moved, is_over = yield from self._take(lun, answer, length, host_length)
                failed = moved < length or (yield from self._work(answer, lun))
        else:
            failed = failed or (yield from self._work(answer, lun))
            if length and not failed:
                moved = yield from self._give(lun, answer, length)
                failed = moved < length
                is_over = moved == host_length
        if not is_over:
            yield from self._end_early(host, host_length, moved)
        status = CswStatus.FAILED if failed else CswStatus.PASSED
        if case.phase_error:
            status = CswStatus.PHASE_ERROR
        residue, said = lun.conclude(host_length, host_length - moved, status, lun.sense)
        # On a halted endpoint it waits for CLEAR_FEATURE(ENDPOINT_HALT), as BOT figure 2 wants.
        csw = Request(pack_csw(cbw.dCBWTag, residue, said))
        self._in_requests.append(csw)
        self._in.queue(csw)
        if answer.afterwards is not None:
            yield from self._work_afterwards(answer.afterwards, lun)

    def _pause(self, seconds: float) -> Conversation:
        """Let time pass, while the host gets NAK; a reset cuts it short."""
        if seconds > 0:
            self._waiting = Pause(seconds)
            yield self._waiting
            self._check_reset()

    def _work(self, answer: Answer, lun: Lun) -> Step[bool]:
        """What may block, in a thread: whether it failed."""
        if answer.work is None:
            return False
        if answer.touches and not self._has_medium(lun):
            lun.sense = self._gone(lun)
            return True
        failure = yield from self._in_thread(answer.work, lun)
        self._check_reset()
        if failure is None and answer.finish is not None:
            failure = answer.finish()
        if isinstance(failure, Sense):
            lun.sense = failure
        return failure is not None

    def _in_thread(self, work: Callable[[], Sense | None], lun: Lun) -> Step[object]:
        lun.busy = True
        try:
            return (yield Blocking(work))
        finally:
            lun.busy = False

    def _work_afterwards(self, work: Callable[[], Sense | None], lun: Lun) -> Conversation:
        """What the status does not wait for, in a thread: a failure is told with a later one."""
        failure = yield from self._in_thread(work, lun)
        if isinstance(failure, Sense):
            lun.attend(failure.later())
        self._check_reset()

    def _give(self, lun: Lun, answer: Answer, length: int) -> Step[int]:
        """Queue IN data without waiting for the end of it: bytes queued."""
        sent = 0
        while sent < length:
            if len(self._in_requests) >= _AHEAD:
                yield self._in_requests[0]
                self._check_reset()
                del self._in_requests[0]
            size = min(length - sent, PIECE)
            if answer.data is None:
                piece = self._read(lun, answer.offset + sent, size)
            else:
                piece = answer.data[:size]
            if piece:
                request = Request(piece)
                self._in_requests.append(request)
                self._in.queue(request)
                sent += request.length
            if len(piece) < size:
                lba = (answer.offset + sent) // lun.block_size
                lun.sense = self._why(lun, sense.UNRECOVERED_READ_ERROR.at(lba))
                break
        if answer.data is None:
            lun.bytes_read += sent
        return sent

    def _read(self, lun: Lun, offset: int, size: int) -> Buffer:
        """So many bytes of the medium, or those in front of what cannot be read."""
        if not self._has_medium(lun):
            return b""
        cut = size % lun.block_size
        if not cut:
            return lun.read(offset, size)
        # BOT 6.7.2 case 7: the host wants a part of the last block, and units give whole ones.
        return memoryview(lun.read(offset, size - cut + lun.block_size))[:size]

    def _take(
        self, lun: Lun, answer: Answer, length: int, host_length: int
    ) -> Step[tuple[int, bool]]:
        """Receive OUT data: bytes that counted, and whether the host has sent all it will."""
        written = received = 0
        is_over = False
        while written < length:
            size = min(length - written, PIECE)
            room = self._out.round_up(size)
            # An OUT request asks for whole packets, and only those land in the medium itself.
            direct = room == size and answer.take is None
            target = lun.landing(answer.offset + written, size) if direct else None
            data = self._buffer[:room] if target is None else target
            request = self._out_request = self._out.queue(Request(data))
            yield request
            self._check_reset()
            received += request.actual
            is_over = request.actual < size or received >= host_length
            kept = min(request.actual, size)
            if target is None or kept < size or not self._has_medium(lun):
                kept = self._keep(lun, answer, written, data[:kept], size)
            written += kept
            if request.actual < size:
                lun.sense = sense.DATA_PHASE_ERROR  # less than the host itself announced
            if kept < size:
                break
        if answer.take is None:
            lun.bytes_written += written
        return written, is_over

    def _keep(self, lun: Lun, answer: Answer, before: int, data: memoryview, size: int) -> int:
        """Put a piece where it belongs: the bytes that counted of ``size``, or the sense is set."""
        if not self._has_medium(lun):
            lun.sense = self._gone(lun)
            return 0
        if answer.take is not None:
            failure = answer.take(before, data) if len(data) == size else sense.DATA_PHASE_ERROR
            if failure is not None:
                lun.sense = failure
                return 0
            return size
        offset = answer.offset + before
        kept = len(data) - len(data) % lun.block_size
        if kept:
            kept = lun.write(offset, data[:kept])
        if kept < size:
            lun.sense = sense.WRITE_ERROR.at((offset + kept) // lun.block_size)
        return kept

    def _has_medium(self, lun: Lun) -> bool:
        """Whether the medium is the one that the command began with."""
        return lun.media_seen == self._media_seen

    def _why(self, lun: Lun, failure: Sense) -> Sense:
        """Why data did not move: the failure, unless the medium was taken out meanwhile."""
        return failure if self._has_medium(lun) else self._gone(lun)

    def _gone(self, lun: Lun) -> Sense:
        return sense.MEDIUM_CHANGED if lun.size else sense.MEDIUM_NOT_PRESENT

    def _end_early(self, host: Direction | None, host_length: int, moved: int) -> Conversation:
        """The host expects more than moved: STALL tells it that no more will."""
        case = decide(host, host_length, host, moved).case
        if case.halts is Direction.OUT:
            self._out.halt()
        elif case.halts is Direction.IN:
            if self._in_requests:
                yield self._in_requests[-1]  # an endpoint with requests queued cannot halt
                self._check_reset()
            self._in.halt()
