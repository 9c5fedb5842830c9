"""The PyUSB test device as its host programs see it, through our pyusb backend."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Final

import pytest
import usb.core
import usb.util
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gadgets.pyusb_test.function import PyusbTestFunction
from gadgets.pyusb_test.presets import pyusb_test
from gadgets.pyusb_test.traffic import TEST_TYPES, TrafficType
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.pyusb_backend import get_backend
from usbip_vudc.registry import GadgetOptions
from usbip_vudc.scheme import dump_scheme, parse_scheme
from usbip_vudc.serving import serving
from usbip_vudc.usb.ch9 import Speed

SET_TEST: Final = (0x41, 0x0F)
STORE: Final = (0x40, 0x10)
STORED: Final = (0xC0, 0x11)

BULK, INTERRUPT, ISO = range(3)
"""Alternate settings; the endpoint number of each is one more."""

SOON_MS: Final = 100
"""For what must time out."""

on_every_setting = pytest.mark.parametrize(
    "setting", (BULK, INTERRUPT, ISO), ids=("bulk", "interrupt", "iso")
)


@pytest.fixture(scope="module")
def opened() -> Iterator[usb.core.Device]:
    with serving(pyusb_test(GadgetOptions())) as port:
        device = usb.core.find(backend=get_backend(port=port))
        assert device is not None
        yield device
        usb.util.dispose_resources(device)


@pytest.fixture
def device(opened: usb.core.Device) -> usb.core.Device:
    """Freshly configured, in loop mode, with nothing under way."""
    usb.util.dispose_resources(opened)
    opened.set_configuration(1)
    opened.ctrl_transfer(*SET_TEST, TrafficType.LOOP, 0)
    return opened


def test_descriptors_are_those_that_pyusb_compares() -> None:
    description = pyusb_test(GadgetOptions()).describe(Speed.FULL)
    assert description.device.pack() == bytes.fromhex(
        "12 01 0002 00 00 00 08 d804 2efa 0100 01 02 03 01"
    )
    configuration = description.configurations[0].pack()
    assert configuration == bytes.fromhex(
        "09 02 4e00 01 01 00 c0 32"
        "09 04 00 00 02 00 00 00 00"
        "07 05 01 02 1000 00"
        "07 05 81 02 1000 00"
        "09 04 00 01 02 00 00 00 00"
        "07 05 02 03 1000 01"
        "07 05 82 03 1000 01"
        "09 04 00 02 02 00 00 00 00"
        "07 05 03 01 4000 01"
        "07 05 83 01 4000 01"
    )
    assert len(configuration) == 78
    assert description.qualifier is None  # full speed is all that it can do


def test_device_says_who_it_is(device: usb.core.Device) -> None:
    assert (device.manufacturer, device.product) == ("Travis Robinson", "Benchmark Device")
    assert device.ctrl_transfer(0x80, 0, 0, 0, 2).tobytes() == b"\1\0"  # self-powered


@on_every_setting
@pytest.mark.parametrize("length", (8, 4, 2, 16))
def test_transfer_comes_back_as_long_as_it_was(
    device: usb.core.Device, setting: int, length: int
) -> None:
    device.set_interface_altsetting(0, setting)
    data = bytes(range(length))
    assert device.write(setting + 1, data) == length
    assert device.read(0x81 + setting, length).tobytes() == data


@pytest.mark.parametrize("setting", (BULK, INTERRUPT), ids=("bulk", "interrupt"))
@given(lengths=st.lists(st.integers(0, 100), min_size=1, max_size=8))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_boundaries_of_transfers_are_kept(
    device: usb.core.Device, setting: int, lengths: list[int]
) -> None:
    device.set_interface_altsetting(0, setting)
    sent = [bytes([n + 1]) * length for n, length in enumerate(lengths)]
    for data in sent:
        assert device.write(setting + 1, data) == len(data)
    for data in sent:
        assert device.read(0x81 + setting, len(data) or 16).tobytes() == data


def test_iso_packets_are_held_until_they_are_asked_for(device: usb.core.Device) -> None:
    device.set_interface_altsetting(0, ISO)
    sent = [bytes([n]) * length for n, length in enumerate((64, 16, 1), start=1)]
    for data in sent:
        assert device.write(3, data) == len(data)
    for data in sent:
        assert device.read(0x83, len(data)).tobytes() == data


def test_host_that_does_not_read_gets_nak_and_loses_nothing(device: usb.core.Device) -> None:
    sent: list[bytes] = []
    with pytest.raises(usb.core.USBTimeoutError):
        while len(sent) < 1000:
            data = len(sent).to_bytes(2, "little")
            device.write(1, data, SOON_MS)
            sent.append(data)
    assert [device.read(0x81, 16).tobytes() for _ in sent] == sent


def test_another_setting_starts_with_empty_hands(device: usb.core.Device) -> None:
    device.write(1, b"left behind")
    device.set_interface_altsetting(0, BULK)
    device.write(1, b"new")
    assert device.read(0x81, 16).tobytes() == b"new"


def test_buffer_is_kept_over_settings_and_resets(device: usb.core.Device) -> None:
    assert device.ctrl_transfer(*STORE, 0, 0, b"12345678") == 8
    assert device.ctrl_transfer(*STORED, 0, 0, 8).tobytes() == b"12345678"
    device.set_interface_altsetting(0, INTERRUPT)
    device.reset()
    assert device.ctrl_transfer(*STORED, 0, 0, 3).tobytes() == b"123"


def test_loops_again_after_a_reset(device: usb.core.Device) -> None:
    device.write(1, b"left behind")
    device.reset()
    device.write(1, b"still here")
    assert device.read(0x81, 16).tobytes() == b"still here"


def test_halted_endpoint_loops_again_once_cleared(device: usb.core.Device) -> None:
    device.ctrl_transfer(0x02, 3, 0, 0x01)
    with pytest.raises(usb.core.USBError) as caught:
        device.write(1, b"no")
    assert caught.value.errno == errno.EPIPE
    device.clear_halt(0x01)
    device.write(1, b"yes")
    assert device.read(0x81, 16).tobytes() == b"yes"


# --- test types ----------------------------------------------------------------------------------


def test_read_sends_packets_that_count(device: usb.core.Device) -> None:
    device.ctrl_transfer(*SET_TEST, TrafficType.READ, 0)
    assert device.read(0x81, 48).tobytes() == bytes(range(16)) * 3
    with pytest.raises(usb.core.USBTimeoutError):
        device.write(1, b"nobody takes it", SOON_MS)


def test_write_takes_everything_and_sends_nothing(device: usb.core.Device) -> None:
    device.ctrl_transfer(*SET_TEST, TrafficType.WRITE, 0)
    for _ in range(50):
        assert device.write(1, bytes(1000)) == 1000
    with pytest.raises(usb.core.USBTimeoutError):
        device.read(0x81, 16, SOON_MS)


def test_none_moves_nothing(device: usb.core.Device) -> None:
    device.write(1, b"gone with the test type")
    device.ctrl_transfer(*SET_TEST, TrafficType.NONE, 0)
    with pytest.raises(usb.core.USBTimeoutError):
        device.read(0x81, 16, SOON_MS)
    with pytest.raises(usb.core.USBTimeoutError):
        device.write(1, b"x", SOON_MS)
    device.ctrl_transfer(*SET_TEST, TrafficType.LOOP, 0)
    device.write(1, b"again")
    assert device.read(0x81, 16).tobytes() == b"again"


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        ((0x41, 0x0F, 4, 0, None), "there are four test types"),
        ((0x40, 0x0F, 3, 0, None), "it is a request to the interface"),
        ((0x40, 0x10, 0, 0, bytes(65)), "the buffer has 64 bytes"),
        ((0xC0, 0x12, 0, 0, 8), "there is no such request"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_firmware_does_not_know_stalls(
    device: usb.core.Device, request_: tuple[object, ...], why: str
) -> None:
    with pytest.raises(usb.core.USBError) as caught:
        device.ctrl_transfer(*request_)
    assert caught.value.errno == errno.EPIPE, why


@pytest.mark.parametrize("word", TEST_TYPES)
def test_scheme_keeps_the_test_type_of_power_up(word: str) -> None:
    function = PyusbTestFunction(test_type=TEST_TYPES[word])
    gadget = Gadget(
        name="x", idVendor=1, idProduct=2, max_speed=Speed.FULL,
        configs=(Config(functions=(function,)),),
    )  # fmt: skip
    again = parse_scheme(dump_scheme(gadget), where="x.toml").configs[0].functions[0]
    assert isinstance(again, PyusbTestFunction)
    assert again.test_type == TEST_TYPES[word]
