"""Cable: moves the bytes of one USB/IP connection between a stream socket and its sans-I/O core.

One socket, one sendmsg a batch, no copy. On asyncio it sits on a persistent reader callback; on
trio on ``wait_readable``. After a URB it looks again a few times before it sleeps (see `_turn`).
It knows nothing of URBs.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
import time
from typing import Final

import anyio
import anyio.abc
import anyio.lowlevel

from usbip_vudc.errors import RemoteProtocolError
from usbip_vudc.sglist import drop_front
from usbip_vudc.wire.connection import Connection

__all__ = ("Cable", "give_up_dead_peers", "looks_pay", "set_options")

log = logging.getLogger(__name__)

_MAX_IOVECS: Final = 512  # IOV_MAX is 1024; past some hundred a larger batch gains nothing
_MAX_TURNS: Final = 16
"""Batches handled before other sockets and tasks of the loop get their turn."""

_LOOKS: Final = 20
"""Times to look for more before sleeping: 2 to 3 us each. A vCPU that sleeps takes 35 us to wake,
so lock-step traffic (one URB at a time, as usb-storage) runs 2 to 3 times as fast this way. With
one CPU for both ends it only keeps the peer from running (40 against 27 us a round trip)."""

_LOW_WATER: Final = 128 << 10
"""Bytes. While more than half of this is awaited, a wake-up for less would be for little."""

_SILENCE_MS: Final = 60_000
"""Milliseconds, as TCP_USER_TIMEOUT wants them."""

_QUICK_PEER: Final = 100e-6
"""Seconds. Looking again only pays for a peer that last answered within this time."""


def set_options(sock: socket.socket) -> None:
    """Make a stream socket fit for URBs: non-blocking, TCP_NODELAY, dead peers found in a minute.

    Without TCP_NODELAY a reply can wait 40 ms for an ACK. Never set SO_SNDBUF or SO_RCVBUF: that
    turns the kernel's own tuning off and costs a third at 1 MiB.
    """
    sock.setblocking(False)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        give_up_dead_peers(sock)
        with contextlib.suppress(OSError, ValueError):  # gone already, or no IP address
            if ipaddress.ip_address(sock.getpeername()[0]).is_loopback:
                _unpace(sock)


def give_up_dead_peers(sock: socket.socket) -> None:
    """Lose a TCP connection whose peer has been silent for a minute, idle or not.

    Keepalive asks only while nothing is on its way: a peer that vanishes with data unacknowledged,
    as a disk's host mostly does, is waited for as long as TCP sends again, 15 minutes (tcp(7)).
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENCE_MS)


def _unpace(sock: socket.socket) -> None:
    """On loopback nothing is lost, and a paced sender (BBR) reaches half the speed of these."""
    for name in (b"cubic", b"reno"):
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name)
        except OSError:
            continue  # not in this kernel, or not for everyone
        return


def looks_pay() -> bool:
    """Whether a peer could run beside us: this thread may use more than one CPU."""
    return len(os.sched_getaffinity(0)) > 1


