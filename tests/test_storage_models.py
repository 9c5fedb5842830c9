"""Models of disks that misbehave: what each does to a host, alone, together and under a plan."""

from __future__ import annotations

import random
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from configfs.sources import find_source
from gadgets.mass_storage import FileLun, Lun, MassStorageFunction, RamLun
from gadgets.mass_storage.models import (
    MODELS,
    BadBlocks,
    FakeCapacity,
    Model,
    NeedsReset,
    SlowBlocks,
    VolatileCache,
    models_of,
    with_models,
)
from gadgets.mass_storage.stores import SparseLun
from tests.test_mass_storage import IN, MIB, Disk, plugged, read10, write10
from usbip_vudc.cli import main
from usbip_vudc.errors import SchemeError, UrbError
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.injection import Plan, injected
from usbip_vudc.registry import GadgetOptions
from usbip_vudc.scheme import dump_scheme, parse_scheme
from usbip_vudc.urb import HostUrb
from usbip_vudc.usb.ch9 import SetupPacket

BLOCK = 512
SYNCHRONIZE = bytes.fromhex("35") + bytes(9)
FUA = 0x08
CONTENT = random.Random(3).randbytes(MIB)


def filled(*, removable: bool = False) -> RamLun:
    lun = RamLun(MIB, removable=removable)
    lun.memory[:] = CONTENT
    return lun


def blocks(first: int, count: int) -> bytes:
    return CONTENT[first * BLOCK : (first + count) * BLOCK]


def full_sense(disk: Disk) -> tuple[int, int, int, int | None]:
    """(key, asc, ascq, INFORMATION where it is valid)."""
    data, _, status = disk.read(bytes.fromhex("030000001200"), 18)
    assert status == 0
    information = struct.unpack_from(">I", data, 3)[0] if data[0] & 0x80 else None
    return data[2], data[12], data[13], information


def partly(disk: Disk, cdb: bytes, length: int) -> tuple[bytes, int, int]:
    """As `Disk.read`, with what came before the STALL."""
    disk.cbw(cdb, length)
    buffer = bytearray(length)
    with pytest.raises(UrbError, match="halted") as caught:
        disk.host.transfer(HostUrb(IN, buffer), 10.0)
    disk.clear_halt(IN)
    return bytes(buffer[: caught.value.actual_length]), *disk.csw()


# --- blocks ------------------------------------------------------------------------------------


def test_bad_block_is_read_up_to_and_told_with_its_lba() -> None:
    with plugged(BadBlocks(filled(), [(100, 109), (500, 500)])) as disk:
        disk.attend()
        assert partly(disk, read10(96, 8), 4096) == (blocks(96, 4), 2048, 1)
        assert full_sense(disk) == (3, 0x11, 0, 100)
        assert disk.read(read10(105, 1), BLOCK) == (b"", BLOCK, 1)
        assert full_sense(disk) == (3, 0x11, 0, 105)
        assert disk.read(read10(110, 390), 390 * BLOCK) == (blocks(110, 390), 0, 0)
        assert disk.read(read10(500, 1), BLOCK)[2] == 1
        assert disk.none(struct.pack(">BBIBHB", 0x2F, 0, 490, 0, 20, 0)) == 1
        assert full_sense(disk) == (3, 0x11, 0, 500)


def test_bad_block_is_written_up_to_and_told_with_its_lba() -> None:
    lun = filled()
    with plugged(BadBlocks(lun, [(100, 109)])) as disk:
        disk.attend()
        residue, status = disk.write(write10(98, 4), b"w" * 2048)
        assert status == 1
        assert residue == 1024
        assert full_sense(disk) == (3, 0x0C, 0, 100)
        assert disk.write(write10(110, 1), b"w" * BLOCK) == (0, 0)
    assert bytes(lun.memory[98 * BLOCK : 102 * BLOCK]) == b"w" * 1024 + blocks(100, 2)


