"""Relay: both directions of one USB/IP connection after IMPORT, passed on byte for byte. Sans-I/O.

What the ends say goes in through ``host`` and ``device``; what is to be sent lies in ``to_host``
and ``to_device``, in order, with marks between the bytes that say how they leave. Time is what
the driver says it is. Whatever cannot be parsed raises RemoteProtocolError, after which the
connection must be closed. Memory: one PDU each way, beside what waits to be sent.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from typing import Any, Final, Protocol

from usbip_vudc.proxy.endpoints import Endpoints
from usbip_vudc.proxy.ends import DeviceEnd, HostEnd, Reply, Submit, joined
from usbip_vudc.sglist import Buffer
from usbip_vudc.usb.ch9 import Speed, TransferType
from usbip_vudc.wire.pdu import CmdSubmit, CmdUnlink, RetSubmit, RetUnlink

__all__ = ("Cut", "Ending", "Pause", "Recorder", "Relay", "Timers", "Trail", "forget_oldest")

_MAX_KEPT: Final = 4096
"""Unlinks remembered that may never be answered, and URBs that may be answered after that."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A mark: from here on bytes leave in writes of these sizes, over and over."""

    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pause:
    """A mark: what follows leaves so many seconds later."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Ending:
    """How a relay wants its connection to end: with a reset or in order.

    The device is then not to be had for ``away`` seconds.
    """

    reset: bool = False
    away: float = 0.0


class Recorder(Protocol):
    """What sees the URBs of one side of a relay: a capture."""

    def submit(self, head: CmdSubmit, payload: Buffer, iso: bytes, kind: TransferType) -> None:
        """A URB was submitted."""

    def complete(
        self, asked: CmdSubmit, reply: RetSubmit, payload: Buffer, iso: bytes, kind: TransferType
    ) -> None:
        """It completed, or was taken back."""

    def lost(self, asked: CmdSubmit, kind: TransferType) -> None:
        """It was pending when the connection ended."""


class Trail:
    """One side's URBs for a recorder, which may be None: recording costs nothing then."""

    def __init__(self, recorder: Recorder | None, endpoints: Endpoints) -> None:
        self._recorder = recorder
        self._endpoints = endpoints

    def submit(self, pdu: Submit) -> None:
        """A URB was submitted."""
        if self._recorder is not None:
            kind = self._endpoints.of(pdu.head).type
            self._recorder.submit(pdu.head, pdu.payload, pdu.iso, kind)

    def complete(self, asked: CmdSubmit, pdu: Reply) -> None:
        """It completed."""
        if self._recorder is not None:
            kind = self._endpoints.of(asked).type
            self._recorder.complete(asked, pdu.head, pdu.payload, pdu.iso, kind)

    def unlinked(self, asked: CmdSubmit, status: int) -> None:
        """It was taken back; usbmon shows that as its completion."""
        if self._recorder is not None:
            self.complete(asked, Reply(RetSubmit(seqnum=asked.seqnum, status=status), b""))

    def lost(self, pending: Iterable[CmdSubmit]) -> None:
        """The connection ended before these did."""
        if self._recorder is not None:
            for asked in pending:
                self._recorder.lost(asked, self._endpoints.of(asked).type)


class Timers:
    """What is to happen later. ``now`` is the driver's clock, in seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    @property
    def deadline(self) -> float | None:
        """When the next thing is due."""
        return self._heap[0][0] if self._heap else None

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call in so many seconds; what is due at the same moment is called in this order."""
        heapq.heappush(self._heap, (self.now + seconds, next(self._numbers), call))

    def advance(self, now: float) -> None:
        """Time has come to this: make the calls that are due."""
        self.now = now
        while self._heap and self._heap[0][0] <= now:
            heapq.heappop(self._heap)[2]()


class Relay:
    """Passes everything on as it came.

    ``speed`` is the device's; ``recorder`` sees the URBs of the host. ``urbs`` counts them.
    ``ending`` is set once the connection is to be closed by us.
    """

    def __init__(self, *, speed: Speed = Speed.HIGH, recorder: Recorder | None = None) -> None:
        self.host = HostEnd(self)
        self.device = DeviceEnd(self)
        self.to_host: deque[Buffer | Cut | Pause] = deque()
        self.to_device: deque[Buffer | Cut | Pause] = deque()
        self.timers = Timers()
        self.ending: Ending | None = None
        self.urbs = 0
        self._endpoints = Endpoints(speed)
        self._trail = Trail(recorder, self._endpoints)
        self._pending: dict[int, CmdSubmit] = {}
        self._unlinks: dict[int, int] = {}
        self._late: dict[int, CmdSubmit] = {}

    def closed(self) -> None:
        """The connection is over: what is pending ends with it."""
        self._trail.lost(self._pending.values())

    # --- between the ends ----------------------------------------------------------------------

    def holds(self, seqnum: int) -> bool:
        """Whether a URB of the host is pending under this number."""
        return seqnum in self._pending

    def expected(self, seqnum: int) -> CmdSubmit | None:
        """The URB that the device may answer; one that was unlinked, too: that is the host's."""
        return self._pending.get(seqnum) or self._late.get(seqnum)

    def submit(self, pdu: Submit) -> None:
        """CMD_SUBMIT, to the device."""
        self.urbs += 1
        self._pending[pdu.head.seqnum] = pdu.head
        self._trail.submit(pdu)
        self.to_device.extend(joined(pdu))

    def reply(self, pdu: Reply) -> None:
        """RET_SUBMIT, to the host."""
        seqnum = pdu.head.seqnum
        asked = self._pending.pop(seqnum, None)
        if asked is not None:
            self._endpoints.learn(asked, pdu.payload)
            self._trail.complete(asked, pdu)
        self._late.pop(seqnum, None)
        self.to_host.extend(joined(pdu))

    def unlink(self, head: CmdUnlink, raw: bytes) -> None:
        """CMD_UNLINK, to the device."""
        self._unlinks[head.seqnum] = head.unlink_seqnum
        forget_oldest(self._unlinks)
        self.to_device.append(raw)

    def unlinked(self, head: RetUnlink, raw: bytes) -> None:
        """RET_UNLINK, to the host."""
        seqnum = self._unlinks.pop(head.seqnum, 0)
        asked = self._pending.pop(seqnum, None)
        if asked is not None:
            self._trail.unlinked(asked, head.status)
            self._late[seqnum] = asked
            forget_oldest(self._late)
        self.to_host.append(raw)


def forget_oldest(kept: dict[int, Any]) -> None:
    """Hold what is only kept in case at its bound."""
    if len(kept) > _MAX_KEPT:
        del kept[next(iter(kept))]
