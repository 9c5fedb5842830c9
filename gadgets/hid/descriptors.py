"""The report descriptors of the keyboard and the mouse (HID 1.11 6.2.2 and appendix E). Pure."""

from __future__ import annotations

from typing import Final

__all__ = ("KEYBOARD", "MOUSE")


def _bytes(text: str) -> bytes:
    """The hexadecimal bytes before the # of each line."""
    return bytes.fromhex("".join(line.partition("#")[0] for line in text.splitlines()))


KEYBOARD: Final = _bytes("""
05 01  # Usage Page (Generic Desktop)
09 06  # Usage (Keyboard)
a1 01  # Collection (Application)
05 07  #   Usage Page (Keyboard/Keypad)
19 e0  #   Usage Minimum (Left Control)
29 e7  #   Usage Maximum (Right GUI)
15 00  #   Logical Minimum (0)
25 01  #   Logical Maximum (1)
75 01  #   Report Size (1)
95 08  #   Report Count (8)
81 02  #   Input (Data, Variable, Absolute): the modifiers
95 01  #   Report Count (1)
75 08  #   Report Size (8)
81 01  #   Input (Constant): a reserved byte
95 05  #   Report Count (5)
75 01  #   Report Size (1)
05 08  #   Usage Page (LEDs)
19 01  #   Usage Minimum (Num Lock)
29 05  #   Usage Maximum (Kana)
91 02  #   Output (Data, Variable, Absolute): the LEDs
95 01  #   Report Count (1)
75 03  #   Report Size (3)
91 01  #   Output (Constant): the rest of that byte
95 06  #   Report Count (6)
75 08  #   Report Size (8)
15 00  #   Logical Minimum (0)
25 65  #   Logical Maximum (101)
05 07  #   Usage Page (Keyboard/Keypad)
19 00  #   Usage Minimum (no key)
29 65  #   Usage Maximum (Application)
81 00  #   Input (Data, Array): the keys
c0     # End Collection
""")
"""What the boot protocol fixes, spelled out: 8 bytes in, 1 out."""

MOUSE: Final = _bytes("""
05 01  # Usage Page (Generic Desktop)
09 02  # Usage (Mouse)
a1 01  # Collection (Application)
09 01  #   Usage (Pointer)
a1 00  #   Collection (Physical)
05 09  #     Usage Page (Button)
19 01  #     Usage Minimum (1)
29 03  #     Usage Maximum (3)
15 00  #     Logical Minimum (0)
25 01  #     Logical Maximum (1)
95 03  #     Report Count (3)
75 01  #     Report Size (1)
81 02  #     Input (Data, Variable, Absolute): the buttons
95 01  #     Report Count (1)
75 05  #     Report Size (5)
81 01  #     Input (Constant): the rest of that byte
05 01  #     Usage Page (Generic Desktop)
09 30  #     Usage (X)
09 31  #     Usage (Y)
09 38  #     Usage (Wheel)
15 81  #     Logical Minimum (-127)
25 7f  #     Logical Maximum (127)
75 08  #     Report Size (8)
95 03  #     Report Count (3)
81 06  #     Input (Data, Variable, Relative): the movement
c0     #   End Collection
c0     # End Collection
""")
"""4 bytes in: those of the boot protocol, and the wheel."""