def test_slow_blocks_alone_are_waited_for() -> None:
    with plugged(SlowBlocks(filled(), [(8, 15)], 3600.0)) as disk:
        disk.attend()
        assert disk.read(read10(0, 8), 4096) == (blocks(0, 8), 0, 0)
        disk.cbw(read10(15, 8), 4096)
        with pytest.raises(UrbError, match="TIMEDOUT"):
            disk.receive(4096, timeout=0.1)
        disk.recover()  # which cuts the hour short
        disk.attend()
        assert disk.read(read10(16, 8), 4096) == (blocks(16, 8), 0, 0)


def test_slow_blocks_come_in_the_end() -> None:
    with plugged(SlowBlocks(filled(), [(0, 0)], 0.02)) as disk:
        disk.attend()
        assert disk.read(read10(0, 8), 4096) == (blocks(0, 8), 0, 0)
        assert disk.write(write10(0, 1), b"s" * BLOCK) == (0, 0)


def test_command_moves_64_blocks_at_most() -> None:
    lun = filled()
    with plugged(with_models(lun, ["limit"])) as disk:
        disk.attend()
        assert disk.read(read10(0, 64), 64 * BLOCK) == (blocks(0, 64), 0, 0)
        assert partly(disk, read10(8, 65), 65 * BLOCK) == (blocks(8, 64), BLOCK, 1)
        assert full_sense(disk) == (3, 0x11, 0, 72)
        assert disk.write(write10(0, 80), b"l" * (80 * BLOCK)) == (16 * BLOCK, 1)
    assert bytes(lun.memory[: 65 * BLOCK]) == b"l" * (64 * BLOCK) + blocks(64, 1)


# --- capacity ----------------------------------------------------------------------------------


def capacity(disk: Disk) -> int:
    data = disk.read(bytes.fromhex("25") + bytes(9), 8)[0]
    last, size = struct.unpack(">II", data)
    assert size == BLOCK
    return int(last) + 1


def test_fake_capacity_wraps() -> None:
    lun = filled()
    with plugged(FakeCapacity(lun, 4 * MIB, wraps=True)) as disk:
        disk.attend()
        assert capacity(disk) == 8192
        assert disk.read(read10(2044, 8), 4096) == (blocks(2044, 4) + blocks(0, 4), 0, 0)
        assert disk.write(write10(4095, 2), b"a" * BLOCK + b"b" * BLOCK) == (0, 0)
        assert disk.read(read10(0, 1), BLOCK)[0] == b"b" * BLOCK
        assert disk.read(read10(6143, 1), BLOCK)[0] == b"a" * BLOCK
    assert bytes(lun.memory[-BLOCK:]) == b"a" * BLOCK


def test_fake_capacity_drops() -> None:
    lun = filled()
    with plugged(FakeCapacity(lun, 4 * MIB, wraps=False)) as disk:
        disk.attend()
        assert capacity(disk) == 8192
        assert disk.write(write10(2047, 3), b"d" * (3 * BLOCK)) == (0, 0)
        assert disk.read(read10(2046, 4), 2048) == (
            blocks(2046, 1) + b"d" * BLOCK + bytes(1024), 0, 0,
        )  # fmt: skip
    assert bytes(lun.memory[:BLOCK]) == blocks(0, 1)


def test_capacity_is_one_too_many() -> None:
    with plugged(with_models(filled(), ["off_by_one"])) as disk:
        disk.attend()
        assert capacity(disk) == 2049
        assert disk.read(read10(2047, 1), BLOCK) == (blocks(2047, 1), 0, 0)
        assert partly(disk, read10(2047, 2), 1024) == (blocks(2047, 1), BLOCK, 1)
        assert full_sense(disk) == (3, 0x11, 0, 2048)


# --- volatile cache ----------------------------------------------------------------------------


def replug(disk: Disk) -> None:
    """What unplugging is to the function: its configuration ends."""
    disk.host.control(SetupPacket(0x00, 9, 0))
    disk.host.control(SetupPacket(0x00, 9, 1))
    disk.attend()


