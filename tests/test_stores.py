"""Stores: overlay, pattern, folder and sparse, as units and as people name them."""

from __future__ import annotations

import errno
import importlib.util
import os
import random
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gadgets.mass_storage import FileLun
from gadgets.mass_storage.stores import (
    FolderLun,
    OverlayLun,
    Pattern,
    PatternLun,
    SparseLun,
    is_store,
    parse_store,
)
from gadgets.mass_storage.stores.extents import Extents
from usbip_vudc.errors import LocalProtocolError, SchemeError

KIB = 1 << 10
MIB = 1 << 20
CONTENT = random.Random(7).randbytes(MIB)

needs_fat = pytest.mark.skipif(
    importlib.util.find_spec("pyfatfs") is None, reason="pyfatfs is not installed (extra fat)"
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.img"
    path.write_bytes(CONTENT)
    return path


# --- extents -----------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=30
    )
)
def test_extents_are_a_set_of_bytes(changes: list[tuple[bool, int, int]]) -> None:
    extents, model = Extents(), set[int]()
    for adds, start, end in changes:
        (extents.add if adds else extents.remove)(start, end)
        model = model | {*range(start, end)} if adds else model - {*range(start, end)}
    ranges = list(extents)
    assert {byte for start, end in ranges for byte in range(start, end)} == model
    assert all(a[1] < b[0] for a, b in pairwise(ranges))
    runs = list(extents.runs(3, 37))
    assert [byte for start, end, _ in runs for byte in range(start, end)] == list(range(3, 37))
    assert all((byte in model) == isin for start, end, isin in runs for byte in range(start, end))
    assert extents.covers(5, 9) == ({*range(5, 9)} <= model)


# --- overlay -----------------------------------------------------------------------------------


def changed_at_random(lun: OverlayLun, seed: int) -> bytes:
    """Write here and there; what the medium must be by then."""
    dice, expected = random.Random(seed), bytearray(CONTENT)
    for _ in range(60):
        start = dice.randrange(2000) * 512
        data = dice.randbytes(512 * dice.choice((1, 3, 8, 40)))
        data = data[: MIB - start]
        assert lun.write(start, memoryview(data)) == len(data)
        expected[start : start + len(data)] = data
    return bytes(expected)


@pytest.mark.parametrize("kept", [False, True])
def test_overlay_reads_as_written_and_leaves_the_base(base: Path, kept: bool) -> None:
    changes = base.with_name("changes") if kept else None
    with OverlayLun(base, changes=changes) as lun:
        expected = changed_at_random(lun, 1)
        for start in range(0, MIB, 96 * KIB):
            size = min(96 * KIB, MIB - start)
            assert bytes(lun.read(start, size)) == expected[start : start + size]
        assert bytes(lun.read(512, 512)) == expected[512:1024]
        assert lun.verify(0, MIB) == MIB
    assert base.read_bytes() == CONTENT


def test_changes_are_kept_and_found_again(base: Path) -> None:
    changes = base.with_name("changes")
    with OverlayLun(base, changes=changes) as lun:
        expected = changed_at_random(lun, 2)
    with OverlayLun(base, changes=changes) as lun:
        assert bytes(lun.read(0, MIB)) == expected


def test_overlay_leaves_no_file_unless_it_is_named(base: Path) -> None:
    with OverlayLun(base) as lun:
        changed_at_random(lun, 3)
        assert list(base.parent.iterdir()) == [base]
    with OverlayLun(base) as lun:
        assert bytes(lun.read(0, MIB)) == CONTENT


def test_many_overlays_share_a_base_that_nobody_writes(base: Path) -> None:
    with OverlayLun(base) as one, OverlayLun(base) as other:
        one.write(0, memoryview(bytes(512)))
        assert bytes(other.read(0, 512)) == CONTENT[:512]
        with pytest.raises(SchemeError, match="locked"):
            FileLun(base)
    FileLun(base).close()


