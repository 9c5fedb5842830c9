"""How the keyboard and the mouse are written in schemes (registry.FUNCTIONS names these)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from gadgets.hid.keyboard import KeyboardFunction
from gadgets.hid.mouse import MouseFunction
from usbip_vudc.function import Function
from usbip_vudc.scheme.functions import FunctionScheme
from usbip_vudc.scheme.table import Table

__all__ = ("KeyboardScheme", "MouseScheme")

_MOST_MS: Final = 3_600_000


class KeyboardScheme(FunctionScheme):
    """``type = "hid_keyboard"``: a US keyboard."""

    comments: ClassVar[Mapping[str, str]] = {
        "text": "what it types by itself, once for each host; \\n is Enter",
        "delay_ms": "how long it waits before it types its text (text = '...'), so that the host "
        "listens",
    }

    def from_scheme(self, table: Table) -> KeyboardFunction:
        """Build it of text and delay_ms."""
        table.expect("type", "text", "delay_ms")
        return KeyboardFunction(
            text=table.text("text", ""),
            delay=table.integer("delay_ms", 1000, 0, _MOST_MS) / 1000,
        )

    def to_scheme(self, function: Function) -> dict[str, object]:
        """Its keys."""
        assert isinstance(function, KeyboardFunction)
        return {"text": function.text, "delay_ms": round(function.delay * 1000)}


class MouseScheme(FunctionScheme):
    """``type = "hid_mouse"``: a mouse with three buttons and a wheel."""

    comments: ClassVar[Mapping[str, str]] = {
        "path": "where it goes by itself for each host: steps DX,DY, or left, right, middle to "
        "click, such as '40,0 0,40 -40,0 0,-40'",
        "repeat": "go along the path again and again",
        "delay_ms": "how long it waits before it goes along its path (path = '40,0 0,40 left')",
        "step_ms": "how long it rests after each step",
    }

    def from_scheme(self, table: Table) -> MouseFunction:
        """Build it of path, repeat, delay_ms and step_ms."""
        table.expect("type", "path", "repeat", "delay_ms", "step_ms")
        return MouseFunction(
            path=table.text("path", ""),
            repeat=table.flag("repeat", False),
            delay=table.integer("delay_ms", 1000, 0, _MOST_MS) / 1000,
            step=table.integer("step_ms", 100, 1, _MOST_MS) / 1000,
        )

    def to_scheme(self, function: Function) -> dict[str, object]:
        """Its keys."""
        assert isinstance(function, MouseFunction)
        return {
            "path": function.path,
            "repeat": function.repeat,
            "delay_ms": round(function.delay * 1000),
            "step_ms": round(function.step * 1000),
        }