def test_what_was_not_synchronised_is_lost_at_unplug() -> None:
    lun = filled()
    cache = VolatileCache(lun)
    with plugged(cache) as disk:
        disk.attend()
        assert disk.write(write10(0, 2), b"1" * 1024) == (0, 0)
        assert disk.none(SYNCHRONIZE) == 0
        assert disk.write(write10(1, 2), b"2" * 1024) == (0, 0)
        assert disk.read(read10(0, 4), 2048)[0] == (b"1" * BLOCK + b"2" * 1024 + blocks(3, 1)), (
            "the host reads what it wrote"
        )
        replug(disk)
        assert disk.read(read10(0, 4), 2048)[0] == b"1" * 1024 + blocks(2, 2)
        assert cache.lost == 1024
        assert disk.write(write10(8, 1, FUA), b"3" * BLOCK) == (0, 0)
        replug(disk)
        assert disk.read(read10(8, 1), BLOCK)[0] == b"3" * BLOCK
        assert disk.write(write10(9, 1), b"4" * BLOCK) == (0, 0)
    assert bytes(lun.memory[8 * BLOCK : 10 * BLOCK]) == b"3" * BLOCK + blocks(9, 1)


def test_cache_tells_the_host_that_it_is_there() -> None:
    with plugged(VolatileCache(filled())) as disk:
        disk.attend()
        caching = disk.read(bytes.fromhex("1a000800ff00"), 255)[0]
        assert caching[caching.index(0x08, 4) + 2] & 0x04, "WCE"


def test_eject_synchronises() -> None:
    lun = filled(removable=True)
    cache = VolatileCache(lun)
    cache.write(0, memoryview(b"e" * BLOCK))
    cache.eject()
    assert bytes(lun.memory[:BLOCK]) == b"e" * BLOCK
    cache.insert()
    assert bytes(cache.read(0, BLOCK)) == b"e" * BLOCK
    cache.close()


def test_flush_that_fails_keeps_what_it_could_not_move() -> None:
    cache = VolatileCache(BadBlocks(filled(), [(3, 3)]))
    cache.write(0, memoryview(b"f" * 4096))
    with pytest.raises(OSError, match="block at byte 1536"):
        cache.flush()
    assert bytes(cache.read(0, 4096)) == b"f" * 4096
    cache.close()


# --- manners -----------------------------------------------------------------------------------


def test_residue_lies_of_commands_whose_data_all_moved() -> None:
    with plugged(with_models(filled(), ["residue(1000)"])) as disk:
        assert disk.none(bytes(6)) == 1, "what has no data has no residue to lie about"
        assert disk.none(bytes(6)) == 0
        assert disk.read(read10(0, 8), 4096) == (blocks(0, 8), 1000, 0)
        assert disk.read(read10(0, 1), BLOCK) == (blocks(0, 1), BLOCK, 0)


def test_sulks_after_an_error_until_it_is_reset() -> None:
    with plugged(NeedsReset(filled())) as disk:
        disk.attend()
        assert disk.none(bytes(6)) == 0, "a unit attention is no error"
        assert disk.read(read10(4096, 1), BLOCK)[2] == 1
        assert disk.sense() == (5, 0x21, 0)
        for _ in range(2):
            assert disk.read(read10(0, 1), BLOCK) == (b"", BLOCK, 2)
            disk.recover()  # as a phase error asks for
            disk.attend()
            assert disk.read(read10(0, 1), BLOCK) == (blocks(0, 1), 0, 0)
            disk.read(read10(4096, 1), BLOCK)


def test_sulks_through_every_command_but_request_sense() -> None:
    with plugged(NeedsReset(filled())) as disk:
        disk.attend()
        disk.read(read10(4096, 1), BLOCK)
        for cdb in (bytes(6), SYNCHRONIZE, bytes.fromhex("0102")):
            disk.cbw(cdb.ljust(6, b"\0"))
            assert disk.csw()[1] == 2
        assert full_sense(disk)[:2] == (4, 0x44)


