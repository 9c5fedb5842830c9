"""The twin of tools/usb/ffs-test.c: its descriptors byte for byte, and its data."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import usb.core
import usb.util

from gadgets.ffs_test.function import BUFFER_SIZE, PATTERNS, FfsTestFunction
from gadgets.ffs_test.presets import ffs_test
from usbip_vudc.errors import SchemeError
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.pyusb_backend import get_backend
from usbip_vudc.registry import GadgetOptions
from usbip_vudc.scheme import dump_scheme, parse_scheme
from usbip_vudc.serving import serving
from usbip_vudc.usb.ch9 import Speed

IN, OUT = 0x81, 0x02
MOD63 = bytes(i % 63 for i in range(BUFFER_SIZE))


def gadget(pattern: str) -> Gadget:
    functions = (FfsTestFunction(pattern=pattern),)
    return Gadget(
        name="x", idVendor=0x0525, idProduct=0xA4A4, configs=(Config(functions=functions),)
    )


@contextmanager
def opened(pattern: str) -> Iterator[usb.core.Device]:
    with serving(gadget(pattern), speed=Speed.HIGH) as port:
        device = usb.core.find(backend=get_backend(port=port))
        assert device is not None
        yield device
        usb.util.dispose_resources(device)


def is_halted(device: usb.core.Device) -> bool:
    try:
        device.write(OUT, b"")
    except usb.core.USBError as error:
        return bool(error.errno == errno.EPIPE)
    return False


@pytest.mark.parametrize(
    ("speed", "expected"),
    [
        (Speed.FULL, "0904000002ff000004 07058102400000 07050202400000"),
        (Speed.HIGH, "0904000002ff000004 07058102000200 07050202000201"),
        (
            Speed.SUPER,
            "0904000002ff000004 07058102000400 063000000000 07050202000401 063000000000",
        ),
    ],
    ids=str,
)
def test_descriptors_are_those_of_the_program(speed: Speed, expected: str) -> None:
    description = ffs_test(GadgetOptions()).describe(speed)
    configuration = description.configurations[0].pack()
    assert configuration[9:] == bytes.fromhex(expected.replace(" ", ""))
    assert description.strings[4, 0x0409][2:].decode("utf-16-le") == "Source/Sink"
    assert (description.device.idVendor, description.device.idProduct) == (0x0525, 0xA4A4)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("zero", bytes(BUFFER_SIZE)), ("mod63", MOD63), ("none", bytes(BUFFER_SIZE))],
    ids=PATTERNS,
)
def test_source_begins_its_pattern_anew_with_each_buffer(pattern: str, expected: bytes) -> None:
    with opened(pattern) as device:
        assert device.read(IN, 3 * BUFFER_SIZE).tobytes() == 3 * expected


@pytest.mark.parametrize("length", (BUFFER_SIZE, 3 * BUFFER_SIZE + 700, 1))
def test_sink_takes_its_pattern(length: int) -> None:
    with opened("mod63") as device:
        assert device.write(OUT, (4 * MOD63)[:length]) == length
        assert not is_halted(device)


def test_sink_halts_on_a_byte_that_is_not_of_its_pattern() -> None:
    with opened("zero") as device:
        device.write(OUT, bytes(600) + b"\1")
        assert is_halted(device)
        device.clear_halt(OUT)
        assert device.write(OUT, bytes(100)) == 100
        assert not is_halted(device)


def test_sink_without_a_pattern_takes_anything() -> None:
    with opened("none") as device:
        assert device.write(OUT, b"anything at all") == 15
        assert not is_halted(device)


def test_no_control_request_is_answered() -> None:
    with opened("zero") as device:
        for request in ((0x40, 0x5B, 0, 0, b"x"), (0xC0, 0x5C, 0, 0, 1), (0xC1, 1, 0, 0, 1)):
            with pytest.raises(usb.core.USBError) as caught:
                device.ctrl_transfer(*request)
            assert caught.value.errno == errno.EPIPE


@pytest.mark.parametrize("pattern", PATTERNS)
def test_scheme_keeps_the_pattern(pattern: str) -> None:
    [function] = parse_scheme(dump_scheme(gadget(pattern)), where="x.toml").configs[0].functions
    assert isinstance(function, FfsTestFunction)
    assert function.pattern == pattern


@pytest.mark.parametrize(("number", "word"), [(0, "zero"), (1, "mod63"), (2, "none")])
def test_ready_made_gadget_has_the_pattern_of_the_option(number: int, word: str) -> None:
    [function] = ffs_test(GadgetOptions(pattern=number)).configs[0].functions
    assert isinstance(function, FfsTestFunction)
    assert function.pattern == word


def test_unknown_pattern_is_refused() -> None:
    with pytest.raises(SchemeError, match="'pipe': expected one of zero, mod63, none"):
        FfsTestFunction(pattern="pipe")
