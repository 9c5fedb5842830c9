"""KeyboardFunction: a US keyboard that a program types on (HID 1.11, boot protocol).

``keyboard.type("Hello"); keyboard.tap("ctrl", "c"); keyboard.wait_taken()``: each change is one
report of eight bytes, and a host takes one report at each poll.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import ClassVar, Final

import anyio

from gadgets.hid.descriptors import KEYBOARD
from gadgets.hid.function import HidFunction
from usbip_vudc.errors import SchemeError
from usbip_vudc.usb.hid import MAX_KEYS, BootProtocol, KeyboardReport, Led, Modifier
from usbip_vudc.usb.keys import strokes, usage

__all__ = ("KeyboardFunction",)

log = logging.getLogger(__name__)

_US: Final = 33
"""bCountryCode (HID 1.11 6.2.1)."""

_IDLE: Final = 125
"""500 ms: what HID 1.11 7.2.4 recommends for keyboards. Linux sets it to never."""


class KeyboardFunction(HidFunction):
    """A keyboard. What is typed while there is no host waits for one.

    ``text`` is typed by itself, once for each host, ``delay`` seconds after it has configured the
    device: a host that still looks at its new keyboard loses what comes before. ``on_leds`` is
    called in the UDC's thread with what SET_REPORT says.

    The keyboard may be used from any thread and any task; `wait_taken` and `wait_leds` block
    their thread. Raises SchemeError for a text that a US keyboard does not have.
    """

    name: ClassVar[str] = "hid_keyboard"

    def __init__(
        self,
        *,
        text: str = "",
        delay: float = 1.0,
        on_leds: Callable[[Led], None] | None = None,
    ) -> None:
        super().__init__(
            BootProtocol.KEYBOARD,
            KEYBOARD,
            neutral=KeyboardReport().pack(),
            boot_length=KeyboardReport.SIZE,
            idle=_IDLE,
            bCountryCode=_US,
        )
        strokes(text)
        self.text = text
        self.delay = delay
        self._on_leds = on_leds
        self._held = KeyboardReport()
        self._leds = Led(0)
        self._lock = threading.Condition()

    # --- keys ----------------------------------------------------------------------------------

    def type(self, text: str) -> None:
        """Press and release the key of each character, with Shift where it needs that.

        Raises SchemeError for a character that a US keyboard does not have, or whose key could not
        be told from those that are held; nothing is typed.
        """
        with self._lock:
            held = self._held
            reports = []
            for character, stroke in zip(text, strokes(text), strict=True):
                if stroke.usage in held.keys or len(held.keys) >= MAX_KEYS:
                    raise SchemeError(
                        f"text {text!r}: {character!r} cannot be typed while its key, or "
                        f"{MAX_KEYS} others, are held: release them first"
                    )
                down = KeyboardReport(held.modifiers | stroke.modifiers, (*held.keys, stroke.usage))
                reports += [down.pack(), held.pack()]
            self._reports.send(*reports)

    def press(self, *keys: str) -> None:
        """Press keys, one after the other, and hold them: characters, or names such as ctrl, f1.

        Raises SchemeError for a word that names no key (usbip_vudc/usb/keys.py has all); nothing
        is pressed then.
        """
        self._change(keys, _with)

    def release(self, *keys: str) -> None:
        """Let go of keys, or without any of all of them. Raises as `press` does."""
        if keys:
            self._change(keys, _without)
            return
        with self._lock:
            self._held = KeyboardReport()
            self._reports.send(self._held.pack(), rest=self._held.pack())

    def tap(self, *keys: str) -> None:
        """Press keys, hold them together, and let go of them in the reverse order."""
        with self._lock:
            self.press(*keys)
            self.release(*reversed(keys))

    def _change(
        self, keys: tuple[str, ...], change: Callable[[KeyboardReport, int], KeyboardReport]
    ) -> None:
        usages = [usage(key) for key in keys]
        with self._lock:
            reports = []
            for number in usages:
                self._held = change(self._held, number)
                reports.append(self._held.pack())
            self._reports.send(*reports, rest=self._held.pack())

    # --- LEDs ----------------------------------------------------------------------------------

    @property
    def leds(self) -> Led:
        """What the host set last; they go out as another one comes."""
        return self._leds

    def wait_leds(self, leds: Led, timeout: float = 30.0) -> None:
        """Wait until the LEDs are as given, at most ``timeout`` seconds. Raises TimeoutError."""
        with self._lock:
            if not self._lock.wait_for(lambda: self._leds == leds, timeout):
                raise TimeoutError(f"LEDs {self._leds!r} after {timeout:g} s, expected {leds!r}")

    def _take_output(self, data: bytes) -> bool:
        if not data:
            return False
        self._set_leds(Led(data[0] & 0x1F))  # the other bits are constant
        if self._on_leds is not None:
            self._on_leds(self._leds)
        return True

    def _set_leds(self, leds: Led) -> None:
        with self._lock:
            self._leds = leds
            self._lock.notify_all()

    # --- HidFunction ---------------------------------------------------------------------------

    def selected(self) -> None:
        """The LEDs are off, and the rest is as it was at first."""
        super().selected()
        self._set_leds(Led(0))

    async def _perform(self) -> None:
        if self.text:
            await anyio.sleep(self.delay)
            with self._reports.for_this_host():
                try:
                    self.type(self.text)
                except SchemeError as error:  # of keys that are held, not of the text
                    log.warning("%s: %s", self.name, error)

    def _still(self, report: bytes) -> bytes:
        return report


def _with(report: KeyboardReport, number: int) -> KeyboardReport:
    if isinstance(number, Modifier):
        return KeyboardReport(report.modifiers | number, report.keys)
    keys = report.keys if number in report.keys else (*report.keys, number)
    return KeyboardReport(report.modifiers, keys)


def _without(report: KeyboardReport, number: int) -> KeyboardReport:
    if isinstance(number, Modifier):
        return KeyboardReport(report.modifiers & ~number, report.keys)
    return KeyboardReport(report.modifiers, tuple(key for key in report.keys if key != number))
