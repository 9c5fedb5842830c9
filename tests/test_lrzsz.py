"""ZMODEM over our serial ports without a kernel: lrzsz at both ends, our host in the middle.

A program has the host's side by one socket, another one the far end of the port by a second.
"""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio.from_thread
import pytest
import usb.core
import usb.util

from gadgets.acm.function import AcmFunction
from gadgets.ftdi.function import FtdiFunction
from gadgets.serial.function import SerialFunction
from gadgets.serial.profile import Profile
from gadgets.serial.stream import Stream
from tests.soak import SerialHost
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.host.ftdi import FtdiSerial
from usbip_vudc.host.serial import UsbSerial
from usbip_vudc.pyusb_backend import get_backend
from usbip_vudc.serving import serving_in
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.vudc import UserspaceUDC

SZ, RZ = shutil.which("sz"), shutil.which("rz")
pytestmark = pytest.mark.skipif(
    SZ is None or RZ is None, reason="no lrzsz: apt-get install --no-install-recommends lrzsz"
)

FILE = random.Random(24).randbytes(150_000)


async def far_end(stream: Stream, sock: socket.socket) -> None:
    """Move bytes both ways between a port and a nonblocking socket, until cancelled."""

    async def outward() -> None:
        while True:
            view = memoryview(await stream.receive())
            while view:
                await anyio.wait_writable(sock)
                view = view[sock.send(view) :]

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(outward)
        while True:
            await anyio.wait_readable(sock)
            await stream.send(sock.recv(16_384))


class NearEnd:
    """Two threads that move bytes between a host of ours and a socket until `close`."""

    def __init__(self, host: SerialHost, sock: socket.socket) -> None:
        self._host, self._sock = host, sock
        self._over = threading.Event()
        self._threads = [threading.Thread(target=job) for job in (self._out, self._in)]
        for thread in self._threads:
            thread.start()

    def _out(self) -> None:
        while data := self._sock.recv(16_384):
            self._host.write(data, 20_000)

    def _in(self) -> None:
        while not self._over.is_set():
            if data := self._host.read(16_384, 50):
                self._sock.sendall(data)

    def close(self) -> None:
        """End them."""
        self._over.set()
        self._sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(20)


@contextmanager
def line(
    make: Callable[[Profile], SerialFunction],
    open_host: Callable[[usb.core.Device], SerialHost],
    speed: Speed,
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A socket for a program at the host, and one for a program behind the gadget."""
    stream = Stream()
    gadget = Gadget(
        name="line", idVendor=0x0403, idProduct=0x6001, configs=(Config(functions=(make(stream),)),)
    )
    near, at_host = socket.socketpair()
    far, behind = socket.socketpair()
    far.setblocking(False)
    with (
        near, at_host, far, behind,
        anyio.from_thread.start_blocking_portal() as portal,
        serving_in(portal, UserspaceUDC(gadget, speed=speed)) as tcp_port,
    ):  # fmt: skip
        device = usb.core.find(backend=get_backend(port=tcp_port))
        pump = portal.start_task_soon(far_end, stream, far)
        ends = NearEnd(open_host(device), near)
        try:
            yield at_host, behind
        finally:
            ends.close()
            pump.cancel()
            usb.util.dispose_resources(device)


def zmodem(sender: socket.socket, receiver: socket.socket, tmp_path: Path) -> bytes:
    """What rz at one end receives of the file that sz sends at the other."""
    file, there = tmp_path / "file", tmp_path / "there"
    file.write_bytes(FILE)
    there.mkdir()
    receive, send = (str(RZ), "-b", "-q"), (str(SZ), "-b", "-q", str(file))
    with subprocess.Popen(
        receive, stdin=receiver.fileno(), stdout=receiver.fileno(), cwd=there
    ) as receiving:
        try:
            subprocess.run(
                send, stdin=sender.fileno(), stdout=sender.fileno(), check=True, timeout=40
            )
            assert receiving.wait(20) == 0
        finally:
            receiving.kill()
    return (there / "file").read_bytes()


@pytest.mark.parametrize("speed", [Speed.FULL, Speed.HIGH, Speed.SUPER], ids=lambda s: s.word)
@pytest.mark.parametrize("kind", ["acm", "ftdi"])
@pytest.mark.parametrize("from_host", [True, False], ids=["to gadget", "to host"])
def test_a_file_by_zmodem(kind: str, speed: Speed, from_host: bool, tmp_path: Path) -> None:
    make: Callable[[Profile], SerialFunction] = AcmFunction if kind == "acm" else FtdiFunction
    open_host: Callable[[usb.core.Device], SerialHost]
    open_host = UsbSerial if kind == "acm" else FtdiSerial
    with line(make, open_host, speed) as (at_host, behind):
        ends = (at_host, behind) if from_host else (behind, at_host)
        assert zmodem(*ends, tmp_path) == FILE
