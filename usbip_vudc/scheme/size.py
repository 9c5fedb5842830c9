"""Sizes as people write them. Pure."""

from __future__ import annotations

from typing import Final

from usbip_vudc.errors import SchemeError

__all__ = ("MOST", "parse_size")

_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

MOST: Final = (1 << 63) - 1
"""Bytes that an offset into a file can count (off_t)."""


def parse_size(text: str) -> int:
    """Bytes of ``4096``, ``64M``, ``1GiB``... Raises SchemeError for anything else.

    >>> parse_size("64M")
    67108864
    """
    word = text.strip().upper().removesuffix("B").removesuffix("I")
    unit = word[-1:] if word[-1:].isalpha() else ""
    digits = word.removesuffix(unit) if unit else word
    # int() gives up at 4300 digits, with an error of its own.
    if digits.isdecimal() and unit in _UNITS and len(digits) <= len(str(MOST)):
        size = int(digits) * _UNITS[unit]
        if 0 < size <= MOST:
            return size
    raise SchemeError(
        f"size {text!r:.100}: expected bytes with K, M, G or T, such as 64M, below 8388608T"
    )
