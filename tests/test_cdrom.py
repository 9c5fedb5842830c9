"""The CD-ROM drive: what a driver asks when it meets one, in bytes of MMC-6 and SPC-4."""

from __future__ import annotations

import pytest

from gadgets.mass_storage import RamLun
from tests.scsi_target import failure, given, reply
from usbip_vudc.errors import LocalProtocolError, SchemeError

BLOCKS = 333_000
"""Blocks of a CD of 74 minutes: more than fits in it is tested apart."""


@pytest.fixture
def drive() -> RamLun:
    return RamLun(BLOCKS * 2048, cdrom=True)


def test_inquiry_says_removable_cd_rom_drive(drive: RamLun) -> None:
    assert reply(drive, "12 00 00 00 24 00").startswith("05 80 06 02 1f")
    assert reply(drive, "12 01 00 00 ff 00") == "05 00 00 03 00 80 83"
    assert reply(drive, "12 01 80 00 ff 00").startswith("05 80 00 08")
    assert failure(drive, "12 01 b0 00 ff 00") == "05/24/00"


def test_blocks_are_of_2048_bytes(drive: RamLun) -> None:
    assert reply(drive, "25" + "00" * 9) == "00 05 14 c7 00 00 08 00"
    answer = given(drive, "28 00 00000010 00 0002 00")
    assert (answer.offset, answer.length) == (0x8000, 4096)
    assert failure(drive, "a8 00 000514c7 00000002 00 00") == "05/21/00"


@pytest.mark.parametrize("options", [{"block_size": 512}, {"block_size": 4096}, {"thin": True}])
def test_options_that_no_cd_rom_drive_has(options: dict[str, object]) -> None:
    with pytest.raises(SchemeError, match=r"2048|thin"):
        RamLun(1 << 20, cdrom=True, **options)  # type: ignore[arg-type]


def test_it_cannot_be_made_writable(drive: RamLun) -> None:
    assert drive.read_only
    with pytest.raises(LocalProtocolError, match="CD-ROM"):
        drive.protect(False)
    for opcode in (0x0A, 0x2A, 0xAA, 0x8A, 0x2E, 0x41, 0x42):
        assert failure(drive, bytes((opcode,)) + bytes(15)) == "05/20/00"


# --- READ TOC ----------------------------------------------------------------------------------

LEAD_OUT = "00 14 aa 00 00 05 14 c8"
LEAD_OUT_MSF = "00 14 aa 00 00 4a 02 00"  # 74:02:00


@pytest.mark.parametrize(
    ("cdb", "expected"),
    [
        ("43 00 00 000000 00 ffff 00", f"00 12 01 01 00 14 01 00 00 00 00 00 {LEAD_OUT}"),
        ("43 00 00 000000 01 ffff 00", f"00 12 01 01 00 14 01 00 00 00 00 00 {LEAD_OUT}"),
        ("43 02 00 000000 00 ffff 00", f"00 12 01 01 00 14 01 00 00 00 02 00 {LEAD_OUT_MSF}"),
        ("43 00 00 000000 aa ffff 00", f"00 0a 01 01 {LEAD_OUT}"),
        ("43 00 00 000000 00 0004 00", "00 12 01 01"),
        ("43 00 01 000000 00 ffff 00", "00 0a 01 01 00 14 01 00 00 00 00 00"),
        ("43 00 00 000000 00 ffff 40", "00 0a 01 01 00 14 01 00 00 00 00 00"),  # SFF-8020i
        ("43 02 01 000000 00 ffff 00", "00 0a 01 01 00 14 01 00 00 00 02 00"),
        (
            "43 02 02 000000 01 ffff 00",
            "00 2e 01 01 "
            "01 14 00 a0 00 00 00 00 01 00 00 "
            "01 14 00 a1 00 00 00 00 01 00 00 "
            "01 14 00 a2 00 00 00 00 4a 02 00 "
            "01 14 00 01 00 00 00 00 00 02 00",
        ),
    ],
)
def test_read_toc(drive: RamLun, cdb: str, expected: str) -> None:
    assert reply(drive, cdb) == expected


@pytest.mark.parametrize(
    "cdb",
    ["43 00 00 000000 02 ffff 00", "43 00 03 000000 00 ffff 00", "43 00 05 000000 00 ffff 00"],
)
def test_read_toc_of_what_is_not_there(drive: RamLun, cdb: str) -> None:
    assert failure(drive, cdb) == "05/24/00"


def test_an_image_larger_than_any_cd_ends_where_msf_does() -> None:
    drive = RamLun(4 << 30, cdrom=True)
    assert reply(drive, "43 02 00 000000 aa ffff 00") == "00 0a 01 01 00 14 aa 00 00 ff 3b 4a"


