"""Bulk-Only Transport: the wrappers against bytes written out, and what a device makes of them."""

from __future__ import annotations

import pytest

from gadgets.mass_storage.bot import CASES, InvalidCbw, decide, receive_cbw
from usbip_vudc.errors import RemoteProtocolError
from usbip_vudc.usb.bot import Cbw, Csw, CswStatus, pack_csw
from usbip_vudc.usb.ch9 import Direction

IN, OUT = Direction.IN, Direction.OUT

READ_10 = bytes.fromhex("28000000000500000800")
CBW_READ_10 = bytes.fromhex(
    "55534243"  # dCBWSignature "USBC"
    "78563412"  # dCBWTag 0x12345678
    "00100000"  # dCBWDataTransferLength 4096
    "80"  # bmCBWFlags: IN
    "02"  # bCBWLUN
    "0a"  # bCBWCBLength
    "28000000000500000800000000000000"
)


def test_cbw_parses_field_by_field() -> None:
    cbw = receive_cbw(CBW_READ_10, max_lun=2)
    assert cbw == Cbw(0x12345678, 4096, 0x80, 2, READ_10)
    assert cbw == Cbw.parse(CBW_READ_10)
    assert cbw.direction is IN


def test_cbw_packs_to_31_bytes() -> None:
    assert Cbw(0x12345678, 4096, 0x80, 2, READ_10).pack() == CBW_READ_10


@pytest.mark.parametrize(
    ("flags", "length", "direction"), [(0x80, 0, None), (0, 0, None), (0, 1, OUT), (0x80, 1, IN)]
)
def test_direction_is_ignored_without_data(
    flags: int, length: int, direction: Direction | None
) -> None:
    assert Cbw(1, length, flags, 0, b"\0").direction is direction


def changed(offset: int, value: int) -> bytes:
    return CBW_READ_10[:offset] + bytes((value,)) + CBW_READ_10[offset + 1 :]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (CBW_READ_10[:30], "CBW length 30, expected 31 (BOT 6.2.1)"),
        (CBW_READ_10 + b"\0", "CBW length 32, expected 31 (BOT 6.2.1)"),
        (b"", "CBW length 0, expected 31 (BOT 6.2.1)"),
        (changed(3, 0x53), "dCBWSignature 0x53425355, expected 0x43425355 (BOT 6.2.1)"),
        (changed(12, 0x81), "bmCBWFlags 0x81, expected 0x00 or 0x80 (BOT 6.2.2)"),
        (changed(12, 0x40), "bmCBWFlags 0x40, expected 0x00 or 0x80 (BOT 6.2.2)"),
        (changed(13, 0x03), "bCBWLUN 0x03, expected 0 to 2 (BOT 6.2.2)"),
        (changed(13, 0x12), "bCBWLUN 0x12, expected 0 to 2 (BOT 6.2.2)"),
        (changed(14, 0x00), "bCBWCBLength 0x00, expected 1 to 16 (BOT 6.2.2)"),
        (changed(14, 0x11), "bCBWCBLength 0x11, expected 1 to 16 (BOT 6.2.2)"),
        (changed(14, 0x2A), "bCBWCBLength 0x2a, expected 1 to 16 (BOT 6.2.2)"),
    ],
)
def test_bad_cbw_is_refused_with_both_values(data: bytes, message: str) -> None:
    with pytest.raises(InvalidCbw) as caught:
        receive_cbw(data, max_lun=2)
    assert str(caught.value) == message


def test_csw_packs_to_13_bytes() -> None:
    expected = bytes.fromhex("55534253785634120002000001")
    csw = Csw(0x12345678, 512, CswStatus.FAILED)
    assert csw.pack() == pack_csw(0x12345678, 512, 1) == expected
    assert Csw.parse(expected) == csw


@pytest.mark.parametrize("data", [b"USBS", bytes(13), CBW_READ_10])
def test_bad_csw_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match=r"BOT 6\.3\.1"):
        Csw.parse(data)


@pytest.mark.parametrize(
    ("host", "host_length", "device", "device_length", "number", "moves", "halts", "phase_error"),
    [
        (None, 0, None, 0, 1, 0, None, False),
        (None, 0, IN, 512, 2, 0, None, True),
        (None, 0, OUT, 512, 3, 0, None, True),
        (IN, 512, None, 0, 4, 0, IN, False),
        (IN, 255, IN, 36, 5, 36, IN, False),
        (IN, 512, IN, 512, 6, 512, None, False),
        (IN, 512, IN, 1024, 7, 512, None, True),
        (IN, 512, OUT, 512, 8, 0, IN, True),
        (IN, 512, OUT, 1024, 8, 0, IN, True),
        (IN, 1024, OUT, 512, 8, 0, IN, True),
        (OUT, 512, None, 0, 9, 0, OUT, False),
        (OUT, 512, IN, 512, 10, 0, OUT, True),
        (OUT, 512, IN, 1024, 10, 0, OUT, True),
        (OUT, 1024, IN, 512, 10, 0, OUT, True),
        (OUT, 1024, OUT, 512, 11, 512, OUT, False),
        (OUT, 512, OUT, 512, 12, 512, None, False),
        (OUT, 512, OUT, 1024, 13, 0, OUT, True),
    ],
)
def test_thirteen_cases(
    host: Direction | None,
    host_length: int,
    device: Direction | None,
    device_length: int,
    number: int,
    moves: int,
    halts: Direction | None,
    phase_error: bool,
) -> None:
    case, length = decide(host, host_length, device, device_length)
    assert (case.number, length, case.halts, case.phase_error) == (
        number,
        moves,
        halts,
        phase_error,
    )


def test_zero_length_is_no_data_whatever_the_direction() -> None:
    assert decide(OUT, 0, IN, 0).case.number == 1


def test_table_holds_thirteen_cases_and_six_phase_errors() -> None:
    assert {case.number for case in CASES.values()} == set(range(1, 14))
    assert {c.number for c in CASES.values() if c.phase_error} == {2, 3, 7, 8, 10, 13}
