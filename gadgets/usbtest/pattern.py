"""The bytes that usbtest and its devices agree on. Pure.

A packet always begins the pattern anew, so both sides stay in step whatever was lost before
(drivers/usb/misc/usbtest.c, simple_fill_buf; drivers/usb/gadget/function/f_sourcesink.c).
"""

from __future__ import annotations

from typing import Final

__all__ = ("ANYTHING", "MOD63", "PATTERNS", "ZEROS", "pattern_bytes", "wrong_byte")

ZEROS: Final = 0
"""All zero: what usbtest sends and expects unless told otherwise."""
MOD63: Final = 1
"""Byte ``i`` of a packet is ``i % 63``."""
ANYTHING: Final = 2
"""A sink looks at nothing; a source sends zeros."""

PATTERNS: Final = (ZEROS, MOD63, ANYTHING)
"""The values of module parameter ``pattern``, on either side."""

_MOD63: Final = bytes(range(63))


def pattern_bytes(pattern: int, max_packet_size: int, length: int) -> bytes:
    """``length`` bytes of whole packets of ``max_packet_size`` bytes, the last one cut."""
    if pattern != MOD63:
        return bytes(length)
    packet = (_MOD63 * (max_packet_size // 63 + 1))[:max_packet_size]
    return (packet * (length // max_packet_size + 1))[:length]


def wrong_byte(received: memoryview, expected: bytes) -> int | None:
    """Where ``received`` leaves what was expected; None where it does not."""
    if expected.startswith(received):
        return None
    return next(i for i, byte in enumerate(received) if byte != expected[i])
