"""Low-speed devices on Linux: "Were you able to test with USB lowspeed devices?"

A keyboard and a mouse through usbhid and evdev, and a serial port whose bulk endpoints, which USB
2.0 5.8.3 forbids there, the kernel turns into interrupt ones of 8 bytes (drivers/usb/core/config.c)
and cdc-acm uses all the same. The keyboard is on a UDC of the kernel, too, behind FunctionFS.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import pytest

from gadgets.acm.function import AcmFunction
from gadgets.hid.function import HidFunction
from gadgets.hid.keyboard import KeyboardFunction
from gadgets.hid.mouse import MouseFunction
from gadgets.presets import serial
from tests.kernel.carriers import MODULES, VUDC
from usbip_vudc.carrier import OURS, PATIENCE, Carried, Carrier, carried
from usbip_vudc.demo.linux_case import echo
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.host.evdev import BUTTONS, InputEvent, InputEvents, LedCode, RelativeCode
from usbip_vudc.kernel_log import KernelLog
from usbip_vudc.registry import GadgetOptions
from usbip_vudc.sysfs import read_attribute
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.usb.hid import Led

pytestmark = pytest.mark.kernel

LOW: Final = Carrier(OURS, Speed.LOW, "linux")

TEXT: Final = "Hello, low-speed World! (~1.5 Mbit/s)"
FILE: Final = random.Random(26).randbytes(8 << 10)

SAID: Final = (
    r"new low-speed USB device number \d+ using vhci_hcd",
    r"SetAddress Request",
    r"New USB device (found|strings)",
    r"(Product|Manufacturer|SerialNumber): ",
    r"ttyACM\d+: USB ACM device",
    r"(input|hidraw)",
    r"USB disconnect",
    # After another speed on the port vhci_hcd announces the first try at that one, and tries again.
    r"new (full|high)-speed USB device number \d+ using vhci_hcd",
)
"""All that a kernel says of a device that it finds nothing wrong with; first what it must say."""


@pytest.fixture(scope="module", autouse=True)
def modules(need_modules: Callable[..., None]) -> None:
    need_modules(*MODULES, "usbhid", "hid-generic", "evdev", "cdc-acm")


def hid_gadget(function: HidFunction, max_speed: Speed) -> Gadget:
    return Gadget(
        name="lowspeed",
        idVendor=0x0525,
        idProduct=0xA4AC,
        manufacturer="usbip-vudc",
        product="Low-speed test",
        max_speed=max_speed,
        configs=(Config(functions=(function,)),),
    )


@contextmanager
def without_complaint(*expected: str) -> Iterator[None]:
    """Fails the test where the kernel said more of the low-speed device, or did not greet it."""
    with KernelLog() as log:
        yield
        lines = log.read()
    assert any(re.search(SAID[0], line) for line in lines), lines
    # "usb 1-1: ...", "cdc_acm 1-1:1.0: ..."; usb1 and vhci_hcd.0 are the hub and its driver
    of_it = [line for line in lines if re.search(r"\b\d+-\d+(:\d+\.\d+)?: ", line)]
    odd = [line for line in of_it if not any(re.search(r, line) for r in (*SAID, *expected))]
    assert not odd
    for regex in expected:
        assert any(re.search(regex, line) for line in of_it), regex


@contextmanager
def attached(function: HidFunction) -> Iterator[tuple[Carried, InputEvents]]:
    """The function as a low-speed device of this machine's, and what evdev makes of it."""
    with carried(hid_gadget(function, Speed.LOW), LOW) as device:
        assert read_attribute(device.sysfs / "speed") == "1.5"
        assert read_attribute(device.sysfs / "bMaxPacketSize0") == "8"
        with InputEvents.open(device.node("event")) as events:
            yield device, events


def test_a_text_arrives_through_evdev_and_leds_come_back() -> None:
    keyboard = KeyboardFunction()
    with without_complaint(), attached(keyboard) as (_, events):
        keyboard.type(TEXT)
        assert events.read_text(len(TEXT), PATIENCE) == TEXT
        for lit, leds in ((True, Led.CAPS_LOCK), (False, Led(0))):
            events.set_led(LedCode.CAPS_LOCK, lit)
            keyboard.wait_leds(leds, PATIENCE)
        assert keyboard.idle_seconds is None  # usbhid sends SET_IDLE 0


def test_a_mouse_moves_scrolls_and_clicks() -> None:
    mouse = MouseFunction()
    sums = {RelativeCode.X: 0, RelativeCode.Y: 0, RelativeCode.WHEEL: 0}
    clicked: list[str] = []

    def feed(event: InputEvent) -> None:
        if event.relative and event.code in sums:
            sums[event.code] += event.value
        if event.pressed:
            clicked.append(BUTTONS[event.code])

    with without_complaint(), attached(mouse) as (_, events):
        mouse.move(300, -40)
        mouse.scroll(-3)
        for button in ("left", "right", "middle"):
            mouse.click(button)
        events.read_until(feed, lambda: len(clicked) == 3, PATIENCE)
    assert list(sums.values()) == [300, -40, -3]
    assert clicked == ["left", "right", "middle"]


def test_a_serial_port_with_bulk_endpoints_echoes_a_file() -> None:
    gadget = replace(serial(GadgetOptions()), max_speed=Speed.LOW, deliberately_illegal=True)
    [function] = gadget.configs[0].functions
    assert isinstance(function, AcmFunction)
    with without_complaint(r"is Bulk; changing to Interrupt"), carried(gadget, LOW) as device:
        node = device.node("ttyACM")
        data = [
            (read_attribute(path / "type"), read_attribute(path / "wMaxPacketSize"))
            for path in device.sysfs.glob("*:1.1/ep_*")
        ]
        assert data == [("Interrupt", "0008")] * 2
        assert echo(node, FILE) == FILE
        assert (function.line_coding.dwDTERate, function.dtr) == (9600, False)  # closed again


def test_a_keyboard_types_behind_functionfs() -> None:
    keyboard = KeyboardFunction()
    with (
        carried(hid_gadget(keyboard, Speed.HIGH), VUDC) as device,
        InputEvents.open(device.node("event")) as events,
    ):
        keyboard.type(TEXT)
        assert events.read_text(len(TEXT), PATIENCE) == TEXT
        events.set_led(LedCode.NUM_LOCK, True)
        keyboard.wait_leds(Led.NUM_LOCK, PATIENCE)
