"""VERIFY, WRITE AND VERIFY, WRITE SAME, UNMAP and GET LBA STATUS over memory and files (SBC-3)."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from gadgets.mass_storage import FileLun, Lun, RamLun
from gadgets.mass_storage.sense import Sense
from tests.scsi_target import failure, finished, given, reply, sent

BLOCKS = 64
Cdb = Callable[[int, int, int, int], bytes]
OUT_OF_RANGE = Sense(5, 0x21)


def content(blocks: int, size: int = 512) -> bytes:
    """No two blocks alike, and none of zeroes."""
    return b"".join(struct.pack(">Q", n + 1) * (size // 8) for n in range(blocks))


@pytest.fixture(params=["memory", "file", "4096"])
def lun(request: pytest.FixtureRequest, tmp_path: Path) -> Lun:
    """A thin disk full of `content`."""
    size = 4096 if request.param == "4096" else 512
    data = content(BLOCKS, size)
    if request.param == "file":
        path = tmp_path / "disk.img"
        path.write_bytes(data)
        lun = FileLun(path, thin=True)
        request.addfinalizer(lun.close)
        return lun
    ram = RamLun(len(data), block_size=size, thin=True)
    ram.memory[:] = data
    return ram


def blocks_of(lun: Lun, lba: int, count: int) -> bytes:
    return bytes(lun.read(lba * lun.block_size, count * lun.block_size))


def cdb10(opcode: int, flags: int, lba: int, blocks: int) -> bytes:
    return struct.pack(">BBIBHB", opcode, flags, lba, 0, blocks, 0)


def cdb12(opcode: int, flags: int, lba: int, blocks: int) -> bytes:
    return struct.pack(">BBIIBB", opcode, flags, lba, blocks, 0, 0)


def cdb16(opcode: int, flags: int, lba: int, blocks: int) -> bytes:
    return struct.pack(">BBQIBB", opcode, flags, lba, blocks, 0, 0)


# --- VERIFY ------------------------------------------------------------------------------------

VERIFIES = pytest.mark.parametrize(
    ("cdb", "opcode"), [(cdb10, 0x2F), (cdb12, 0xAF), (cdb16, 0x8F)], ids=("10", "12", "16")
)
COMPARE, COMPARE_ONE = 0x02, 0x06


@VERIFIES
def test_verify_reads_the_medium(lun: Lun, cdb: Cdb, opcode: int) -> None:
    answer = given(lun, cdb(opcode, 0, 3, 5))
    assert answer.direction is None and finished(answer) is None


@VERIFIES
def test_bytchk_1_compares_every_block(lun: Lun, cdb: Cdb, opcode: int) -> None:
    data = bytearray(blocks_of(lun, 3, 5))
    assert sent(lun, cdb(opcode, COMPARE, 3, 5), bytes(data)) is None
    data[3 * lun.block_size + 17] ^= 1
    assert sent(lun, cdb(opcode, COMPARE, 3, 5), bytes(data)) == Sense(0xE, 0x1D, 0, 6)


@VERIFIES
def test_bytchk_3_compares_one_block_with_all(lun: Lun, cdb: Cdb, opcode: int) -> None:
    block = blocks_of(lun, 3, 1)
    assert sent(lun, cdb(opcode, COMPARE_ONE, 3, 1), block) is None
    assert sent(lun, cdb(opcode, COMPARE_ONE, 3, 4), block) == Sense(0xE, 0x1D, 0, 4)
    lun.write(4 * lun.block_size, memoryview(block * 3))
    assert sent(lun, cdb(opcode, COMPARE_ONE, 3, 4), block) is None


@VERIFIES
def test_bytchk_2_is_reserved(lun: Lun, cdb: Cdb, opcode: int) -> None:
    assert failure(lun, cdb(opcode, 0x04, 3, 5)) == "05/24/00"


@VERIFIES
@pytest.mark.parametrize("flags", [0, COMPARE, COMPARE_ONE])
def test_verify_of_nothing_moves_nothing(lun: Lun, cdb: Cdb, opcode: int, flags: int) -> None:
    answer = given(lun, cdb(opcode, flags, BLOCKS, 0))
    assert not answer.failed and not answer.length and answer.work is None
    assert failure(lun, cdb(opcode, flags, BLOCKS + 1, 0)) == "05/21/00"
    assert failure(lun, cdb(opcode, flags, BLOCKS, 1)) == "05/21/00"


@pytest.mark.parametrize("flags", [COMPARE, COMPARE_ONE])
def test_comparison_with_a_block_that_cannot_be_read(flags: int) -> None:
    class Bad(RamLun):
        def read(self, offset: int, length: int) -> memoryview:
            return self.memory[offset : min(offset + length, 5 * 512)]

    lun = Bad(BLOCKS * 512)
    data = bytes(512 if flags == COMPARE_ONE else 2048)
    assert sent(lun, cdb10(0x2F, flags, 3, 4), data) == Sense(3, 0x11, 0, 5)


# --- WRITE AND VERIFY --------------------------------------------------------------------------

WRITES = pytest.mark.parametrize(
    ("cdb", "opcode"), [(cdb10, 0x2E), (cdb12, 0xAE), (cdb16, 0x8E)], ids=("10", "12", "16")
)


@WRITES
@pytest.mark.parametrize("flags", [0, COMPARE])
def test_write_and_verify_writes(lun: Lun, cdb: Cdb, opcode: int, flags: int) -> None:
    data = os.urandom(4 * lun.block_size)
    assert sent(lun, cdb(opcode, flags, 9, 4), data) is None
    assert (
        blocks_of(lun, 8, 6)
        == content(9, lun.block_size)[-lun.block_size :]
        + data
        + (content(14, lun.block_size)[-lun.block_size :])
    )


@WRITES
@pytest.mark.parametrize("flags", [0x04, 0x06])
def test_write_and_verify_of_one_block_for_all_is_reserved(
    lun: Lun, cdb: Cdb, opcode: int, flags: int
) -> None:
    assert failure(lun, cdb(opcode, flags, 9, 4)) == "05/24/00"


def test_write_and_verify_finds_what_the_medium_did_not_keep() -> None:
    class Rotten(RamLun):
        def write(self, offset: int, data: memoryview) -> int:
            super().write(offset, data)
            self.memory[7 * 512] ^= 0x40
            return len(data)

        def verify(self, offset: int, length: int) -> int:
            return 512 if offset == 6 * 512 else length

    lun = Rotten(BLOCKS * 512)
    assert sent(lun, cdb10(0x2E, COMPARE, 6, 2), bytes(1024)) == Sense(0xE, 0x1D, 0, 7)
    assert sent(lun, cdb10(0x2E, 0, 6, 2), bytes(1024)) == Sense(3, 0x11, 0, 7)


def test_write_and_verify_is_durable() -> None:
    class Cached(RamLun):
        has_write_cache = True
        flushes = 0

        def flush(self) -> None:
            self.flushes += 1

    lun = Cached(BLOCKS * 512)
    for flags in (0, COMPARE):
        assert sent(lun, cdb10(0x2E, flags, 6, 2), bytes(1024)) is None
    assert lun.flushes == 2


# --- WRITE SAME --------------------------------------------------------------------------------

SAMES = pytest.mark.parametrize(("cdb", "opcode"), [(cdb10, 0x41), (cdb16, 0x93)], ids=("10", "16"))
UNMAP, NDOB = 0x08, 0x01


@SAMES
@pytest.mark.parametrize("flags", [0, UNMAP])
def test_write_same_repeats_the_block(lun: Lun, cdb: Cdb, opcode: int, flags: int) -> None:
    block = os.urandom(lun.block_size)
    before, after = blocks_of(lun, 0, 10), blocks_of(lun, 15, 49)
    assert sent(lun, cdb(opcode, flags, 10, 5), block) is None
    assert blocks_of(lun, 0, BLOCKS) == before + block * 5 + after


@SAMES
def test_write_same_of_no_number_goes_to_the_end(lun: Lun, cdb: Cdb, opcode: int) -> None:
    block = os.urandom(lun.block_size)
    assert sent(lun, cdb(opcode, 0, 60, 0), block) is None
    assert blocks_of(lun, 59, 5) == content(60, lun.block_size)[-lun.block_size :] + block * 4
    assert failure(lun, cdb(opcode, 0, BLOCKS, 0)) == "05/21/00", "there is no block to begin with"


@SAMES
@pytest.mark.parametrize("flags", [0, UNMAP])
def test_write_same_of_zeroes(lun: Lun, cdb: Cdb, opcode: int, flags: int) -> None:
    assert sent(lun, cdb(opcode, flags, 10, 5), bytes(lun.block_size)) is None
    assert blocks_of(lun, 10, 5) == bytes(5 * lun.block_size)
    assert any(blocks_of(lun, 9, 1)) and any(blocks_of(lun, 15, 1))


@pytest.mark.parametrize("flags", [NDOB, NDOB | UNMAP])
def test_write_same_without_data_writes_zeroes(lun: Lun, flags: int) -> None:
    answer = given(lun, cdb16(0x93, flags, 10, 5))
    assert answer.direction is None and finished(answer) is None
    assert blocks_of(lun, 10, 5) == bytes(5 * lun.block_size)
    assert any(blocks_of(lun, 9, 1)) and any(blocks_of(lun, 15, 1))


@pytest.mark.parametrize(
    ("cdb", "expected"),
    [
        (cdb10(0x41, 0x10, 0, 1), "05/24/00"),  # ANCHOR
        (cdb10(0x41, 0x04, 0, 1), "05/24/00"),  # PBDATA
        (cdb10(0x41, 0x02, 0, 1), "05/24/00"),  # LBDATA
        (cdb10(0x41, 0x01, 0, 1), "05/24/00"),  # NDOB is of the long one
        (cdb10(0x41, 0x20, 0, 1), "05/24/00"),  # WRPROTECT
        (cdb10(0x41, 0, BLOCKS, 1), "05/21/00"),
        (cdb16(0x93, 0, 0xFFFF_FFFF_FFFF_FFFF, 0xFFFF_FFFF), "05/21/00"),
    ],
)
def test_write_same_refuses(lun: Lun, cdb: bytes, expected: str) -> None:
    assert failure(lun, cdb) == expected


def test_write_same_has_the_limit_that_block_limits_tells(tmp_path: Path) -> None:
    with FileLun(tmp_path / "disk.img", create_size=8 << 30, thin=True) as lun:
        assert reply(lun, "12 01 b0 00 40 00")[36 * 3 : 44 * 3 - 1] == "00 00 00 00 00 7f ff ff"
        assert not given(lun, cdb16(0x93, NDOB | UNMAP, 0, 0x7F_FFFF)).failed
        assert failure(lun, cdb16(0x93, NDOB | UNMAP, 0, 0x80_0000)) == "05/24/00"
        assert failure(lun, cdb16(0x93, NDOB | UNMAP, 0, 0)) == "05/24/00"


def test_write_same_that_fails_names_the_block() -> None:
    class Full(RamLun):
        def write(self, offset: int, data: memoryview) -> int:
            return super().write(offset, data[: max(9 * 512 - offset, 0)])

    lun = Full(BLOCKS * 512)
    assert sent(lun, cdb10(0x41, 0, 6, 20), b"x" * 512) == Sense(3, 0x0C, 0, 9)


# --- UNMAP -------------------------------------------------------------------------------------


def parameters(*ranges: tuple[int, int]) -> bytes:
    body = b"".join(struct.pack(">QI4x", *one) for one in ranges)
    return struct.pack(">HH4x", 6 + len(body), len(body)) + body


def unmap(lun: Lun, data: bytes) -> Sense | None:
    return sent(lun, struct.pack(">B6xHx", 0x42, len(data)), data)


def test_unmapped_blocks_read_as_zeroes(lun: Lun) -> None:
    assert unmap(lun, parameters((1, 2), (20, 0), (10, 33))) is None
    gone = {1, 2, *range(10, 43)}
    for lba in range(BLOCKS):
        assert any(blocks_of(lun, lba, 1)) == (lba not in gone), lba


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (parameters((0, 2), (BLOCKS - 1, 2)), OUT_OF_RANGE),
        (parameters((0, 2), (0xFFFF_FFFF_FFFF_FFFF, 0xFFFF_FFFF)), OUT_OF_RANGE),
        (parameters((0, 2))[:-1], Sense(5, 0x1A)),
        (struct.pack(">HH4x", 22, 32) + bytes(16), Sense(5, 0x1A)),
        (struct.pack(">HH4x", 6, 0), None),
        (struct.pack(">HH4xQI", 18, 12, 0, 2), None),  # no whole descriptor
    ],
)
def test_unmap_lists_that_change_nothing(lun: Lun, data: bytes, expected: Sense | None) -> None:
    assert unmap(lun, data) == expected
    assert blocks_of(lun, 0, BLOCKS) == content(BLOCKS, lun.block_size)


@pytest.mark.parametrize(
    ("cdb", "expected"),
    [
        ("42 00 00000000 00 0007 00", "05/1a/00"),
        ("42 01 00000000 00 0018 00", "05/24/00"),  # ANCHOR
        ("42 00 00000001 00 0018 00", "05/24/00"),
        ("42 00 00000000 01 0018 00", "05/24/00"),  # GROUP NUMBER
        ("42 00 00000000 00 0018 04", "05/24/00"),  # NACA
    ],
)
def test_unmap_refuses(lun: Lun, cdb: str, expected: str) -> None:
    assert failure(lun, cdb) == expected


def test_unmap_of_no_list_is_good(lun: Lun) -> None:
    answer = given(lun, "42" + "00" * 9)
    assert not answer.failed and not answer.length and answer.work is None


def test_what_cannot_be_given_back_is_a_write_error(
    lun: Lun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_offset: int, _length: int) -> None:
        raise OSError(5, "broken")

    monkeypatch.setattr(lun, "unmap", broken)
    assert unmap(lun, parameters((3, 2))) == Sense(3, 0x0C, 0, 3)


def test_unmap_is_durable_without_the_write_cache() -> None:
    flushed: list[bytes] = []

    class Cached(RamLun):
        has_write_cache = True

        def flush(self) -> None:
            flushed.append(bytes(self.memory[:1024]))

    lun = Cached(BLOCKS * 512, thin=True)
    lun.memory[:] = content(BLOCKS)
    assert unmap(lun, parameters((0, 1))) is None
    assert flushed == []
    lun.write_through = True
    assert unmap(lun, parameters((1, 1))) is None
    assert flushed == [bytes(1024)]


def test_a_disk_that_is_not_thin_gives_nothing_back() -> None:
    thick = RamLun(BLOCKS * 512)
    assert failure(thick, "42 00 00000000 00 0018 00") == "05/20/00"
    assert failure(thick, cdb10(0x41, UNMAP, 0, 1)) == "05/24/00"
    assert failure(thick, cdb16(0x93, UNMAP, 0, 1)) == "05/24/00"
    assert finished(given(thick, cdb16(0x93, NDOB, 0, 1))) is None


def test_thin_disks_say_so(lun: Lun) -> None:
    granularity = 4096 // lun.block_size
    limits = reply(lun, "12 01 b0 00 40 00")
    assert limits[20 * 3 : 32 * 3 - 1] == f"ff ff ff ff 00 00 0f ff 00 00 00 {granularity:02x}"
    assert reply(lun, "12 01 b2 00 ff 00") == "00 b2 00 04 00 e4 02 00"
    assert reply(lun, "9e 10 00000000 00000000 00000020 00 00")[12 * 3 : 16 * 3 - 1] == (
        "00 00 c0 00"
    )


@pytest.mark.parametrize("opcode", [0x0A, 0x2A, 0xAA, 0x8A, 0x2E, 0xAE, 0x8E, 0x41, 0x93, 0x42])
def test_write_protection_covers_everything_that_writes(opcode: int) -> None:
    cdb = bytes((opcode,)) + bytes(15)
    assert failure(RamLun(512, read_only=True, thin=True), cdb) == "07/27/00"
    switched = RamLun(512, thin=True)
    switched.software_write_protected = True
    assert failure(switched, cdb) == "07/27/02"


# --- GET LBA STATUS ----------------------------------------------------------------------------


def lba_status(lun: Lun, lba: int) -> tuple[int, int, int]:
    """(LBA, blocks, provisioning status) of the one descriptor."""
    cdb = struct.pack(">BBQIBB", 0x9E, 0x12, lba, 32, 0, 0)
    length, first, blocks, status = struct.unpack(">I4xQIB3x", bytes.fromhex(reply(lun, cdb.hex())))
    assert length == 20
    return first, blocks, status


def test_lba_status_tells_holes(tmp_path: Path) -> None:
    path = tmp_path / "sparse.img"
    with FileLun(path, create_size=1 << 20, thin=True) as lun:
        lun.write(256 << 10, memoryview(bytes(128 << 10)))
        if path.stat().st_blocks * 512 >= 1 << 20:
            pytest.skip("this file system has no holes")
        assert lba_status(lun, 0) == (0, 512, 1)
        assert lba_status(lun, 100) == (100, 412, 1)
        assert lba_status(lun, 512) == (512, 256, 0)
        assert lba_status(lun, 768) == (768, 1280, 1)
        assert lba_status(lun, 2047) == (2047, 1, 1)


def test_every_block_of_a_disk_that_is_not_thin_is_mapped(tmp_path: Path) -> None:
    with FileLun(tmp_path / "sparse.img", create_size=1 << 20) as lun:
        assert lba_status(lun, 100) == (100, 1948, 0)


def test_lba_status_of_memory_is_mapped() -> None:
    lun = RamLun(BLOCKS * 512)
    assert lba_status(lun, 3) == (3, BLOCKS - 3, 0)
    assert failure(lun, struct.pack(">BBQIBB", 0x9E, 0x12, BLOCKS, 32, 0, 0)) == "05/21/00"


# --- beyond 2 TiB ------------------------------------------------------------------------------

HUGE = 3 << 40


@pytest.mark.parametrize("size", [512, 4096])
def test_blocks_beyond_32_bits(tmp_path: Path, size: int) -> None:
    length = HUGE if size == 512 else HUGE * 8
    shm = Path("/dev/shm")  # a file of ext4 ends at 16 TiB
    path = (shm if os.access(shm, os.W_OK) else tmp_path) / f"huge-{os.getpid()}.img"
    try:
        lun = FileLun(path, create_size=length, block_size=size, thin=True)
    except OSError as error:
        path.unlink(missing_ok=True)
        pytest.skip(f"no file of {length} bytes here: {error}")
    path.unlink()
    with lun:
        last = length // size - 1
        assert last > 0xFFFF_FFFF
        block = os.urandom(size)
        assert reply(lun, "25" + "00" * 9) == f"ff ff ff ff 00 00 {size >> 8:02x} 00"
        assert sent(lun, cdb16(0x8A, 0, last, 1), block) is None
        assert sent(lun, cdb16(0x8F, COMPARE, last, 1), block) is None
        assert sent(lun, cdb16(0x93, 0, last - 2, 2), block) is None
        assert blocks_of(lun, last - 3, 4) == bytes(size) + block * 3
        assert unmap(lun, parameters((last - 1, 2))) is None
        assert blocks_of(lun, last - 2, 3) == block + bytes(2 * size)
        assert failure(lun, cdb16(0x8A, 0, last, 2)) == "05/21/00"
        different = sent(lun, cdb16(0x8F, COMPARE, last - 1, 1), block)
        assert different == Sense(0xE, 0x1D, 0, last - 1)
