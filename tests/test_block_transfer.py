from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from usbip_vudc.block import transfer
from usbip_vudc.block.limits import Limits
from usbip_vudc.block.transfer import DiskInUse, checked, read_sg, write_sg
from usbip_vudc.errors import SchemeError
from usbip_vudc.injection.layout import Segment

LIMITS = Limits(disk="sda", max_sectors_kb=120, max_hw_sectors_kb=120, max_segments=32)
SIZE = 64 << 10


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in the place of a USB disk, and any memory in that of pages of one's choice."""
    path = tmp_path / "sda"
    path.write_bytes(bytes(range(256)) * (SIZE // 256))
    monkeypatch.setattr(transfer, "limits_of", lambda _node: LIMITS)
    monkeypatch.setattr(transfer, "alone_from", lambda _node: SIZE - 8 * 512)
    monkeypatch.setattr(transfer, "mounts", lambda _node: ("/mnt/stick",))
    monkeypatch.setattr(transfer, "_FLAGS", os.O_CLOEXEC)
    monkeypatch.setattr(
        transfer, "place", lambda segments: [memoryview(bytearray(s.length)) for s in segments]
    )
    return path


def test_a_read_is_one_preadv_of_the_segments(disk: Path) -> None:
    assert read_sg(str(disk), 512, [Segment(512), Segment(1024)]) == disk.read_bytes()[512:2048]


def test_a_write_is_one_pwritev_of_the_segments(disk: Path) -> None:
    data = os.urandom(1536)
    before = disk.read_bytes()
    assert write_sg(str(disk), 512, [Segment(512), Segment(1024)], data) == 1536
    assert disk.read_bytes() == before[:512] + data + before[2048:]


@pytest.mark.parametrize(
    ("offset", "segments", "reason"),
    [
        (100, [Segment(512)], "offset 100 .* expected a multiple of it"),
        (-512, [Segment(512)], "offset -512"),
        (0, [Segment(500)], "the nearest legal layout is 512"),
        (SIZE - 9 * 512, [Segment(1024)], rf"one at a time .*; end at {SIZE - 8 * 512}"),
    ],
)
def test_what_is_not_one_command_is_refused(
    disk: Path, offset: int, segments: list[Segment], reason: str
) -> None:
    before = disk.read_bytes()
    with pytest.raises(SchemeError, match=reason):
        checked(str(disk), offset, segments)
    with pytest.raises(SchemeError, match=reason):
        write_sg(str(disk), offset, segments, bytes(sum(s.length for s in segments)))
    assert disk.read_bytes() == before


def test_a_single_block_is_one_command_everywhere(disk: Path) -> None:
    assert read_sg(str(disk), SIZE - 512, [Segment(512)]) == disk.read_bytes()[-512:]


def test_data_of_another_length_than_the_layouts_is_refused(disk: Path) -> None:
    with pytest.raises(SchemeError, match="100 bytes to write, and the layout has 512"):
        write_sg(str(disk), 0, [Segment(512)], bytes(100))


def test_a_disk_in_use_is_not_written_to(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(path: str, flags: int) -> int:
        assert flags & os.O_EXCL
        raise OSError(errno.EBUSY, "busy", path)

    monkeypatch.setattr(os, "open", busy)
    with pytest.raises(DiskInUse, match=r"is in use \(/mnt/stick\): nothing was written"):
        write_sg(str(disk), 0, [Segment(512)], bytes(512))


def test_a_failure_of_the_disk_names_it(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_fd: int, _buffers: object, _offset: int) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(OSError, match="Input/output error") as failed:
        read_sg(str(disk), 0, [Segment(512)])
    assert failed.value.filename == str(disk)