# --- together ----------------------------------------------------------------------------------


def test_models_go_around_each_other() -> None:
    texts = ["bad(10-19, 30)", "slow(0, 10ms)", "fake(4194304, wrap)", "volatile_cache",
             "residue(13)", "limit(128)", "needs_reset", "off_by_one"]  # fmt: skip
    lun = with_models(filled(), texts)
    inner, said = models_of(lun)
    assert isinstance(inner, RamLun)
    assert [text.replace("0.01s", "10ms") for text in said] == texts
    with plugged(lun) as disk:
        assert disk.none(bytes(6)) == 1
        assert capacity(disk) == 8193
        assert disk.read(read10(2048, 8), 4096) == (blocks(0, 8), 13, 0)
        assert disk.read(read10(2048 + 8, 8), 4096)[2] == 1
        assert full_sense(disk) == (3, 0x11, 0, 2058)
        assert disk.none(bytes(6)) == 2
    lun.close()


def test_model_and_plan_work_on_one_disk() -> None:
    function = MassStorageFunction([BadBlocks(filled(), [(100, 100)])])
    gadget = Gadget(name="g", idVendor=1, idProduct=2, configs=(Config(functions=(function,)),))
    plan = Plan.parse("mass_storage.in cbw(0x28) phase(data) nth(1) corrupt(0)")
    planned = injected(gadget, plan)
    (wrapped,) = planned.configs[0].functions
    assert wrapped is not function
    with plugged(function=wrapped) as disk:  # type: ignore[arg-type]
        disk.attend()
        data, _, _ = disk.read(read10(0, 1), BLOCK)
        assert data[0] != CONTENT[0], "the plan changes a byte on its way"
        assert data[1:] == CONTENT[1:BLOCK]
        assert disk.read(read10(100, 1), BLOCK)[2] == 1, "and the block is still bad"
        assert full_sense(disk) == (3, 0x11, 0, 100)


def test_media_change_through_models(tmp_path: Path) -> None:
    paths = [tmp_path / "a.img", tmp_path / "b.img"]
    for path, fill in zip(paths, (b"a", b"b"), strict=True):
        path.write_bytes(fill * MIB)
    lun = with_models(FileLun(paths[0], removable=True), ["bad(5)", "off_by_one"])
    with plugged(lun) as disk:
        disk.attend()
        lun.swap(paths[1])
        assert disk.none(bytes(6)) == 1
        assert disk.sense() == (6, 0x28, 0)
        assert disk.read(read10(0, 1), BLOCK)[0] == b"b" * BLOCK
        assert disk.read(read10(5, 1), BLOCK)[2] == 1
        assert lun.source == str(paths[1])
        lun.protect(True)
        assert disk.none(bytes(6)) == 1
        assert disk.write(write10(0, 1), b"x" * BLOCK)[1] == 1
        lun.eject()
        assert disk.none(bytes(6)) == 1
        assert disk.sense() == (2, 0x3A, 0)
    lun.close()
    FileLun(paths[1]).close()  # no longer locked


@pytest.mark.parametrize("name", MODELS)
def test_model_leaves_sound_blocks_alone(name: str) -> None:
    arguments = {"bad": "(9)", "slow": "(9, 1ms)", "fake": "(2M, wrap)"}.get(name, "")
    lun: Lun = with_models(filled(removable=True), [f"{name}{arguments}"])
    assert isinstance(lun, Model)
    assert lun.write(4 * BLOCK, memoryview(b"s" * 1024)) == 1024
    assert bytes(lun.read(3 * BLOCK, 2048)) == blocks(3, 1) + b"s" * 1024 + blocks(6, 1)
    assert lun.verify(0, 9 * BLOCK) == 9 * BLOCK
    lun.flush()
    lun.eject()
    assert not lun.medium_present
    lun.insert()
    assert bytes(lun.read(4 * BLOCK, 1024)) == b"s" * 1024
    lun.close()