class Cable:
    """Drives one `Connection` over one connected, non-blocking stream socket.

    `run` lasts until the peer closes, breaks the protocol, or `close` is called.
    """

    def __init__(self, sock: socket.socket, connection: Connection) -> None:
        self._sock = sock
        self._connection = connection
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self._flushing = False
        self._in_turn = False
        self._blocked = False  # the socket is full: nothing is read until what waits has left
        self._scheduled = False
        self._kicked = False
        self._looks = 0
        self._most_looks = _LOOKS if looks_pay() else 0
        self._slept_at = 0.0
        self._low_water = 1
        self._closed = False
        self._over = anyio.Event()
        self._writable = anyio.Event()
        self._error: Exception | None = None
        self.gives_way = False
        """Set by whoever woke a task: the next turn is left to the event loop."""

    async def run(self) -> None:
        """Carry bytes until the connection ends; the socket is then closed.

        Raises RemoteProtocolError where the peer broke the protocol or left in mid-PDU, and
        OSError where the transport failed.
        """
        try:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                await self._run_on_wait()
            else:
                await self._run_on_reader(loop)
        finally:
            self._closed = True
            self._sock.close()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """End `run` soon, without an error."""
        self._end(None)

    def peer_has_left(self) -> bool:
        """Whether the end of the stream is the next thing to be received."""
        try:
            return not self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def kick(self) -> None:
        """Something was put into ``outgoing``: send it once whoever put it there is done.

        Nothing is called back before this returns, and several kicks make one batch.
        """
        if self._in_turn or self._kicked or self._closed:
            return
        if self._loop is not None:
            self._kicked = True
            self._loop.call_soon(self._flush_kicked)
        elif self._tasks is not None:
            self._kicked = True
            self._tasks.start_soon(self._flush_later)

    def _flush_kicked(self) -> None:
        self._kicked = False
        if not self._closed:
            self._flush_or_end()

    async def _flush_later(self) -> None:
        self._flush_kicked()

    # --- sending -------------------------------------------------------------------------------

    def _flush_or_end(self) -> None:
        try:
            self._flush()
        except Exception as error:
            self._end(error)

    def _flush(self) -> None:
        """Send all that can leave now, and call who waits for it. Reading stops while it cannot."""
        if self._blocked or self._flushing:
            return
        self._flushing = True
        try:
            connection = self._connection
            while connection.outgoing or connection.when_sent:
                if connection.outgoing and not self._send(connection):
                    self._blocked = True
                    self._wait_writable()
                    return
                calls = connection.when_sent
                if calls:
                    connection.when_sent = []
                    for call in calls:
                        call()
        finally:
            self._flushing = False

    def _send(self, connection: Connection) -> bool:
        """One sendmsg a batch; False when the socket is full, with the rest in ``outgoing``."""
        outgoing = connection.outgoing
        while outgoing:
            try:
                if len(outgoing) == 1:
                    count = self._sock.send(outgoing[0])
                    if count == len(outgoing[0]):
                        outgoing.clear()
                        return True
                else:
                    count = self._sock.sendmsg(outgoing[:_MAX_IOVECS])
            except BlockingIOError:
                return False
            drop_front(outgoing, count)
        return True

    # --- receiving -----------------------------------------------------------------------------

    def _turn(self) -> bool:
        """Receive and act until nothing comes; True asks for another turn soon.

        Looks `_LOOKS` times with a sched_yield between before it gives up, if the peer has been
        quick and runs on another CPU: that saves its wake-up.
        """
        if self._closed or self._blocked:
            return False
        if self._slept_at:
            quick = time.monotonic() - self._slept_at < _QUICK_PEER
            self._looks = self._most_looks if quick else self._looks // 2
            self._slept_at = 0.0
        self._in_turn = True
        try:
            return self._receive_all()
        except Exception as error:  # our own bugs too: a connection must not go deaf
            self._end(error)
            return False
        finally:
            self._in_turn = False

    def _receive_all(self) -> bool:
        connection = self._connection
        sock = self._sock
        looks = self._looks
        turns = _MAX_TURNS
        buffers = connection.get_buffers()
        while True:
            try:
                if len(buffers) == 1:
                    count = sock.recv_into(buffers[0])
                else:
                    count = sock.recvmsg_into(buffers[:_MAX_IOVECS])[0]
            except BlockingIOError:
                # Worth trying even on one CPU: a send often lets the peer run at once, and then
                # the next URB is here already, nine times of ten.
                if not looks:
                    self._wake_at(connection.awaited)
                    self._slept_at = time.monotonic()
                    return False
                looks -= 1
                os.sched_yield()
                continue
            if not count:
                if not connection.at_boundary:
                    raise RemoteProtocolError("the peer closed the connection inside a PDU")
                self._end(None)
                return False
            connection.advance(count)
            if connection.outgoing or connection.when_sent:
                self._flush()
                if self._blocked:
                    return False
            turns -= 1
            if self.gives_way or not turns:
                self.gives_way = False
                return True
            buffers = connection.get_buffers()
            looks = self._looks

    def _wake_at(self, awaited: int) -> None:
        """Sleep through the small pieces that a large payload comes in."""
        low_water = min(awaited, _LOW_WATER) if awaited > _LOW_WATER // 2 else 1
        if low_water != self._low_water:
            self._low_water = low_water
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, low_water)

    def _end(self, error: Exception | None) -> None:
        if not self._closed:
            self._closed = True
            self._error = error
            self._over.set()

    # --- asyncio -------------------------------------------------------------------------------

    async def _run_on_reader(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        fd = self._sock.fileno()
        loop.add_reader(fd, self._on_readable)
        try:
            self._flush()
            await self._over.wait()
        finally:
            loop.remove_reader(fd)
            loop.remove_writer(fd)

    def _on_readable(self) -> None:
        """One chain of turns a connection: while one is scheduled the reader has nothing to do."""
        if not self._scheduled:
            self._again()

    def _again(self) -> None:
        self._scheduled = False
        if self._loop is not None and self._turn():
            self._scheduled = True
            self._loop.call_soon(self._again)

    def _wait_writable(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._sock.fileno())
            self._loop.add_writer(self._sock.fileno(), self._on_writable)
        elif self._tasks is not None:
            self._writable = anyio.Event()
            self._tasks.start_soon(self._drain)

    def _on_writable(self) -> None:
        if self._loop is None or self._closed:
            return
        self._loop.remove_writer(self._sock.fileno())
        self._unblock()
        if not self._blocked and not self._closed:
            self._loop.add_reader(self._sock.fileno(), self._on_readable)

    def _unblock(self) -> None:
        self._blocked = False
        self._flush_or_end()

    # --- trio ----------------------------------------------------------------------------------

    async def _run_on_wait(self) -> None:
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            tasks.start_soon(self._watch)
            self._flush()
            await self._over.wait()
            tasks.cancel_scope.cancel()

    async def _watch(self) -> None:
        while not self._closed:
            if self._turn():
                await anyio.lowlevel.checkpoint()
            elif not self._closed:
                if self._blocked:
                    await self._writable.wait()
                else:
                    await anyio.wait_readable(self._sock)

    async def _drain(self) -> None:
        writable = self._writable
        await anyio.wait_writable(self._sock)
        self._unblock()  # where it is blocked again, that has started another drain
        writable.set()
