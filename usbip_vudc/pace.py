"""Bus time: when each endpoint of a device may move packets, and how many.

A frame is 1 ms, a microframe 125 us (USB 2.0 4.10, 5.12). A periodic endpoint has its turn once a
service interval, which begins where the number of the microframe is a multiple of its period;
what bandwidth periodic endpoints leave in a frame is dealt out to the bulk ones in turn. Control
transfers are answered at once, and count for nothing.

`Bus` is the clock of one device; it runs only while there is something to move.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import anyio

from usbip_vudc.pipe import Pipe
from usbip_vudc.usb.ch9 import Speed, TransferType

__all__ = ("Bus", "period")

_FRAME: Final = 1e-3
"""Seconds."""

_MICROFRAMES: Final = 8

_BANDWIDTH: Final = {Speed.LOW: 96, Speed.FULL: 1216, Speed.HIGH: 53248, Speed.SUPER: 490_000}
"""Bytes that a frame carries (drivers/usb/usbip/vudc_transfer.c, drivers/usb/gadget/udc/
dummy_hcd.c): 12 packets of 8, 19 of 64, 8 x 13 of 512, and what SuperSpeed reaches."""

_MOST_LATE: Final = 64
"""Frames that are made up for when this program comes late; more are lost, as to any host."""


def period(transfer_type: TransferType, bInterval: int, speed: Speed) -> int:
    """Microframes from one service interval to the next; 0 for an endpoint that is not periodic.

    USB 2.0 table 9-13: 2^(bInterval-1) microframes from high speed on, as many frames for a
    full-speed isochronous endpoint, and bInterval frames for the interrupt ones below high speed.
    A bInterval out of its range counts as the nearest in it, as Linux takes it.
    """
    if transfer_type not in (TransferType.INTERRUPT, TransferType.ISOCHRONOUS):
        return 0
    exponential = 1 << min(max(bInterval, 1), 16) - 1
    if speed >= Speed.HIGH:
        return exponential
    if transfer_type == TransferType.ISOCHRONOUS:
        return exponential * _MICROFRAMES
    return max(bInterval, 1) * _MICROFRAMES


@dataclass(slots=True)
class _Turn:
    """A pipe on the bus: its period in microframes, or 0, and its bytes of a service interval."""

    pipe: Pipe
    period: int
    length: int


class Bus:
    """Deals out the bus time of one device; ``on_moved`` is called after each frame's packets.

    ``clock`` gives seconds.
    """

    def __init__(
        self,
        speed: Speed,
        on_moved: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bandwidth = _BANDWIDTH[speed]
        self._microframes = range(_MICROFRAMES if speed >= Speed.HIGH else 1)
        self._on_moved = on_moved
        self._clock = clock
        self._started = clock()
        self._periodic: list[_Turn] = []
        self._bulk: list[_Turn] = []
        self._attention = anyio.Event()

    def add(self, pipe: Pipe, period: int, bytes_per_interval: int) -> None:
        """An endpoint is live. ``period`` is in microframes, 0 for a bulk one."""
        turns = self._periodic if period else self._bulk
        turns.append(_Turn(pipe, period, bytes_per_interval))

    def remove(self, pipe: Pipe) -> None:
        """An endpoint is not live any more."""
        for turns in (self._periodic, self._bulk):
            turns[:] = [turn for turn in turns if turn.pipe is not pipe]

    def attend(self) -> None:
        """Some pipe may have something to move."""
        self._attention.set()

    @property
    def frame_number(self) -> int:
        """Frames since this bus began."""
        return int((self._clock() - self._started) / _FRAME)

    async def run(self) -> None:
        """Let packets move in their time, until cancelled."""
        while True:
            await self._attention.wait()
            self._attention = anyio.Event()
            done = self.frame_number
            while self._ready():
                begins = self._started + (done + 1) * _FRAME
                await anyio.sleep(max(begins - self._clock(), 0))
                now = self.frame_number
                for number in range(max(done + 1, now - _MOST_LATE), now + 1):
                    self.frame(number)
                if now > done:
                    self._on_moved()
                done = max(done, now)

    def frame(self, number: int) -> None:
        """Move what the frame of this number has time for."""
        left = self._bandwidth
        for microframe in self._microframes:
            for turn in tuple(self._periodic):
                if (number * _MICROFRAMES + microframe) % turn.period == 0:
                    left -= turn.pipe.move(turn.length)
        taken = 1
        while taken:
            # The bulk endpoints have equal shares, and what one leaves goes to the others. A
            # packet that the frame has no time for waits for the next one.
            taken = 0
            ready = [turn.pipe for turn in self._bulk if turn.pipe.ready]
            share = left // max(len(ready), 1)
            for pipe in ready:
                size = pipe.max_packet_size
                if size <= left:
                    moved = pipe.move(max(share, size))
                    left -= moved
                    taken += moved

    def _ready(self) -> bool:
        return any(turn.pipe.ready for turn in (*self._periodic, *self._bulk))
