"""MODE SENSE and MODE SELECT, against bytes written out from SPC-4 and SBC-3."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gadgets.mass_storage import RamLun
from gadgets.mass_storage.lun import FileLun
from gadgets.mass_storage.sense import Sense
from tests.scsi_target import failure, finished, given, reply, sent


class CachedLun(RamLun):
    """Memory that says it has a write cache, and can fail to flush it."""

    has_write_cache = True
    flushes = 0
    broken = False

    def flush(self) -> None:
        self.flushes += 1
        if self.broken:
            raise OSError(5, "broken")


@pytest.fixture
def lun() -> RamLun:
    return RamLun(1 << 20)


@pytest.fixture
def cached() -> CachedLun:
    return CachedLun(1 << 20)


RECOVERY = "01 0a" + " 00" * 10
CACHING = "08 12" + " 00" * 18
CONTROL = "0a 0a" + " 00" * 10
EXCEPTIONS = "1c 0a" + " 00" * 10
ALL = f"{RECOVERY} {CACHING} {CONTROL} {EXCEPTIONS}"


@pytest.mark.parametrize(
    ("cdb", "expected"),
    [
        ("1a 00 3f 00 c0 00", f"3b 00 00 00 {ALL}"),  # Linux asks for 192
        ("1a 00 3f 00 04 00", "3b 00 00 00"),
        ("1a 00 3f 00 00 00", ""),
        ("1a 00 08 00 c0 00", f"17 00 00 00 {CACHING}"),
        ("1a 08 1c 00 c0 00", f"0f 00 00 00 {EXCEPTIONS}"),
        ("1a 00 3f ff c0 00", f"3b 00 00 00 {ALL}"),
        ("1a 00 08 ff c0 00", f"17 00 00 00 {CACHING}"),
        ("1a 00 81 00 c0 00", f"0f 00 00 00 {RECOVERY}"),
        ("5a 00 08 00 00 00 00 00 c0 00", f"00 1a 00 00 00 00 00 00 {CACHING}"),
        ("5a 18 0a 00 00 00 00 00 c0 00", f"00 12 00 00 00 00 00 00 {CONTROL}"),
        ("5a 00 3f 00 00 00 00 00 08 00", "00 3e 00 00 00 00 00 00"),
    ],
)
def test_mode_sense(lun: RamLun, cdb: str, expected: str) -> None:
    assert reply(lun, cdb) == expected


def test_mode_sense_tells_read_only_write_cache_and_fua(cached: CachedLun) -> None:
    assert reply(RamLun(512, read_only=True), "1a 00 3f 00 04 00") == "3b 00 80 00"
    assert reply(cached, "1a 00 08 00 07 00") == "17 00 10 00 08 12 04"
    assert FileLun.has_write_cache and not RamLun.has_write_cache


def test_changeable_are_the_write_cache_and_software_write_protection(cached: CachedLun) -> None:
    changeable = f"{RECOVERY} 08 12 04{' 00' * 17} 0a 0a 00 00 08{' 00' * 7} {EXCEPTIONS}"
    assert reply(cached, "1a 00 7f 00 c0 00") == f"3b 00 10 00 {changeable}"


def test_a_cache_that_is_not_there_cannot_be_turned_on(lun: RamLun) -> None:
    assert reply(lun, "1a 00 48 00 c0 00") == f"17 00 00 00 {CACHING}"
    parameters = bytes.fromhex("00000000 0812 04") + bytes(17)
    assert sent(lun, "15 10 00 00 18 00", parameters) == Sense(5, 0x26)


@pytest.mark.parametrize(
    ("cdb", "expected"),
    [
        ("1a 00 05 00 c0 00", "05/24/00"),  # no such page
        ("1a 00 2a 00 c0 00", "05/24/00"),  # one of CD-ROM drives
        ("1a 00 08 01 c0 00", "05/24/00"),  # no such subpage
        ("1a 00 c8 00 c0 00", "05/39/00"),  # saved values
        ("1a 10 08 00 c0 00", "05/24/00"),  # reserved
        ("15 11 00 00 18 00", "05/24/00"),  # save pages
        ("15 00 00 00 18 00", "05/24/00"),  # no page format
        ("15 10 00 00 03 00", "05/1a/00"),  # no whole header
        ("55 10 00 00 00 00 00 00 07 00", "05/1a/00"),
        ("55 11 00 00 00 00 00 00 08 00", "05/24/00"),
    ],
)
def test_modes_that_are_refused(lun: RamLun, cdb: str, expected: str) -> None:
    assert failure(lun, cdb) == expected


@pytest.mark.parametrize("cdb", ["15 10 00 00 00 00", "55 00 00 00 00 00 00 00 00 00"])
def test_mode_select_of_nothing_is_good(lun: RamLun, cdb: str) -> None:
    answer = given(lun, cdb)
    assert not answer.failed and not answer.length and answer.work is None


def select6(lun: RamLun, pages: str, header: str = "00 00 00 00") -> Sense | None:
    data = bytes.fromhex(header + pages)
    return sent(lun, bytes((0x15, 0x10, 0, 0, len(data), 0)), data)


def select10(lun: RamLun, pages: str, header: str = "00 00 00 00 00 00 00 00") -> Sense | None:
    data = bytes.fromhex(header + pages)
    return sent(lun, bytes((0x55, 0x10, 0, 0, 0, 0, 0, 0, len(data), 0)), data)


Select = Callable[[RamLun, str], Sense | None]
NO_CACHE = CACHING
CACHE = "08 12 04" + " 00" * 17
PROTECTED = "0a 0a 00 00 08" + " 00" * 7


@pytest.mark.parametrize("select", [select6, select10])
def test_without_the_cache_every_write_is_durable(cached: CachedLun, select: Select) -> None:
    assert select(cached, NO_CACHE) is None
    assert cached.flushes == 1  # what was in it
    assert reply(cached, "1a 00 08 00 07 00") == "17 00 10 00 08 12 00"
    assert reply(cached, "1a 00 88 00 07 00") == "17 00 10 00 08 12 04"  # by default
    assert sent(cached, "2a 00 00000000 00 0001 00", bytes(512)) is None
    assert cached.flushes == 2
    assert select(cached, CACHE) is None
    assert sent(cached, "2a 00 00000000 00 0001 00", bytes(512)) is None
    assert cached.flushes == 2


def test_cache_that_cannot_be_emptied_fails_the_command(cached: CachedLun) -> None:
    cached.broken = True
    assert select6(cached, NO_CACHE) == Sense(3, 0x0C)


@pytest.mark.parametrize("select", [select6, select10])
def test_software_write_protection(lun: RamLun, select: Select) -> None:
    assert select(lun, PROTECTED) is None
    assert reply(lun, "1a 00 3f 00 04 00") == "3b 00 80 00"
    assert failure(lun, "2a 00 00000000 00 0001 00") == "07/27/02"
    assert select(lun, CONTROL) is None
    assert sent(lun, "2a 00 00000000 00 0001 00", bytes(512)) is None


def test_reset_brings_the_modes_back(cached: CachedLun) -> None:
    assert select6(cached, PROTECTED + NO_CACHE) is None
    assert (cached.software_write_protected, cached.write_through) == (True, True)
    cached.reset()
    assert failure(cached, bytes(6)) == "06/29/00"
    assert reply(cached, "1a 00 08 00 07 00") == "17 00 10 00 08 12 04"


@pytest.mark.parametrize(
    ("pages", "asc"),
    [
        ("05 1e" + "00" * 30, 0x26),  # no such page
        ("08 12 05" + "00" * 17, 0x26),  # RCD cannot be changed
        ("08 12 00 01" + "00" * 16, 0x26),
        ("08 11" + "00" * 17, 0x26),  # of another length
        ("48 12" + "00" * 18, 0x26),  # as a subpage
        ("08 12" + "00" * 17, 0x1A),  # cut off
        ("08", 0x1A),
        (PROTECTED + "0a 0a 04" + "00" * 9, 0x26),  # a good one first
    ],
)
def test_parameter_list_with_an_error_changes_nothing(
    cached: CachedLun, pages: str, asc: int
) -> None:
    assert select6(cached, pages) == Sense(5, asc)
    assert not cached.software_write_protected and not cached.flushes


@pytest.mark.parametrize("header", ["00 01 00 00", "00 00 00 08"])
def test_medium_type_and_block_descriptors_are_not_there(lun: RamLun, header: str) -> None:
    assert select6(lun, CONTROL + "00" * 8, header) == Sense(5, 0x26)


def test_what_mode_sense_gave_can_be_sent_back(cached: CachedLun) -> None:
    answer = given(cached, "5a 00 3f 00 00 00 00 00 ff 00")
    assert answer.data is not None
    data = bytes(answer.data)
    assert sent(cached, bytes((0x55, 0x10, *bytes(6), len(data), 0)), data) is None
    assert finished(given(cached, bytes(6))) is None
    assert not cached.write_through and not cached.software_write_protected


def test_the_saveable_bit_that_hosts_send_back_is_no_code(cached: CachedLun) -> None:
    assert select6(cached, "88 12 04" + "00" * 17) is None
