"""The device of python-functionfs's tests as its host script sees it, through our pyusb backend."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest
import usb.core
import usb.util

from gadgets.functionfs_test.function import BUFFER_SIZE, INTERFACE_NAME, FunctionFSTestFunction
from gadgets.functionfs_test.presets import functionfs_test
from usbip_vudc.errors import SchemeError
from usbip_vudc.function import ControlRequest
from usbip_vudc.injection.function import InjectedFunction, injected
from usbip_vudc.injection.plan import Plan
from usbip_vudc.pyusb_backend import get_backend
from usbip_vudc.registry import GadgetOptions
from usbip_vudc.scheme import dump_scheme, parse_scheme
from usbip_vudc.serving import serving
from usbip_vudc.usb.ch9 import SetupPacket

TO_DEVICE, TO_HOST = 0x41, 0xC1
ECHO, STALL = 1, 2


@pytest.fixture
def device() -> Iterator[usb.core.Device]:
    with serving(functionfs_test(GadgetOptions())) as port:
        device = usb.core.find(backend=get_backend(port=port))
        assert device is not None
        yield device
        usb.util.dispose_resources(device)


def stalls(device: usb.core.Device, *request: object) -> bool:
    try:
        device.ctrl_transfer(*request)
    except usb.core.USBError as error:
        return bool(error.errno == errno.EPIPE)
    return False


def test_fifteen_pairs_in_one_interface_of_one_setting(device: usb.core.Device) -> None:
    assert (device.idVendor, device.idProduct) == (0x1D6B, 0x0104)
    [configuration] = device
    [interface] = configuration
    assert interface.bInterfaceClass == 0xFF
    addresses = [endpoint.bEndpointAddress for endpoint in interface]
    assert addresses == [way | n for n in range(1, 16) for way in (0x80, 0)]
    assert {usb.util.endpoint_type(endpoint.bmAttributes) for endpoint in interface} == {2}


def test_interface_has_its_name_in_one_language(device: usb.core.Device) -> None:
    [interface] = device[0]
    assert device.langids == (0x0409,)
    assert usb.util.get_string(device, interface.iInterface) == INTERFACE_NAME


def test_echo_gives_back_what_was_stored_cut_to_what_is_asked_for(device: usb.core.Device) -> None:
    assert device.ctrl_transfer(TO_HOST, ECHO, 0, 0, 64).tobytes() == b"NOT SET"
    assert device.ctrl_transfer(TO_DEVICE, ECHO, 0, 0, b"foo bar baz") == 11
    assert device.ctrl_transfer(TO_HOST, ECHO, 0, 0, 64).tobytes() == b"foo bar baz"
    for length in range(1, 12):
        asked = device.ctrl_transfer(TO_HOST, ECHO, 0, 0, length).tobytes()
        assert asked == b"foo bar baz"[:length]


def test_nothing_to_store_is_acknowledged_and_stores_nothing(device: usb.core.Device) -> None:
    assert device.ctrl_transfer(TO_DEVICE, ECHO, 0, 0, None) == 0
    assert device.ctrl_transfer(TO_HOST, ECHO, 0, 0, 64).tobytes() == b"NOT SET"


def test_every_other_vendor_request_stalls_both_ways(device: usb.core.Device) -> None:
    for number in (0, STALL, 3, 255):
        assert stalls(device, TO_HOST, number, 0, 0, 1)
        assert stalls(device, TO_DEVICE, number, 0, 0, b"a")
    # FunctionFS hands it requests to its interface only, and to its interface of these types.
    assert stalls(device, 0xC0, ECHO, 0, 0, 1)
    assert stalls(device, 0xA1, ECHO, 0, 0, 1)


def test_refuses_before_the_data_what_it_refuses_after_them() -> None:
    function = FunctionFSTestFunction()
    for kind in (0x21, 0x41):
        for number in (0, ECHO, STALL, 3):
            setup = SetupPacket(kind, number, wLength=1)
            answer = function.setup(ControlRequest(setup, b"a", interface="test"))
            assert function.refuses(setup) == (answer is None)


def test_plan_leaves_refusals_as_they_are() -> None:
    plan = Plan.parse("functionfs_test.in1 stall")
    [function] = injected(functionfs_test(GadgetOptions()), plan).configs[0].functions
    assert isinstance(function, InjectedFunction)
    assert function.refuses(SetupPacket(0x41, STALL, wLength=1))
    assert not function.refuses(SetupPacket(0x41, ECHO, wLength=1))


def test_in_endpoint_streams_buffers_that_begin_with_its_address(device: usb.core.Device) -> None:
    for number in (1, 15):
        data = device.read(0x80 | number, BUFFER_SIZE).tobytes()
        data += device.read(0x80 | number, 1024).tobytes()
        expected = bytes([0x80 | number]) + bytes(BUFFER_SIZE - 1)
        assert data == expected + expected[:1024]


def test_out_endpoint_takes_buffers_that_begin_with_its_address(device: usb.core.Device) -> None:
    for number in (1, 15):
        for _ in range(3):
            assert device.write(number, bytes([number]) + bytes(99)) == 100


def test_full_buffer_is_looked_at_without_a_short_packet(device: usb.core.Device) -> None:
    for _ in range(2):
        assert device.write(2, b"\2" + bytes(BUFFER_SIZE - 1)) == BUFFER_SIZE
    assert device.write(2, bytes(BUFFER_SIZE)) == BUFFER_SIZE
    with pytest.raises(usb.core.USBError) as caught:
        device.write(2, b"\2")
    assert caught.value.errno == errno.EPIPE


def test_out_endpoint_halts_on_a_wrong_first_byte_until_it_is_cleared(
    device: usb.core.Device,
) -> None:
    device.write(3, b"\4 is not my address")
    with pytest.raises(usb.core.USBError) as caught:
        device.write(3, b"\3")
    assert caught.value.errno == errno.EPIPE
    assert device.ctrl_transfer(0x82, 0, 0, 0x03, 2).tobytes() == b"\1\0"
    assert device.write(4, b"\4") == 1, "the others go on"
    device.clear_halt(0x03)
    assert device.write(3, b"\3 is") == 4


def test_starts_over_in_a_new_configuration(device: usb.core.Device) -> None:
    assert device.read(0x81, 1024)[0] == 0x81
    usb.util.dispose_resources(device)
    device.set_configuration(1)
    assert device.read(0x81, 1024)[0] == 0x81, "a new buffer, not the rest of the last"


@pytest.mark.parametrize("pairs", (1, 3, 15))
def test_pairs_of_option_and_scheme(pairs: int) -> None:
    gadget = functionfs_test(GadgetOptions(pairs=pairs))
    for made in (gadget, parse_scheme(dump_scheme(gadget), where="x.toml")):
        [function] = made.configs[0].functions
        assert isinstance(function, FunctionFSTestFunction)
        assert len(function.interfaces[0].alternates[0].endpoints) == 2 * pairs


@pytest.mark.parametrize("pairs", (0, 16))
def test_pairs_that_no_device_has_are_refused(pairs: int) -> None:
    with pytest.raises(SchemeError, match=f"pairs {pairs}: expected 1 to 15"):
        FunctionFSTestFunction(pairs=pairs)