GIVING_BACK = ("bad(9000)", "slow(9, 1ms)", "limit", "fake(8G, wrap)", "fake(8G, drop)",
               "off_by_one", "volatile_cache", "residue", "needs_reset")  # fmt: skip


@pytest.mark.parametrize("text", GIVING_BACK)
def test_blocks_behind_a_model_are_given_back_and_not_written(text: str) -> None:
    store = SparseLun(4 << 30, thin=True)
    lun = with_models(store, [text])
    try:
        assert store.path is not None
        lun.write(8 * BLOCK, memoryview(CONTENT[: 16 * BLOCK]))
        lun.flush()
        lun.unmap(0, 4096)
        lun.unmap(16 * BLOCK, 4 << 20)
        lun.flush()
        assert store.path.stat().st_blocks * 512 < MIB
        assert bytes(lun.read(0, 24 * BLOCK)) == (
            bytes(8 * BLOCK) + CONTENT[: 8 * BLOCK] + bytes(8 * BLOCK)
        )
        assert lun.extent(8 * BLOCK)[0] is True
    finally:
        lun.close()


def test_what_a_model_cannot_give_back_fails() -> None:
    bad = BadBlocks(filled(), [(4, 4)])
    with pytest.raises(OSError, match="block at byte 2048 is bad"):
        bad.unmap(0, 4096)
    assert bytes(bad.read(0, 2048)) == bytes(2048)
    assert bytes(bad.read(5 * BLOCK, BLOCK)) == blocks(5, 1)
    with pytest.raises(OSError, match="there is no block at byte 1048576"):
        with_models(filled(), ["off_by_one"]).unmap(MIB - BLOCK, 1024)


def test_fake_capacity_gives_back_what_it_has() -> None:
    wrapping, dropping = filled(), filled()
    with_models(wrapping, ["fake(4M, wrap)"]).unmap(2 * MIB - 2 * BLOCK, 5 * BLOCK)
    assert bytes(wrapping.memory) == bytes(3 * BLOCK) + blocks(3, 2043) + bytes(2 * BLOCK)
    with_models(dropping, ["fake(4M, drop)"]).unmap(MIB - BLOCK, 5 * BLOCK)
    assert bytes(dropping.memory) == blocks(0, 2047) + bytes(BLOCK)


def test_cached_holes_are_lost_as_data_are() -> None:
    lun = filled()
    cache = VolatileCache(lun)
    cache.unmap(0, 4096)
    assert bytes(cache.read(0, 4608)) == bytes(4096) + blocks(8, 1)
    assert bytes(lun.memory[:4096]) == blocks(0, 8)
    cache.power_lost()
    assert bytes(cache.read(0, 4096)) == blocks(0, 8)
    assert cache.lost == 4096
    cache.unmap(0, 4096)
    cache.flush()
    assert bytes(lun.memory[:4608]) == bytes(4096) + blocks(8, 1)
    cache.close()


def test_cache_in_front_of_a_limit_is_flushed_in_its_steps() -> None:
    lun = filled()
    cache = with_models(lun, ["limit", "volatile_cache"])
    cache.write(0, memoryview(b"c" * (200 * BLOCK)))
    cache.flush()
    assert bytes(lun.memory[: 201 * BLOCK]) == b"c" * (200 * BLOCK) + blocks(200, 1)
    cache.close()


