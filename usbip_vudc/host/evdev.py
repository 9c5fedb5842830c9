"""InputEvents: what Linux made of a keyboard's or a mouse's reports, read from /dev/input/eventN.

It speaks the kernel's structures itself (include/uapi/linux/input.h) and needs no library. It
knows the keys of a US keyboard, which is what turns codes back into text.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Self

from usbip_vudc.settle import NotReady

__all__ = ("BUTTONS", "InputEvent", "InputEvents", "LedCode", "RelativeCode", "TypedText")

_EVENT: Final = struct.Struct("@llHHi")
"""struct input_event of a process whose time_t is a long."""

_GRAB: Final = 0x40044590
"""EVIOCGRAB, _IOW('E', 0x90, int)."""

_KEY, _RELATIVE, _LED = 0x01, 0x02, 0x11

_SHIFTS: Final = (42, 54)

_ROWS: Final = (
    (2, "1234567890-=", "!@#$%^&*()_+"),
    (15, "\tqwertyuiop[]\n", "\tQWERTYUIOP{}\n"),
    (30, "asdfghjkl;'`", 'ASDFGHJKL:"~'),
    (43, "\\zxcvbnm,./", "|ZXCVBNM<>?"),
    (57, " ", " "),
)
"""The first KEY_ code of a row of keys, and what they make without and with Shift
(include/uapi/linux/input-event-codes.h)."""

_TEXT: Final = {
    (code, shift): character
    for first, plain, shifted in _ROWS
    for shift, row in ((False, plain), (True, shifted))
    for code, character in enumerate(row, first)
}

BUTTONS: Final = {0x110: "left", 0x111: "right", 0x112: "middle"}
"""BTN_ codes of a mouse."""


class RelativeCode:
    """REL_ codes of a mouse."""

    X, Y, WHEEL = 0x00, 0x01, 0x08


class LedCode:
    """LED_ codes of a keyboard."""

    NUM_LOCK, CAPS_LOCK, SCROLL_LOCK = 0, 1, 2


@dataclass(frozen=True, slots=True)
class InputEvent:
    """One event: ``kind`` is EV_*, ``value`` 1 for a key that went down, 0 for up."""

    kind: int
    code: int
    value: int

    @property
    def relative(self) -> bool:
        """Whether something moved: ``code`` is a `RelativeCode`."""
        return self.kind == _RELATIVE

    @property
    def pressed(self) -> bool:
        """Whether a key or a button went down."""
        return self.kind == _KEY and self.value == 1


class TypedText:
    """Makes text of events. ``text`` is what has been typed so far."""

    def __init__(self) -> None:
        self.text = ""
        self._shifts: set[int] = set()

    def feed(self, event: InputEvent) -> None:
        """Take an event; what is no key that makes a character changes nothing."""
        if event.kind != _KEY:
            return
        if event.code in _SHIFTS:
            (self._shifts.add if event.value else self._shifts.discard)(event.code)
        elif event.value == 1:
            self.text += _TEXT.get((event.code, bool(self._shifts)), "")


class InputEvents:
    """An open event device, which nobody else hears meanwhile: its keys reach no other program."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    @contextmanager
    def open(cls, node: str) -> Iterator[Self]:
        """Open and grab a node. Raises OSError, also where another program has grabbed it."""
        fd = os.open(node, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _GRAB, 1)
            yield cls(fd)
        finally:
            os.close(fd)

    def read_until(
        self, feed: Callable[[InputEvent], object], done: Callable[[], bool], timeout: float
    ) -> None:
        """Feed events until it is done. Raises NotReady after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while not done():
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._fd], [], [], left)[0]:
                raise NotReady(f"no more input events came within {timeout:g} s")
            for fields in _EVENT.iter_unpack(os.read(self._fd, 64 * _EVENT.size)):
                feed(InputEvent(*fields[2:]))

    def read_text(self, length: int, timeout: float) -> str:
        """Read until so many characters have been typed. Raises NotReady."""
        typed = TypedText()
        self.read_until(typed.feed, lambda: len(typed.text) >= length, timeout)
        return typed.text

    def set_led(self, code: int, lit: bool) -> None:
        """Light an LED of a keyboard, or put it out; the kernel sends the report soon."""
        os.write(self._fd, _EVENT.pack(0, 0, _LED, code, int(lit)))
