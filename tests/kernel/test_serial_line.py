"""The line as Linux sees it: TIOCGICOUNT and TIOCMGET of cdc-acm, and far ends behind the tty.

The bits of SERIAL_STATE are counted by acm_process_notification() (drivers/usb/class/cdc-acm.c).
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import select
import struct
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

import anyio
import pytest
import usb.core

from gadgets.acm.function import AcmFunction
from gadgets.serial.ends import Exec, Pty
from gadgets.serial.flow import Flow
from gadgets.serial.line import BreakSent, ControlLinesSet, LineCodingSet, LineEvent
from gadgets.serial.profiles import Stream
from tests.kernel.carriers import (
    MODULES,
    PATIENCE,
    USERSPACE_HIGH,
    VUDC,
    on_carriers,
    wait_for,
)
from usbip_vudc.carrier import Carried, Carrier, carried
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.usb.cdc import LineCoding
from usbip_vudc.usb.ch9 import Speed

pytestmark = pytest.mark.kernel

TIOCGICOUNT: Final = 0x545D
"""What termios does not have: <asm-generic/ioctls.h>."""

_COUNTERS: Final = struct.Struct("11i36x")
_NAMES: Final = (
    "cts", "dsr", "rng", "dcd", "rx", "tx", "frame", "overrun", "parity", "brk", "buf_overrun",
)  # fmt: skip
"""struct serial_icounter_struct (<linux/serial.h>)."""

DATA: Final = random.Random(6).randbytes(12_000)
STEP: Final = 4_000
"""Less than what a pty holds, or a write to it would wait for its reader."""


@pytest.fixture(scope="module", autouse=True)
def modules(need_modules: Callable[..., None]) -> None:
    need_modules(*MODULES, "cdc-acm")


def line_gadget(function: AcmFunction) -> Gadget:
    return Gadget(
        name="line",
        idVendor=0x0525,
        idProduct=0xA4A7,
        product="Line",
        configs=(Config(functions=(function,)),),
    )


@contextmanager
def on_tty(function: AcmFunction, carrier: Carrier) -> Iterator[tuple[Carried, str, int]]:
    """The port as a raw tty of this machine, open."""
    with carried(line_gadget(function), carrier) as device:
        node = device.node("ttyACM")
        with opened(node) as fd:
            device.portal.call(within(partial(function.wait_dtr)))
            yield device, node, fd


@contextmanager
def opened(node: str) -> Iterator[int]:
    fd = os.open(node, os.O_RDWR | os.O_NOCTTY)
    try:
        tty.setraw(fd)
        yield fd
    finally:
        termios.tcflush(fd, termios.TCIOFLUSH)
        os.close(fd)


def within(call: Callable[..., object]) -> Callable[[], object]:
    """A call of a coroutine function with a deadline."""

    async def limited() -> object:
        with anyio.fail_after(PATIENCE):
            return await call()  # type: ignore[misc]

    return limited


def counted(fd: int) -> dict[str, int]:
    """The counters that have moved."""
    answer = fcntl.ioctl(fd, TIOCGICOUNT, bytes(_COUNTERS.size))
    return {
        name: value for name, value in zip(_NAMES, _COUNTERS.unpack(answer), strict=True) if value
    }


def modem_lines(fd: int) -> int:
    (lines,) = struct.unpack("i", fcntl.ioctl(fd, termios.TIOCMGET, bytes(4)))
    return int(lines)


@on_carriers(USERSPACE_HIGH, VUDC)
def test_every_bit_of_the_serial_state_is_counted_and_the_lines_are_seen(carrier: Carrier) -> None:
    function = AcmFunction(Stream())
    with on_tty(function, carrier) as (device, _, fd):

        def show(**changes: bool) -> None:
            device.portal.call(within(partial(function.set_serial_state, **changes)))

        def now(mask: int, lines: int, counters: dict[str, int]) -> None:
            wait_for(
                lambda: (modem_lines(fd) & mask, counted(fd)) == (lines, counters),
                f"lines {lines:#x} and {counters}, not {modem_lines(fd):#x} and {counted(fd)}",
            )

        seen = termios.TIOCM_CD | termios.TIOCM_DSR
        now(seen, 0, {})
        show(dcd=True)
        now(seen, termios.TIOCM_CD, {"dcd": 1})
        show(dsr=True)
        now(seen, seen, {"dcd": 1, "dsr": 1})
        show(dcd=False, dsr=False)
        now(seen, 0, {"dcd": 2, "dsr": 2})
        expected = {"dcd": 2, "dsr": 2}
        for bit, counter in {
            "ring": "rng", "break_": "brk", "framing": "frame", "parity": "parity",
            "overrun": "overrun",
        }.items():  # fmt: skip
            show(**{bit: True})
            expected[counter] = 1
            now(seen, 0, expected)
        show(ring=True, break_=True, framing=True, parity=True, overrun=True)
        now(seen, 0, {k: v if k in ("dcd", "dsr") else 2 for k, v in expected.items()})


def test_what_a_program_does_to_the_tty_reaches_the_gadget_as_events() -> None:
    function = AcmFunction(Stream())
    with on_tty(function, USERSPACE_HIGH) as (device, _, fd):
        events = function.events()

        def until(wanted: LineEvent) -> None:
            async def look() -> None:
                async for event in events:
                    if event == wanted:
                        return

            device.portal.call(within(look))

        attributes = termios.tcgetattr(fd)
        attributes[2] = (
            termios.CS7 | termios.PARENB | termios.CSTOPB | termios.CREAD | termios.CLOCAL
        )
        attributes[4] = attributes[5] = termios.B57600
        termios.tcsetattr(fd, termios.TCSANOW, attributes)
        until(LineCodingSet(type(function.line_coding).from_text("57600 7E2")))
        fcntl.ioctl(fd, termios.TIOCMBIC, struct.pack("i", termios.TIOCM_RTS))
        until(ControlLinesSet(dtr=True, rts=False))
        fcntl.ioctl(fd, termios.TIOCMBIS, struct.pack("i", termios.TIOCM_RTS))
        until(ControlLinesSet(dtr=True, rts=True))
        termios.tcsendbreak(fd, 0)
        until(BreakSent(None))
        until(BreakSent(0))


def test_no_byte_is_lost_between_a_tty_and_a_pty_while_dtr_falls_and_rises() -> None:
    """Behind FunctionFS: what is offered when DTR falls must be taken back from the kernel."""
    profile = Pty()
    function = AcmFunction(profile, flow=Flow(wait_for_dtr=True))
    with on_tty(function, VUDC) as (device, _, fd):
        name = wait_for(lambda: profile.name, "the name of the pty")
        dtr = struct.pack("i", termios.TIOCM_DTR)
        with opened(name) as other:
            for start in range(0, len(DATA), STEP):
                piece = DATA[start : start + STEP]
                os.write(other, piece)
                came = read_some(fd)
                fcntl.ioctl(fd, termios.TIOCMBIC, dtr)
                device.portal.call(within(partial(function.wait_dtr, False)))
                fcntl.ioctl(fd, termios.TIOCMBIS, dtr)
                while len(came) < len(piece):
                    came += read_some(fd)
                assert came == piece
            os.write(fd, DATA)
            back = b""
            while len(back) < len(DATA):
                back += read_some(other)
            assert back == DATA
            wait_for(lambda: modem_lines(fd) & termios.TIOCM_CD, "the far end's carrier")


def read_some(fd: int) -> bytes:
    assert select.select([fd], [], [], PATIENCE)[0], "nothing comes"
    return os.read(fd, 65536)


def test_a_command_that_exited_starts_anew_as_the_tty_is_opened_anew() -> None:
    function = AcmFunction(Exec("sh -c 'read line; echo got $line'"))
    with carried(line_gadget(function), USERSPACE_HIGH) as device:
        node = device.node("ttyACM")
        for word in (b"one", b"two"):
            with opened(node) as fd:
                os.write(fd, word + b"\n")
                assert read_until(fd, b"\n") == b"got " + word + b"\n"
                wait_for(lambda fd=fd: not modem_lines(fd) & termios.TIOCM_CD, "no carrier")  # type: ignore[misc]
            wait_for(lambda: not function.dtr, "the fall of DTR")


def read_until(fd: int, mark: bytes) -> bytes:
    data = b""
    while not data.endswith(mark):
        data += read_some(fd)
    return data


def test_functionfs_stalls_a_line_coding_that_is_none_before_its_data_are_taken() -> None:
    function = AcmFunction()
    with carried(line_gadget(function), Carrier("usbip-vudc.0", Speed.HIGH, "pyusb")) as device:
        host = device.device()
        with pytest.raises(usb.core.USBError) as caught:
            host.ctrl_transfer(0x21, 0x20, 0, 0, bytes(6))
        assert caught.value.errno == errno.EPIPE
        coding = LineCoding.from_text("57600 7E1")
        assert host.ctrl_transfer(0x21, 0x20, 0, 0, coding.pack()) == LineCoding.SIZE
        wait_for(lambda: function.line_coding == coding, "the line coding")
