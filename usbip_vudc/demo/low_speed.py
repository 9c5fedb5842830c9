"""``usbip-vudc demo lowspeed``: "Were you able to test with USB lowspeed devices?", in one page.

All cases run on the userspace UDC through pyusb; linux_case.py repeats the main ones on a kernel.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import usb.core
import usb.util
from rich.console import Console

from usbip_vudc.demo.hid_case import keyboard_rows, mouse_rows
from usbip_vudc.demo.packets_case import packets_at_low_speed
from usbip_vudc.demo.serial_case import digest, exchange
from usbip_vudc.demo.stage import Stage
from usbip_vudc.errors import SchemeError
from usbip_vudc.gadget import Gadget
from usbip_vudc.host.serial import UsbSerial
from usbip_vudc.registry import GADGETS, GadgetOptions, load_gadget
from usbip_vudc.report import Row
from usbip_vudc.usb.ch9 import Speed

__all__ = ("a_file", "bulk_serial", "low_speed_cases")

_FILE_SIZE: Final = 64 << 10

_RULE: Final = "USB 2.0 5.8.3"
"""Bulk endpoints are for full, high and super speed."""

_USBTEST: Final = "usbtest-low"
_WRITE, _READ = 0x5B, 0x5C
"""Vendor requests of usbtest's devices (drivers/usb/misc/usbtest.c, ctrl_out)."""

_TIMEOUT_MS: Final = 10_000


def low_speed_cases(console: Console, stage: Stage) -> Iterator[tuple[str, Iterator[Row]]]:
    """Each case by name with its rows, which run as they are asked for."""
    yield "keyboard", keyboard_rows(stage)
    yield "mouse", mouse_rows(stage)
    yield "packets", packets_at_low_speed(stage)
    yield "serial port", _serial(console, stage)
    if _USBTEST in GADGETS:
        yield "usbtest", _usbtest(stage)


def a_file(size: int) -> bytes:
    """The beginning of some modules of Python's library."""
    data = b""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        data += path.read_bytes()
        if len(data) >= size:
            break
    return data[:size]


def bulk_serial() -> Gadget:
    """The serial port at low speed, with the bulk endpoints that USB forbids there."""
    gadget = load_gadget("serial", GadgetOptions(profile="echo"))
    return replace(gadget, max_speed=Speed.LOW, deliberately_illegal=True)


def _serial(console: Console, stage: Stage) -> Iterator[Row]:
    yield Row("bulk is refused", "the serial port at low speed", _RULE,
              _refusal(replace(bulk_serial(), deliberately_illegal=False)))  # fmt: skip
    data = a_file(_FILE_SIZE)
    with stage.serving(bulk_serial()) as port, stage.device(port) as device:
        yield Row("served anyway", "deliberately_illegal = true", "bulk 8, bulk 8",
                  _bulk_sizes(device))  # fmt: skip
        echoed = exchange(console, UsbSerial(device), data)
        yield Row("serial echo", f"{len(data) >> 10} KiB, {len(data) // 8} packets each way",
                  f"sha256 {digest(data)}", f"sha256 {digest(echoed)}")  # fmt: skip


def _refusal(gadget: Gadget) -> str:
    try:
        gadget.describe(Speed.LOW)
    except SchemeError as error:
        return _RULE if _RULE in str(error) else str(error)
    return "served"


def _bulk_sizes(device: usb.core.Device) -> str:
    sizes = [
        endpoint.wMaxPacketSize
        for interface in device.get_active_configuration()
        for endpoint in interface
        if usb.util.endpoint_type(endpoint.bmAttributes) == usb.util.ENDPOINT_TYPE_BULK
    ]
    return ", ".join(f"bulk {size}" for size in sizes)


def _usbtest(stage: Stage) -> Iterator[Row]:
    """What usbtest's cases for a low-speed device do, by our own host."""
    gadget = load_gadget(_USBTEST, GadgetOptions())
    with stage.serving(gadget) as port, stage.device(port) as device:
        device.set_interface_altsetting(0, 1)
        lengths = range(1, 1025, 93)
        right = sum(_written_back(device, length) for length in lengths)
        yield Row("usbtest 14", f"{len(lengths)} vendor writes, read back",
                  f"{len(lengths)} equal", f"{right} equal")  # fmt: skip
        sent = device.write(0x02, bytes(1024), _TIMEOUT_MS)
        yield Row("usbtest 25", "interrupt OUT, 1024 bytes", "1024 bytes taken",
                  f"{sent} bytes taken")  # fmt: skip
        data = bytes(device.read(0x82, 1024, _TIMEOUT_MS))
        yield Row("usbtest 26", "interrupt IN, 1024 bytes", "1024 zeros",
                  f"{len(data)} {'other bytes' if any(data) else 'zeros'}")  # fmt: skip


def _written_back(device: usb.core.Device, length: int) -> bool:
    data = bytes(i * 7 & 0xFF for i in range(length))
    device.ctrl_transfer(0x40, _WRITE, 0, 0, data, _TIMEOUT_MS)
    return bytes(device.ctrl_transfer(0xC0, _READ, 0, 0, length, _TIMEOUT_MS)) == data
