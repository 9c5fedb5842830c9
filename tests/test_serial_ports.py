"""Several serial ports in one gadget, and how gadgets of the serial kind are named and written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import click
import pytest
import usb.core
import usb.util
from click.testing import CliRunner

from gadgets.acm.function import AcmFunction
from gadgets.ftdi.function import FtdiFunction
from tests import loopback
from usbip_vudc.cli.gadget_options import gadget_options
from usbip_vudc.errors import SchemeError
from usbip_vudc.gadget import Gadget
from usbip_vudc.host.serial import UsbSerial
from usbip_vudc.pyusb_backend import get_backend
from usbip_vudc.registry import GadgetOptions, load_gadget
from usbip_vudc.scheme import dump_scheme, parse_scheme
from usbip_vudc.serving import serving
from usbip_vudc.usb.cdc import LineCoding, SerialState
from usbip_vudc.usb.ch9 import Speed

SPEEDS = (Speed.FULL, Speed.HIGH, Speed.SUPER)


@contextmanager
def device_of(gadget: Gadget, speed: Speed = Speed.HIGH) -> Iterator[usb.core.Device]:
    with serving(gadget, speed=speed) as port:
        device = usb.core.find(backend=get_backend(port=port))
        try:
            device.set_configuration()
            yield device
        finally:
            usb.util.dispose_resources(device)


def acm_functions(gadget: Gadget) -> list[AcmFunction]:
    return [f for f in gadget.configs[0].functions if isinstance(f, AcmFunction)]


# --- several ports -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["serial", "composite"])
def test_each_port_has_its_own_line_and_bytes(name: str) -> None:
    gadget = load_gadget(name, GadgetOptions(ports=3, size=1 << 20))
    functions = acm_functions(gadget)
    with device_of(gadget) as device:
        ports = [UsbSerial(device, index) for index in range(3)]
        for index, port in enumerate(ports):
            port.set_line_coding(LineCoding(1000 * (index + 1)))
            port.write(b"port %d" % index)
        ports[1].set_control_line_state(dtr=True, rts=False)
        assert [port.read(16, 5000) for port in ports] == [b"port 0", b"port 1", b"port 2"]
        assert [f.line_coding.dwDTERate for f in functions] == [1000, 2000, 3000]
        assert [f.dtr for f in functions] == [False, True, False]


def test_a_port_that_there_is_not_is_named() -> None:
    with (
        device_of(load_gadget("serial", GadgetOptions(ports=2))) as device,
        pytest.raises(ValueError, match="only 2 interfaces of class 02/02, CDC-ACM"),
    ):
        UsbSerial(device, 2)


@pytest.mark.parametrize(("name", "most"), [("serial", 7), ("generic", 15)])
def test_as_many_ports_as_there_are_endpoints(name: str, most: int) -> None:
    load_gadget(name, GadgetOptions(ports=most)).describe(Speed.HIGH)
    with pytest.raises(SchemeError, match="endpoint"):
        load_gadget(name, GadgetOptions(ports=most + 1)).describe(Speed.HIGH)


def test_the_command_line_says_how_many() -> None:
    @click.command()
    @gadget_options
    def show(options: GadgetOptions) -> None:
        click.echo(options.ports)

    for arguments, shown in (([], "1\n"), (["--ports", "2"], "2\n")):
        assert CliRunner().invoke(show, arguments).output == shown
    assert CliRunner().invoke(show, ["--ports", "16"]).exit_code == 2


# --- schemes -----------------------------------------------------------------------------------


def test_an_ftdi_gadget_survives_its_scheme() -> None:
    gadget = load_gadget("ftdi", GadgetOptions(profile="sink", wait_for_dtr=True))
    again = parse_scheme(dump_scheme(gadget), where="a test")
    assert dump_scheme(again) == dump_scheme(gadget)
    assert (again.idVendor, again.idProduct, again.bcdDevice) == (0x0403, 0x6001, 0x0600)
    [function] = again.configs[0].functions
    assert isinstance(function, FtdiFunction)
    assert function.flow.wait_for_dtr
    assert (function.cts_follows_rts, function.dsr_follows_dtr) == (True, True)
    assert function.profile.text == "sink"


def test_an_ftdi_function_takes_its_plug_and_eeprom_from_a_scheme() -> None:
    text = dump_scheme(load_gadget("ftdi", GadgetOptions()))
    text = text.replace("cts_follows_rts = true", "cts_follows_rts = false")
    [function] = parse_scheme(text, where="a test").configs[0].functions
    assert isinstance(function, FtdiFunction)
    assert (function.cts_follows_rts, function.dsr_follows_dtr) == (False, True)
    with pytest.raises(SchemeError, match="eeprom"):
        parse_scheme(text.replace(function.eeprom.hex(), "zz"), where="a test")


# --- pyserial's expectations on CDC-ACM --------------------------------------------------------


class AcmPort:
    """UsbSerial with pyserial's interface, as far as the expectations go."""

    ri = False

    def __init__(self, host: UsbSerial) -> None:
        self._host = host
        self._lines = {"dtr": True, "rts": True}
        self._state = SerialState(0)
        self.timeout: float | None = None

    def write(self, data: bytes, /) -> None:
        self._host.write(data, 20_000)

    def read(self, size: int, /) -> bytes:
        data = b""
        timeout_ms = 0 if self.timeout is None else int(self.timeout * 1000)
        while len(data) < size and (piece := self._host.read(size - len(data), timeout_ms)):
            data += piece
        return data

    @property
    def dtr(self) -> bool:
        return self._lines["dtr"]

    @dtr.setter
    def dtr(self, up: bool) -> None:
        self._lines["dtr"] = up
        self._host.set_control_line_state(**self._lines)

    @property
    def dsr(self) -> bool:
        with suppress(usb.core.USBTimeoutError):
            self._state = self._host.read_notification(20)
        return SerialState.DSR in self._state

    rts = cts = True  # a CDC-ACM port has no CTS to show


@pytest.mark.parametrize("speed", SPEEDS, ids=lambda speed: speed.word)
@pytest.mark.parametrize(
    "expectation",
    [*loopback.DATA, loopback.dsr_follows_dtr, loopback.nobody_rings],
    ids=lambda e: e.__name__,
)
def test_pyserials_expectations_on_cdc_acm(
    expectation: Callable[[loopback.Port], None], speed: Speed
) -> None:
    gadget = load_gadget("serial", GadgetOptions())
    [function] = acm_functions(gadget)
    function.dsr_follows_dtr = True
    with device_of(gadget, speed) as device:
        expectation(AcmPort(UsbSerial(device)))
