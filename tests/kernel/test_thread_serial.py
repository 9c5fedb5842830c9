"""The thread's serial tests: a raw file both ways, ZMODEM and a terminal, on every carrier.

The port is our CDC-ACM, and on the kernel's UDCs also its own f_acm (ttyGS against ttyACM). Behind
FunctionFS our ACM is one interface, since f_fs refuses the CDC functional descriptors; cdc-acm
binds to it by itself (drivers/usb/class/cdc-acm.c calls that a combined interface).

What a user could meet here: a line that was written to cdc_acm/new_id for the two-interface form
stays until the next boot, and a gadget of those ids with one interface does not bind any more.
"""

from __future__ import annotations

import os
import pty
import random
import select
import socket
import subprocess
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
import pytest

from configfs.transaction import GADGETS
from gadgets.acm.function import AcmFunction
from gadgets.serial.generic import GenericSerialFunction
from gadgets.serial.profiles import Stream
from tests.kernel.carriers import (
    DUMMY_HIGH,
    EVERY,
    MODULES,
    ON_KERNEL_UDCS,
    name_of,
    need_program,
    on_carriers,
)
from usbip_vudc.carrier import PATIENCE, Carrier, carried
from usbip_vudc.function import Function
from usbip_vudc.gadget import Config, Gadget, KernelFunction
from usbip_vudc.sysfs import read_attribute, write_attribute

pytestmark = pytest.mark.kernel

FILE: Final = random.Random(26).randbytes(100_000)
SMALL: Final = random.Random(27).randbytes(30_000)

NEW_ID: Final = Path("/sys/bus/usb-serial/drivers/generic/new_id")


@pytest.fixture(scope="module", autouse=True)
def modules(need_modules: Callable[..., None]) -> None:
    need_modules(*MODULES, "usb_f_acm", "cdc-acm", "usbserial")


# --- a line: a tty of this machine at one end, a socket for a program at the other --------------


@dataclass(frozen=True, slots=True)
class Line:
    """Both ends as descriptors: ``host`` is the raw tty ``node``, ``gadget`` a socket."""

    node: str
    host: int
    gadget: int
    function: Function


async def bridge(stream: Stream, sock: socket.socket) -> None:
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
            await stream.send(sock.recv(16384))


@contextmanager
def bridged(
    carrier: Carrier, function: Function, stream: Stream, idProduct: int, prefix: str
) -> Iterator[Line]:
    """A port that leads to a program; its node begins with ``prefix``."""
    ours, programs = socket.socketpair()
    with ours, programs:
        ours.setblocking(False)
        with carried(line_gadget(function, idProduct), carrier) as device:
            pump = device.portal.start_task_soon(bridge, stream, ours)
            try:
                node = device.node(prefix)
                with raw(node) as host:
                    yield Line(node, host, programs.fileno(), function)
            finally:
                pump.cancel()


def line_gadget(function: Function | KernelFunction, idProduct: int) -> Gadget:
    return Gadget(
        name="threadline",
        idVendor=0x0525,
        idProduct=idProduct,
        product="Line",
        configs=(Config(functions=(function,)),),
    )


@contextmanager
def raw(node: str | Path) -> Iterator[int]:
    """A tty that treats no byte: stty raw -echo."""
    fd = os.open(node, os.O_RDWR | os.O_NOCTTY)
    try:
        tty.setraw(fd)
        yield fd
    finally:
        os.close(fd)


@pytest.fixture(scope="class", params=EVERY, ids=name_of)
def ours(request: pytest.FixtureRequest) -> Iterator[Line]:
    """One line of ours for all tests: it stays while they run."""
    stream = Stream()
    with bridged(request.param, AcmFunction(stream), stream, 0xA4A7, "ttyACM") as made:
        yield made


@pytest.fixture
def line(ours: Line) -> Line:
    """The line, without what the last test's programs left on it."""
    mark = os.urandom(16)
    for into, out_of in ((ours.host, ours.gadget), (ours.gadget, ours.host)):
        os.write(into, mark)
        read_until(out_of, mark)
    return ours


def read_until(fd: int, mark: bytes) -> bytes:
    """Read until a mark has come; all of it. Fails the test when nothing comes any more."""
    data = b""
    while mark not in data:
        if not select.select([fd], [], [], PATIENCE)[0]:
            pytest.fail(f"{mark!r} did not come; after {len(data)} bytes it ends {data[-80:]!r}")
        data += os.read(fd, 65536)
    return data


