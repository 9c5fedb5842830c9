"""The FTDI port as a whole: packets with status, flow control, and hosts that know the chip.

Our own host class and pyftdi, a driver of others, see it through our pyusb backend.
"""

from __future__ import annotations

import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import anyio
import anyio.from_thread
import pyftdi.eeprom
import pyftdi.serialext
import pyftdi.usbtools
import pytest
import usb.core
import usb.util

from gadgets.ftdi.chip import Chip
from gadgets.ftdi.framed import FramedIn, frame
from gadgets.ftdi.function import FtdiFunction
from gadgets.ftdi.held import HeldOut
from gadgets.ftdi.presets import ftdi
from gadgets.serial.flow import Flow
from gadgets.serial.profiles import Sink, Source, pattern
from gadgets.serial.stream import Stream
from tests import loopback
from usbip_vudc.errors import (
    EndpointDisabled,
    LocalProtocolError,
    RequestWithdrawn,
    SchemeError,
    TransferError,
)
from usbip_vudc.function import Endpoint, Request
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.host.ftdi import FtdiSerial
from usbip_vudc.pyusb_backend import get_backend
from usbip_vudc.registry import GadgetOptions
from usbip_vudc.serving import serving_in
from usbip_vudc.usb.cdc import LineCoding, Parity, StopBits
from usbip_vudc.usb.ch9 import Direction, Speed, TransferType
from usbip_vudc.usb.ftdi import FlowControl, LineStatus, ModemStatus
from usbip_vudc.vudc import UserspaceUDC

SPEEDS = (Speed.FULL, Speed.HIGH, Speed.SUPER)
DATA = random.Random(232).randbytes(100_000)


@dataclass
class Attached:
    """A port and its host."""

    port: FtdiSerial
    portal: anyio.from_thread.BlockingPortal
    tcp_port: int

    def until(self, look: Callable[[], bool]) -> None:
        """Read what the port says until something is so."""
        deadline = time.monotonic() + 10
        while not look():
            assert time.monotonic() < deadline
            assert self.port.read(1, 20) == b""


@contextmanager
def attached(function: FtdiFunction, speed: Speed = Speed.FULL) -> Iterator[Attached]:
    gadget = Gadget(
        name="ftdi", idVendor=0x0403, idProduct=0x6001, bcdDevice=0x0600,
        configs=(Config(functions=(function,)),),
    )  # fmt: skip
    with (
        anyio.from_thread.start_blocking_portal() as portal,
        serving_in(portal, UserspaceUDC(gadget, speed=speed)) as tcp_port,
    ):
        device = usb.core.find(backend=get_backend(port=tcp_port))
        assert device is not None
        try:
            device.set_configuration()
            portal.call(function.wait_connected)
            yield Attached(FtdiSerial(device), portal, tcp_port)
        finally:
            usb.util.dispose_resources(device)


def echoed(port: FtdiSerial, data: bytes) -> bytes:
    """What comes back of bytes that another thread writes."""
    writer = threading.Thread(target=port.write, args=(data, 20_000))
    writer.start()
    came = bytearray()
    while len(came) < len(data) and (piece := port.read(65_536, 5000)):
        came += piece
    writer.join()
    return bytes(came)


class SlowEndpoint(Endpoint):
    """An endpoint that takes requests back only when it is told to, as FunctionFS does."""

    role, direction, transfer_type = "out", Direction.OUT, TransferType.BULK
    address, max_packet_size, interface = 0x02, 64, 0

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.cancelled: list[Request] = []

    def queue(self, request: Request) -> Request:
        request.queued, request.done, request.actual = True, False, 0
        self.requests.append(request)
        return request

    def withdraw(self, request: Request) -> None:
        self.cancelled.append(request)

    def halt(self) -> None: ...

    def fill(self, length: int, error: TransferError | None = None) -> None:
        """The host fills the first request."""
        request = self.requests.pop(0)
        request.actual = length
        request.complete(error)

    def cancel(self) -> None:
        """What was withdrawn comes back, in the order of the queue."""
        for request in [r for r in self.requests if r in self.cancelled]:
            self.requests.remove(request)
            request.complete(RequestWithdrawn("cancelled"))
        self.cancelled.clear()


