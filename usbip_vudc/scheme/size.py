"""Sizes as people write them. Pure."""

from __future__ import annotations

from typing import Final

from usbip_vudc.errors import SchemeError

__all__ = ("parse_size",)

_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(text: str) -> int:
    """Bytes of ``4096``, ``64M``, ``1GiB``... Raises SchemeError for anything else.

    >>> parse_size("64M")
    67108864
    """
    word = text.strip().upper().removesuffix("B").removesuffix("I")
    unit = word[-1:] if word[-1:].isalpha() else ""
    digits = word.removesuffix(unit) if unit else word
    if not digits.isdecimal() or unit not in _UNITS or not int(digits):
        raise SchemeError(f"size {text!r}: expected bytes with K, M, G or T, such as 64M")
    return int(digits) * _UNITS[unit]