# --- ways to use a line -------------------------------------------------------------------------


def assert_cat(into: int, out_of: int, tmp_path: Path) -> None:
    """Cat a file into one end: the same bytes, and no more, come out of the other."""
    file = tmp_path / "file"
    file.write_bytes(FILE)
    with subprocess.Popen(("cat", file), stdout=into) as cat:
        try:
            head = ("head", "-c", str(len(FILE)))
            assert subprocess.check_output(head, stdin=out_of, timeout=90) == FILE
            assert cat.wait(PATIENCE) == 0
        finally:
            cat.kill()
    assert select.select([out_of], [], [], 0)[0] == []


def zmodem(sender: int, receiver: int, tmp_path: Path) -> bytes:
    """What rz at one end receives of the file that sz sends at the other."""
    sz, rz = need_program("sz", "lrzsz"), need_program("rz", "lrzsz")
    file, there = tmp_path / "file", tmp_path / "there"
    file.write_bytes(SMALL)
    there.mkdir()
    receive, send = (rz, "-b", "-q"), (sz, "-b", "-q", file)
    with subprocess.Popen(receive, stdin=receiver, stdout=receiver, cwd=there) as receiving:
        try:
            subprocess.run(send, stdin=sender, stdout=sender, check=True, timeout=90)
            assert receiving.wait(PATIENCE) == 0
        finally:
            receiving.kill()
    return (there / "file").read_bytes()


# --- tests ----------------------------------------------------------------------------------------


class TestOurPort:
    """CDC-ACM of ours: one port for all tests of a carrier."""

    def test_cat_sends_a_file_to_the_gadget(self, line: Line, tmp_path: Path) -> None:
        assert_cat(line.host, line.gadget, tmp_path)

    def test_a_file_of_the_gadget_comes_out_of_the_tty(self, line: Line, tmp_path: Path) -> None:
        assert_cat(line.gadget, line.host, tmp_path)

    def test_sz_sends_a_file_to_rz_behind_the_gadget(self, line: Line, tmp_path: Path) -> None:
        assert zmodem(line.host, line.gadget, tmp_path) == SMALL

    def test_rz_receives_a_file_from_sz_behind_the_gadget(self, line: Line, tmp_path: Path) -> None:
        assert zmodem(line.gadget, line.host, tmp_path) == SMALL

    def test_a_picocom_session(self, line: Line) -> None:
        picocom = need_program("picocom", "picocom")
        screen, terminal = pty.openpty()
        command = (picocom, "--nolock", "--baud", "57600", line.node)
        try:
            with subprocess.Popen(command, stdin=terminal, stdout=terminal) as session:
                try:
                    read_until(screen, b"Terminal ready")
                    os.write(screen, b"hello\r")
                    assert read_until(line.gadget, b"\r") == b"hello\r"
                    assert isinstance(line.function, AcmFunction)
                    assert line.function.line_coding.dwDTERate == 57600
                    os.write(line.gadget, b"and hello to you\r\n")
                    read_until(screen, b"and hello to you")
                    os.write(screen, b"\x01\x18")  # C-a C-x ends it
                    assert session.wait(PATIENCE) == 0
                finally:
                    session.kill()
        finally:
            os.close(screen)
            os.close(terminal)


@on_carriers(*ON_KERNEL_UDCS)
def test_cat_between_the_ttys_of_the_kernels_own_f_acm(carrier: Carrier, tmp_path: Path) -> None:
    gadget = line_gadget(KernelFunction(driver="acm"), 0xA4A7)
    with carried(gadget, carrier) as device:
        number = read_attribute(GADGETS / gadget.name / "functions/acm.0/port_num")
        with raw(f"/dev/ttyGS{number}") as inside, raw(device.node("ttyACM")) as host:
            assert_cat(host, inside, tmp_path)
            assert_cat(inside, host, tmp_path)


def test_a_port_without_a_class_is_usbserials(tmp_path: Path) -> None:
    write_attribute(NEW_ID, "0525 a4a6")
    stream = Stream()
    function = GenericSerialFunction(stream)
    with bridged(DUMMY_HIGH, function, stream, 0xA4A6, "ttyUSB") as line:
        assert_cat(line.host, line.gadget, tmp_path)
        assert_cat(line.gadget, line.host, tmp_path)
