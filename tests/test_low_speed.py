"""The low-speed serial port: bulk endpoints of 8 bytes that USB forbids, and a host that copes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import anyio.from_thread
import pytest
import usb.core
import usb.util
from rich.console import Console

from gadgets.acm.function import AcmFunction
from gadgets.serial.profiles import Echo
from usbip_vudc.demo.serial_case import exchange
from usbip_vudc.errors import SchemeError
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.host.serial import UsbSerial
from usbip_vudc.pyusb_backend import get_backend
from usbip_vudc.serving import serving_in
from usbip_vudc.usb.cdc import SerialState
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.vudc import UserspaceUDC

FILE = random.Random(5).randbytes(20_001)


def low_speed(function: AcmFunction) -> Gadget:
    return Gadget(
        name="serial",
        idVendor=0x0525,
        idProduct=0xA4A7,
        max_speed=Speed.LOW,
        deliberately_illegal=True,
        configs=(Config(functions=(function,)),),
    )


@pytest.fixture
def portal() -> Iterator[anyio.from_thread.BlockingPortal]:
    with anyio.from_thread.start_blocking_portal() as portal:
        yield portal


@contextmanager
def attached(
    function: AcmFunction, portal: anyio.from_thread.BlockingPortal
) -> Iterator[usb.core.Device]:
    with serving_in(portal, UserspaceUDC(low_speed(function))) as port:
        device = usb.core.find(backend=get_backend(port=port))
        assert device is not None
        try:
            yield device
        finally:
            usb.util.dispose_resources(device)


def test_without_being_told_so_it_is_refused_with_the_rule() -> None:
    gadget = replace(low_speed(AcmFunction()), deliberately_illegal=False)
    with pytest.raises(SchemeError, match=r"bulk endpoint at low speed.*USB 2\.0 5\.8\.3"):
        UserspaceUDC(gadget)


def test_the_host_sees_bulk_endpoints_of_8_bytes(portal: anyio.from_thread.BlockingPortal) -> None:
    with attached(AcmFunction(), portal) as device:
        comm, data = device.get_active_configuration()
        assert [(e.bmAttributes, e.wMaxPacketSize) for e in (*comm, *data)] == [
            (3, 8), (2, 8), (2, 8)
        ]  # fmt: skip


def test_a_file_is_echoed_byte_for_byte(portal: anyio.from_thread.BlockingPortal) -> None:
    with attached(AcmFunction(Echo()), portal) as device:
        assert exchange(Console(quiet=True), UsbSerial(device), FILE) == FILE


@pytest.mark.parametrize("length", [1, 7, 8, 9, 15, 16, 17, 160, 161])
def test_the_urbs_of_cdc_acm_lose_nothing(
    length: int, portal: anyio.from_thread.BlockingPortal
) -> None:
    # drivers/usb/class/cdc-acm.c, acm_probe: OUT URBs of 20 packets, IN URBs of 2
    with attached(AcmFunction(Echo()), portal) as device:
        data = FILE[:length]
        for start in range(0, length, 160):
            piece = data[start : start + 160]
            assert device.write(0x01, piece, 5000) == len(piece)
        echoed = b""
        while len(echoed) < length:
            echoed += bytes(device.read(0x82, 16, 5000))
        assert echoed == data


def test_a_notification_comes_in_two_packets(portal: anyio.from_thread.BlockingPortal) -> None:
    function = AcmFunction()
    with attached(function, portal) as device:
        serial = UsbSerial(device)
        portal.start_task_soon(lambda: function.set_serial_state(dcd=True))
        assert serial.read_notification(5000) == SerialState.DCD
