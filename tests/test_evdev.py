"""Input events: the kernel's bytes become text, movements and LEDs."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

import pytest

from usbip_vudc.host.evdev import InputEvent, InputEvents, LedCode, TypedText
from usbip_vudc.settle import NotReady

KEY, SYN = 1, 0
LEFT_SHIFT, H, LETTER_I, ENTER, SLASH = 42, 35, 23, 28, 53


def event(kind: int, code: int, value: int) -> bytes:
    """struct input_event of a 64-bit kernel: two longs of time, then what happened."""
    return struct.pack("<qqHHi", 1_700_000_000, 999_999, kind, code, value)


def stroke(code: int) -> bytes:
    return b"".join(event(*fields) for fields in ((KEY, code, 1), (SYN, 0, 0), (KEY, code, 0)))


@pytest.fixture
def pipe() -> Iterator[tuple[InputEvents, int]]:
    """What a node would give to read, and where it comes from."""
    read_end, write_end = os.pipe()
    yield InputEvents(read_end), write_end
    os.close(read_end)
    os.close(write_end)


def test_keys_become_the_text_of_a_us_keyboard(pipe: tuple[InputEvents, int]) -> None:
    events, node = pipe
    os.write(node, event(KEY, LEFT_SHIFT, 1) + stroke(H) + event(KEY, LEFT_SHIFT, 0))
    os.write(node, stroke(LETTER_I) + event(KEY, LETTER_I, 2) + stroke(SLASH) + stroke(ENTER))
    assert events.read_text(4, 5) == "Hi/\n"


def test_what_does_not_come_is_waited_for_until_the_deadline(
    pipe: tuple[InputEvents, int],
) -> None:
    events, node = pipe
    os.write(node, stroke(H))
    with pytest.raises(NotReady, match=r"within 0\.01 s"):
        events.read_text(2, 0.01)


def test_an_event_that_is_no_key_types_nothing() -> None:
    typed = TypedText()
    for fields in ((SYN, 0, 0), (2, 0, 5), (4, 4, 0x70004), (KEY, 59, 1)):
        typed.feed(InputEvent(*fields))
    assert typed.text == ""


def test_an_led_is_an_event_that_is_written() -> None:
    read_end, write_end = os.pipe()
    InputEvents(write_end).set_led(LedCode.CAPS_LOCK, True)
    assert os.read(read_end, 100)[16:] == struct.pack("<HHi", 0x11, 1, 1)
    os.close(read_end)
    os.close(write_end)
