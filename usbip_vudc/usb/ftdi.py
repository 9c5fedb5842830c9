"""The words of an FTDI serial converter, which device and host share: FT232R and its kin.

FTDI publishes no protocol. These are the requests that drivers/usb/serial/ftdi_sio.c of Linux
and pyftdi make, and the status bytes that they read. Values and their bytes, no behaviour.
Standard library only.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

from usbip_vudc.errors import SchemeError
from usbip_vudc.usb.cdc import LineCoding, Parity, StopBits

__all__ = (
    "BREAK",
    "STANDARD_RATES",
    "STATUS_SIZE",
    "FlowControl",
    "FtdiRequest",
    "LineStatus",
    "ModemStatus",
    "Reset",
    "baud_rate",
    "data_of",
    "divisor_of",
    "line_coding",
)

STATUS_SIZE: Final = 2
"""Bytes of status at the head of every packet to the host: ModemStatus, LineStatus."""


class FtdiRequest(IntEnum):
    """The vendor requests, to the device: bmRequestType 0x40, or 0xC0 for those that read."""

    RESET = 0x00
    MODEM_CTRL = 0x01
    SET_FLOW_CTRL = 0x02
    SET_BAUD_RATE = 0x03
    SET_DATA = 0x04
    GET_MODEM_STATUS = 0x05
    SET_EVENT_CHAR = 0x06
    SET_ERROR_CHAR = 0x07
    SET_LATENCY_TIMER = 0x09
    GET_LATENCY_TIMER = 0x0A
    SET_BITMODE = 0x0B
    READ_EEPROM = 0x90


class Reset(IntEnum):
    """WValue of RESET."""

    SIO = 0
    PURGE_RX = 1
    PURGE_TX = 2


class FlowControl(IntFlag):
    """The high byte of wIndex of SET_FLOW_CTRL."""

    NONE = 0
    RTS_CTS = 1
    DTR_DSR = 2
    XON_XOFF = 4


class ModemStatus(IntFlag):
    """The first status byte: the lines of the far end. ``ALWAYS`` is always set."""

    ALWAYS = 0x01
    CTS = 0x10
    DSR = 0x20
    RING = 0x40
    DCD = 0x80


class LineStatus(IntFlag):
    """The second status byte, as an 8250's line status register has it."""

    NONE = 0
    DATA_READY = 0x01
    OVERRUN = 0x02
    PARITY = 0x04
    FRAMING = 0x08
    BREAK = 0x10
    HOLDING_EMPTY = 0x20
    TRANSMITTER_EMPTY = 0x40
    FIFO_ERROR = 0x80


# --- the rate ----------------------------------------------------------------------------------

_CLOCK: Final = 3_000_000
"""Bits per second of divisor 1: 48 MHz, 16 samples a bit."""

_EIGHTHS: Final = (0, 4, 2, 1, 3, 5, 6, 7)
"""Bits 16..14 of a divisor -> the eighths behind its 14 whole bits."""

STANDARD_RATES: Final = (
    300, 600, 1200, 1800, 2400, 4800, 9600, 19_200, 38_400, 57_600, 115_200, 230_400, 460_800,
    500_000, 576_000, 921_600, 1_000_000, 1_500_000, 2_000_000, 3_000_000,
)  # fmt: skip
"""Rates that a tty has, in bits per second, as far as an FT232R goes."""


def divisor_of(rate: int) -> int:
    """The 17 bits, wIndex bit 0 and wValue, that set a rate of 184 to 3000000 bits per second.

    Raises SchemeError for another rate.
    """
    if not 184 <= rate <= _CLOCK:
        raise SchemeError(f"baud rate {rate}: expected 184 to {_CLOCK} on an FT232R")
    eighths = (8 * _CLOCK + rate // 2) // rate
    # The chip has two short cuts at its fast end: 0 is divisor 1, and 1 is divisor 1.5.
    if eighths <= 8:
        return 0
    if eighths <= 14:
        return 1
    return eighths >> 3 | _EIGHTHS.index(eighths & 7) << 14


def baud_rate(divisor: int) -> int:
    """The rate, in bits per second, that a divisor sets: a standard one where it stands for it.

    115200 cannot be set exactly; its divisor makes 115385, and means 115200.
    """
    meant = next((rate for rate in STANDARD_RATES if divisor_of(rate) == divisor), None)
    if meant is not None:
        return meant
    eighths = (divisor & 0x3FFF) << 3 | _EIGHTHS[divisor >> 14 & 7]
    eighths = {0: 8, 8: 12}.get(eighths, eighths)
    return (8 * _CLOCK + eighths // 2) // eighths


# --- the data format ---------------------------------------------------------------------------

BREAK: Final = 0x4000
"""In wValue of SET_DATA: hold the line in a break."""


def line_coding(rate: int, data: int) -> LineCoding:
    """What wValue of SET_DATA says, at a rate. Raises SchemeError for what no UART has.

    Parity and stop bits have CDC's numbers (PSTN 1.2 table 17). No bits at all stand for 8.
    """
    return LineCoding(rate, data >> 11 & 7, data >> 8 & 7, data & 0xFF or 8)


def data_of(coding: LineCoding, *, break_: bool = False) -> int:
    """WValue of SET_DATA for a line coding."""
    parity, stop = Parity(coding.bParityType), StopBits(coding.bCharFormat)
    return coding.bDataBits | parity << 8 | stop << 11 | (BREAK if break_ else 0)
