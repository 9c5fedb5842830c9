"""The usbtest gadget under our own host: what each case of usbtest does to a device."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate, islice, repeat

import pytest
import usb.core
import usb.util

from configfs.ffs_descriptors import describe
from gadgets.usbtest.function import SourceSinkFunction
from gadgets.usbtest.pattern import ANYTHING, MOD63, ZEROS, pattern_bytes, wrong_byte
from gadgets.usbtest.presets import usbtest, usbtest_ffs, usbtest_low
from usbip_vudc.errors import SchemeError
from usbip_vudc.gadget import Gadget
from usbip_vudc.pyusb_backend import get_backend
from usbip_vudc.registry import GadgetOptions
from usbip_vudc.scheme import parse_scheme
from usbip_vudc.serving import serving
from usbip_vudc.sglist import SGList
from usbip_vudc.usb.ch9 import Speed, TransferType

BULK = (0x81, 0x01)
INTERRUPT = (0x82, 0x02)
PAIRS = (BULK, INTERRUPT)
MAX_PACKET = {
    Speed.FULL: {BULK: 64, INTERRUPT: 64},
    Speed.HIGH: {BULK: 512, INTERRUPT: 64},
    Speed.SUPER: {BULK: 1024, INTERRUPT: 64},
    Speed.LOW: {INTERRUPT: 8},
}
VENDOR_OUT, VENDOR_IN = 0x40, 0xC0
MS = 5000

at_every_speed = pytest.mark.parametrize("speed", MAX_PACKET, ids=lambda speed: speed.word)


def gadget_with(pattern: int = ZEROS, *, speed: Speed = Speed.HIGH) -> Gadget:
    """The gadget that usbtest takes at this speed."""
    made = (usbtest_low if speed is Speed.LOW else usbtest)(GadgetOptions(pattern=pattern))
    return replace(made, max_speed=speed)


@contextmanager
def plugged(gadget: Gadget, *, alternate: int = 1) -> Iterator[usb.core.Device]:
    with serving(gadget) as port:
        device = usb.core.find(backend=get_backend(port=port))
        assert device is not None
        try:
            device.set_configuration()
            device.set_interface_altsetting(0, alternate)
            yield device
        finally:
            usb.util.dispose_resources(device)


@contextmanager
def fails(number: int) -> Iterator[None]:
    with pytest.raises(usb.core.USBError) as caught:
        yield
    assert caught.value.errno == number


def varied(length: int, vary: int, count: int) -> list[int]:
    """The lengths that usbtest goes through: more by ``vary``, modulo ``length``."""

    def step(current: int, _: None) -> int:
        return (current + vary) % length or min(vary, length)

    return list(islice(accumulate(repeat(None), step, initial=length), count))


# --- what is described -------------------------------------------------------------------------


@pytest.mark.parametrize("speed", [Speed.FULL, Speed.HIGH, Speed.SUPER], ids=lambda s: s.word)
def test_setting_0_has_no_endpoint_and_setting_1_every_kind(speed: Speed) -> None:
    # usbtest takes all its endpoints from the first setting that has any it can use.
    described = usbtest(GadgetOptions()).describe(speed)
    first, second = described.configurations[0].interfaces
    assert first.endpoints == ()
    kinds = {e.descriptor.bEndpointAddress: e.descriptor.bmAttributes for e in second.endpoints}
    assert kinds == {
        0x81: TransferType.BULK, 0x01: TransferType.BULK,
        0x82: TransferType.INTERRUPT, 0x02: TransferType.INTERRUPT,
        0x83: TransferType.ISOCHRONOUS, 0x03: TransferType.ISOCHRONOUS,
    }  # fmt: skip
    assert (described.device.idVendor, described.device.idProduct) == (0x0525, 0xA4A0)


def test_the_low_speed_device_has_interrupt_endpoints_2_in_setting_1() -> None:
    gadget = usbtest_low(GadgetOptions())
    described = gadget.describe(Speed.LOW)
    first, second = described.configurations[0].interfaces
    assert first.endpoints == ()
    assert [
        (e.descriptor.bEndpointAddress, e.descriptor.bmAttributes, e.descriptor.wMaxPacketSize)
        for e in second.endpoints
    ] == [(0x82, TransferType.INTERRUPT, 8), (0x02, TransferType.INTERRUPT, 8)]
    assert described.device.bMaxPacketSize0 == 8
    with pytest.raises(SchemeError, match="speed full is not available"):
        gadget.describe(Speed.FULL)


def test_functionfs_gets_one_setting_and_the_requests_to_the_device() -> None:
    all_control_recipients = 64  # include/uapi/linux/usb/functionfs.h
    kinds = [TransferType.BULK] * 2
    for gadget, expected in (
        (usbtest_ffs(GadgetOptions()), kinds),
        (usbtest(GadgetOptions()), kinds + [TransferType.INTERRUPT] * 2),
    ):
        [function] = gadget.configs[0].functions
        assert isinstance(function, SourceSinkFunction)
        described = describe(function)
        assert [e.spec.transfer_type for e in described.endpoints] == expected
        assert int.from_bytes(described.descriptors[8:12], "little") & all_control_recipients


def test_a_scheme_says_every_option() -> None:
    text = """
    name = "g"
    idVendor = 1
    idProduct = 2
    [[configs]]
    [[configs.functions]]
    type = "source_sink"
    endpoints = "bulk"
    pattern = 1
    buflen = 4096
    qlen = 32
    """
    [function] = parse_scheme(text, where="g.toml").configs[0].functions
    assert isinstance(function, SourceSinkFunction)
    assert (function.endpoints, function.pattern) == ("bulk", MOD63)
    assert (function.buflen, function.qlen) == (4096, 32)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"endpoints": "some"}, "endpoints 'some': expected one of all, bulk, interrupt"),
        ({"pattern": 3}, "pattern 3: expected 0, 1 or 2"),
        ({"qlen": 0}, "buflen 16384, qlen 0: expected at least 1"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, int], complaint: str) -> None:
    with pytest.raises(SchemeError, match=complaint):
        SourceSinkFunction(**options)  # type: ignore[arg-type]


# --- patterns ----------------------------------------------------------------------------------


def test_every_packet_begins_the_pattern_anew() -> None:
    assert pattern_bytes(ZEROS, 512, 3) == bytes(3)
    assert pattern_bytes(MOD63, 8, 19) == bytes([*range(8), *range(8), 0, 1, 2])
    expected = bytes((i % 512) % 63 for i in range(1300))
    assert pattern_bytes(MOD63, 512, 1300) == expected
    assert wrong_byte(memoryview(expected)[:700], expected) is None
    assert wrong_byte(memoryview(bytes(700)), expected) == 1


# --- cases -------------------------------------------------------------------------------------


@at_every_speed
@pytest.mark.parametrize("pattern", [ZEROS, MOD63])
def test_reads_of_every_length_are_whole_packets_of_the_pattern(speed: Speed, pattern: int) -> None:
    """Cases 2, 4, 6, 8, 18, 20, 26 and 28."""
    with plugged(gadget_with(pattern, speed=speed)) as device:
        for (address, _), size in MAX_PACKET[speed].items():
            for length in (size, 16384, *varied(size * 8, size * 3, 10), 65536 + size):
                data = device.read(address, length, MS).tobytes()
                assert data == pattern_bytes(pattern, size, length)


@at_every_speed
@pytest.mark.parametrize("pattern", [ZEROS, MOD63])
def test_writes_of_every_length_are_taken(speed: Speed, pattern: int) -> None:
    """Cases 1, 3, 5, 7, 17, 19, 25 and 27: with a ZLP behind those that need one, as usbtest."""
    with plugged(gadget_with(pattern, speed=speed)) as device:
        for (_, address), size in MAX_PACKET[speed].items():
            for length in (size, 16384, *varied(1024, 421, 20), *varied(64, 63, 20), 100_000):
                assert device.write(address, pattern_bytes(pattern, size, length), MS) == length
                if length % size == 0:
                    assert device.write(address, b"", MS) == 0


@pytest.mark.parametrize("scatter_gather", [True, False], ids=["sg", "no-sg"])
def test_varying_scatterlists(scatter_gather: bool) -> None:
    """Cases 7 and 8 with the lengths of hcd-tests.sh; odd entries reach a device as one URB."""
    with serving(gadget_with()) as port:
        backend = get_backend(port=port, scatter_gather=scatter_gather)
        device = usb.core.find(backend=backend)
        assert device is not None
        device.set_configuration()
        device.set_interface_altsetting(0, 1)
        handle = device._ctx.handle
        for length, vary in ((2048, 579), (4096, 41), (64, 63)):
            lengths = varied(length, vary, 32)
            sg = SGList(*map(bytearray, lengths))
            result = backend.bulk_sg(handle, 0x01, 0, sg, MS)
            assert (result.status, result.actual) == (0, sum(lengths))
        lengths = varied(2048, 1024, 32)
        result = backend.bulk_sg(handle, 0x81, 0, SGList(*map(bytearray, lengths)), MS)
        assert (result.status, result.actual) == (0, sum(lengths))
        usb.util.dispose_resources(device)


def test_a_read_that_ends_within_a_packet_is_babble_and_the_next_one_is_in_step() -> None:
    """Cases 4 and 8 with an odd length fail on a truthful device."""
    with plugged(gadget_with(MOD63)) as device:
        with fails(errno.EOVERFLOW):
            device.read(0x81, 1000, MS)
        assert device.read(0x81, 1024, MS).tobytes() == pattern_bytes(MOD63, 512, 1024)


@at_every_speed
def test_a_halt_of_the_host_lasts_until_it_is_cleared(speed: Speed) -> None:
    """Cases 13 and 29."""
    with plugged(gadget_with(speed=speed)) as device:
        for (source, sink), size in MAX_PACKET[speed].items():
            for address in (source, sink):

                def move(address: int = address, length: int = 2 * size) -> None:
                    if address & 0x80:
                        assert len(device.read(address, length, MS)) == length
                    else:
                        assert device.write(address, bytes(length), MS) == length

                move()
                device.ctrl_transfer(0x02, 3, 0, address)
                assert device.ctrl_transfer(0x82, 0, 0, address, 2).tobytes() == b"\x01\x00"
                for _ in range(2):
                    with fails(errno.EPIPE):
                        move()
                for _ in range(2):
                    device.clear_halt(address)
                    assert device.ctrl_transfer(0x82, 0, 0, address, 2).tobytes() == b"\0\0"
                    move()


@at_every_speed
def test_what_0x5b_stores_0x5c_gives_back(speed: Speed) -> None:
    """Cases 14 and 21."""
    with plugged(gadget_with(speed=speed)) as device:
        for round_, length in enumerate((256, *range(20), 64, 65, 512, 4096)):
            data = bytes((round_ + i) & 0xFF for i in range(length))
            assert device.ctrl_transfer(VENDOR_OUT, 0x5B, 0, 0, data, MS) == length
            assert device.ctrl_transfer(VENDOR_IN, 0x5C, 0, 0, length, MS).tobytes() == data
        for request in (
            (VENDOR_OUT, 0x5B, 1, 0, b"x"),
            (VENDOR_OUT, 0x5B, 0, 1, b"x"),
            (VENDOR_OUT, 0x5B, 0, 0, bytes(4097)),
            (VENDOR_IN, 0x5C, 0, 1, 1),
            (VENDOR_IN, 0x5C, 0, 0, 4097),
            (VENDOR_IN, 0x5B, 0, 0, 1),
            (VENDOR_OUT, 0x5D, 0, 0, b"x"),
        ):
            with fails(errno.EPIPE):
                device.ctrl_transfer(*request, MS)
        assert device.ctrl_transfer(VENDOR_IN, 0x5C, 0, 0, 4096, MS).tobytes() == data


@at_every_speed
def test_settings_can_be_selected_and_read_back(speed: Speed) -> None:
    """Case 9, and what every ioctl of usbtest begins with."""
    with plugged(gadget_with(speed=speed), alternate=0) as device:
        source, sink = INTERRUPT
        for alternate in (0, 1, 1, 0, 1):
            device.set_interface_altsetting(0, alternate)
            assert device.ctrl_transfer(0x81, 10, 0, 0, 1).tobytes() == bytes([alternate])
            if alternate:
                assert device.read(source, 64, MS).tobytes() == bytes(64)
                assert device.write(sink, bytes(64), MS) == 64
            else:
                with pytest.raises((usb.core.USBError, ValueError)):
                    device.read(source, 64, MS)


@pytest.mark.parametrize("speed", [Speed.FULL, Speed.HIGH, Speed.SUPER], ids=lambda s: s.word)
def test_isochronous_data_moves_both_ways(speed: Speed) -> None:
    """Cases 15, 16, 22 and 23."""
    with plugged(gadget_with(MOD63, speed=speed)) as device:
        size = 512 if speed is Speed.FULL else 1024
        for length in (size, 32 * size):
            data = device.read(0x83, length, MS).tobytes()
            assert data == pattern_bytes(MOD63, size, length)
            assert device.write(0x03, b"no pattern is asked for".ljust(length), MS) == length


# --- the sink looks at what comes --------------------------------------------------------------


def test_a_wrong_byte_halts_the_sink(caplog: pytest.LogCaptureFixture) -> None:
    with plugged(gadget_with()) as device:
        assert device.write(0x01, bytes(99), MS) == 99
        assert device.write(0x01, bytes(77) + b"\x05", MS) == 78
        with fails(errno.EPIPE):
            device.write(0x01, bytes(512), MS)
        assert "endpoint 0x01: byte 77 of 78 is 0x05, not of the pattern" in caplog.text
        device.clear_halt(0x01)
        assert device.write(0x01, bytes(99), MS) == 99


def test_pattern_2_takes_anything() -> None:
    with plugged(gadget_with(ANYTHING)) as device:
        for _ in range(3):
            assert device.write(0x01, b"anything", MS) == 8
        assert device.read(0x81, 512, MS).tobytes() == bytes(512)