def test_changes_have_one_writer(base: Path) -> None:
    changes = base.with_name("changes")
    with OverlayLun(base, changes=changes), pytest.raises(SchemeError, match="locked"):
        OverlayLun(base, changes=changes)


@pytest.mark.parametrize("how", ["other size", "no overlay", "other blocks"])
def test_changes_of_another_base_are_refused(base: Path, how: str) -> None:
    changes = base.with_name("changes")
    if how == "no overlay":
        changes.write_bytes(bytes(MIB + 2048 + 4096 + 2048))
    else:
        OverlayLun(base, changes=changes).close()
        if how == "other size":
            base.write_bytes(CONTENT * 2)
    before = changes.read_bytes()
    with pytest.raises(SchemeError, match="expected the changes of a base of"):
        OverlayLun(base, changes=changes, block_size=4096 if how == "other blocks" else 512)
    assert changes.read_bytes() == before
    FileLun(base).close()  # and nothing is left locked


def test_changes_whose_maker_died_at_once_are_made(base: Path) -> None:
    changes = base.with_name("changes")
    OverlayLun(base, changes=changes).close()
    size = changes.stat().st_size
    os.truncate(changes, 0)
    os.truncate(changes, size)
    with OverlayLun(base, changes=changes) as lun:
        expected = changed_at_random(lun, 4)
    with OverlayLun(base, changes=changes) as lun:
        assert bytes(lun.read(0, MIB)) == expected


