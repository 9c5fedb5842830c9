"""Holes in files and in memory: given back for good, and zeroes afterwards."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from pathlib import Path

import pytest

from gadgets.mass_storage import FileLun, Lun, RamLun, holes
from usbip_vudc.memory import page_aligned

MIB = 1 << 20
DATA = bytes(range(1, 256)) * (MIB // 255 + 1)


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "full.img"
    path.write_bytes(DATA[:MIB])
    return path


@pytest.mark.parametrize(
    ("offset", "length"), [(0, MIB), (4096, 65536), (512, 512), (1000 * 512, 24 * 512)]
)
def test_unmapped_file_reads_as_zeroes_there_only(image: Path, offset: int, length: int) -> None:
    with FileLun(image, thin=True) as lun:
        lun.unmap(offset, length)
    data = image.read_bytes()
    assert data == DATA[:offset] + bytes(length) + DATA[offset + length : MIB]


def test_hole_takes_no_space(image: Path) -> None:
    os.sync()
    before = allocated(image)
    with FileLun(image, thin=True) as lun:
        lun.unmap(0, MIB // 2)
        if not holes.punch(lun._fd, 0, 4096):
            pytest.skip("this file system has no holes")
    assert allocated(image) <= before - MIB // 2
    assert image.stat().st_size == MIB


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOSYS])
def test_file_that_can_have_no_holes_is_written(
    image: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(_fd: int, _mode: int, _offset: int, _length: int) -> int:
        ctypes.set_errno(code)
        return -1

    monkeypatch.setattr(holes, "_fallocate", refuse)
    with FileLun(image, thin=True) as lun:
        lun.unmap(512, 2048)
        assert not holes.punch(lun._fd, 0, 512)
    assert image.read_bytes() == DATA[:512] + bytes(2048) + DATA[2560:MIB]


def test_system_without_fallocate_writes_zeroes(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holes, "_fallocate", None)
    with FileLun(image, thin=True) as lun:
        lun.unmap(0, MIB)
    assert image.read_bytes() == bytes(MIB)


def test_punch_is_tried_again_after_a_signal(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def interrupted(_fd: int, _mode: int, offset: int, _length: int) -> int:
        calls.append(offset)
        ctypes.set_errno(errno.EINTR)
        return -1 if len(calls) == 1 else 0

    monkeypatch.setattr(holes, "_fallocate", interrupted)
    with FileLun(image, thin=True) as lun:
        assert holes.punch(lun._fd, 512, 512)
    assert calls == [512, 512]


def test_trouble_is_an_error(image: Path) -> None:
    lun = FileLun(image, thin=True)
    lun.close()
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        lun.unmap(0, 512)


def test_zeroes_that_cannot_be_written_are_an_error() -> None:
    class Full(RamLun):
        def unmap(self, offset: int, length: int) -> None:
            Lun.unmap(self, offset, length)

        def write(self, offset: int, data: memoryview) -> int:
            return super().write(offset, data[: max(2048 - offset, 0)])

    with pytest.raises(OSError, match="byte 2048"):
        Full(8192).unmap(1024, 4096)


@pytest.mark.parametrize("size", [8192, MIB], ids=["small", "mapped"])
@pytest.mark.parametrize(
    ("offset", "length"), [(0, 8192), (512, 512), (512, 6000), (4096, 4096), (100, 0), (4000, 200)]
)
def test_released_memory_is_zero_there_only(size: int, offset: int, length: int) -> None:
    memory = page_aligned(size)
    memory[:] = DATA[:size]
    holes.release(memory, offset, length)
    assert bytes(memory) == DATA[:offset] + bytes(length) + DATA[offset + length : size]


def test_released_pages_are_given_back() -> None:
    asked: list[tuple[int, int, int]] = []

    class Spy(mmap.mmap):
        def madvise(self, option: int, start: int = 0, length: int = 0) -> None:
            asked.append((option, start, length))
            super().madvise(option, start, length)

    spied = memoryview(Spy(-1, MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    holes.release(spied, 100, MIB - 200)
    assert asked == [(mmap.MADV_DONTNEED, 4096, MIB - 8192)]


def test_file_without_holes_is_all_data(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(_fd: int, _offset: int, _whence: int) -> int:
        raise OSError(errno.EINVAL, "no SEEK_DATA")

    with FileLun(image) as lun:
        assert lun.extent(512) == (True, MIB - 512)
        with monkeypatch.context() as patch:
            patch.setattr(os, "lseek", unable)
            assert lun.extent(512) == (True, MIB - 512)
