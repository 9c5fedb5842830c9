"""UsbSerial against this project's serial port, and against descriptors of other shapes."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import anyio
import pytest
import usb.core
import usb.util

from gadgets.acm.descriptors import Union
from gadgets.acm.function import AcmFunction
from gadgets.serial.profiles import Echo
from tests.devices import BULK_PAIR
from usbip_vudc.errors import SchemeError
from usbip_vudc.function import AltSetting, Endpoint, EndpointSpec, Function, InterfaceSpec
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.host.serial import UsbSerial
from usbip_vudc.pyusb_backend import get_backend
from usbip_vudc.serving import serving
from usbip_vudc.usb.cdc import BREAK_ON, LineCoding, Parity, SerialState, StopBits
from usbip_vudc.usb.ch9 import Direction, Speed, TransferType


@contextmanager
def serial(*functions: Function, speed: Speed = Speed.HIGH) -> Iterator[UsbSerial]:
    gadget = Gadget(
        name="serial", idVendor=0x1D6B, idProduct=0x0104, configs=(Config(functions=functions),)
    )
    with serving(gadget, speed=speed) as port:
        device = usb.core.find(backend=get_backend(port=port))
        try:
            yield UsbSerial(device)
        finally:
            usb.util.dispose_resources(device)


# --- the line ----------------------------------------------------------------------------------


def test_line_coding_is_set_and_got() -> None:
    function = AcmFunction(Echo())
    with serial(function) as port:
        assert port.get_line_coding() == LineCoding(9600)
        port.set_line_coding("115200 7E2")
        assert port.get_line_coding() == LineCoding(115_200, StopBits.TWO, Parity.EVEN, 7)
        assert function.line_coding == port.get_line_coding()
        port.set_line_coding(LineCoding(300))
        assert str(port.get_line_coding()) == "300 8N1"


def test_a_line_coding_that_is_none_is_not_sent() -> None:
    function = AcmFunction(Echo())
    with serial(function) as port:
        with pytest.raises(SchemeError, match="'9600 9N1'"):
            port.set_line_coding("9600 9N1")
        assert function.line_coding == LineCoding(9600)


@pytest.mark.parametrize(("dtr", "rts"), [(True, False), (False, True), (True, True)])
def test_dtr_and_rts(dtr: bool, rts: bool) -> None:
    function = AcmFunction(Echo())
    with serial(function) as port:
        port.set_control_line_state(dtr=dtr, rts=rts)
        assert (function.dtr, function.rts) == (dtr, rts)


def test_a_break_begins_and_ends() -> None:
    function = AcmFunction(Echo())
    with serial(function) as port:
        port.send_break(BREAK_ON)
        assert function.breaking
        port.send_break(0)
        assert not function.breaking


@pytest.mark.parametrize("speed", [Speed.FULL, Speed.HIGH, Speed.SUPER])
def test_a_notification_tells_of_dsr(speed: Speed) -> None:
    with serial(AcmFunction(Echo(), dsr_follows_dtr=True), speed=speed) as port:
        port.set_control_line_state(dtr=True, rts=False)
        state = port.read_notification()
        while SerialState.DSR not in state:  # the first may still tell of the state at the start
            state = port.read_notification()
        with pytest.raises(usb.core.USBTimeoutError):
            port.read_notification(100)


# --- data --------------------------------------------------------------------------------------


@pytest.mark.parametrize("speed", [Speed.FULL, Speed.HIGH, Speed.SUPER])
def test_bytes_come_back(speed: Speed) -> None:
    with serial(AcmFunction(Echo()), speed=speed) as port:
        for length in (1, 7, 8, 9, 64, 100):
            data = bytes(range(length))
            port.write(data)
            came = b""
            while len(came) < length:
                came += port.read()
            assert came == data
        assert port.read(timeout_ms=50) == b""


def test_what_a_small_read_leaves_is_kept_for_the_next() -> None:
    with serial(AcmFunction(Echo())) as port:
        port.write(b"hello, world")
        assert [port.read(5) for _ in range(3)] == [b"hello", b", wor", b"ld"]


def test_one_thread_reads_while_another_writes() -> None:
    sent = [bytes([number % 256]) * number for number in range(1, 200)]
    came = bytearray()
    total = sum(map(len, sent))
    with serial(AcmFunction(Echo())) as port:

        def listen() -> None:
            while len(came) < total:
                came.extend(port.read(timeout_ms=10_000))

        thread = threading.Thread(target=listen)
        thread.start()
        for data in sent:
            port.write(data)
        thread.join(20)
    assert came == b"".join(sent)


class Listener(Function):
    """A one-interface ACM function that notes each transfer, as a FunctionFS gadget may be."""

    name = "listener"

    def __init__(
        self, interfaces: Sequence[InterfaceSpec] | None = None, *, answers: bool = True
    ) -> None:
        self.answers = answers
        self.interfaces = interfaces or (_comm((NOTIFY, *BULK_PAIR)),)
        self.heard: list[bytes] = []

    async def run(self, endpoints: Mapping[str, Endpoint]) -> None:
        async with anyio.create_task_group() as tasks:
            if "notify" in endpoints:
                tasks.start_soon(self._notify, endpoints["notify"])
            buffer = bytearray(512)
            while True:
                count = await endpoints["out"].submit(buffer)
                self.heard.append(bytes(buffer[:count]))
                if self.answers:
                    await endpoints["in"].submit(f"{count}".encode())

    async def _notify(self, notify: Endpoint) -> None:
        await notify.submit(struct.pack("<BBHHH", 0xA1, 0x00, 1, 0, 0))  # NETWORK_CONNECTION
        await notify.submit(struct.pack("<BBHHHH", 0xA1, 0x20, 0, 0, 2, 0x41))


NOTIFY = EndpointSpec(
    role="notify", direction=Direction.IN, transfer_type=TransferType.INTERRUPT, interval_ms=8
)


def _comm(endpoints: tuple[EndpointSpec, ...], *descriptors: Union) -> InterfaceSpec:
    alternate = AltSetting(endpoints=endpoints, class_descriptors=descriptors)
    return InterfaceSpec(
        role="comm", bInterfaceClass=2, bInterfaceSubClass=2, alternates=(alternate,)
    )


def test_a_zlp_goes_out_only_when_asked_for() -> None:
    function = Listener(answers=False)
    with serial(function) as port:
        port.write(bytes(512))
        port.write(bytes(512))
        port.write(bytes(512), zlp=True)
        port.write(b"end")
    assert [len(data) for data in function.heard] == [512, 512, 512, 0, 3]


def test_a_long_write_goes_out_in_urbs_of_20_packets_as_cdc_acm_sends_it() -> None:
    function = Listener(answers=False)
    with serial(function, speed=Speed.FULL) as port:
        port.write(bytes(3000))
        port.write(b"end")
    # 1280 = 20 x 64 bytes a URB; the device takes 512 at a time and sees no boundary.
    assert [len(data) for data in function.heard] == [512] * 5 + [440, 3]


def test_a_device_that_takes_nothing_is_a_timeout() -> None:
    with serial(Listener()) as port:
        port.write(b"x")  # its answer is never read, so the function waits
        with pytest.raises(usb.core.USBTimeoutError):
            port.write(bytes(4096), timeout_ms=100)


def test_other_notifications_are_passed_over() -> None:
    with serial(Listener()) as port:
        assert port.read_notification() == SerialState.DCD | SerialState.OVERRUN


# --- finding the interfaces --------------------------------------------------------------------

_DATA = InterfaceSpec(
    role="data", bInterfaceClass=0x0A, alternates=(AltSetting(endpoints=BULK_PAIR),)
)
_ODD_DATA = InterfaceSpec(
    role="data", bInterfaceClass=0xFF, alternates=(AltSetting(endpoints=BULK_PAIR),)
)
_LATE_DATA = InterfaceSpec(
    role="data",
    bInterfaceClass=0x0A,
    alternates=(AltSetting(), AltSetting(endpoints=BULK_PAIR)),
)


@pytest.mark.parametrize(
    "interfaces",
    [
        (_comm((NOTIFY,), Union()), _DATA),
        (_comm((NOTIFY,), Union()), _ODD_DATA),
        (_comm((NOTIFY,)), _DATA),
        (_DATA, _comm((NOTIFY,), Union())),
    ],
    ids=("union", "union names a vendor class", "no union", "data first"),
)
def test_shapes_of_the_function(interfaces: tuple[InterfaceSpec, ...]) -> None:
    with serial(Listener(interfaces)) as port:
        port.write(b"abc")
        assert port.read() == b"3"


def test_a_data_interface_with_an_empty_alternate_setting_0() -> None:
    class Late(Listener):
        async def run(self, endpoints: Mapping[str, Endpoint]) -> None:
            if "out" in endpoints:
                await super().run(endpoints)
            await anyio.sleep_forever()

    with serial(Late((_comm((NOTIFY,), Union()), _LATE_DATA))) as port:
        port.write(b"abc")
        assert port.read() == b"3"


@pytest.mark.parametrize(
    ("interfaces", "message"),
    [
        ((_DATA,), "no interface of class 02/02"),
        ((_comm((NOTIFY,)),), "interface 0 has no data interface with a bulk pair"),
    ],
    ids=("no comm", "no data"),
)
def test_what_is_missing_is_named(interfaces: tuple[InterfaceSpec, ...], message: str) -> None:
    class Silent(Listener):
        async def run(self, endpoints: Mapping[str, Endpoint]) -> None:
            assert endpoints
            await anyio.sleep_forever()

    with pytest.raises(ValueError, match=message), serial(Silent(interfaces)):
        pass


def test_a_port_without_notifications_says_so() -> None:
    with (
        serial(Listener((_comm(()), _DATA))) as port,
        pytest.raises(ValueError, match="no notification endpoint"),
    ):
        port.read_notification()