@pytest.mark.parametrize(
    ("cdb", "data"),
    [
        (struct.pack(">BBIBHB", 0x2F, 0, 8, 0, 8, 0), b""),  # VERIFY
        (struct.pack(">BBIBHB", 0x2F, 2, 8, 0, 8, 0), blocks(8, 8)),  # BYTCHK 1
        (struct.pack(">BBIBHB", 0x2F, 6, 8, 0, 1, 0), blocks(8, 1)),  # BYTCHK 3
        (struct.pack(">BBIBHB", 0x2E, 2, 8, 0, 1, 0), blocks(8, 1)),  # WRITE AND VERIFY
        (struct.pack(">BBIBHB", 0x41, 0, 8, 0, 8, 0), bytes(BLOCK)),  # WRITE SAME
    ],
)
def test_slow_blocks_slow_every_command_that_reads_or_writes_them(cdb: bytes, data: bytes) -> None:
    waits: list[tuple[int, int]] = []

    class Counting(SlowBlocks):
        def delay(self, offset: int, length: int) -> float:
            waits.append((offset // BLOCK, length // BLOCK))
            return super().delay(offset, length)

    with plugged(Counting(filled(), [(8, 15)], 0.001)) as disk:
        disk.attend()
        assert (disk.write(cdb, data) if data else (0, disk.none(cdb))) == (0, 0)
    assert waits == [(8, cdb[8])]


@pytest.mark.parametrize(("swaps", "sense"), [(False, (2, 0x3A, 0)), (True, (6, 0x28, 0))])
def test_slow_command_does_not_go_on_with_another_medium(
    swaps: bool, sense: tuple[int, int, int]
) -> None:
    class Pulled(SlowBlocks):
        def delay(self, offset: int, length: int) -> float:
            self.eject()
            if swaps:
                self.insert()
            return super().delay(offset, length)

    lun = filled(removable=True)
    with plugged(Pulled(lun, [(8, 15)], 0.001)) as disk:
        disk.attend()
        # WRITE SAME(16), NDOB
        assert disk.none(struct.pack(">BBQIBB", 0x93, 1, 8, 8, 0, 0)) == 1
        assert disk.sense() == sense
    assert bytes(lun.memory) == CONTENT


@pytest.mark.parametrize("duration", ["0.01ms", "1234567s", "1.2345678s", "500ms"])
def test_duration_is_read_back_as_it_was(duration: str) -> None:
    first = with_models(filled(), [f"slow(1, {duration})"])
    again = with_models(filled(), models_of(first)[1])
    assert again.delay(BLOCK, BLOCK) == first.delay(BLOCK, BLOCK) > 0


# --- as people write them ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("bda(3)", r"unknown; did you mean bad\?; there are bad\(LBA"),
        ("bad", r"expected bad\(LBA, FIRST-LAST, \.\.\.\): no blocks are named"),
        ("bad(5-3)", "blocks 5-3: expected blocks of 0 to 2047"),
        ("bad(2048)", "blocks 2048: expected blocks of 0 to 2047"),
        ("bad(x)", r"expected bad\("),
        ("slow(5)", "'5' is no duration"),
        ("fake(2M)", r"expected fake\(SIZE, wrap\)"),
        ("fake(512K, wrap)", "no fewer than the 1048576 bytes"),
        ("fake(2M, loop)", "'loop' is neither wrap nor drop"),
        ("limit(0)", "0 is not from 1 to"),
        ("limit(2048)", "2048 blocks of 512: expected from 1 to 2047"),
        ("volatile_cache(1)", "it takes nothing"),
        ("needs_reset()x", "unknown"),
    ],
)
def test_impossible_models_say_what_would_be_right(text: str, why: str) -> None:
    with pytest.raises(SchemeError, match=why):
        with_models(filled(), [text])


def test_stores_and_models_survive_a_scheme(tmp_path: Path) -> None:
    (tmp_path / "base.img").write_bytes(CONTENT)
    text = """
        name = "g"
        idVendor = 1
        idProduct = 2
        [[configs]]
        [[configs.functions]]
        type = "mass_storage"
        luns = [
            { overlay = "base.img", changes = "c.img", models = ["bad(7)", "residue(512)"] },
            { pattern = 7, size = "8T", serial = "P" },
            { sparse = true, size = "3G", removable = true, thin = true },
            { size = "1M", models = ["fake(2097152, drop)", "volatile_cache"] },
        ]
    """
    gadget = parse_scheme(text, where="g.toml", base=tmp_path)
    (function,) = gadget.configs[0].functions
    assert isinstance(function, MassStorageFunction)
    said = dump_scheme(gadget)
    for lun in function.luns:
        lun.close()
    assert 'models = ["bad(7)", "residue(512)"]' in " ".join(said.split()).replace(
        '[ "', '["'
    ).replace('", ]', '"]')
    again = parse_scheme(said, where="again.toml")
    assert dump_scheme(again) == said
    (function,) = again.configs[0].functions
    assert isinstance(function, MassStorageFunction)
    for lun in function.luns:
        lun.close()


