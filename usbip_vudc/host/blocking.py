"""BlockingHost: one imported device, for ordinary synchronous programs and any number of threads.

Whichever thread waits for a URB reads the socket, and completes the URBs of the others as it
meets them; there is no thread of its own, so a program with one thread pays for no hand-off.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from usbip_vudc.cable import looks_pay, set_options
from usbip_vudc.errors import RemoteProtocolError
from usbip_vudc.host import sg as sg_rule
from usbip_vudc.host.handshake import import_device
from usbip_vudc.host.outcome import result_of
from usbip_vudc.sglist import Buffer, SGList, drop_front
from usbip_vudc.urb import HostUrb, IsoUrb
from usbip_vudc.usb.ch9 import SetupPacket
from usbip_vudc.wire.connection import HostConnection
from usbip_vudc.wire.pdu import UsbDevice

__all__ = ("BlockingHost",)

_UNLINK_PATIENCE: Final = 5.0
"""Seconds that a device may take to answer CMD_UNLINK before it counts as gone."""

_LOOKS: Final = 30
"""Times to look for a reply before sleeping, 2 to 3 us each (see cable.py)."""

_QUICK_DEVICE: Final = 200e-6
"""Seconds. Looking only pays for a device that last answered within this time."""

_MAX_IOVECS: Final = 512

_READER_MAY_LEAVE: Final = 0.05
"""Seconds after which a thread that cannot send looks whether anybody still reads."""


class _Socket(socket.socket):
    """Closes itself without a ResourceWarning: pyusb leaves that to the garbage collector."""

    def __del__(self) -> None:
        self.close()


class BlockingHost:
    """Imports a device and submits URBs to it. All methods may be called from any thread.

    ``device`` is what IMPORT returned. Raises ImportRefused, OSError or RemoteProtocolError.
    """

    def __init__(self, host: str, port: int, busid: str, *, timeout: float = 10.0) -> None:
        sock, self.device = import_device(host, port, busid, timeout=timeout)
        self._setup(sock)

    @classmethod
    def on_socket(cls, sock: socket.socket, device: UsbDevice) -> Self:
        """Wrap a socket over which the device has been imported already."""
        self = cls.__new__(cls)
        self.device = device
        self._setup(sock)
        return self

    def _setup(self, sock: socket.socket) -> None:
        self._sock = _Socket(fileno=sock.detach())
        set_options(self._sock)
        self._connection = HostConnection(self.device.devid)
        self._sending = threading.RLock()
        self._readers = threading.Condition(threading.Lock())
        self._reading = False
        self._waiting = 0
        self._looks = self._most_looks = _LOOKS if looks_pay() else 0
        self._readable = select.poll()
        self._readable.register(self._sock, select.POLLIN)
        self._closed = False
        self._lost_status = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether the device is gone or was closed, though nobody may have read that yet."""
        return self._closed or bool(self._poll(select.POLLRDHUP, 0.0))

    def close(self) -> None:
        """Give the device up: pending URBs of other threads end with -ESHUTDOWN."""
        self._lose(-errno.ESHUTDOWN)

    # --- URBs ----------------------------------------------------------------------------------

    def submit(self, urb: HostUrb, timeout: float | None = None) -> None:
        """Send a URB. `wait` for it; its buffer must stay untouched until then.

        Behind another thread's URB that is not received in ``timeout`` seconds it ends, unsent,
        with -ETIMEDOUT. A device that does not receive it then, nor soon after, is gone.
        """
        if not self._sending.acquire(True, -1 if timeout is None else max(timeout, 0)):
            urb.complete(-errno.ETIMEDOUT)
            return
        try:
            self._connection.submit(urb)
            if urb.status is None:
                self._flush(timeout)
        finally:
            self._sending.release()

    def unlink(self, urb: HostUrb) -> None:
        """Ask for a pending URB back; `wait` tells how it ended."""
        if self._sending.acquire(True, _UNLINK_PATIENCE):
            try:
                if urb.status is None and not self._closed:
                    self._connection.unlink(urb)
                    self._flush(0.0)
            finally:
                self._sending.release()

    def wait(self, urb: HostUrb, timeout: float | None = None) -> bool:
        """Wait until a URB has completed, at most ``timeout`` seconds; False when it has not."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while urb.status is None:
            with self._readers:
                if not self._may_read(urb, deadline):
                    return urb.status is not None
                self._reading = True
            try:
                while urb.status is None:
                    # What others get would keep us reading for ever.
                    over = deadline is not None and time.monotonic() > deadline
                    if not self._read(deadline) or (over and urb.status is None):
                        return False
            finally:
                self._stop_reading()
        return True

    def transfer(self, urb: HostUrb, timeout: float | None = None) -> int:
        """Submit a URB and wait for it: bytes moved. ``timeout`` in seconds, None for ever.

        When time is up the URB is unlinked and the answer awaited. Raises UrbError with
        ETIMEDOUT then (unless the reply won the race), with EPIPE for a stall, EOVERFLOW for
        babble, and so on; DeviceGone where the connection broke.
        """
        self.submit(urb, timeout)
        if urb.status is None:
            try:
                in_time = self.wait(urb, timeout)
            except BaseException:
                self.unlink(urb)
                raise
            if not in_time:
                self._take_back(urb)
        return result_of(urb)

    def transfer_iso(
        self,
        endpoint: int,
        lengths: Sequence[int],
        data: Buffer | None = None,
        timeout: float | None = None,
    ) -> IsoUrb:
        """An isochronous URB with packets of these lengths in bytes; it returns completed.

        ``data`` is what goes out, packet behind packet, or where IN packets come to; without it
        that is memory of its own. How each packet went is in the URB's ``packets``; raises as
        `transfer` does where the URB itself failed. For a stream `submit` several of them.
        """
        urb = IsoUrb(endpoint, bytearray(sum(lengths)) if data is None else data, lengths)
        self.transfer(urb, timeout)
        return urb

    def transfer_each(self, urbs: Sequence[HostUrb], timeout: float | None = None) -> int:
        """Submit several URBs at once and wait for all: bytes moved.

        ``timeout`` in seconds is for all of them. When one fails, or time is up, those behind it
        are unlinked; raises as `transfer` does then, for the first that failed.
        """
        self._carry_out_all(urbs, timeout)
        return sum(map(result_of, urbs))

    def transfer_sg(
        self,
        endpoint: int,
        sg: SGList,
        *,
        scatter_gather: bool = True,
        timeout: float | None = None,
    ) -> sg_rule.SgResult:
        """Transfer an SG list as Linux's usb_sg_wait does, with or without SG at the host.

        Never raises for a failed URB: the result tells. ``timeout`` in seconds is for all of it.
        """
        urbs = sg_rule.split(endpoint, sg, scatter_gather=scatter_gather)
        self._carry_out_all(urbs, timeout)
        return sg_rule.outcome(urbs)

    def control(self, setup: SetupPacket, data: Buffer = b"", timeout: float | None = 5.0) -> bytes:
        """A control transfer: the bytes of the IN data stage, b"" for OUT.

        ``data`` is the OUT data stage, wLength bytes. Raises as `transfer` does, and
        LocalProtocolError for another number of bytes.
        """
        urb = HostUrb.control(setup, data)
        actual = self.transfer(urb, timeout)
        return b"".join(urb.sg.cut(0, actual)) if urb.is_in else b""

    def _carry_out_all(self, urbs: Sequence[HostUrb], timeout: float | None) -> None:
        """Submit at once, wait in order; behind one that failed the others are unlinked."""
        deadline = None if timeout is None else time.monotonic() + timeout
        for urb in urbs:
            self.submit(urb, timeout)
        failed = False
        for urb in urbs:
            if failed:
                self.unlink(urb)
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            if not self.wait(urb, left):
                self._take_back(urb)
            failed = failed or bool(urb.status)

    def _take_back(self, urb: HostUrb) -> None:
        """Unlink after a timeout. A device that does not even answer that is gone."""
        self.unlink(urb)
        if not self.wait(urb, _UNLINK_PATIENCE):
            self._lose(-errno.ENODEV)
        if urb.status == -errno.ECONNRESET:
            urb.status = -errno.ETIMEDOUT

    # --- the socket ----------------------------------------------------------------------------

    def _may_read(self, urb: HostUrb, deadline: float | None) -> bool:
        """Wait, with the lock held, until nobody reads; False when the URB or time is over first.

        A URB that is over may have been completed by a thread that is still reading.
        """
        if not self._reading:
            return urb.status is None
        self._waiting += 1  # before the look at the URB: who completes it looks here after it
        try:
            while self._reading and urb.status is None:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self._readers.wait(left)
            return urb.status is None
        finally:
            self._waiting -= 1

    def _stop_reading(self) -> None:
        with self._readers:
            self._reading = False
            if self._closed:
                self._sock.close()
            if self._waiting:
                self._readers.notify_all()

    def _read(self, deadline: float | None) -> bool:
        """Receive once and act on it, as the reading thread; False when time is up."""
        connection = self._connection
        buffers = connection.get_buffers()
        looks = self._looks
        while True:
            if not looks and not self._sleep(deadline):
                return False
            try:
                if len(buffers) == 1:
                    count = self._sock.recv_into(buffers[0])
                else:
                    count = self._sock.recvmsg_into(buffers[:_MAX_IOVECS])[0]
                break
            except BlockingIOError:
                if looks:
                    looks -= 1
                    os.sched_yield()
            except OSError:
                count = 0
                break
        if not count:
            self._lose(-errno.ENODEV)
            return True
        try:
            connection.advance(count)
        except RemoteProtocolError:
            if not self._closed:  # else another thread closed it, and no reply has a URB any more
                self._lose(-errno.EPROTO)
                raise
        if self._waiting:
            with self._readers:
                self._readers.notify_all()
        return True

    def _sleep(self, deadline: float | None) -> bool:
        """Wait for bytes; False when time is up. A quick device is worth looking for next time."""
        if deadline is None and not self._most_looks:
            return bool(self._readable.poll())
        began = time.monotonic()
        left = None if deadline is None else max((deadline - began) * 1000, 0)
        if not self._readable.poll(left):
            return False
        if self._most_looks:
            quick = time.monotonic() - began < _QUICK_DEVICE
            self._looks = self._most_looks if quick else 0
        return True

    def _flush(self, timeout: float | None) -> None:
        """Send all of ``outgoing``; called with the sending lock held."""
        outgoing = self._connection.outgoing
        self._connection.outgoing = []
        deadline = None
        while outgoing and not self._closed:
            try:
                if len(outgoing) == 1:
                    count = self._sock.send(outgoing[0])
                else:
                    count = self._sock.sendmsg(outgoing[:_MAX_IOVECS])
            except BlockingIOError:
                if deadline is None and timeout is not None:
                    deadline = time.monotonic() + timeout + _UNLINK_PATIENCE
                if not self._wait_to_send(deadline):
                    self._lose(-errno.ENODEV)  # what is half sent cannot be taken back
                continue
            except OSError:
                self._lose(-errno.ENODEV)
                return
            drop_front(outgoing, count)

    def _wait_to_send(self, deadline: float | None) -> bool:
        """The socket is full. The device may wait for us to read before it reads, so read.

        False when time is up.
        """
        if deadline is not None and time.monotonic() >= deadline:
            return False
        with self._readers:
            reads = not self._reading
            if reads:
                self._reading = True
        try:
            if not reads:
                turn = time.monotonic() + _READER_MAY_LEAVE
                self._poll(select.POLLOUT, turn if deadline is None else min(turn, deadline))
            elif self._poll(select.POLLOUT | select.POLLIN, deadline) & select.POLLIN:
                self._read(deadline)
        finally:
            if reads:
                self._stop_reading()
        return True

    def _poll(self, events: int, deadline: float | None) -> int:
        """What the socket is ready for, 0 when time is up."""
        poller = select.poll()
        try:
            poller.register(self._sock, events)
        except ValueError:
            return select.POLLHUP  # closed by another thread
        while True:
            if deadline is None:
                milliseconds = 1000.0
            else:
                milliseconds = max((deadline - time.monotonic()) * 1000, 0)
            ready = poller.poll(min(milliseconds, 1000.0))
            if ready:
                return ready[0][1]
            if self._closed:
                return select.POLLHUP
            if deadline is not None and time.monotonic() >= deadline:
                return 0

    def _lose(self, status: int) -> None:
        """The end: every URB has completed when this returns. The first status counts."""
        with self._readers:
            if not self._closed:
                self._closed = True
                self._lost_status = status
        # This wakes threads that read or send, so it comes before the lock of those that send.
        with contextlib.suppress(OSError):  # the peer was first
            self._sock.shutdown(socket.SHUT_RDWR)
        with self._sending:
            self._connection.lost(self._lost_status)
            with self._readers:
                if not self._reading:  # else the reader does: it may be asleep on the descriptor
                    self._sock.close()
                self._readers.notify_all()
