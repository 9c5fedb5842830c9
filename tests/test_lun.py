"""FileLun and RamLun: holes, locks, sizes, and storage that fails."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from gadgets.mass_storage import FileLun, MediumEvent, RamLun
from gadgets.mass_storage.unit import Lun
from usbip_vudc.errors import LocalProtocolError, SchemeError

KIB = 1 << 10
MIB = 1 << 20
PATTERN = bytes(range(256)) * (MIB // 256)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(PATTERN)
    return path


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


# --- opening -----------------------------------------------------------------------------------


def test_create_size_makes_a_sparse_file(tmp_path: Path) -> None:
    path = tmp_path / "new.img"
    with FileLun(path, create_size=1 << 30) as lun:
        assert (lun.size, lun.block_count) == (1 << 30, 1 << 21)
        assert path.stat().st_size == 1 << 30
        assert allocated(path) == 0


def test_create_size_opens_a_file_of_that_size_again(image: Path) -> None:
    with FileLun(image, create_size=MIB) as lun:
        assert bytes(lun.read(0, 512)) == PATTERN[:512]


@pytest.mark.parametrize("size", [0, -512, 1000])
def test_create_size_that_is_no_disk_makes_no_file(tmp_path: Path, size: int) -> None:
    path = tmp_path / "new.img"
    with pytest.raises(SchemeError, match=f"create_size {size}, expected .* block_size 512"):
        FileLun(path, create_size=size)
    assert not path.exists()


def test_file_that_cannot_have_its_size_is_not_left(tmp_path: Path) -> None:
    path = tmp_path / "new.img"
    with pytest.raises(OSError, match=rf"cannot have {2**63 - 512} bytes: .*'{path}'"):
        FileLun(path, create_size=(1 << 63) - 512)
    assert not path.exists()


def test_memory_that_there_is_not_is_named_with_what_does_without() -> None:
    with pytest.raises(SchemeError, match=f"memory of {1 << 50} bytes: Cannot allocate.*sparse:"):
        RamLun(1 << 50)


def test_create_size_never_resizes(image: Path) -> None:
    with pytest.raises(SchemeError, match="exists with 1048576 bytes, but create_size is 2097152"):
        FileLun(image, create_size=2 * MIB)
    assert image.stat().st_size == MIB


def test_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FileLun(tmp_path / "none.img")


@pytest.mark.parametrize(
    ("size", "block_size", "advice"),
    [(1000, 512, "truncate -s 512"), (6144, 4096, "truncate -s 4096"), (0, 512, "truncate -s 512")],
)
def test_size_must_be_whole_blocks(tmp_path: Path, size: int, block_size: int, advice: str) -> None:
    path = tmp_path / "odd.img"
    path.write_bytes(bytes(size))
    with pytest.raises(SchemeError, match=f"{size} bytes.*block_size {block_size}.*{advice}"):
        FileLun(path, block_size=block_size)


@pytest.mark.parametrize("block_size", [0, 256, 513, 1024, 8192])
def test_block_size_is_512_or_4096(image: Path, block_size: int) -> None:
    with pytest.raises(SchemeError, match="expected 512 or 4096"):
        FileLun(image, block_size=block_size)


def test_directory_and_character_device_are_refused(tmp_path: Path) -> None:
    with pytest.raises((SchemeError, IsADirectoryError)):
        FileLun(tmp_path)
    with pytest.raises(SchemeError, match="neither a regular file nor a block device"):
        FileLun("/dev/null")


def test_fixed_unit_needs_a_file() -> None:
    with pytest.raises(SchemeError, match="must be removable"):
        FileLun()


def test_second_writer_is_refused(image: Path) -> None:
    with FileLun(image), pytest.raises(SchemeError, match=r"disk\.img: locked by another program"):
        FileLun(image)
    FileLun(image).close()


def test_readers_share_but_not_with_a_writer(image: Path) -> None:
    with (
        FileLun(image, read_only=True),
        FileLun(image, read_only=True),
        pytest.raises(SchemeError, match="locked"),
    ):
        FileLun(image)
    with FileLun(image), pytest.raises(SchemeError, match="locked"):
        FileLun(image, read_only=True)


def test_failed_open_leaves_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "odd.img"
    path.write_bytes(bytes(1000))
    with pytest.raises(SchemeError):
        FileLun(path)
    path.write_bytes(bytes(1024))
    FileLun(path).close()


# --- reading and writing -----------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 512, MIB - 128 * KIB])
@pytest.mark.parametrize("length", [512, 4 * KIB, 16 * KIB, 128 * KIB])
def test_read_returns_the_file(image: Path, offset: int, length: int) -> None:
    with FileLun(image) as lun:
        data = lun.read(offset, length)
        assert bytes(data) == PATTERN[offset : offset + length]


def test_a_large_read_stays_until_the_second_one_after_it(image: Path) -> None:
    with FileLun(image) as lun:
        reads = [lun.read(n * 64 * KIB, 64 * KIB) for n in range(3)]
        assert b"".join(reads) == PATTERN[: 192 * KIB]
        assert lun.read(0, 32 * KIB) == PATTERN[: 32 * KIB]


@pytest.mark.parametrize("path_kind", ["disk", "tmpfs"])
def test_holes_stay_holes_when_read(tmp_path: Path, path_kind: str) -> None:
    shm = Path("/dev/shm")
    if path_kind == "tmpfs" and not os.access(shm, os.W_OK):
        pytest.skip("no writable /dev/shm")
    path = tmp_path / "sparse.img" if path_kind == "disk" else shm / f"holes-{os.getpid()}.img"
    try:
        with FileLun(path, create_size=8 * MIB) as lun:
            lun.write(3 * MIB, memoryview(PATTERN)[: 64 * KIB])
            before = allocated(path)
            data = b"".join(bytes(lun.read(n * MIB, MIB)) for n in range(8))
            assert data[3 * MIB :][: 64 * KIB] == PATTERN[: 64 * KIB]
            assert data.count(0) == 8 * MIB - 64 * KIB + 256
            assert allocated(path) == before < MIB
    finally:
        path.unlink(missing_ok=True)


def test_short_pwrites_are_carried_on(image: Path) -> None:
    class Slow(FileLun):
        def _pwrite(self, data: memoryview, offset: int) -> int:
            return super()._pwrite(data[:700], offset)

    with Slow(image) as lun:
        assert lun.write(1024, memoryview(PATTERN)[:4096]) == 4096
    assert image.read_bytes()[1024:5120] == PATTERN[:4096]


def test_full_file_system_tells_the_blocks_that_were_written(image: Path) -> None:
    class Full(FileLun):
        def _pwrite(self, data: memoryview, offset: int) -> int:
            if offset >= 1300:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super()._pwrite(data[: 1300 - offset], offset)

    with Full(image) as lun:
        assert lun.write(0, memoryview(bytes(4096))) == 1024


def test_bad_sector_ends_a_read_in_front_of_it(image: Path) -> None:
    class Bad(FileLun):
        def _preadv(self, buffer: bytearray | memoryview, offset: int) -> int:
            if offset <= 2048 < offset + len(buffer):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super()._preadv(buffer, offset)

    with Bad(image) as lun:
        assert bytes(lun.read(512, 4096)) == PATTERN[512:2048]
        assert bytes(lun.read(2048, 512)) == b""
        assert lun.verify(0, MIB) == 2048
        assert bytes(lun.read(2560, 512)) == PATTERN[2560:3072]


@pytest.mark.parametrize("length", [4 * KIB, 128 * KIB])
def test_truncated_file_is_a_short_read_and_no_crash(image: Path, length: int) -> None:
    with FileLun(image) as lun:
        os.truncate(image, 2100)
        assert bytes(lun.read(0, length)) == PATTERN[:2048]
        assert bytes(lun.read(64 * KIB, length)) == b""


def test_verify_reads_all(image: Path) -> None:
    with FileLun(image) as lun:
        assert lun.verify(512, MIB - 512) == MIB - 512


def test_verify_reads_no_holes(tmp_path: Path) -> None:
    read: list[tuple[int, int]] = []

    class Counting(FileLun):
        def _preadv(self, buffer: bytearray | memoryview, offset: int) -> int:
            read.append((offset, len(buffer)))
            return super()._preadv(buffer, offset)

    path = tmp_path / "sparse.img"
    with Counting(path, create_size=64 * MIB) as lun:
        lun.write(32 * MIB, memoryview(PATTERN))
        if allocated(path) > 2 * MIB:
            pytest.skip("this file system has no holes")
        assert lun.verify(512, 64 * MIB - 512) == 64 * MIB - 512
        assert read == [(32 * MIB, MIB)] or sum(size for _, size in read) <= 3 * MIB
        os.truncate(path, 48 * MIB)
        assert lun.verify(0, 64 * MIB) == 48 * MIB, "what is not there is no hole"


def test_file_cut_short_behind_a_bad_sector_gives_nothing_old(image: Path) -> None:
    class Bad(FileLun):
        def _preadv(self, buffer: bytearray | memoryview, offset: int) -> int:
            if len(buffer) > 512:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super()._preadv(buffer, offset)

    with Bad(image) as lun:
        os.truncate(image, 1536)
        assert bytes(lun.read(0, 4096)) == PATTERN[:1536]


def test_read_only_unit_opens_a_read_only_file(image: Path) -> None:
    image.chmod(0o444)
    with FileLun(image, read_only=True) as lun:
        lun.flush()
        assert bytes(lun.read(0, 512)) == PATTERN[:512]


# --- removable media ---------------------------------------------------------------------------


def test_media_are_swapped_and_told(image: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.img"
    other.write_bytes(bytes(2 * MIB))
    events: list[tuple[Lun, MediumEvent]] = []
    with FileLun(removable=True) as lun:
        lun.on_event = lambda lun, event: events.append((lun, event))
        assert not lun.medium_present
        lun.insert(image)
        assert lun.block_count == 2048
        lun.eject()
        FileLun(image).close()  # no longer locked
        lun.insert(other)
        assert lun.block_count == 4096
    assert events == [
        (lun, MediumEvent.INSERTED), (lun, MediumEvent.EJECTED), (lun, MediumEvent.INSERTED)
    ]  # fmt: skip


def test_failed_insert_leaves_no_medium(tmp_path: Path) -> None:
    with FileLun(removable=True) as lun:
        with pytest.raises(SchemeError, match="name one"):
            lun.insert()
        with pytest.raises(FileNotFoundError):
            lun.insert(tmp_path / "none.img")
        assert not lun.medium_present
        assert not lun.attentions


def test_transfers_after_a_forced_eject_move_nothing(image: Path) -> None:
    with FileLun(image, removable=True) as lun:
        lun.eject(force=True)
        assert len(lun.read(0, 512)) == len(lun.read(0, 64 * KIB)) == 0
        assert lun.write(0, memoryview(bytes(512))) == 0
        lun.flush()


def test_fixed_file_cannot_be_swapped(image: Path) -> None:
    with FileLun(image) as lun, pytest.raises(LocalProtocolError):
        lun.insert(image)


# --- memory ------------------------------------------------------------------------------------


def test_memory_is_read_and_written_in_place() -> None:
    lun = RamLun(MIB)
    landing = lun.landing(512, 1024)
    assert landing is not None
    landing[:4] = b"here"
    assert bytes(lun.read(512, 4)) == b"here"
    assert lun.write(0, memoryview(PATTERN)[:512]) == 512
    assert bytes(lun.memory[:516]) == PATTERN[:512] + b"here"


def test_memory_outlives_an_eject() -> None:
    lun = RamLun(MIB, removable=True)
    lun.memory[:4] = b"kept"
    lun.eject()
    lun.insert()
    assert bytes(lun.read(0, 4)) == b"kept"


@pytest.mark.parametrize("size", [0, -512, 100])
def test_memory_has_whole_blocks(size: int) -> None:
    with pytest.raises(SchemeError):
        RamLun(size)
