"""The low-speed keyboard and mouse: a text and a movement arrive, report by report."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol, cast

import usb.core
import usb.util

from usbip_vudc.demo.stage import Stage
from usbip_vudc.errors import errno_name
from usbip_vudc.gadget import Gadget
from usbip_vudc.registry import GadgetOptions, load_gadget
from usbip_vudc.report import Row
from usbip_vudc.usb.ch9 import DescriptorType
from usbip_vudc.usb.hid import (
    HidDescriptorType,
    HidProtocol,
    HidRequest,
    KeyboardReport,
    Led,
    MouseReport,
    ReportType,
)
from usbip_vudc.usb.keys import text_of

__all__ = ("MOVEMENT", "TEXT", "Keyboard", "Mouse", "keyboard", "keyboard_rows", "mouse",
           "mouse_rows")  # fmt: skip

TEXT: Final = "Yes, at 1.5 Mbit/s!"
MOVEMENT: Final = (300, -40)
"""To the right and down: more than one report can say."""

_TIMEOUT_MS: Final = 10_000
_NEVER: Final = 0
_OFTEN: Final = 2
"""Idle rates, in steps of 4 ms (HID 1.11 7.2.4)."""

_CLASS_OUT, _CLASS_IN, _INTERFACE_IN, _DEVICE_IN = 0x21, 0xA1, 0x81, 0x80


class Keyboard(Protocol):
    """What the demo does with the keyboard gadget's function."""

    @property
    def leds(self) -> Led:
        """What the host set last."""

    def type(self, text: str) -> None:
        """Press and release the key of each character."""

    def wait_leds(self, leds: Led, timeout: float) -> None:
        """Wait until the LEDs are as given. Raises TimeoutError."""


class Mouse(Protocol):
    """What the demo does with the mouse gadget's function."""

    def move(self, dx: int, dy: int) -> None:
        """Move to the right and down."""

    def click(self, button: str) -> None:
        """Press a button and let go of it."""


def keyboard() -> tuple[Gadget, Keyboard]:
    """The ready-made keyboard, and its function."""
    gadget = load_gadget("keyboard", GadgetOptions())
    return gadget, cast("Keyboard", gadget.configs[0].functions[0])


def mouse() -> tuple[Gadget, Mouse]:
    """The ready-made mouse, and its function."""
    gadget = load_gadget("mouse", GadgetOptions())
    return gadget, cast("Mouse", gadget.configs[0].functions[0])


@contextmanager
def _device(stage: Stage, gadget: Gadget) -> Iterator[usb.core.Device]:
    """The device as a host's driver takes it: it wants to hear of changes only."""
    with stage.serving(gadget) as port, stage.device(port) as device:
        _set_idle(device, _NEVER)
        yield device


def keyboard_rows(stage: Stage) -> Iterator[Row]:
    """Enumerate the keyboard, type on it, and use all of its requests."""
    gadget, function = keyboard()
    with _device(stage, gadget) as device:
        yield from _enumeration(device)
        function.type(TEXT)
        reports = _read_text(device)
        yield Row("keyboard", f"{len(reports)} reports of 8 bytes", TEXT,
                  text_of(reports))  # fmt: skip
        _set_idle(device, _OFTEN)
        again = [_read(device), _read(device)]
        yield Row("idle rate", f"SET_IDLE {4 * _OFTEN} ms, no key touched", "the same again",
                  "the same again" if again == [bytes(8)] * 2 else f"{again}")  # fmt: skip
        _set_idle(device, _NEVER)
        lit = bytes((Led.CAPS_LOCK,))
        device.ctrl_transfer(_CLASS_OUT, HidRequest.SET_REPORT, ReportType.OUTPUT << 8, 0, lit)
        function.wait_leds(Led.CAPS_LOCK, _TIMEOUT_MS / 1000)
        yield Row(
            "LEDs", "SET_REPORT by the host", Led.CAPS_LOCK.name or "", function.leds.name or ""
        )


def _enumeration(device: usb.core.Device) -> Iterator[Row]:
    first = bytes(device.ctrl_transfer(_DEVICE_IN, 6, DescriptorType.DEVICE << 8, 0, 8))
    speed = {usb.util.SPEED_LOW: "low speed"}.get(device.speed, f"speed {device.speed}")
    yield Row("enumeration", "GET_DESCRIPTOR(device)", "low speed, ep0 of 8",
              f"{speed}, ep0 of {first[7]}")  # fmt: skip
    yield Row("no other speed", "GET_DESCRIPTOR(qualifier)", _name(errno.EPIPE),
              _refusal(device, DescriptorType.DEVICE_QUALIFIER))  # fmt: skip
    [interface] = device.get_active_configuration()
    [endpoint] = interface
    kind = {usb.util.ENDPOINT_TYPE_INTR: "interrupt"}.get(endpoint.bmAttributes, "another")
    yield Row("endpoint", "its descriptor", "interrupt 8, 10 ms",
              f"{kind} {endpoint.wMaxPacketSize}, {endpoint.bInterval} ms")  # fmt: skip
    wanted = HidDescriptorType.REPORT << 8
    report = bytes(device.ctrl_transfer(_INTERFACE_IN, 6, wanted, 0, 255))
    length = int.from_bytes(bytes(interface.extra_descriptors)[7:9], "little")
    yield Row("report descriptor", "length in the HID descriptor", f"{length} bytes",
              f"{len(report)} bytes")  # fmt: skip


def mouse_rows(stage: Stage) -> Iterator[Row]:
    """Move the mouse in the report protocol, and click in the boot protocol."""
    gadget, function = mouse()
    with _device(stage, gadget) as device:
        function.move(*MOVEMENT)
        moved, reports = (0, 0), 0
        while moved != MOVEMENT and reports < 10:
            report = MouseReport.parse(_read(device))
            moved, reports = (moved[0] + report.x, moved[1] + report.y), reports + 1
        yield Row("mouse", f"{reports} reports of 4 bytes", "moved by {}, {}".format(*MOVEMENT),
                  "moved by {}, {}".format(*moved))  # fmt: skip
        device.ctrl_transfer(_CLASS_OUT, HidRequest.SET_PROTOCOL, HidProtocol.BOOT, 0)
        function.click("right")
        clicks = [_read(device).hex(), _read(device).hex()]
        yield Row("boot protocol", "a click of the right button", "020000 000000",
                  " ".join(clicks))  # fmt: skip


def _read_text(device: usb.core.Device) -> list[KeyboardReport]:
    """Reports until all of the text has come, or one that is not of it; the last key is up."""
    reports: list[KeyboardReport] = []
    while TEXT.startswith(so_far := text_of(reports)) and (so_far != TEXT or reports[-1].keys):
        reports.append(KeyboardReport.parse(_read(device)))
    return reports


def _read(device: usb.core.Device) -> bytes:
    return bytes(device.read(0x81, KeyboardReport.SIZE, _TIMEOUT_MS))


def _set_idle(device: usb.core.Device, steps: int) -> None:
    device.ctrl_transfer(_CLASS_OUT, HidRequest.SET_IDLE, steps << 8, 0)


def _refusal(device: usb.core.Device, descriptor: DescriptorType) -> str:
    try:
        data = device.ctrl_transfer(_DEVICE_IN, 6, descriptor << 8, 0, 255)
    except usb.core.USBError as error:
        return _name(error.errno or 0)
    return f"{len(data)} bytes"


def _name(number: int) -> str:
    return errno_name(number).split()[0]
