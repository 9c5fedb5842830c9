"""MouseFunction: a mouse with three buttons and a wheel that a program moves (HID 1.11).

mouse.move(300, -20)
mouse.click("right")
mouse.wait_taken()
"""

from __future__ import annotations

import re
import threading
from itertools import pairwise
from typing import ClassVar, Final

import anyio

from gadgets.hid.descriptors import MOUSE
from gadgets.hid.function import HidFunction
from usbip_vudc.errors import SchemeError
from usbip_vudc.usb.hid import BootProtocol, Button, MouseReport

__all__ = ("MouseFunction", "parse_path")

_MOST: Final = 127
"""How far one report can say that it moved."""

_BUTTONS: Final = {button.name.lower(): button for button in Button if button.name}

Step = tuple[int, int] | str
"""A movement to the right and down, or the name of a button that is clicked."""


def parse_path(text: str) -> tuple[Step, ...]:
    """Read steps such as ``40,0 0,40 left``: DX,DY, or a button to click.

    Raises SchemeError for any other word.
    """
    steps: list[Step] = []
    for word in text.split():
        found = re.fullmatch(r"([+-]?\d+),([+-]?\d+)", word)
        if found:
            steps.append((int(found[1]), int(found[2])))
        elif word in _BUTTONS:
            steps.append(word)
        else:
            raise SchemeError(
                f"path {text!r}: {word!r}: expected DX,DY such as 40,-3, or {', '.join(_BUTTONS)}"
            )
    return tuple(steps)


class MouseFunction(HidFunction):
    """A mouse. What it does while there is no host waits for one.

    ``path`` is gone by itself, once for each host or, with ``repeat``, again and again; ``delay``
    seconds pass before it, and ``step`` seconds after each of its steps. Raises SchemeError for a
    path that is none.

    The mouse may be used from any thread and any task; `wait_taken` blocks its thread.
    """

    name: ClassVar[str] = "hid_mouse"

    def __init__(
        self, *, path: str = "", repeat: bool = False, delay: float = 1.0, step: float = 0.1
    ) -> None:
        super().__init__(
            BootProtocol.MOUSE,
            MOUSE,
            neutral=MouseReport().pack(),
            boot_length=MouseReport.BOOT_SIZE,
            idle=0,  # HID 1.11 7.2.4: never, for mice
        )
        self._steps = parse_path(path)
        self.path = path
        self.repeat = repeat
        self.delay = delay
        self.step = step
        self._buttons = Button(0)
        self._lock = threading.RLock()

    def move(self, dx: int, dy: int) -> None:
        """Move to the right and down, by as many reports of at most 127 as it takes."""
        with self._lock:
            count = max(-(-abs(dx) // _MOST), -(-abs(dy) // _MOST), 1)
            points = [(dx * i // count, dy * i // count) for i in range(count + 1)]
            self._reports.send(
                *(
                    MouseReport(self._buttons, x - before_x, y - before_y).pack()
                    for (before_x, before_y), (x, y) in pairwise(points)
                )
            )

    def scroll(self, detents: int) -> None:
        """Turn the wheel: away from the user, up; negative towards them."""
        with self._lock:
            count = max(-(-abs(detents) // _MOST), 1)
            points = [detents * i // count for i in range(count + 1)]
            self._reports.send(
                *(
                    MouseReport(self._buttons, wheel=now - before).pack()
                    for before, now in pairwise(points)
                )
            )

    def press(self, button: str = "left") -> None:
        """Press left, right or middle, and hold it. Raises SchemeError for another name."""
        with self._lock:
            self._buttons |= _button(button)
            self._send_buttons()

    def release(self, button: str = "left") -> None:
        """Let go of a button. Raises SchemeError for a name that is none."""
        with self._lock:
            self._buttons &= ~_button(button)
            self._send_buttons()

    def click(self, button: str = "left") -> None:
        """Press a button and let go of it."""
        with self._lock:
            self.press(button)
            self.release(button)

    def _send_buttons(self) -> None:
        report = MouseReport(self._buttons).pack()
        self._reports.send(report, rest=report)

    # --- HidFunction ---------------------------------------------------------------------------

    async def _perform(self) -> None:
        await anyio.sleep(self.delay)
        while True:
            for step in self._steps:
                with self._reports.for_this_host():
                    if isinstance(step, str):
                        self.click(step)
                    else:
                        self.move(*step)
                await anyio.sleep(self.step)
            if not self.repeat or not self._steps:
                return

    def _take_output(self, data: bytes) -> bool:  # noqa: ARG002 - a mouse has no output report
        return False

    def _still(self, report: bytes) -> bytes:
        return MouseReport(MouseReport.parse(report).buttons).pack()


def _button(name: str) -> Button:
    if name not in _BUTTONS:
        raise SchemeError(f"button {name!r}: expected one of {', '.join(_BUTTONS)}")
    return _BUTTONS[name]
