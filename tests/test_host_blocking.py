"""host/blocking: one socket, several threads, and a device that does not do as it should."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from usbip_vudc.errors import DeviceGone, UrbError
from usbip_vudc.host import blocking
from usbip_vudc.host.blocking import BlockingHost
from usbip_vudc.sglist import SGList
from usbip_vudc.urb import HostUrb
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.wire.pdu import HEADER_SIZE, RetSubmit, UsbDevice

DEVICE = UsbDevice(
    path="/sys/devices/1-1", busid="1-1", busnum=1, devnum=2, speed=Speed.HIGH, idVendor=1,
    idProduct=2, bcdDevice=0, bDeviceClass=0, bDeviceSubClass=0, bDeviceProtocol=0,
    bConfigurationValue=1, bNumConfigurations=1, bNumInterfaces=1,
)  # fmt: skip

MUCH = 8 << 20
"""Bytes that no socket holds."""


@contextmanager
def connected() -> Iterator[tuple[BlockingHost, socket.socket]]:
    """A host, and the device's end of its cable, with nobody there."""
    ours, device = socket.socketpair()
    device.settimeout(10)
    with BlockingHost.on_socket(ours, DEVICE) as host, device:
        yield host, device


class InThread:
    """A call in a thread of its own, whose outcome somebody waits for, but not for ever."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._result: object = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:
            self._error = error

    def outcome(self) -> object:
        self._thread.join(10)
        assert not self._thread.is_alive(), "it never came back"
        if self._error is not None:
            raise self._error
        return self._result


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def is_sending(host: BlockingHost) -> bool:
    """Whether some other thread is about to send."""
    if host._sending.acquire(blocking=False):
        host._sending.release()
        return False
    return True


def receive(device: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        chunk = device.recv(length - len(data))
        assert chunk
        data += chunk
    return bytes(data)


def test_close_ends_a_thread_whose_urb_the_device_does_not_receive() -> None:
    with connected() as (host, _):
        sender = InThread(lambda: host.transfer(HostUrb(0x01, bytes(MUCH))))
        until(lambda: is_sending(host))
        InThread(host.close).outcome()
        with pytest.raises(DeviceGone):
            sender.outcome()


def test_a_device_that_does_not_receive_is_gone_when_time_is_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blocking, "_UNLINK_PATIENCE", 0.05)
    with connected() as (host, _):
        sender = InThread(lambda: host.transfer(HostUrb(0x01, bytes(MUCH)), 0.05))
        with pytest.raises(DeviceGone):
            sender.outcome()
        assert host.closed


def test_a_urb_behind_one_that_is_not_received_has_a_timeout_of_its_own() -> None:
    with connected() as (host, _):
        sender = InThread(lambda: host.transfer(HostUrb(0x01, bytes(MUCH))))
        until(lambda: is_sending(host))
        for timeout in (0.05, 0.0, -1.0):
            with pytest.raises(UrbError) as caught:
                InThread(partial(host.transfer, HostUrb(0x81, bytearray(8)), timeout)).outcome()
            assert caught.value.errno == errno.ETIMEDOUT
        assert not host.closed
        host.close()
        with pytest.raises(DeviceGone):
            sender.outcome()


def test_who_sends_reads_once_nobody_else_does() -> None:
    """The device sends before it receives, and the thread that read what it sends has left."""
    with connected() as (host, device):
        first, much = HostUrb(0x81, bytearray(1)), HostUrb(0x82, bytearray(MUCH))
        out = HostUrb(0x01, bytes(MUCH))
        host.submit(first)
        host.submit(much)
        reader = InThread(lambda: host.wait(first))
        until(lambda: host._reading)
        sender = InThread(lambda: host.transfer(out))
        until(lambda: is_sending(host))
        device.sendall(RetSubmit(seqnum=1, actual_length=1).pack() + b"x")
        assert reader.outcome() is True
        device.sendall(RetSubmit(seqnum=2, actual_length=MUCH).pack() + bytes(MUCH))
        receive(device, 3 * HEADER_SIZE + MUCH)
        device.sendall(RetSubmit(seqnum=3, actual_length=MUCH).pack())
        assert sender.outcome() == MUCH
        assert (much.status, much.actual) == (0, MUCH)


class Watched(HostUrb):
    """A URB that is completed just after a thread has seen that it is not."""

    def __init__(self, endpoint: int, data: bytearray) -> None:
        self.looked: Callable[[], None] | None = None
        self._status: int | None = None
        super().__init__(endpoint, data)

    @property
    def status(self) -> int | None:
        seen = self._status
        if self.looked is not None:
            looked, self.looked = self.looked, None
            looked()
        return seen

    @status.setter
    def status(self, status: int | None) -> None:
        self._status = status


def test_a_reply_that_comes_as_its_thread_is_about_to_sleep_wakes_it() -> None:
    with connected() as (host, device):
        long, short = HostUrb(0x81, bytearray(1)), Watched(0x82, bytearray(1))
        host.submit(long)
        host.submit(short)
        reader = InThread(lambda: host.wait(long))
        until(lambda: host._reading)

        asleep = threading.Event()
        sleep = host._sleep

        def sleeps(deadline: float | None) -> bool:
            if short._status is not None:
                asleep.set()
            return sleep(deadline)

        host._sleep = sleeps  # type: ignore[method-assign]

        def reply() -> None:
            """The other thread reads it, and wakes who it thinks is waiting."""
            device.sendall(RetSubmit(seqnum=2, actual_length=1).pack() + b"x")
            until(lambda: short._status is not None)
            asleep.wait(0.1)  # it comes to that only where nobody is to be woken

        def arm() -> None:
            short.looked = reply  # the first look is that of wait itself

        short.looked = arm
        waiter = InThread(lambda: host.wait(short))
        assert waiter.outcome() is True
        assert long.status is None
        device.sendall(RetSubmit(seqnum=1, actual_length=1).pack() + b"y")
        assert reader.outcome() is True


def test_closed_amid_a_batch_of_replies_every_urb_ends_once() -> None:
    """Another thread closes while this one reads: no reply has a URB any more."""
    with connected() as (host, device):
        ended: list[int] = []

        def close(urb: HostUrb) -> None:
            InThread(host.close).outcome()
            ended.append(urb.seqnum)

        urbs = [HostUrb(0x81, bytearray(1)) for _ in range(3)]
        for urb in urbs:
            urb.on_complete = lambda urb: ended.append(urb.seqnum)
        urbs[0].on_complete = close
        for urb in urbs:
            host.submit(urb)
        device.sendall(
            b"".join(RetSubmit(seqnum=n, actual_length=1).pack() + b"x" for n in (1, 2, 3))
        )
        assert host.wait(urbs[0]) is True
        assert host.wait(urbs[2]) is True
        assert [urb.status for urb in urbs] == [0, -errno.ESHUTDOWN, -errno.ESHUTDOWN]
        assert sorted(ended) == [1, 2, 3]


def test_closed_under_a_thread_that_reads_it_leaves_no_descriptor() -> None:
    """That thread closes it: it may be asleep on the number, which is another file's soon."""
    with connected() as (host, _):
        reader = InThread(lambda: host.transfer(HostUrb(0x81, SGList(bytearray(1)))))
        until(lambda: host._reading)
        host.close()
        with pytest.raises(DeviceGone):
            reader.outcome()
        assert host._sock.fileno() == -1
