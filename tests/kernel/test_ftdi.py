"""FTDI's protocol on Linux: ftdi_sio binds to ours by itself, over vhci_hcd and over FunctionFS.

pyserial's loopback expectations over /dev/ttyUSB, and what ftdi_sio makes of the status bytes:
TIOCMGET, TIOCGICOUNT, and a writer that waits where the chip's flow control says so.
"""

from __future__ import annotations

import fcntl
import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import pytest
import serial

from gadgets.ftdi.function import FtdiFunction
from gadgets.ftdi.presets import ftdi
from tests import loopback
from tests.kernel.carriers import MODULES, VUDC, wait_for
from usbip_vudc.carrier import OURS, PATIENCE, Carried, Carrier, carried
from usbip_vudc.registry import GadgetOptions
from usbip_vudc.sysfs import driver_of, interfaces
from usbip_vudc.usb.cdc import Parity, StopBits
from usbip_vudc.usb.ch9 import Speed

pytestmark = pytest.mark.kernel

FULL: Final = Carrier(OURS, Speed.FULL, "linux")
"""What an FT232R is: 64 bytes of a packet, 62 of them payload."""

TIOCGICOUNT: Final = 0x545D
COUNTERS: Final = (
    "cts", "dsr", "rng", "dcd", "rx", "tx", "frame", "overrun", "parity", "brk", "buf_overrun",
)  # fmt: skip
"""Struct serial_icounter_struct (include/uapi/linux/serial.h)."""


@pytest.fixture(scope="module", autouse=True)
def modules(need_modules: Callable[..., None]) -> None:
    need_modules(*MODULES, "usbserial", "ftdi_sio")


@pytest.fixture(scope="module", params=(FULL, VUDC), ids=("userspace-full", "functionfs-high"))
def device(request: pytest.FixtureRequest) -> Iterator[Carried]:
    with carried(ftdi(GadgetOptions()), request.param) as device:
        device.node("ttyUSB")
        yield device


@pytest.fixture
def function(device: Carried) -> FtdiFunction:
    udc = device.udc
    [function] = udc.gadget.configs[0].functions  # type: ignore[union-attr]
    assert isinstance(function, FtdiFunction)
    return function


@pytest.fixture
def port(device: Carried) -> Iterator[serial.Serial]:
    with serial.Serial(device.node("ttyUSB"), 115_200, timeout=PATIENCE) as port:
        yield port


def counters(port: serial.Serial) -> dict[str, int]:
    values = fcntl.ioctl(port.fileno(), TIOCGICOUNT, bytes(80))
    return dict(zip(COUNTERS, struct.unpack("11i", values[:44]), strict=True))


def test_ftdi_sio_binds_and_opens_it(device: Carried, function: FtdiFunction) -> None:
    [interface] = interfaces(device.sysfs)
    assert driver_of(interface) == "ftdi_sio"
    node = device.node("ttyUSB")
    with serial.Serial(node, 19_200, bytesize=7, parity="E", stopbits=2):
        wait_for(lambda: function.dtr and function.rts, "DTR and RTS")
        coding = function.line_coding
        assert (coding.dwDTERate, coding.bDataBits) == (19_200, 7)
        assert (coding.bParityType, coding.bCharFormat) == (Parity.EVEN, StopBits.TWO)
    wait_for(lambda: not function.dtr, "DTR to fall with the port's close")


@pytest.mark.parametrize("expectation", loopback.DATA + loopback.LINES, ids=lambda e: e.__name__)
def test_pyserial(expectation: Callable[[loopback.Port], None], port: serial.Serial) -> None:
    expectation(port)


def test_the_counters_follow_the_status_bytes(
    port: serial.Serial, device: Carried, function: FtdiFunction
) -> None:
    wait_for(lambda: port.cts and port.dsr, "the loopback plug")
    port.write(b"x")
    assert port.read(1) == b"x"  # by now the driver has seen a packet with the lines of today
    before = counters(port)

    def counted(name: str) -> int:
        return counters(port)[name] - before[name]

    for changes, name, count in (
        ({"dcd": True}, "dcd", 1),
        ({"ring": True}, "rng", 2),
        ({"break_": True}, "brk", 1),
        ({"framing": True}, "frame", 1),
        ({"parity": True}, "parity", 1),
        ({"overrun": True}, "overrun", 1),
    ):
        device.portal.call(partial(function.set_serial_state, **changes))
        wait_for(partial(counted, name), name)
        assert counted(name) == count, name
    device.portal.call(partial(function.set_serial_state, framing=True, parity=True, break_=True))
    wait_for(
        lambda: [counted(name) for name in ("frame", "parity", "brk")] == [2, 2, 2],
        "each of several at once",
    )
    assert port.cd
    port.rts = False
    wait_for(lambda: counted("cts") == 1, "cts")
    port.dtr = False
    wait_for(lambda: counted("dsr") == 1, "dsr")
    device.portal.call(partial(function.set_serial_state, dcd=False))
    assert not port.cd


def test_a_break_of_the_host_arrives(port: serial.Serial, function: FtdiFunction) -> None:
    port.break_condition = True
    assert function.breaking
    port.break_condition = False
    assert not function.breaking


def test_an_xoff_from_the_line_stops_the_writer(device: Carried) -> None:
    node = device.node("ttyUSB")
    with serial.Serial(node, timeout=PATIENCE, write_timeout=1, xonxoff=True) as port:
        port.write(serial.XOFF)
        with pytest.raises(serial.SerialTimeoutException):
            while True:
                port.write(b"timeout please" * 200)
        port.xonxoff = False  # what it still has may go, or close() would wait for it


def test_nothing_goes_out_while_cts_is_down(device: Carried, function: FtdiFunction) -> None:
    data = bytes(range(200))
    with serial.Serial(device.node("ttyUSB"), timeout=PATIENCE, rtscts=True) as port:
        wait_for(lambda: port.cts, "the loopback plug")
        device.portal.call(function.set_cts, False)
        port.write(data)
        port.timeout = 0.5
        assert port.read(1) == b""
        device.portal.call(function.set_cts, True)
        port.timeout = PATIENCE
        assert port.read(len(data)) == data
