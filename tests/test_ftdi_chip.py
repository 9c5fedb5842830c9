"""The FT232R's registers: its vendor requests, its divisors, its EEPROM. Bytes written out."""

from __future__ import annotations

import struct

import pytest

from gadgets.ftdi.chip import Chip
from gadgets.ftdi.eeprom import SIZE, checksum, eeprom
from gadgets.serial.line import BreakSent, ControlLinesSet, LineCodingSet
from usbip_vudc.errors import SchemeError
from usbip_vudc.usb.cdc import LineCoding, Parity, SerialState, StopBits
from usbip_vudc.usb.ch9 import SetupPacket
from usbip_vudc.usb.ftdi import STANDARD_RATES, FlowControl, baud_rate, data_of, divisor_of


@pytest.fixture
def chip() -> Chip:
    return Chip(eeprom=eeprom(), cts_follows_rts=True, dsr_follows_dtr=True)


def out(bRequest: int, wValue: int = 0, wIndex: int = 0) -> SetupPacket:
    return SetupPacket(0x40, bRequest, wValue, wIndex, 0)


def in_(bRequest: int, wIndex: int = 0, wLength: int = 2) -> SetupPacket:
    return SetupPacket(0xC0, bRequest, 0, wIndex, wLength)


# --- rates -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "divisor"),
    [
        (300, 0x2710),  # 10000
        (9600, 0x4138),  # 312.5
        (19_200, 0x809C),  # 156.25
        (38_400, 0xC04E),  # 78.125
        (57_600, 0xC034),  # 52.125
        (115_200, 0x001A),  # 26
        (230_400, 0x000D),  # 13
        (460_800, 0x4006),  # 6.5
        (921_600, 0x8003),  # 3.25
        (1_000_000, 0x0003),
        (2_000_000, 0x0001),  # divisor 1.5 has a code of its own
        (3_000_000, 0x0000),
    ],
)
def test_divisors(rate: int, divisor: int) -> None:
    assert divisor_of(rate) == divisor
    assert baud_rate(divisor_of(rate)) == rate


def test_every_standard_rate_is_what_its_divisor_means() -> None:
    assert [baud_rate(divisor_of(rate)) for rate in STANDARD_RATES] == list(STANDARD_RATES)


def test_another_divisor_is_the_rate_it_makes() -> None:
    assert baud_rate(0x1001A) == 113_744  # bit 16 alone is 3/8: 3 MHz over 26.375
    assert baud_rate(100) == 30_000


@pytest.mark.parametrize("rate", [183, 3_000_001])
def test_a_rate_beyond_the_chip_is_refused(rate: int) -> None:
    with pytest.raises(SchemeError, match=f"baud rate {rate}: expected 184 to 3000000"):
        divisor_of(rate)


# --- requests ----------------------------------------------------------------------------------


def test_a_host_sets_the_line_coding_in_two_requests(chip: Chip) -> None:
    outcome = chip.handle(out(0x04, 0x1207))  # 7 data bits, even, two stop bits
    assert outcome.reply == b""
    assert outcome.event == LineCodingSet(LineCoding(9600, StopBits.TWO, Parity.EVEN, 7))
    outcome = chip.handle(out(0x03, 0x001A))
    assert outcome.event == LineCodingSet(LineCoding(115_200, StopBits.TWO, Parity.EVEN, 7))


def test_bit_16_of_a_divisor_is_in_windex(chip: Chip) -> None:
    chip.handle(out(0x03, 0x4006, 0x0001))  # 6.5 and bit 16: eighths code 5 is 5/8
    assert chip.coding.dwDTERate == round(3_000_000 / 6.625)


@pytest.mark.parametrize("data", [0x0508, 0x1808, 0x0009])
def test_a_data_format_that_no_uart_has_stalls(chip: Chip, data: int) -> None:
    assert chip.handle(out(0x04, data)).reply is None
    assert chip.coding == LineCoding()


def test_a_break_begins_and_ends_with_the_data_format(chip: Chip) -> None:
    assert chip.handle(out(0x04, 0x4008)).event == BreakSent(None)
    assert chip.breaking
    assert chip.handle(out(0x04, 0x0008)).event == BreakSent(0)
    assert not chip.breaking
    assert data_of(LineCoding(), break_=True) == 0x4008


def test_modem_control_moves_only_the_lines_of_its_mask(chip: Chip) -> None:
    assert chip.handle(out(0x01, 0x0101)).event == ControlLinesSet(dtr=True, rts=False)
    assert chip.handle(out(0x01, 0x0202)).event == ControlLinesSet(dtr=True, rts=True)
    assert chip.handle(out(0x01, 0x0100)).event == ControlLinesSet(dtr=False, rts=True)