# --- packets -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "framed"),
    [
        (b"", b"\x01\x60"),
        (b"abc", b"\x01\x60abc"),
        (b"abcd", b"\x01\x60abcd"),
        (b"abcde", b"\x01\x60abcd\x01\x60e"),
        (b"abcdefgh", b"\x01\x60abcd\x01\x60efgh"),
    ],
)
def test_two_status_bytes_head_every_packet(payload: bytes, framed: bytes) -> None:
    assert frame(b"\x01\x60", payload, 4) == framed


@pytest.mark.parametrize("speed", SPEEDS)
def test_bytes_come_back(speed: Speed) -> None:
    with attached(FtdiFunction(), speed) as host:
        assert echoed(host.port, DATA) == DATA


@pytest.mark.parametrize(
    ("length", "zero", "packets"),
    [
        (1, True, [3]),
        (61, True, [63]),
        (62, True, [64, 2]),
        (63, True, [64, 3]),
        (124, True, [64, 64, 2]),
        (62, False, [64]),
        (124, False, [64, 64]),
    ],
)
def test_a_full_last_packet_keeps_nobody_waiting(
    length: int, zero: bool, packets: list[int]
) -> None:
    endpoint = SlowEndpoint()
    chip = Chip(eeprom=bytes(128), cts_follows_rts=True, dsr_follows_dtr=True)
    framed = FramedIn(endpoint, chip, lambda: None)
    request = Request(DATA[:length], zero=zero)
    framed.queue(request)
    [real] = endpoint.requests
    data = real.sg.gather()
    assert [len(data[at : at + 64]) for at in range(0, len(data), 64)] == packets
    endpoint.fill(real.length)
    assert (request.done, request.actual) == (True, length)


def test_without_zlps_the_latency_timer_ends_the_transfer() -> None:
    with attached(FtdiFunction(flow=Flow(zlp=False))) as host:
        host.port.write(bytes(62))
        came = b"\x01\x60"
        while came == b"\x01\x60":  # what the timer sent before there were bytes
            came = bytes(host.port.device.read(0x81, 512, 5000))
        assert came == b"\x01\x60" + bytes(62) + b"\x01\x60"


def test_an_idle_port_sends_status_alone() -> None:
    with attached(FtdiFunction(Sink())) as host:
        host.port.set_latency(1)
        assert [bytes(host.port.device.read(0x81, 64, 5000)) for _ in range(5)] == [b"\x01\x60"] * 5


def test_a_source_and_a_sink_move_their_bytes() -> None:
    with attached(FtdiFunction(Source(seed=3, length=20_000)), Speed.HIGH) as host:
        came = b""
        while len(came) < 20_000:
            came += host.port.read(20_000)
        assert came == pattern(3, 20_000)
    sink = Sink(sha256=True)
    with attached(FtdiFunction(sink)) as host:
        host.port.write(DATA)
        host.portal.call(sink.wait_received, len(DATA))


def test_what_a_host_did_not_read_is_the_next_ones() -> None:
    stream = Stream()
    function = FtdiFunction(stream)
    with attached(function) as host:
        host.portal.start_task_soon(stream.send, DATA[:1000])
        first = bytes(host.port.device.read(0x81, 64, 5000))
        while len(first) == 2:
            first = bytes(host.port.device.read(0x81, 64, 5000))
        usb.util.dispose_resources(host.port.device)  # it claims its interface no more
        host.port.device.set_configuration()
        came = first[2:]
        while len(came) < 1000:
            came += host.port.read(1000, 5000)
        assert came == DATA[:1000]


