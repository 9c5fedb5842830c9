"""The low-speed devices on this machine's own kernel: vhci_hcd, evdev and cdc-acm.

It needs root and the modules, which `usbip-vudc lab` has. What the keyboard types is heard by the
demo alone: it grabs the event device before it types.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from usbip_vudc.carrier import OURS, Carried, Carrier, carried
from usbip_vudc.demo.hid_case import MOVEMENT, TEXT, keyboard, mouse
from usbip_vudc.demo.low_speed import a_file, bulk_serial
from usbip_vudc.demo.serial_case import digest
from usbip_vudc.demo.stage import Stage
from usbip_vudc.gadget import Gadget
from usbip_vudc.host.evdev import InputEvent, InputEvents, LedCode, RelativeCode
from usbip_vudc.injection import injected
from usbip_vudc.kernel_log import KernelLog
from usbip_vudc.proxy.export import Behind
from usbip_vudc.report import Row
from usbip_vudc.sysfs import read_attribute
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.usb.hid import Led

__all__ = ("HOW", "echo", "linux_cases", "why_not")

HOW: Final = "usbip-vudc lab -- usbip-vudc demo lowspeed"

_CARRIER: Final = Carrier(OURS, Speed.LOW, "linux")
_MODULES: Final = ("vhci-hcd", "usbhid", "hid-generic", "evdev", "cdc-acm")
_FILE_SIZE: Final = 8 << 10
_PATIENCE: Final = 60.0
_GREETING: Final = "new low-speed USB"


def why_not() -> str | None:
    """Why this machine cannot show it, in a few words; None where it can. Loads the modules."""
    modprobe = shutil.which("modprobe", path=f"{os.environ.get('PATH', '')}:/sbin:/usr/sbin")
    if os.geteuid() == 0 and modprobe is not None:
        subprocess.run((modprobe, "-aq", *_MODULES), capture_output=True, check=False)
    return _CARRIER.why_not()


def linux_cases(stage: Stage) -> Iterator[tuple[str, Iterator[Row]]]:
    """Each case by name with its rows, which run as they are asked for."""
    yield "Linux: keyboard", _keyboard(stage)
    yield "Linux: mouse", _mouse(stage)
    yield "Linux: serial port", _serial(stage)


@contextmanager
def _attached(stage: Stage, gadget: Gadget) -> Iterator[Carried]:
    """The gadget as a device of this machine's, under the same plan."""
    plan = stage.plan
    with carried(injected(gadget, plan), _CARRIER, export=Behind(plan) if plan else None) as device:
        yield device


def _keyboard(stage: Stage) -> Iterator[Row]:
    gadget, function = keyboard()
    with KernelLog(required=False) as log, _attached(stage, gadget) as device:
        seen = f"{read_attribute(device.sysfs / 'speed')} Mbit/s"
        ep0 = read_attribute(device.sysfs / "bMaxPacketSize0")
        yield Row("Linux: enumeration", "sysfs of the keyboard",
                  "1.5 Mbit/s, ep0 8", f"{seen}, ep0 {ep0}")  # fmt: skip
        said = [line for line in log.read() if "USB device number" in line]
        yield Row("Linux: dmesg", "what the kernel said", _GREETING,
                  _GREETING if any(_GREETING in line for line in said) else f"{said}")  # fmt: skip
        with InputEvents.open(device.node("event")) as events:
            function.type(TEXT)
            yield Row("Linux: keyboard", "typed, read through evdev", TEXT,
                      events.read_text(len(TEXT), _PATIENCE))  # fmt: skip
            events.set_led(LedCode.CAPS_LOCK, True)
            function.wait_leds(Led.CAPS_LOCK, _PATIENCE)
            yield Row("Linux: LEDs", "caps lock lit through evdev", Led.CAPS_LOCK.name or "",
                      function.leds.name or "")  # fmt: skip


def _mouse(stage: Stage) -> Iterator[Row]:
    gadget, function = mouse()
    with _attached(stage, gadget) as device:
        with InputEvents.open(device.node("event")) as events:
            moved = {RelativeCode.X: 0, RelativeCode.Y: 0}
            clicked = False

            def feed(event: InputEvent) -> None:
                nonlocal clicked
                if event.relative and event.code in moved:
                    moved[event.code] += event.value
                clicked = clicked or event.pressed

            function.move(*MOVEMENT)
            function.click("left")
            events.read_until(feed, lambda: clicked, _PATIENCE)
        yield Row("Linux: mouse", "moved, read through evdev",
                  "moved by {}, {}".format(*MOVEMENT),
                  "moved by {}, {}".format(*moved.values()))  # fmt: skip


def _serial(stage: Stage) -> Iterator[Row]:
    with _attached(stage, bulk_serial()) as device:
        node = device.node("ttyACM")
        kinds = [
            f"{read_attribute(path / 'type')} {int(read_attribute(path / 'wMaxPacketSize'), 16)}"
            for path in sorted(device.sysfs.glob("*:1.1/ep_*"))
        ]
        yield Row("Linux: bulk", "what the kernel makes of it", "Interrupt 8",
                  " or ".join(dict.fromkeys(kinds)))  # fmt: skip
        data = a_file(_FILE_SIZE)
        echoed = echo(node, data)
        yield Row(f"Linux: {Path(node).name}", f"{len(data) >> 10} KiB sent and read back",
                  f"sha256 {digest(data)}", f"sha256 {digest(echoed)}")  # fmt: skip


def echo(node: str, data: bytes) -> bytes:
    """What comes back of a file that is written to a raw tty, as far as it comes."""
    fd = os.open(node, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        tty.setraw(fd)
        echoed = bytearray()
        rest = memoryview(data)
        deadline = time.monotonic() + _PATIENCE
        while len(echoed) < len(data) and time.monotonic() < deadline:
            readable, writable, _ = select.select([fd], [fd] if rest else [], [], 1.0)
            if writable:
                rest = rest[os.write(fd, rest[:4096]) :]
            if readable:
                echoed += os.read(fd, 65536)
        return bytes(echoed)
    finally:
        os.close(fd)