# --- GET CONFIGURATION -------------------------------------------------------------------------

PROFILES = "00 00 03 04 00 08 01 00"
CORE = "00 01 0b 08 00 00 00 08 02 00 00 00"
REMOVABLE = "00 03 03 04 29 00 00 00"
READABLE = "00 10 01 08 00 00 08 00 00 01 00 00"


@pytest.mark.parametrize(
    ("cdb", "expected"),
    [
        ("46 00 0000 000000 ffff 00",
         f"00 00 00 2c 00 00 00 08 {PROFILES} {CORE} {REMOVABLE} {READABLE}"),
        ("46 01 0000 000000 ffff 00",
         f"00 00 00 2c 00 00 00 08 {PROFILES} {CORE} {REMOVABLE} {READABLE}"),
        ("46 00 0002 000000 ffff 00", f"00 00 00 18 00 00 00 08 {REMOVABLE} {READABLE}"),
        ("46 02 0003 000000 ffff 00", f"00 00 00 0c 00 00 00 08 {REMOVABLE}"),
        ("46 02 0107 000000 ffff 00", "00 00 00 04 00 00 00 08"),
        ("46 00 0000 000000 0008 00", "00 00 00 2c 00 00 00 08"),
    ],
)  # fmt: skip
def test_get_configuration(drive: RamLun, cdb: str, expected: str) -> None:
    assert reply(drive, cdb) == expected


def test_get_configuration_of_an_empty_drive(drive: RamLun) -> None:
    drive.eject()
    assert reply(drive, "46 01 0000 000000 ffff 00") == (
        f"00 00 00 20 00 00 00 00 {PROFILES[:18]}00 00 {CORE} {REMOVABLE}"
    )
    assert reply(drive, "46 02 0010 000000 ffff 00").endswith(READABLE.replace("10 01", "10 00"))
    assert failure(drive, "46 03 0000 000000 ffff 00") == "05/24/00"


# --- GET EVENT STATUS NOTIFICATION -------------------------------------------------------------

POLL = "4a 01 0000 10 0000 ffff 00"


def test_events_are_told_once(drive: RamLun) -> None:
    assert reply(drive, POLL) == "00 06 04 10 00 02 00 00"
    drive.eject()
    assert reply(drive, POLL) == "00 06 04 10 03 00 00 00"
    assert reply(drive, POLL) == "00 06 04 10 00 00 00 00"
    drive.insert()
    assert reply(drive, "4a 01 0000 10 0000 0004 00") == "00 06 04 10"  # the event stays
    assert reply(drive, POLL) == "00 06 04 10 02 02 00 00"
    assert reply(drive, POLL) == "00 06 04 10 00 02 00 00"


def test_the_button_of_a_locked_drive_asks_the_host(drive: RamLun) -> None:
    given(drive, "1e 00 00 00 01 00")
    with pytest.raises(LocalProtocolError, match="prevents"):
        drive.eject()
    assert reply(drive, POLL) == "00 06 04 10 01 02 00 00"


def test_events_of_other_classes_are_not_there(drive: RamLun) -> None:
    assert reply(drive, "4a 01 0000 6e 0000 ffff 00") == "00 02 80 10"


def test_only_polling(drive: RamLun) -> None:
    assert failure(drive, "4a 00 0000 10 0000 ffff 00") == "05/24/00"


def test_polls_are_not_held_up_by_unit_attention(drive: RamLun) -> None:
    drive.reset()
    assert reply(drive, POLL).startswith("00 06")
    assert reply(drive, "46 02 0000 000000 0008 00").startswith("00 00")
    assert failure(drive, bytes(6)) == "06/29/00"


# --- modes and medium --------------------------------------------------------------------------


def test_capabilities_tell_whether_the_tray_is_locked(drive: RamLun) -> None:
    expected = "2a 12 00 00 00 00 {} 00 21 00 00 00 00 00 21 00 00 00 00 00"
    assert reply(drive, "5a 08 2a 00 000000 0080 00")[24:] == expected.format("29")
    given(drive, "1e 00 00 00 01 00")
    assert reply(drive, "5a 08 2a 00 000000 0080 00")[24:] == expected.format("2b")
    assert failure(drive, "1b 00 00 00 02 00") == "05/53/02"


def test_a_drive_has_no_write_protect_bit_and_few_pages(drive: RamLun) -> None:
    assert reply(drive, "5a 00 3f 00 000000 0008 00") == "00 26 00 00 00 00 00 00"
    assert failure(drive, "5a 00 08 00 000000 0080 00") == "05/24/00"


def test_no_disc(drive: RamLun) -> None:
    drive.eject()
    for cdb in ("43" + "00" * 9, "25" + "00" * 9, "28" + "00" * 9):
        assert failure(drive, cdb) == "02/3a/00"