def test_bytes_that_came_after_a_reconnect_are_received() -> None:
    stream = Stream()
    with attached(FtdiFunction(stream)) as host:
        usb.util.dispose_resources(host.port.device)
        host.port.device.set_configuration()
        host.port.write(b"here already")
        received = host.portal.start_task_soon(stream.receive)
        try:
            assert received.result(10) == b"here already"
        finally:
            received.cancel()


# --- the line ----------------------------------------------------------------------------------


def test_what_a_host_sets_reaches_the_application() -> None:
    function = FtdiFunction()
    with attached(function) as host:
        host.port.set_line_coding("57600 7E2")
        assert function.line_coding == LineCoding(57_600, StopBits.TWO, Parity.EVEN, 7)
        host.port.set_break(True)
        assert function.breaking
        host.port.set_break(False)
        host.port.set_control_line_state(dtr=True, rts=False)
        assert (function.breaking, function.dtr, function.rts) == (False, True, False)
        host.port.set_latency(7)
        assert (host.port.get_latency(), function.latency_ms) == (7, 7)
        assert host.port.read_eeprom() == function.eeprom
        host.port.reset()


def test_a_change_of_the_lines_is_told_at_once() -> None:
    with attached(FtdiFunction(Sink())) as host:
        host.port.set_latency(255)
        host.port.set_control_line_state(dtr=True, rts=True)
        host.until(
            lambda: host.port.modem == ModemStatus.ALWAYS | ModemStatus.CTS | ModemStatus.DSR
        )
        assert host.port.get_modem_status() == host.port.modem


@pytest.mark.parametrize("error", ["break_", "framing", "parity", "overrun"])
def test_an_error_comes_with_a_nul(error: str) -> None:
    function = FtdiFunction(Sink())
    with attached(function) as host:
        told = host.portal.start_task_soon(lambda: function.set_serial_state(**{error: True}))
        assert host.port.read(1, 5000) == b"\0"
        assert host.port.errors == LineStatus[error.strip("_").upper()]
        told.result(5)


def test_several_errors_come_one_by_one() -> None:
    """Of a break, a parity and a framing error in one packet Linux counts the first alone."""
    function = FtdiFunction(Sink())
    with attached(function) as host:
        told = host.portal.start_task_soon(
            lambda: function.set_serial_state(
                break_=True, parity=True, framing=True, overrun=True, ring=True
            )
        )
        packets = []
        while not told.done():
            packets.append(bytes(host.port.device.read(0x81, 64, 5000)))
        last = max(at for at, packet in enumerate(packets) if len(packet) == 3)
        assert packets[last - 3 : last + 1] == [
            bytes((0x41, 0x60 | error, 0)) for error in (0x10, 0x08, 0x04, 0x02)
        ]
        assert packets[last + 1] == b"\x01\x60", "it rings no more"


def test_the_bell_rings_once_and_carrier_stays() -> None:
    function = FtdiFunction(Sink())
    seen = []
    with attached(function) as host:
        told = host.portal.start_task_soon(lambda: function.set_serial_state(ring=True, dcd=True))
        while not told.done():
            seen.append(ModemStatus(host.port.device.read(0x81, 64, 5000)[0]))
    lines = [status & ~ModemStatus.ALWAYS for status in seen if status != ModemStatus.ALWAYS]
    assert lines[:2] == [ModemStatus.RING | ModemStatus.DCD, ModemStatus.DCD]


def test_lines_that_change_while_nobody_reads_are_told_as_they_are() -> None:
    function = FtdiFunction(Sink())
    with attached(function) as host:
        for _ in range(50):
            host.port.set_control_line_state(dtr=True, rts=True)
            host.port.set_control_line_state(dtr=False, rts=False)
        statuses = [bytes(host.port.device.read(0x81, 64, 5000)) for _ in range(3)]
        assert statuses == [b"\x01\x60"] * 3


