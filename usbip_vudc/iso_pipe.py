"""IsoPipe: pairs the packets of isochronous URBs with Requests, one service interval each.

A URB names its packets by offset and length; a Request is the data of one service interval
(function.py). There is no handshake on the bus, so no NAK, no halt and no retry: a packet is moved
or missed, and the host sees which by its status and length (USB 2.0 5.6.4). Pure.

Without a ``pace`` bus time stands still until the device is ready: a packet waits for its request
and nothing is missed. With one, every service interval takes a packet of the host, whether the
function is ready or not.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from usbip_vudc.errors import LocalProtocolError, Overflow, TransferError
from usbip_vudc.pipe import NO_LIMIT, Pipe
from usbip_vudc.urb import Landing

if TYPE_CHECKING:
    from usbip_vudc.function import Request
    from usbip_vudc.urb import Urb
    from usbip_vudc.usb.ch9 import Direction

__all__ = ("IsoPipe",)

_ISO: Final = struct.Struct(">IIIi")
"""struct usbip_iso_packet_descriptor: offset, length, actual_length, status."""


class _Progress:
    """How far a URB has come: what the host asked for, and what came of it, packet by packet."""

    __slots__ = ("data", "errors", "moved", "wanted")

    def __init__(self, urb: Urb) -> None:
        self.data: list[memoryview] = []
        self.wanted = [(offset, size) for offset, size, _, _ in _ISO.iter_unpack(urb.iso_packets)]
        self.moved: list[tuple[int, int]] = []
        self.errors = 0

    def next(self) -> tuple[int, int]:
        """Offset and length in bytes of the packet whose turn it is."""
        return self.wanted[len(self.moved)]

    def add(self, actual: int, status: int = 0) -> bool:
        """That packet is over; True if it was the last."""
        self.moved.append((actual, status))
        self.errors += status != 0
        return len(self.moved) == len(self.wanted)

    def pack(self) -> bytes:
        """The descriptors of the reply; a packet that never had its turn has -EXDEV."""
        missing = len(self.wanted) - len(self.moved)
        moved = (*self.moved, *((0, -errno.EXDEV),) * missing)
        return b"".join(
            _ISO.pack(offset, size, actual, status)
            for (offset, size), (actual, status) in zip(self.wanted, moved, strict=True)
        )


class IsoPipe(Pipe):
    """One isochronous endpoint. How much a service interval may hold its function knows."""

    __slots__ = ("_progress",)

    def __init__(
        self,
        direction: Direction,
        max_packet_size: int,
        *,
        on_urb: Callable[[Urb], None],
        on_request: Callable[[Request, TransferError | None], None],
        pace: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(
            direction, max_packet_size, on_urb=on_urb, on_request=on_request, pace=pace
        )
        self._progress: dict[Urb, _Progress] = {}

    def landing(self, urb: Urb) -> Landing:
        """Never a request's memory: a URB is cut into the requests of many intervals."""
        return Landing.private(urb)

    def submit(self, urb: Urb) -> None:
        """A URB has arrived whole. One without packets is refused, as usb_submit_urb does."""
        if self.enabled and urb.number_of_packets < 1:
            self._finish(urb, -errno.EINVAL)
        else:
            super().submit(urb)

    def unlink(self, urb: Urb) -> bool:
        """Forget a pending URB, with what it has moved so far."""
        if urb in self.urbs:
            self._progress.pop(urb, None)
        return super().unlink(urb)

    def halt(self) -> None:
        """Isochronous endpoints have no halt (USB 2.0 5.6.5). Raises LocalProtocolError."""
        raise LocalProtocolError("an isochronous endpoint cannot be halted (USB 2.0 5.6.5)")

    @property
    def can_halt(self) -> bool:
        """Never (USB 2.0 9.4.9)."""
        return False

    # --- bus time ------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether the host has a packet for the next service interval."""
        return bool(self.urbs)

    def move(self, limit: int) -> int:
        """A service interval has come: a packet moves or is missed. The bytes of bus time taken."""
        if not self.urbs:
            return 0
        urb = self.urbs[0]
        before = urb.actual
        if not self.requests:
            self._miss(urb)
        elif self._is_in:
            self._step_in(urb, self.requests[0])
        else:
            self._step_out(urb, self.requests[0])
        return min(urb.actual - before, limit)

    def _miss(self, urb: Urb) -> None:
        """Nobody is ready: an IN packet is empty, an OUT packet is lost and nobody is told."""
        progress = self._progress_of(urb)
        _, size = progress.next()
        actual = 0 if self._is_in else size
        urb.actual += actual
        self._end_packet(urb, progress.add(actual))

    def _step_in(self, urb: Urb, request: Request, limit: int = NO_LIMIT) -> None:  # noqa: ARG002
        progress = self._progress_of(urb)
        _, room = progress.next()
        have = request.length
        length = request.actual = min(room, have)
        if length:
            # A copy: the request is over before the URB is.
            progress.data.append(memoryview(b"".join(request.sg.cut(0, length))))
            urb.actual += length
        last = progress.add(length, -errno.EOVERFLOW if have > room else 0)
        self._end_request(request, None)
        self._end_packet(urb, last)

    def _step_out(self, urb: Urb, request: Request, limit: int = NO_LIMIT) -> None:  # noqa: ARG002
        progress = self._progress_of(urb)
        offset, size = progress.next()
        length = request.actual = min(size, request.length)
        if length:
            request.sg.scatter(memoryview(urb.payload)[offset : offset + length], 0)
        urb.actual += size
        last = progress.add(size)
        error = Overflow(f"{size} bytes came, {length} expected") if size > length else None
        self._end_request(request, error)
        self._end_packet(urb, last)

    # --- URBs ----------------------------------------------------------------------------------

    def _progress_of(self, urb: Urb) -> _Progress:
        progress = self._progress.get(urb)
        if progress is None:
            progress = self._progress[urb] = _Progress(urb)
        return progress

    def _end_packet(self, urb: Urb, last: bool) -> None:
        if last:
            self._end_urb(urb, 0)

    def _end_urb(self, urb: Urb, status: int) -> None:
        self.urbs.popleft()
        self._finish(urb, status)

    def _finish(self, urb: Urb, status: int) -> None:
        """The reply has a descriptor for every packet, also where the URB ends before its time."""
        if urb.number_of_packets > 0:
            progress = self._progress.pop(urb, None) or _Progress(urb)
            urb.iso_packets = progress.pack()
            urb.error_count = progress.errors
            urb.data = progress.data
        super()._finish(urb, status)