def test_the_loopback_plug_shows_rts_as_cts_and_dtr_as_dsr(chip: Chip) -> None:
    assert chip.handle(in_(0x05)).reply == b"\x01\x60"
    chip.handle(out(0x01, 0x0202))
    assert chip.handle(in_(0x05)).reply == b"\x11\x60"
    chip.handle(out(0x01, 0x0303))
    assert chip.handle(in_(0x05)).reply == b"\x31\x60"


def test_without_the_plug_the_lines_stay() -> None:
    chip = Chip(eeprom=eeprom(), cts_follows_rts=False, dsr_follows_dtr=False)
    chip.handle(out(0x01, 0x0303))
    assert chip.handle(in_(0x05)).reply == b"\x01\x60"
    chip.change_serial({SerialState.DCD: True})
    chip.cts = chip.ringing = True
    assert chip.handle(in_(0x05)).reply == b"\xd1\x60"


@pytest.mark.parametrize("milliseconds", [1, 16, 255])
def test_the_latency_timer_is_set_and_got(chip: Chip, milliseconds: int) -> None:
    assert chip.handle(out(0x09, milliseconds)).reply == b""
    assert chip.handle(in_(0x0A, wLength=1)).reply == bytes((milliseconds,))


@pytest.mark.parametrize(
    "setup",
    [
        out(0x09, 0), out(0x09, 256),  # no such latency
        out(0x00, 3),  # no such reset
        out(0x0B, 0x0200),  # MPSSE is not this chip's
        in_(0x90, 64),  # beyond the EEPROM
        out(0x33), in_(0x00), SetupPacket(0x21, 0x20, 0, 0, 7),
    ],
    ids=str,
)  # fmt: skip
def test_what_it_does_not_know_stalls(chip: Chip, setup: SetupPacket) -> None:
    assert chip.handle(setup).reply is None


@pytest.mark.parametrize("setup", [out(0), out(0, 1), out(0, 2), out(6, 0x11), out(7), out(0x0B)])
def test_what_it_takes_without_a_trace(chip: Chip, setup: SetupPacket) -> None:
    before = chip.status(), chip.coding
    assert chip.handle(setup).reply == b""
    assert (chip.status(), chip.coding) == before


# --- flow control ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flow", "held_by"),
    [
        (FlowControl.NONE, ()),
        (FlowControl.RTS_CTS, ("cts",)),
        (FlowControl.DTR_DSR, ("dsr",)),
        (FlowControl.XON_XOFF, ("xoff",)),
    ],
)
def test_flow_control_holds_the_line(
    chip: Chip, flow: FlowControl, held_by: tuple[str, ...]
) -> None:
    chip.handle(out(0x02, 0x1311, flow << 8))
    for cause in ("cts", "dsr", "xoff"):
        chip.cts = cause != "cts"
        chip.change_serial({SerialState.DSR: cause != "dsr"})
        chip.received(0x13 if cause == "xoff" else 0x11)
        assert chip.may_transmit == (cause not in held_by), cause


def test_xon_and_xoff_are_characters_of_the_hosts_choice(chip: Chip) -> None:
    chip.handle(out(0x02, 0x4241, 0x0400))
    chip.received(0x42)
    assert not chip.may_transmit
    chip.received(0x41)
    assert chip.may_transmit


def test_a_disconnect_forgets_what_the_host_set(chip: Chip) -> None:
    for setup in (out(0x01, 0x0303), out(0x02, 0x1311, 0x0400), out(0x09, 5), out(0x03, 0x1A)):
        chip.handle(setup)
    chip.disconnect()
    assert chip.status() == b"\x01\x60"
    assert (chip.flow, chip.latency_ms) == (FlowControl.NONE, 16)
    assert chip.coding.dwDTERate == 115_200  # a line coding outlives it


# --- EEPROM ------------------------------------------------------------------------------------


def test_the_eeprom_is_read_a_word_at_a_time(chip: Chip) -> None:
    words = [chip.handle(in_(0x90, index)).reply for index in range(64)]
    contents = b"".join(word or b"" for word in words)
    assert len(contents) == SIZE
    assert contents[2:8] == bytes.fromhex("0304 0160 0006")  # ids, and bcdDevice 6.00
    values = struct.unpack("<64H", contents)
    assert checksum(values[:-1]) == values[-1]


def test_the_pins_of_the_eeprom_are_those_of_a_new_chip() -> None:
    """TXLED# 3, RXLED# 2, TXDEN 0, PWREN# 1, SLEEP# 5: a nibble each, CBUS0 in the lowest."""
    assert eeprom()[0x14:0x18] == bytes.fromhex("23 10 05 00")


def test_strings_that_do_not_fit_the_eeprom_are_refused() -> None:
    with pytest.raises(SchemeError, match="take 106 bytes, expected at most 102"):
        eeprom(manufacturer="m" * 20, product="p" * 20, serial="s" * 10)