@pytest.mark.parametrize("at_once", [True, False], ids=["our UDC", "FunctionFS"])
def test_lines_that_change_for_ever_while_nobody_reads_cost_no_memory(at_once: bool) -> None:
    endpoint = SlowEndpoint()
    chip = Chip(eeprom=bytes(128), cts_follows_rts=True, dsr_follows_dtr=True)
    framed = FramedIn(endpoint, chip, lambda: None)
    waited_for = framed.report()
    forgotten = []
    for number in range(100):
        chip.cts = number % 2 == 0
        forgotten.append(weakref.ref(framed.report()))
        if at_once:
            endpoint.cancel()
    endpoint.cancel()
    assert not any(event() for event in forgotten)
    assert not waited_for.is_set()
    endpoint.fill(2)
    assert waited_for.is_set(), "it was not forgotten"


# --- flow control ------------------------------------------------------------------------------


def test_an_xoff_of_the_line_makes_the_host_wait_until_the_xon() -> None:
    stream = Stream()
    with attached(FtdiFunction(stream)) as host:
        host.port.set_flow_control(FlowControl.XON_XOFF)
        host.portal.call(stream.send, b"to\x13gether")
        came = b""
        while len(came) < 8:
            came += host.port.read(100)
        assert came == b"together"  # the chip keeps its characters
        with pytest.raises(usb.core.USBTimeoutError):
            host.port.write(b"held", 100)
        host.portal.call(stream.send, b"\x11")
        assert host.port.read(1, 200) == b""
        host.port.write(b"free", 5000)
        assert host.portal.call(stream.receive) == b"free"


@pytest.mark.parametrize("flow", [FlowControl.RTS_CTS, FlowControl.DTR_DSR])
def test_a_line_that_is_down_makes_the_host_wait(flow: FlowControl) -> None:
    with attached(FtdiFunction()) as host:
        host.port.write(b"before")
        assert host.port.read(6, 5000) == b"before"
        host.port.set_flow_control(flow)
        with pytest.raises(usb.core.USBTimeoutError):
            host.port.write(b"held", 100)
        host.port.set_control_line_state(dtr=True, rts=True)
        assert echoed(host.port, DATA) == DATA


def test_bytes_that_wait_for_the_line_keep_their_order() -> None:
    function = FtdiFunction(cts_follows_rts=False)
    with attached(function) as host:
        host.port.set_flow_control(FlowControl.RTS_CTS)
        stop = threading.Event()

        def toggle() -> None:
            cts = True
            while not stop.is_set():
                host.portal.start_task_soon(function.set_cts, cts)
                cts = not cts
                time.sleep(0.001)

        toggling = threading.Thread(target=toggle)
        toggling.start()
        came = echoed(host.port, DATA)
        stop.set()
        toggling.join()
        assert came == DATA


def test_baud_pacing_and_dtr_gating_work_on_it_too() -> None:
    flow = Flow(baud_paced=True, wait_for_dtr=True)
    with attached(FtdiFunction(flow=flow)) as host:
        host.port.set_line_coding("3000000 8N1")
        host.port.write(DATA[:2000], 10_000)
        assert host.port.read(1, 50) == b""
        host.port.set_control_line_state(dtr=True, rts=True)
        came = b""
        while len(came) < 2000:
            came += host.port.read(2000, 5000)
        assert came == DATA[:2000]


def held_endpoint() -> tuple[SlowEndpoint, HeldOut, list[bool], list[Request]]:
    slow, open_ = SlowEndpoint(), [True]
    held = HeldOut(slow, lambda: open_[0])
    requests = [Request(bytearray(64), partial=True) for _ in range(4)]
    for request in requests:
        held.queue(request)
    return slow, held, open_, requests


def test_requests_that_come_back_late_keep_their_order() -> None:
    slow, held, open_, requests = held_endpoint()
    open_[0] = False
    held.changed()
    open_[0] = True
    held.changed()  # before the UDC has let go of them
    assert len(slow.requests) == 4
    slow.cancel()
    assert [real.sg for real in slow.requests] == [own.sg for own in requests]
    assert [own.done for own in requests] == [False] * 4


