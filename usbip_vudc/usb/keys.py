"""Keys of a keyboard by name, and the characters that they make on a US layout.

Numbers are usages of page 7, Keyboard/Keypad (HID Usage Tables, 10). Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from usbip_vudc.errors import SchemeError
from usbip_vudc.usb.hid import ROLL_OVER, KeyboardReport, Modifier

__all__ = ("KEYS", "MODIFIERS", "Stroke", "strokes", "text_of", "usage")

# Plain and with Shift, in the order of their usages, in runs that start at the usage given.
_RUNS: Final = (
    (0x04, "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    (0x1E, "1234567890", "!@#$%^&*()"),
    (0x28, "\n", ""),
    (0x2B, "\t -=[]\\", "\0\0_+{}|"),
    (0x33, ";'`,./", ':"~<>?'),
)

KEYS: Final = {
    "enter": 0x28,
    "esc": 0x29,
    "backspace": 0x2A,
    "tab": 0x2B,
    "space": 0x2C,
    "capslock": 0x39,
    **{f"f{number}": 0x39 + number for number in range(1, 13)},
    "printscreen": 0x46,
    "scrolllock": 0x47,
    "pause": 0x48,
    "insert": 0x49,
    "home": 0x4A,
    "pageup": 0x4B,
    "delete": 0x4C,
    "end": 0x4D,
    "pagedown": 0x4E,
    "right": 0x4F,
    "left": 0x50,
    "down": 0x51,
    "up": 0x52,
    "numlock": 0x53,
    "menu": 0x65,
}
"""Name -> usage of the keys that make no character, and of some that do."""

MODIFIERS: Final = {
    "ctrl": Modifier.LEFT_CTRL,
    "shift": Modifier.LEFT_SHIFT,
    "alt": Modifier.LEFT_ALT,
    "gui": Modifier.LEFT_GUI,
    "rightctrl": Modifier.RIGHT_CTRL,
    "rightshift": Modifier.RIGHT_SHIFT,
    "altgr": Modifier.RIGHT_ALT,
    "rightgui": Modifier.RIGHT_GUI,
}
"""Name -> bit of the keys that have no place of their own in a report."""

_SHIFT: Final = Modifier.LEFT_SHIFT | Modifier.RIGHT_SHIFT


@dataclass(frozen=True, slots=True)
class Stroke:
    """One key, and the modifiers that must be down with it."""

    usage: int
    modifiers: Modifier = Modifier(0)  # noqa: RUF009 - a value


def _layout() -> Iterator[tuple[str, Stroke]]:
    for start, plain, shifted in _RUNS:
        for usage_, character in enumerate(plain, start):
            yield character, Stroke(usage_)
        for usage_, character in enumerate(shifted, start):
            if character != "\0":
                yield character, Stroke(usage_, Modifier.LEFT_SHIFT)


_US: Final = dict(_layout())
_CHARACTERS: Final = {stroke: character for character, stroke in _US.items()}


def strokes(text: str) -> tuple[Stroke, ...]:
    """What types a text on a US keyboard.

    Raises SchemeError for a character that has no key there; nothing is typed then.
    """
    for character in text:
        if character not in _US:
            raise SchemeError(
                f"text {text!r}: {character!r} is on no key of a US keyboard; expected printable "
                f"ASCII, newline or tab"
            )
    return tuple(_US[character] for character in text)


def usage(key: str) -> int | Modifier:
    """The usage of a key, or the bit of a modifier: by name, or by the character that it makes.

    Raises SchemeError for any other word, and for a character that needs Shift.
    """
    word = key.lower() if len(key) > 1 else key
    if word in MODIFIERS:
        return MODIFIERS[word]
    if word in KEYS:
        return KEYS[word]
    stroke = _US.get(key)
    if stroke is None or stroke.modifiers:
        raise SchemeError(
            f"key {key!r}: expected a character that a US keyboard makes without Shift, or one of "
            f"{', '.join((*MODIFIERS, *KEYS))}"
        )
    return stroke.usage


def text_of(reports: Iterable[KeyboardReport]) -> str:
    """The text that a host makes of reports: a character for each key that was not down before.

    Keys that make none are left out; so are reports of a roll-over, and caps lock, which is the
    host's own affair.
    """
    text = []
    before: tuple[int, ...] = ()
    for report in reports:
        if ROLL_OVER in report.keys:
            continue  # it cannot say which keys are down: a host goes by what it knew before
        shift = Modifier.LEFT_SHIFT if report.modifiers & _SHIFT else Modifier(0)
        text += [
            _CHARACTERS.get(Stroke(key, shift), "") for key in report.keys if key not in before
        ]
        before = report.keys
    return "".join(text)
