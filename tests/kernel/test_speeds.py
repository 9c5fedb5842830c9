"""vhci_hcd takes our gadgets at each speed, and says of illegal ones what it says of hardware."""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from gadgets.presets import serial, storage
from tests.devices import Scripted
from tests.devices import gadget as gadget_of
from usbip_vudc.function import AltSetting, Endpoint, EndpointSpec, Function, InterfaceSpec
from usbip_vudc.gadget import Gadget
from usbip_vudc.kernel_log import KernelLog
from usbip_vudc.registry import GadgetOptions
from usbip_vudc.serving import serving
from usbip_vudc.sysfs import nodes, read_attribute
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.vhci import attach_remote, detach, wait_device

pytestmark = pytest.mark.kernel

HOST = "127.0.0.1"
COMPLAINTS = ("invalid", "Invalid", "unable", "changing to", "setting to", "No SuperSpeed", "error")
"""Words of drivers/usb/core about descriptors that it does not like."""

_CONTROL = 0xC0185500  # USBDEVFS_CONTROL, include/uapi/linux/usbdevice_fs.h, for 64 bits


class Interrupts(Function):
    """An interrupt endpoint each way, which is what low speed has room for."""

    name = "interrupts"

    def __init__(self) -> None:
        endpoints = (EndpointSpec.interrupt_in("in"), EndpointSpec.interrupt_out("out"))
        self.interfaces = (
            InterfaceSpec(
                role="only", bInterfaceClass=0xFF, alternates=(AltSetting(endpoints=endpoints),)
            ),
        )

    async def run(self, endpoints: Mapping[str, Endpoint]) -> None:
        """Nothing is ever sent."""


@pytest.fixture(scope="module", autouse=True)
def modules(need_modules: Callable[..., None]) -> None:
    need_modules("vhci-hcd", "usb-storage", "sd_mod", "cdc-acm")


@contextmanager
def attached(gadget: Gadget, speed: Speed) -> Iterator[tuple[Path, list[str]]]:
    """The device's directory, and what the kernel said until it was configured."""
    with KernelLog() as log, serving(gadget, speed=speed) as port:
        number = attach_remote(HOST, port, "1-1").port
        try:
            device = wait_device(number)
            yield device, log.read()
        finally:
            detach(number)


def control(device: Path, *setup: int, data: bytes = b"") -> bytes:
    """A control transfer on endpoint 0: the bytes that came, or b"". Raises OSError."""
    bmRequestType, bRequest, wValue, wIndex, wLength = setup
    buffer = ctypes.create_string_buffer(data, max(wLength, 1))
    words = struct.pack(
        "BBHHHIP", bmRequestType, bRequest, wValue, wIndex, wLength, 5000,
        ctypes.addressof(buffer),
    )  # fmt: skip
    fd = os.open(nodes(device)[0], os.O_RDWR | os.O_CLOEXEC)
    try:
        actual = fcntl.ioctl(fd, _CONTROL, bytearray(words))
    finally:
        os.close(fd)
    return buffer.raw[:actual] if bmRequestType & 0x80 else b""


def complaints(lines: list[str]) -> list[str]:
    return [line for line in lines if any(word in line for word in COMPLAINTS)]


GADGETS: dict[Speed, Callable[[], Gadget]] = {
    Speed.LOW: lambda: gadget_of(Interrupts()),
    Speed.FULL: lambda: serial(GadgetOptions()),
    Speed.HIGH: lambda: storage(GadgetOptions(size=1 << 20)),
    Speed.SUPER: lambda: gadget_of(Scripted()),
}


@pytest.mark.parametrize(
    ("speed", "words", "mbit", "ep0", "version"),
    [
        (Speed.LOW, "new low-speed USB device", "1.5", "8", "2.00"),
        (Speed.FULL, "new full-speed USB device", "12", "64", "2.00"),
        (Speed.HIGH, "new high-speed USB device", "480", "64", "2.00"),
        (Speed.SUPER, "new SuperSpeed USB device", "5000", "9", "3.20"),
    ],
    ids=["low", "full", "high", "super"],
)
def test_the_kernel_enumerates_each_speed_without_a_complaint(
    speed: Speed, words: str, mbit: str, ep0: str, version: str
) -> None:
    gadget = GADGETS[speed]()
    with attached(gadget, speed) as (device, lines):
        assert any(words in line for line in lines), lines
        assert complaints(lines) == []
        assert read_attribute(device / "speed") == mbit
        assert read_attribute(device / "bMaxPacketSize0") == ep0
        assert read_attribute(device / "version") == version
        description = gadget.describe(speed)
        sent = description.device.pack() + b"".join(c.pack() for c in description.configurations)
        assert (device / "descriptors").read_bytes() == sent


