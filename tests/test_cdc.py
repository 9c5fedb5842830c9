"""The words of a serial line, against bytes written out from PSTN 1.2."""

from __future__ import annotations

import pytest

from usbip_vudc.errors import RemoteProtocolError, SchemeError
from usbip_vudc.usb.cdc import (
    LineCoding,
    Parity,
    SerialState,
    StopBits,
    pack_serial_state,
    parse_serial_state,
)

# --- line coding -------------------------------------------------------------------------------

CODINGS = [
    ("9600 8N1", LineCoding(), "80 25 00 00 00 00 08"),
    ("115200 8N1", LineCoding(115_200), "00 c2 01 00 00 00 08"),
    ("300 5N1.5", LineCoding(300, StopBits.ONE_AND_A_HALF, Parity.NONE, 5), "2c010000 01 00 05"),
    ("9600 7E2", LineCoding(9600, StopBits.TWO, Parity.EVEN, 7), "80 25 00 00 02 02 07"),
    ("1200 6O1", LineCoding(1200, StopBits.ONE, Parity.ODD, 6), "b0 04 00 00 00 01 06"),
    ("50 8M1", LineCoding(50, StopBits.ONE, Parity.MARK, 8), "32 00 00 00 00 03 08"),
    ("4294967295 16S1", LineCoding(0xFFFFFFFF, 0, Parity.SPACE, 16), "ff ff ff ff 00 04 10"),
]


@pytest.mark.parametrize(("text", "coding", "data"), CODINGS, ids=[row[0] for row in CODINGS])
def test_line_coding_reads_and_writes(text: str, coding: LineCoding, data: str) -> None:
    assert str(coding) == text
    assert coding.pack() == bytes.fromhex(data)
    assert LineCoding.parse(bytes.fromhex(data)) == coding
    assert LineCoding.from_text(text) == coding


def test_line_coding_of_a_bare_rate_is_8n1() -> None:
    assert LineCoding.from_text("19200") == LineCoding(19_200)


@pytest.mark.parametrize("text", ["", "fast", "9600 9N1", "9600 8N3", "9600 8X1", "0", "9600 8N"])
def test_line_coding_refuses_text(text: str) -> None:
    with pytest.raises(SchemeError):
        LineCoding.from_text(text)


# --- SERIAL_STATE ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (SerialState(0), "a1 20 00 00 02 00 02 00 00 00"),
        (SerialState.DCD, "a1 20 00 00 02 00 02 00 01 00"),
        (SerialState.DSR, "a1 20 00 00 02 00 02 00 02 00"),
        (SerialState.BREAK, "a1 20 00 00 02 00 02 00 04 00"),
        (SerialState.RING, "a1 20 00 00 02 00 02 00 08 00"),
        (SerialState.FRAMING, "a1 20 00 00 02 00 02 00 10 00"),
        (SerialState.PARITY, "a1 20 00 00 02 00 02 00 20 00"),
        (SerialState.OVERRUN, "a1 20 00 00 02 00 02 00 40 00"),
        (SerialState(0x7F), "a1 20 00 00 02 00 02 00 7f 00"),
    ],
)
def test_serial_state_bytes(state: SerialState, expected: str) -> None:
    data = pack_serial_state(state, 2)
    assert data.hex(" ") == expected
    assert parse_serial_state(data) == state


@pytest.mark.parametrize("data", ["", "a120000000000200", "a1000000000002000000"])
def test_serial_state_refuses_other_notifications(data: str) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_serial_state(bytes.fromhex(data))


def test_reserved_bits_of_serial_state_are_dropped() -> None:
    data = bytes.fromhex("a1 20 00 00 02 00 02 00 82 ff")
    assert parse_serial_state(data) is SerialState.DSR