def test_short_writes_of_the_map_are_carried_on(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite

    def short(fd: int, data: memoryview, offset: int) -> int:  # Linux takes 2 GiB at once
        return pwrite(fd, data[:700], offset)

    changes = base.with_name("changes")
    with OverlayLun(base, changes=changes) as lun:
        monkeypatch.setattr(os, "pwrite", short)
        lun.unmap(0, MIB)
        monkeypatch.undo()
    with OverlayLun(base, changes=changes) as lun:
        assert bytes(lun.read(0, MIB)) == bytes(MIB)


def test_block_that_was_written_in_part_stays_as_it_was(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_lun: FileLun, data: memoryview, offset: int) -> int:
        if len(data) <= 2560:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.pwrite(_lun._fd, data[: 4096 + 1536], offset)

    with OverlayLun(base, changes=base.with_name("changes"), block_size=4096) as lun:
        monkeypatch.setattr(FileLun, "_pwrite", full)
        assert lun.write(0, memoryview(b"n" * 8192)) == 4096
        assert bytes(lun.read(0, 8192)) == b"n" * 4096 + CONTENT[4096:8192]


def test_unmapped_blocks_of_an_overlay_read_as_zeroes(base: Path) -> None:
    with OverlayLun(base, changes=base.with_name("changes")) as lun:
        lun.unmap(4096, 8192)
        assert bytes(lun.read(0, 16384)) == CONTENT[:4096] + bytes(8192) + CONTENT[12288:16384]
    with OverlayLun(base, changes=base.with_name("changes")) as lun:
        assert bytes(lun.read(4096, 8192)) == bytes(8192)
        assert lun.extent(0) == (True, 4096)


def test_ejected_overlay_keeps_its_changes_until_another_base_goes_in(base: Path) -> None:
    other = base.with_name("other.img")
    other.write_bytes(bytes(MIB))
    with OverlayLun(base, removable=True) as lun:
        lun.write(0, memoryview(b"x" * 512))
        lun.eject()
        FileLun(base).close()  # no longer locked
        assert (len(lun.read(0, 512)), lun.write(0, memoryview(bytes(512)))) == (0, 0)
        lun.insert()
        assert bytes(lun.read(0, 512)) == b"x" * 512
        lun.swap(other)
        assert bytes(lun.read(0, 512)) == bytes(512)
        lun.swap(base)
        assert bytes(lun.read(0, 512)) == CONTENT[:512]


def test_base_of_named_changes_stays(base: Path) -> None:
    with OverlayLun(base, changes=base.with_name("c"), removable=True) as lun:
        lun.eject()
        with pytest.raises(LocalProtocolError, match="one medium only"):
            lun.insert(base)
        lun.insert()


# --- pattern -----------------------------------------------------------------------------------


@pytest.mark.parametrize("block_size", [512, 4096])
def test_pattern_is_the_same_however_it_is_read(block_size: int) -> None:
    lun = PatternLun(1 << 45, seed=3, block_size=block_size)
    start = (1 << 44) + MIB - 8 * block_size
    whole = bytes(lun.read(start, 16 * block_size))
    parts = [bytes(lun.read(start + n * block_size, block_size)) for n in range(16)]
    assert b"".join(parts) == whole == Pattern(3, block_size=block_size).bytes(start, len(whole))
    assert len(set(parts)) == 16
    assert bytes(lun.read(start + 2 * MIB, block_size)) != parts[0]


def test_seeds_differ() -> None:
    assert Pattern(1).bytes(0, 512) != Pattern(2).bytes(0, 512)


def test_right_writes_are_taken_and_counted() -> None:
    lun = PatternLun(64 * MIB, seed=9)
    data = Pattern(9).bytes(3 * MIB, 128 * KIB)
    assert lun.write(3 * MIB, memoryview(data)) == len(data)
    assert (lun.verified, lun.mismatches) == (len(data), 0)


@pytest.mark.parametrize("wrong", [0, 511, 512, 5 * 512 + 8, 128 * KIB - 1])
def test_wrong_byte_ends_a_write_at_its_block(wrong: int) -> None:
    lun = PatternLun(64 * MIB, seed=9)
    data = bytearray(Pattern(9).bytes(MIB, 128 * KIB))
    data[wrong] ^= 1
    assert lun.write(MIB, memoryview(data)) == wrong // 512 * 512
    assert lun.mismatches == 1


def test_block_in_the_wrong_place_is_wrong() -> None:
    lun = PatternLun(64 * MIB, seed=9)
    assert lun.write(MIB, memoryview(Pattern(9).bytes(2 * MIB, 512))) == 0


def test_pattern_ejects() -> None:
    lun = PatternLun(MIB, removable=True)
    lun.eject()
    assert (len(lun.read(0, 512)), lun.write(0, memoryview(bytes(512)))) == (0, 0)
    lun.insert()
    assert lun.block_count == 2048


# --- sparse ------------------------------------------------------------------------------------


def test_sparse_takes_room_for_what_is_written() -> None:
    lun = SparseLun(3 << 40, removable=True)
    try:
        last = (3 << 40) - 512
        assert lun.write(last, memoryview(b"end!" * 128)) == 512
        assert bytes(lun.read(last, 512)) == b"end!" * 128
        assert bytes(lun.read(0, 4096)) == bytes(4096)
        assert lun.path is not None
        assert lun.path.stat().st_blocks * 512 < MIB
        lun.eject()
        lun.insert()
        assert bytes(lun.read(last, 4)) == b"end!"
    finally:
        lun.close()


# --- folder ------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "shown"
    (root / "A folder" / "below").mkdir(parents=True)
    (root / "read me first, please.txt").write_text("hello\n")
    (root / "A folder" / "below" / "noise.bin").write_bytes(CONTENT + b"tail")
    (root / "empty").touch()
    return root


def files_in(lun: FolderLun, work: Path) -> dict[str, bytes]:
    """Every file, read by pyfatfs from a copy of the medium."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pyfatfs.PyFatFS import PyFatFS
    image = work / "copy.img"
    image.write_bytes(bytes(lun.read(0, lun.size)))
    fat: Any = PyFatFS(str(image), read_only=True)
    try:
        return {path: fat.readbytes(path) for path in fat.walk.files("/")}
    finally:
        fat.close()


@needs_fat
def test_folder_is_a_disk_with_its_files(folder: Path, tmp_path: Path) -> None:
    lun = FolderLun(folder, removable=True)
    try:
        assert files_in(lun, tmp_path) == {
            "/read me first, please.txt": b"hello\n",
            "/A folder/below/noise.bin": CONTENT + b"tail",
            "/empty": b"",
        }
        assert bytes(lun.read(510, 2)) == b"\x55\xaa"
        assert lun.write(lun.size - 512, memoryview(b"!" * 512)) == 512
        (folder / "later").write_text("new")
        lun.eject()
        lun.insert()
        assert files_in(lun, tmp_path)["/later"] == b"new"
    finally:
        lun.close()
    assert (folder / "read me first, please.txt").read_text() == "hello\n"


def test_folder_that_does_not_fit_says_what_would(folder: Path) -> None:
    with (folder / "big").open("wb") as big:
        big.truncate(70 * MIB)
    with pytest.raises(SchemeError, match="on 67108864 bytes: expected 74"):
        FolderLun(folder, size=64 * MIB)
    with pytest.raises(SchemeError, match="expected a folder"):
        FolderLun(folder / "big")
    (folder / "big").unlink()
    with pytest.raises(SchemeError, match="expected 67108864 or more"):
        FolderLun(folder, size=32 * MIB)


@pytest.mark.parametrize(
    ("name", "why"), [("what?", "no name for FAT"), ("dot.", "no name"), ("EMPTY", "the same name")]
)
def test_name_that_fat_cannot_have_is_refused(folder: Path, name: str, why: str) -> None:
    (folder / name).touch()
    with pytest.raises(SchemeError, match=why):
        FolderLun(folder)


# --- as people name them -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "size"),
    [
        ("overlay:base.img", OverlayLun, MIB),
        ("overlay:base.img:changes", OverlayLun, MIB),
        ("pattern:4T", PatternLun, 4 << 40),
        ("pattern:1M:77", PatternLun, MIB),
        ("sparse:1G", SparseLun, 1 << 30),
    ],
)
def test_image_names_a_store(
    base: Path, monkeypatch: pytest.MonkeyPatch, text: str, kind: type, size: int
) -> None:
    monkeypatch.chdir(base.parent)
    assert is_store(text)
    lun = parse_store(text, read_only=True)
    try:
        assert (type(lun), lun.size, lun.read_only) == (kind, size, True)
        assert lun.source.partition(":")[0] == text.partition(":")[0]
    finally:
        lun.close()


@pytest.mark.parametrize("text", ["disk.img", "/dev/sda", "overlay", "over:lay", "./overlay:x"])
def test_everything_else_is_a_path(text: str) -> None:
    assert not is_store(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("pattern:", "expected pattern:SIZE"),
        ("pattern:1M:x", "seed 'x': expected a number"),
        ("pattern:1M:4294967296", "seed '4294967296': expected a number from 0 to 4294967295"),
        ("pattern:1M:1:2", "expected pattern:SIZE or pattern:SIZE:SEED"),
        ("sparse:many", "size 'many'"),
        ("overlay::changes", "expected overlay:BASE"),
        ("folder:nowhere", "nowhere: expected a folder"),
        ("pattern:1000", "multiple of block_size"),
    ],
)
def test_impossible_stores_say_what_would_be_right(text: str, why: str) -> None:
    with pytest.raises(SchemeError, match=why):
        parse_store(text)


def test_options_that_a_store_cannot_have(base: Path) -> None:
    with pytest.raises(SchemeError, match="cdrom: nothing is written to a disc"):
        OverlayLun(base, cdrom=True)
    with pytest.raises(SchemeError, match="cdrom: a folder has blocks of 512"):
        FolderLun(base.parent, cdrom=True)
    with pytest.raises(SchemeError, match="thin: a pattern has nothing to give back"):
        PatternLun(MIB, thin=True)