@pytest.mark.parametrize("size", [8, 16, 32])
def test_full_speed_has_four_sizes_of_endpoint_0(size: int) -> None:
    gadget = replace(serial(GadgetOptions()), bMaxPacketSize0={Speed.FULL: size})
    with attached(gadget, Speed.FULL) as (device, lines):
        assert read_attribute(device / "bMaxPacketSize0") == str(size)
        assert complaints(lines) == []


def test_high_speed_with_link_power_management_has_a_bos() -> None:
    gadget = replace(
        gadget_of(Scripted(), max_speed=Speed.HIGH), bcdUSB={Speed.HIGH: 0x0210}
    )  # fmt: skip
    with attached(gadget, Speed.HIGH) as (device, lines):
        assert read_attribute(device / "version") == "2.10"
        assert complaints(lines) == [], "a BOS that it cannot get is complained about"
        bos = control(device, 0x80, 6, 0x0F00, 0, 255)
        assert bos.hex(" ") == "05 0f 0c 00 01 07 10 02 02 00 00 00"


def test_super_speed_takes_exit_latencies_and_link_states() -> None:
    with attached(gadget_of(Scripted()), Speed.SUPER) as (device, _):
        control(device, 0x00, 48, 0, 0, 6, data=bytes((1, 2, 3, 0, 4, 0)))
        control(device, 0x00, 49, 40, 0, 0)
        for feature, status in ((48, b"\5\0"), (49, b"\x0d\0")):
            control(device, 0x00, 3, feature, 0, 0)
            assert control(device, 0x80, 0, 0, 0, 2) == status
        with pytest.raises(BrokenPipeError):
            control(device, 0x00, 3, 50, 0, 0)  # LTM, which the BOS does not offer


# --- what USB forbids --------------------------------------------------------------------------


def test_low_speed_bulk_endpoints_become_interrupt_ones() -> None:
    gadget = replace(serial(GadgetOptions()), deliberately_illegal=True)
    with attached(gadget, Speed.LOW) as (device, lines):
        changed = [line for line in lines if "is Bulk; changing to Interrupt" in line]
        assert {"0x1", "0x82"} == {line.split("endpoint ")[1].split()[0] for line in changed}
        assert read_attribute(device / "speed") == "1.5"


def test_high_speed_bulk_packets_of_64_bytes_are_warned_of_and_kept() -> None:
    pair = tuple(
        replace(spec, max_packet_size={Speed.HIGH: 64})
        for spec in (EndpointSpec.bulk_in("in"), EndpointSpec.bulk_out("out"))
    )
    function = Scripted()
    spec = function.interfaces[0]
    function.interfaces = (replace(spec, alternates=(AltSetting(endpoints=pair),)),)
    gadget = replace(gadget_of(function), deliberately_illegal=True)
    with attached(gadget, Speed.HIGH) as (device, lines):
        assert sum("has invalid maxpacket 64" in line for line in lines) == 2
        sizes = device.glob("*/ep_*/wMaxPacketSize")
        assert [read_attribute(size) for size in sizes] == ["0040", "0040"]


@pytest.mark.expected_dmesg("unable to enumerate USB device")
@pytest.mark.parametrize("speed", [Speed.LOW, Speed.SUPER], ids=["low", "super"])
def test_packets_of_64_bytes_on_endpoint_0_are_no_device(speed: Speed) -> None:
    ep0 = {speed: 64}
    gadget = replace(gadget_of(Interrupts()), bMaxPacketSize0=ep0, deliberately_illegal=True)
    with KernelLog() as log, serving(gadget, speed=speed) as port:
        number = attach_remote(HOST, port, "1-1").port
        try:
            lines: list[str] = []
            deadline = time.monotonic() + 60
            while not any("unable to enumerate USB device" in line for line in lines):
                assert time.monotonic() < deadline, lines
                time.sleep(0.05)
                lines += log.read()
        finally:
            detach(number)
    assert any("Invalid ep0 maxpacket: 64" in line for line in lines)
