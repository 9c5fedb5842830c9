"""The EEPROM of an FT232R: 128 bytes of ids, strings and pin functions. Pure.

Hosts read it a word at a time; what is in it changes nothing of what the gadget does.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from usbip_vudc.errors import SchemeError

__all__ = ("SIZE", "checksum", "eeprom")

SIZE: Final = 128

_HEAD: Final = struct.Struct("<HHHHBBBBH")
_STRINGS_AT: Final = 0x18
_ROOM: Final = SIZE - 2 - _STRINGS_AT
_CBUS: Final = struct.pack("<HH", 0x1023, 0x0005)
"""TXLED#, RXLED#, TXDEN, PWREN# and SLEEP#, as it leaves the factory: no pin is for GPIO."""

_SERIAL_NUMBER: Final = 0x08
_SEED: Final = 0xAAAA


def checksum(words: Sequence[int]) -> int:
    """What the last word must be, given those before it."""
    value = _SEED
    for word in words:
        value ^= word
        value = (value << 1 | value >> 15) & 0xFFFF
    return value


def eeprom(
    *,
    idVendor: int = 0x0403,
    idProduct: int = 0x6001,
    bcdDevice: int = 0x0600,
    max_power_ma: int = 90,
    manufacturer: str = "FTDI",
    product: str = "FT232R USB UART",
    serial: str = "",
) -> bytes:
    """An EEPROM with its checksum. Raises SchemeError where the strings do not fit.

    They have 102 bytes together, two for each and two for a character.
    """
    head = _HEAD.pack(
        0x4000, idVendor, idProduct, bcdDevice, 0x80, max_power_ma // 2, _SERIAL_NUMBER, 0, 0x0200
    )
    table, strings = bytearray(), bytearray()
    for text in (manufacturer, product, serial):
        descriptor = text.encode("utf-16-le")
        table += bytes((0x80 | _STRINGS_AT + len(strings), (2 + len(descriptor)) & 0xFF))
        strings += bytes(((2 + len(descriptor)) & 0xFF, 3)) + descriptor
    if len(strings) > _ROOM:
        raise SchemeError(
            f"eeprom: strings {manufacturer!r}, {product!r} and {serial!r} take {len(strings)} "
            f"bytes, expected at most {_ROOM}"
        )
    body = (head + table + _CBUS + strings).ljust(SIZE - 2, b"\0")
    words = struct.unpack(f"<{SIZE // 2 - 1}H", body)
    return body + checksum(words).to_bytes(2, "little")
