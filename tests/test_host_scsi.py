"""The host's SCSI: command blocks and answers, against bytes written out from SPC-4 and SBC-3."""

from __future__ import annotations

import pytest

from usbip_vudc.host import scsi
from usbip_vudc.host.scsi import Inquiry, Sense, command_name, read_command, write_command


@pytest.mark.parametrize(
    ("cdb", "expected"),
    [
        (scsi.TEST_UNIT_READY, "00 00 00 00 00 00"),
        (scsi.REQUEST_SENSE, "03 00 00 00 12 00"),
        (scsi.INQUIRY, "12 00 00 00 24 00"),
        (scsi.READ_CAPACITY_10, "25 00 00 00 00 00 00 00 00 00"),
        (scsi.SYNCHRONIZE_CACHE, "35 00 00 00 00 00 00 00 00 00"),
        (scsi.READ_CAPACITY_16, "9e 10 00 00 00 00 00 00 00 00 00 00 00 20 00 00"),
        (read_command(0x12345678, 8), "28 00 12 34 56 78 00 00 08 00"),
        (write_command(5, 0xFFFF), "2a 00 00 00 00 05 00 ff ff 00"),
        (read_command(5, 0x10000), "88 00 00 00 00 00 00 00 00 05 00 01 00 00 00 00"),
        (write_command(0xFFFFFFFF, 1), "2a 00 ff ff ff ff 00 00 01 00"),
        (write_command(0xFFFFFFFF, 2), "8a 00 00 00 00 00 ff ff ff ff 00 00 00 02 00 00"),
    ],
)
def test_command_block_bytes(cdb: bytes, expected: str) -> None:
    assert cdb.hex(" ") == expected


@pytest.mark.parametrize(
    ("data", "sense"),
    [
        ("70 00 05 00 00 00 00 0a 00 00 00 00 24 00 00 00 00 00", Sense(5, 0x24, 0)),
        ("f0 00 23 00 00 00 07 0a 00 00 00 00 11 04 00 00 00 00", Sense(3, 0x11, 4)),
        ("72 02 3a 01 00 00 00 00", Sense(2, 0x3A, 1)),
        ("70 00 06", Sense(6)),
        ("", Sense(0)),
    ],
    ids=("fixed", "with flags", "descriptor", "cut off", "nothing"),
)
def test_sense_formats(data: str, sense: Sense) -> None:
    assert Sense.parse(bytes.fromhex(data)) == sense


def test_sense_is_told_in_words_and_numbers() -> None:
    assert str(Sense(2, 0x3A, 0)) == "NOT READY, medium not present (2h 3Ah 00h)"
    assert str(Sense(0xB, 0x99, 1)) == "ABORTED COMMAND, no name known (Bh 99h 01h)"


@pytest.mark.parametrize(
    ("sense", "becoming_ready", "unit_attention"),
    [
        (Sense(2, 0x04, 1), True, False),
        (Sense(2, 0x3A, 0), False, False),
        (Sense(6, 0x29, 0), False, True),
        (Sense(5, 0x04, 1), False, False),
    ],
)
def test_what_may_pass_by_itself(sense: Sense, becoming_ready: bool, unit_attention: bool) -> None:
    assert (sense.becoming_ready, sense.unit_attention) == (becoming_ready, unit_attention)


def test_inquiry_without_its_padding() -> None:
    data = bytes.fromhex("00 80 06 02 1f 00 00 00") + b"Acme    " + b"Thing".ljust(16) + b"1\0\0\0"
    assert Inquiry.parse(data) == Inquiry(0, True, "Acme", "Thing", "1")
    assert Inquiry.parse(data[:8]) == Inquiry(0, True, "", "", "")


def test_commands_have_names() -> None:
    assert command_name(read_command(0, 1)) == "READ(10)"
    assert command_name(b"\xff") == "command FFh"


@pytest.mark.parametrize(
    ("data", "information", "deferred"),
    [
        ("f0 00 03 00 00 07 d0 0a 00 00 00 00 11 00 00 00 00 00", 2000, False),
        ("70 00 03 00 00 07 d0 0a 00 00 00 00 11 00 00 00 00 00", None, False),
        ("f1 00 03 00 00 07 d0 0a 00 00 00 00 0c 00 00 00 00 00", 2000, True),
        ("72 03 11 00 00 00 00 0c 00 0a 80 00 00 00 00 01 00 00 00 00", 1 << 32, False),
        ("72 03 11 00 00 00 00 0c 00 0a 00 00 00 00 00 01 00 00 00 00", None, False),
        ("73 03 0c 00 00 00 00 00", None, True),
    ],
)
def test_sense_tells_where_and_when(data: str, information: int | None, deferred: bool) -> None:
    sense = Sense.parse(bytes.fromhex(data))
    assert (sense.information, sense.deferred) == (information, deferred)


def test_sense_in_words() -> None:
    sense = Sense(0xE, 0x1D, 0, information=7, deferred=True)
    assert str(sense) == (
        "MISCOMPARE, miscompare during verify operation (Eh 1Dh 00h) at LBA 7, of an earlier "
        "command"
    )
    assert sense == Sense(0xE, 0x1D)


@pytest.mark.parametrize(
    ("cdb", "expected"),
    [
        (scsi.verify_command(5, 8), "8f 00 00 00 00 00 00 00 00 05 00 00 00 08 00 00"),
        (
            scsi.verify_command(1 << 32, 8, compare=True),
            "8f 02 00 00 00 01 00 00 00 00 00 00 00 08 00 00",
        ),
        (
            scsi.write_same_command(5, 8, unmap=True),
            "93 08 00 00 00 00 00 00 00 05 00 00 00 08 00 00",
        ),
        (
            scsi.write_same_command(5, 8, data=False),
            "93 01 00 00 00 00 00 00 00 05 00 00 00 08 00 00",
        ),
        (scsi.unmap_command([(5, 8)])[0], "42 00 00 00 00 00 00 00 18 00"),
        (
            scsi.unmap_command([(5, 8)])[1],
            "00 16 00 10 00 00 00 00 00 00 00 00 00 00 00 05 00 00 00 08 00 00 00 00",
        ),
        (scsi.REPORT_SUPPORTED_OPERATION_CODES, "a3 0c 00 00 00 00 00 00 20 00 00 00"),
    ],
)
def test_bytes_of_commands_beyond_read_and_write(cdb: bytes, expected: str) -> None:
    assert cdb.hex(" ") == expected


@pytest.mark.parametrize(
    ("cdb", "name"),
    [
        ("9e 10", "READ CAPACITY(16)"),
        ("9e 12", "GET LBA STATUS"),
        ("9e 1f", "command 9Eh"),
        ("a3 0c", "REPORT SUPPORTED OPERATION CODES"),
        ("42 00", "UNMAP"),
    ],
)
def test_names_of_commands_with_service_actions(cdb: str, name: str) -> None:
    assert command_name(bytes.fromhex(cdb)) == name