@pytest.mark.parametrize(
    ("lun", "why"),
    [
        ("{ pattern = 7 }", "size is missing: expected a size such as '4T'"),
        ("{ image = 'base.img', sparse = true }", "sparse = True: expected one store only"),
        ("{ size = '1M', changes = 'c' }", "changes = 'c': expected overlay"),
        ("{ overlay = 'nowhere' }", "overlay = 'nowhere': expected a file that exists"),
        ("{ folder = 'base.img' }", "folder = 'base.img': expected a folder"),
        ("{ size = '1M', models = 'bad(1)' }", "expected an array of models"),
        ("{ size = '1M', models = ['bad(4000)'] }", "expected blocks of 0 to 2047"),
        ("{ overlay = 'base.img', size = '1M' }", "expected none: an overlay is as large as"),
    ],
)
def test_impossible_units_say_what_would_be_right(tmp_path: Path, lun: str, why: str) -> None:
    (tmp_path / "base.img").write_bytes(CONTENT)
    text = (
        "name = 'g'\nidVendor = 1\nidProduct = 2\n[[configs]]\n[[configs.functions]]\n"
        f"type = 'mass_storage'\nluns = [{lun}]\n"
    )
    with pytest.raises(SchemeError, match=r"luns\[0\].*") as caught:
        parse_scheme(text, where="g.toml", base=tmp_path)
    assert why in str(caught.value)


def test_unit_of_a_program_is_in_no_scheme() -> None:
    class Own(RamLun):
        """What only its program can make."""

    function = MassStorageFunction([Own(MIB)])
    gadget = Gadget(name="g", idVendor=1, idProduct=2, configs=(Config(functions=(function,)),))
    with pytest.raises(SchemeError, match="lun Own belongs to a program"):
        dump_scheme(gadget)


def test_halted_endpoint_of_a_bad_block_is_cleared_by_the_host() -> None:
    with plugged(BadBlocks(filled(), [(0, 0)])) as disk:
        disk.attend()
        disk.cbw(read10(0, 1), BLOCK)
        with pytest.raises(UrbError, match="halted"):
            disk.receive(BLOCK)
        assert disk.halted(IN)
        disk.clear_halt(IN)
        assert disk.csw() == (BLOCK, 1)


# --- on the command line -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--model", "bda(1)"), "did you mean bad?"),
        (("--size", "1M", "--model", "bad(2048)"), "expected blocks of 0 to 2047"),
        (("--image", "pattern:1M", "--size", "2M"), "has a size of its own; leave --size out"),
        (("--image", "sparse:lots"), "size 'lots'"),
        (("--image", "folder:/nowhere"), "/nowhere: expected a folder"),
    ],
)
def test_serve_refuses_what_cannot_be(arguments: tuple[str, ...], why: str) -> None:
    done = CliRunner().invoke(main, ["serve", "storage", *arguments])
    assert (done.exit_code, why in " ".join(done.output.split())) == (2, True), done.output


def test_options_make_a_store_with_models() -> None:
    options = GadgetOptions(image=Path("sparse:1G"), models=("bad(5)", "limit"), removable=True)
    source = find_source("storage", options)
    assert source.digest != find_source("storage", replace(options, models=())).digest
    (function,) = source.build().configs[0].functions
    assert isinstance(function, MassStorageFunction)
    (lun,) = function.luns
    inner, models = models_of(lun)
    assert isinstance(inner, SparseLun)
    assert (models, lun.size, lun.removable) == (["bad(5)", "limit(64)"], 1 << 30, True)
    lun.close()
