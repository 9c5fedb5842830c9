"""The SCSI target over a unit of memory: command blocks in, bytes and sense out."""

from __future__ import annotations

import struct

import pytest

from gadgets.mass_storage import RamLun
from gadgets.mass_storage.scsi import Target, commands_of
from gadgets.mass_storage.sense import Sense
from gadgets.mass_storage.unit import Lun
from tests.scsi_target import failure, given, reply
from usbip_vudc.errors import LocalProtocolError, SchemeError
from usbip_vudc.usb.ch9 import Direction

IN, OUT = Direction.IN, Direction.OUT
BLOCKS = 2048


class CachedLun(RamLun):
    """Memory that says it has a write cache, and can fail to flush it."""

    has_write_cache = True
    flushes = 0
    broken = False

    def flush(self) -> None:
        self.flushes += 1
        if self.broken:
            raise OSError(5, "broken")


class HugeLun(Lun):
    """16 TiB of nothing."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self._set_size(blocks * 512)

    def read(self, _offset: int, length: int) -> bytes:
        return bytes(length)

    def write(self, _offset: int, data: memoryview) -> int:
        return len(data)

    def _open_medium(self) -> int:
        return self.size

    def _close_medium(self) -> None:
        pass


HAS = {one.opcode: one for one in commands_of(RamLun(512, removable=True, thin=True))}
"""All that a disk can have; of several service actions the last."""


@pytest.fixture
def lun() -> RamLun:
    return RamLun(BLOCKS * 512)


@pytest.fixture
def removable() -> RamLun:
    return RamLun(BLOCKS * 512, removable=True)


# --- identity ----------------------------------------------------------------------------------

INQUIRY = (
    "00 00 06 02 1f 00 00 00 "
    "75 73 62 69 70 20 20 20 "  # usbip
    "76 75 64 63 20 72 61 6d 20 20 20 20 20 20 20 20 "  # vudc ram
    "31 2e 30 20"  # 1.0
)


@pytest.mark.parametrize("allocation", [36, 255, 96])
def test_inquiry_is_36_bytes(lun: RamLun, allocation: int) -> None:
    assert reply(lun, f"12 00 00 00 {allocation:02x} 00") == INQUIRY


@pytest.mark.parametrize("allocation", [0, 1, 5, 35])
def test_allocation_length_cuts(lun: RamLun, allocation: int) -> None:
    assert reply(lun, f"12 00 00 00 {allocation:02x} 00") == INQUIRY[: allocation * 3].strip()


def test_inquiry_of_a_removable_unit_sets_rmb(removable: RamLun) -> None:
    assert reply(removable, "12 00 00 00 24 00").startswith("00 80 06 02 1f")


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("00", "00 00 00 06 00 80 83 b0 b1 b2"),
        ("80", "00 80 00 08 30 30 30 30 30 30 30 31"),
        (
            "83",
            "00 83 00 24 02 01 00 20 75 73 62 69 70 20 20 20 76 75 64 63 20 72 61 6d "
            "20 20 20 20 20 20 20 20 30 30 30 30 30 30 30 31",
        ),
        ("b0", "00 b0 00 3c" + " 00" * 8 + " 00 00 08 00" + " 00" * 25 + " 7f ff ff" + " 00" * 20),
        ("b1", "00 b1 00 3c 00 01" + " 00" * 58),
        ("b2", "00 b2 00 04 00 00 00 00"),
    ],
)
def test_vital_product_data(lun: RamLun, page: str, expected: str) -> None:
    assert reply(lun, f"12 01 {page} 00 ff 00") == expected


def test_units_of_one_device_have_names_of_their_own() -> None:
    luns = [RamLun(512) for _ in range(3)]
    target = Target(luns)
    pages = [target.execute(lun, bytes.fromhex("120183 00 ff 00")).data for lun in luns]
    assert [bytes(page or b"")[32:] for page in pages] == [
        b"00000001", b"00000001-1", b"00000001-2",
    ]  # fmt: skip
    assert [(page or b"")[7] for page in pages] == [32, 34, 34]


@pytest.mark.parametrize("cdb", ["12 01 c0 00 ff 00", "12 00 80 00 ff 00", "12 02 00 00 ff 00"])
def test_inquiry_of_an_unknown_page_is_an_invalid_field(lun: RamLun, cdb: str) -> None:
    assert failure(lun, cdb) == "05/24/00"


@pytest.mark.parametrize(
    ("name", "value"), [("vendor", "ninechars"), ("product", "17 characters ..."), ("serial", "\n")]
)
def test_text_that_inquiry_cannot_carry_is_refused(name: str, value: str) -> None:
    with pytest.raises(SchemeError, match=name):
        RamLun(512, **{name: value})  # type: ignore[arg-type]


def test_report_luns_counts_the_units() -> None:
    luns = [RamLun(512) for _ in range(3)]
    cdb = bytes.fromhex("a0 00 00 00 00 00 00 00 01 00 00 00")
    answer = Target(luns).execute(luns[0], cdb)
    assert answer.data is not None
    assert answer.data.hex() == ("0000001800000000000000000000000000010000000000000002000000000000")


def test_report_luns_of_well_known_units_is_empty(lun: RamLun) -> None:
    assert reply(lun, "a0 00 01 00 00 00 00 00 00 10 00 00") == "00 00 00 00 00 00 00 00"


@pytest.mark.parametrize(
    "cdb", ["a0 00 00 00 00 00 00 00 00 0f 00 00", "a0 00 03 00 00 00 00 00 00 10 00 00"]
)
def test_report_luns_refuses_bad_fields(lun: RamLun, cdb: str) -> None:
    assert failure(lun, cdb) == "05/24/00"


# --- geometry ----------------------------------------------------------------------------------


def test_read_capacity_10(lun: RamLun) -> None:
    assert reply(lun, "25" + "00" * 9) == "00 00 07 ff 00 00 02 00"


def test_read_capacity_of_4096_byte_blocks() -> None:
    assert reply(RamLun(1 << 20, block_size=4096), "25" + "00" * 9) == "00 00 00 ff 00 00 10 00"


def test_read_capacity_16(lun: RamLun) -> None:
    expected = "00 00 00 00 00 00 07 ff 00 00 02 00" + " 00" * 20
    assert reply(lun, "9e 10 00000000 00000000 00000020 00 00") == expected
    assert reply(lun, "9e 10 00000000 00000000 0000000c 00 00") == expected[:35]


def test_more_than_2_tib_sends_the_host_to_read_capacity_16() -> None:
    lun = HugeLun(1 << 35)
    assert reply(lun, "25" + "00" * 9) == "ff ff ff ff 00 00 02 00"
    assert reply(lun, "9e 10" + "00" * 11 + "20 00 00").startswith("00 00 00 07 ff ff ff ff")
    answer = given(lun, "88 00 00000007ffffffff 00000001 00 00")
    assert (answer.offset, answer.length) == (0x7FFFFFFFF * 512, 512)
    assert failure(lun, "88 00 00000007ffffffff 00000002 00 00") == "05/21/00"


@pytest.mark.parametrize("cdb", ["25 00 00000001 0000 00 00", "25 00 00000000 0000 01 00"])
def test_read_capacity_refuses_pmi(lun: RamLun, cdb: str) -> None:
    assert failure(lun, cdb) == "05/24/00"


def test_other_service_actions_are_refused(lun: RamLun) -> None:
    assert failure(lun, "9e 11" + "00" * 14) == "05/24/00"


def test_read_format_capacities(lun: RamLun) -> None:
    expected = "00 00 00 08 00 00 08 00 02 00 02 00"
    assert reply(lun, "23 00 00 00 00 00 00 00 fc 00") == expected


# --- data --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cdb", "direction", "lba", "blocks"),
    [
        ("08 00 00 05 02 00", IN, 5, 2),
        ("08 e0 00 05 00 00", IN, 5, 256),  # the top bits were the LUN once
        ("0a 00 01 00 01 00", OUT, 256, 1),
        ("28 00 00000005 00 0008 00", IN, 5, 8),
        ("28 10 000007ff 00 0001 00", IN, 2047, 1),
        ("2a 00 00000005 00 0008 00", OUT, 5, 8),
        ("a8 00 00000005 00000008 00 00", IN, 5, 8),
        ("aa 00 00000005 00000008 00 00", OUT, 5, 8),
        ("88 00 0000000000000005 00000008 00 00", IN, 5, 8),
        ("8a 00 0000000000000005 00000008 00 00", OUT, 5, 8),
    ],
)
def test_reads_and_writes(
    lun: RamLun, cdb: str, direction: Direction, lba: int, blocks: int
) -> None:
    answer = given(lun, cdb)
    assert (answer.direction, answer.offset, answer.length) == (direction, lba * 512, blocks * 512)
    assert not answer.failed and answer.data is None and answer.work is None


@pytest.mark.parametrize("opcode", [0x28, 0x2A, 0x2F])
def test_zero_blocks_is_good_and_moves_nothing(lun: RamLun, opcode: int) -> None:
    answer = given(lun, struct.pack(">BBIBHB", opcode, 0, BLOCKS, 0, 0, 0))
    assert not answer.failed and not answer.length


@pytest.mark.parametrize(
    "cdb",
    [
        "08 1f ff ff 01 00",
        "28 00 000007ff 00 0002 00",
        "28 00 ffffffff 00 0001 00",
        "28 00 00000801 00 0000 00",
        "2a 00 00000800 00 0001 00",
        "2f 00 00000800 00 0001 00",
        "35 00 00000800 00 0001 00",
        "a8 00 00000000 00000801 00 00",
        "88 00 ffffffffffffffff 00000001 00 00",
        "8a 00 0000000000000000 ffffffff 00 00",
    ],
)
def test_beyond_the_last_block(lun: RamLun, cdb: str) -> None:
    assert failure(lun, cdb) == "05/21/00"


@pytest.mark.parametrize("opcode", [0x28, 0x2A, 0x2F])
def test_protection_information_is_refused(lun: RamLun, opcode: int) -> None:
    assert failure(lun, struct.pack(">BBIBHB", opcode, 0x20, 0, 0, 1, 0)) == "05/24/00"


@pytest.mark.parametrize("opcode", [0x0A, 0x2A, 0xAA, 0x8A])
def test_writes_to_a_read_only_unit(opcode: int) -> None:
    lun = RamLun(512, read_only=True)
    assert failure(lun, bytes((opcode,)) + bytes(15)) == "07/27/00"


@pytest.mark.parametrize("opcode", [0x28, 0x2A])
def test_fua_flushes(opcode: int) -> None:
    lun = CachedLun(1024)
    answer = given(lun, struct.pack(">BBIBHB", opcode, 0x08, 0, 0, 1, 0))
    assert answer.work is not None
    assert answer.work() is None
    assert lun.flushes == 1


@pytest.mark.parametrize("cdb", ["35" + "00" * 9, "91" + "00" * 15, "1b 00 00 00 00 00"])
def test_synchronize_cache_and_stop_flush(cdb: str) -> None:
    lun = CachedLun(1024)
    answer = given(lun, cdb)
    assert answer.work is not None
    assert answer.work() is None
    lun.broken = True
    assert answer.work() == Sense(3, 0x0C)
    assert lun.flushes == 2


def test_verify_reads_and_names_the_bad_block() -> None:
    class Bad(RamLun):
        def verify(self, _offset: int, _length: int) -> int:
            return 512

    answer = given(Bad(4096), "2f 00 00000002 00 0003 00")
    assert answer.work is not None and answer.work() == Sense(3, 0x11, 0, 3)
    good = given(RamLun(4096), "2f 00 00000002 00 0003 00")
    assert good.work is not None and good.work() is None


# --- sense and unit attention ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sense", "expected"),
    [
        (Sense(0), "70 00 00 00 00 00 00 0a 00 00 00 00 00 00 00 00 00 00"),
        (Sense(5, 0x24), "70 00 05 00 00 00 00 0a 00 00 00 00 24 00 00 00 00 00"),
        (Sense(5, 0x53, 2), "70 00 05 00 00 00 00 0a 00 00 00 00 53 02 00 00 00 00"),
        (Sense(3, 0x11).at(0x123), "f0 00 03 00 00 01 23 0a 00 00 00 00 11 00 00 00 00 00"),
        (Sense(3, 0x11).at(1 << 32), "70 00 03 00 00 00 00 0a 00 00 00 00 11 00 00 00 00 00"),
    ],
)
def test_fixed_format_sense(sense: Sense, expected: str) -> None:
    assert sense.pack().hex(" ") == expected


def test_request_sense_clears_the_sense(lun: RamLun) -> None:
    assert failure(lun, "ff" * 6) == "05/20/00"
    assert reply(lun, "03 00 00 00 12 00")[:38] == "70 00 05 00 00 00 00 0a 00 00 00 00 20"
    assert reply(lun, "03 00 00 00 12 00")[:38] == "70 00 00 00 00 00 00 0a 00 00 00 00 00"


def test_request_sense_in_a_12_byte_block_and_cut(lun: RamLun) -> None:
    assert reply(lun, "03 00 00 00 08 00 00 00 00 00 00 00") == "70 00 00 00 00 00 00 0a"


def test_descriptor_sense_has_room_for_every_lba(lun: RamLun) -> None:
    assert reply(lun, "03 01 00 00 ff 00") == "72 00 00 00 00 00 00 00"
    lun.sense = Sense(3, 0x11).at(1 << 32)
    expected = "72 03 11 00 00 00 00 0c 00 0a 80 00 00 00 00 01 00 00 00 00"
    assert reply(lun, "03 01 00 00 ff 00") == expected


def test_next_command_clears_the_sense(lun: RamLun) -> None:
    failure(lun, "ff" * 6)
    assert not given(lun, bytes(6)).failed
    assert str(lun.sense) == "00/00/00"


def test_sense_is_per_unit() -> None:
    one, two = RamLun(512), RamLun(512)
    target = Target([one, two])
    assert target.execute(one, b"\xff" * 6).failed
    assert not target.execute(two, bytes(6)).failed
    assert (str(one.sense), str(two.sense)) == ("05/20/00", "00/00/00")


def test_power_on_attention_comes_once_per_unit() -> None:
    luns = [RamLun(512), RamLun(512)]
    target = Target(luns)
    target.reset()
    target.reset()
    for lun in luns:
        assert [target.execute(lun, bytes(6)).failed for _ in range(2)] == [True, False]


@pytest.mark.parametrize(
    "cdb", ["12 00 00 00 24 00", "a0 00 00 00 00 00 00 00 00 10 00 00", "03 00 00 00 12 00"]
)
def test_inquiry_report_luns_and_request_sense_are_not_held_up(lun: RamLun, cdb: str) -> None:
    lun.reset()
    assert not given(lun, cdb).failed


def test_inquiry_leaves_the_attention_and_request_sense_reports_it(lun: RamLun) -> None:
    lun.reset()
    reply(lun, "12 00 00 00 24 00")
    assert reply(lun, "03 00 00 00 12 00")[:38] == "70 00 06 00 00 00 00 0a 00 00 00 00 29"
    assert not given(lun, bytes(6)).failed


def test_attention_comes_before_an_unknown_opcode(lun: RamLun) -> None:
    lun.reset()
    assert failure(lun, "ff" * 6) == "06/29/00"
    assert failure(lun, "ff" * 6) == "05/20/00"


@pytest.mark.parametrize("opcode", sorted(set(range(256)) - set(HAS)))
def test_every_other_opcode_is_refused(lun: RamLun, opcode: int) -> None:
    assert failure(lun, bytes((opcode,)) + bytes(15)) == "05/20/00"


@pytest.mark.parametrize("opcode", sorted(HAS))
def test_short_command_block_is_an_invalid_field(opcode: int) -> None:
    lun = RamLun(512, removable=True, thin=True)
    assert failure(lun, bytes((opcode, 0, 0, 0, 0))) == "05/24/00"


# --- removable media ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "opcode", sorted(code for code, command in HAS.items() if command.needs_medium)
)
def test_no_medium(opcode: int) -> None:
    removable = RamLun(512, removable=True, thin=True)
    removable.eject()
    assert failure(removable, HAS[opcode].usage[:2].ljust(16, b"\0")) == "02/3a/00"


def test_insert_is_announced_once(removable: RamLun) -> None:
    removable.eject()
    removable.insert()
    assert failure(removable, bytes(6)) == "06/28/00"
    assert not given(removable, bytes(6)).failed


def test_power_on_is_announced_before_a_new_medium(removable: RamLun) -> None:
    removable.eject()
    removable.insert()
    removable.reset()
    assert [failure(removable, bytes(6)) for _ in range(2)] == ["06/29/00", "06/28/00"]


def test_start_stop_ejects_and_loads(removable: RamLun) -> None:
    answer = given(removable, "1b 00 00 00 02 00")
    assert answer.work is not None and answer.finish is not None
    assert answer.work() is None and answer.finish() is None
    assert failure(removable, bytes(6)) == "02/3a/00"
    assert failure(removable, "1b 00 00 00 01 00") == "02/3a/00"
    assert not given(removable, "1b 00 00 00 03 00").failed
    assert failure(removable, bytes(6)) == "06/28/00"


def test_prevented_removal(removable: RamLun) -> None:
    assert not given(removable, "1e 00 00 00 01 00").failed
    assert failure(removable, "1b 00 00 00 02 00") == "05/53/02"
    with pytest.raises(LocalProtocolError, match="force=True"):
        removable.eject()
    removable.eject(force=True)
    assert not removable.medium_present and not removable.prevented


def test_allow_ends_prevent(removable: RamLun) -> None:
    given(removable, "1e 00 00 00 01 00")
    assert not given(removable, "1e 00 00 00 00 00").failed
    removable.eject()


@pytest.mark.parametrize(
    ("cdb", "expected"),
    [
        ("1e 00 00 00 01 00", "05/20/00"),
        ("1b 00 00 00 02 00", "05/24/00"),
        ("1b 00 00 00 10 00", "05/24/00"),
    ],
)
def test_fixed_unit_has_nothing_to_eject(lun: RamLun, cdb: str, expected: str) -> None:
    assert failure(lun, cdb) == expected
    with pytest.raises(LocalProtocolError, match="removable=True"):
        lun.eject()


def test_start_of_a_fixed_unit_is_good(lun: RamLun) -> None:
    assert not given(lun, "1b 00 00 00 01 00").failed


def test_insert_into_a_full_slot_is_our_mistake(removable: RamLun) -> None:
    with pytest.raises(LocalProtocolError, match="already"):
        removable.insert()


@pytest.mark.parametrize(
    ("cdb", "good"),
    [("1d 04 00 00 00 00", True), ("1d 00 00 00 00 00", True), ("1d 10 00 00 00 00", False),
     ("1d 04 00 00 08 00", False), ("1d 24 00 00 00 00", False)],
)  # fmt: skip
def test_send_diagnostic(lun: RamLun, cdb: str, good: bool) -> None:
    assert given(lun, cdb).failed is not good