def test_bytes_that_came_while_a_request_was_taken_back_are_not_lost() -> None:
    slow, held, open_, requests = held_endpoint()
    open_[0] = False
    held.changed()
    slow.fill(10)
    slow.fill(7, RequestWithdrawn("cancelled after 7 bytes"))
    slow.cancel()
    assert [(own.done, own.actual, own.error) for own in requests] == [
        (True, 10, None), (True, 7, None), (False, 0, None), (False, 0, None),
    ]  # fmt: skip
    open_[0] = True
    held.changed()
    assert [real.sg for real in slow.requests] == [own.sg for own in requests[2:]]


def test_an_end_ends_what_is_held_and_what_is_not() -> None:
    slow, held, open_, requests = held_endpoint()
    open_[0] = False
    held.changed()
    held.end()
    slow.cancel()
    assert {type(own.error) for own in requests} == {EndpointDisabled}
    assert isinstance(held.queue(Request(bytearray(64))).error, EndpointDisabled)


def test_the_profile_may_take_its_requests_back() -> None:
    slow, held, open_, requests = held_endpoint()
    held.withdraw(requests[1])
    slow.cancel()
    open_[0] = False
    held.changed()
    slow.cancel()
    held.withdraw(requests[2])
    assert [type(own.error) for own in requests] == [
        type(None), RequestWithdrawn, RequestWithdrawn, type(None),
    ]  # fmt: skip
    with pytest.raises(LocalProtocolError, match="queued already"):
        held.queue(requests[0])


# --- pyftdi, and pyserial's expectations -------------------------------------------------------


@contextmanager
def pyftdi_port(tcp_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[loopback.Port]:
    """A port of pyserial's interface by pyftdi."""
    backend = get_backend(port=tcp_port)
    tools = pyftdi.usbtools.UsbTools
    monkeypatch.setattr(tools, "_load_backend", classmethod(lambda _cls: backend))
    monkeypatch.setattr(tools, "Devices", {})
    monkeypatch.setattr(tools, "UsbDevices", {})
    port = pyftdi.serialext.serial_for_url("ftdi://ftdi:232r/1", baudrate=115_200)
    try:
        yield port
    finally:
        port.close()


@pytest.fixture(scope="module", params=SPEEDS, ids=lambda speed: speed.word)
def served(request: pytest.FixtureRequest) -> Iterator[int]:
    with (
        anyio.from_thread.start_blocking_portal() as portal,
        serving_in(portal, UserspaceUDC(ftdi(GadgetOptions()), speed=request.param)) as tcp_port,
    ):
        yield tcp_port


@pytest.mark.parametrize("expectation", loopback.DATA + loopback.LINES, ids=lambda e: e.__name__)
def test_pyserials_expectations_through_pyftdi(
    expectation: Callable[[loopback.Port], None], served: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pyftdi_port(served, monkeypatch) as port:
        expectation(port)


def test_pyftdi_understands_the_eeprom(served: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with pyftdi_port(served, monkeypatch):
        pass
    contents = pyftdi.eeprom.FtdiEeprom()
    contents.open("ftdi://ftdi:232r/1")
    assert (contents.manufacturer, contents.product, contents.serial) == (
        "usbip-vudc", "FT232R USB UART", "0001",
    )  # fmt: skip
    contents.close()


# --- what is refused ---------------------------------------------------------------------------


def test_an_ft232r_has_one_port() -> None:
    with pytest.raises(SchemeError, match="ports 2: an FT232R has 1"):
        ftdi(GadgetOptions(ports=2))


def test_an_eeprom_of_another_size_is_refused() -> None:
    with pytest.raises(SchemeError, match="eeprom has 3 bytes, expected 128"):
        FtdiFunction(eeprom=b"abc")
