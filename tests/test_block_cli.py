"""``usbip-vudc sg`` without a disk: what it refuses, and what it prints of what was done."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from usbip_vudc.block.events import TracedUrb
from usbip_vudc.block.limits import Limits, check
from usbip_vudc.cli import main
from usbip_vudc.cli import sg as command
from usbip_vudc.injection.layout import Segment

LIMITS = Limits(
    disk="sda",
    max_sectors_kb=120,
    max_hw_sectors_kb=240,
    max_segments=32,
    assumed=("dma_alignment",),
)
SIZE = 256 << 10


class Disk:
    """A disk in memory, in the place of the block layer; it keeps what it was asked for."""

    def __init__(self) -> None:
        self.memory = bytearray(random.Random(1).randbytes(SIZE))
        self.asked: list[tuple[int, tuple[Segment, ...]]] = []

    def read_sg(self, node: str, offset: int, layout: Sequence[Segment]) -> bytes:
        assert node == "/dev/sda"
        self.asked.append((offset, tuple(layout)))
        length = sum(segment.length for segment in check(layout, LIMITS))
        return bytes(self.memory[offset : offset + length])

    def write_sg(self, node: str, offset: int, layout: Sequence[Segment], data: bytes) -> int:
        count = min(len(self.read_sg(node, offset, layout)), len(data))
        self.memory[offset : offset + count] = data[:count]
        return count


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk()
    monkeypatch.setattr(command, "limits_of", lambda _node: LIMITS)
    monkeypatch.setattr(command, "checked", lambda _node, _offset, layout: check(layout, LIMITS))
    monkeypatch.setattr(command, "usb_device_of", lambda _node: None)
    monkeypatch.setattr(command, "read_sg", made.read_sg)
    monkeypatch.setattr(command, "write_sg", made.write_sg)
    return made


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ("sg", *arguments))


def digest(data: bytes | bytearray) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.usefixtures("disk")
def test_limits_are_named_explained_and_marked_where_assumed() -> None:
    lines = run("limits", "/dev/sda").stdout.splitlines()
    assert lines[0].split()[:2] == ["logical_block_size", "512"]
    assert [line for line in lines if "assumed, as this kernel does not say" in line] == [lines[1]]
    said = json.loads(run("limits", "/dev/sda", "--json").stdout)
    assert (said["disk"], said["max_segments"], said["assumed"]) == ("sda", 32, ["dma_alignment"])


def test_a_read_prints_layout_bytes_and_sha256(disk: Disk, tmp_path: Path) -> None:
    output = tmp_path / "data"
    done = run(
        "read", "/dev/sda", "--layout", "3584+7x4096", "--offset", "4K", "--output", str(output)
    )
    data = disk.memory[4096 : 4096 + 32256]
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        "layout  3584@512+7x4096@0", "bytes   32256", f"sha256  {digest(data)}",
    ]  # fmt: skip
    assert output.read_bytes() == data


def test_data_on_stdout_is_alone_there(disk: Disk) -> None:
    done = run("read", "/dev/sda", "--layout", "2x512", "--output", "-")
    assert done.stdout_bytes == disk.memory[:1024]
    assert "bytes   1024" in done.stderr


def test_requests_are_commands_one_after_the_other(disk: Disk) -> None:
    done = run("read", "/dev/sda", "--layout", "[512,1024][512]", "--offset", "1024")
    assert [offset for offset, _ in disk.asked] == [1024, 2560]
    assert "2 requests: 2 commands" in done.stderr
    assert done.stdout.count("layout ") == 2


def test_a_family_needs_a_length_and_measures_with_it(disk: Disk) -> None:
    refused = run("read", "/dev/sda", "--layout", "packets:1")
    assert refused.exit_code == 2
    assert "give --length" in refused.stderr
    assert run("read", "/dev/sda", "--layout", "packets:1", "--length", "2K").exit_code == 0
    assert disk.asked == [(0, (Segment(512, 3584),) * 4)]


def test_a_write_of_a_pattern_is_the_same_each_time(disk: Disk) -> None:
    words = ("write", "/dev/sda", "--layout", "[512][512,512]", "--pattern", "7", "--yes")
    done = run(*words, "--offset", "1K", "--json")
    expected = random.Random(7).randbytes(1536)
    assert disk.memory[1024:2560] == expected
    said = json.loads(done.stdout)
    assert said == {
        "device": "/dev/sda", "offset": 1024, "bytes": 1536, "sha256": digest(expected),
        "layouts": ["512@3584", "2x512@3584"],
    }  # fmt: skip


def test_a_write_takes_its_data_from_a_file_that_has_enough(disk: Disk, tmp_path: Path) -> None:
    source = tmp_path / "data"
    source.write_bytes(b"x" * 1000)
    words = ("write", "/dev/sda", "--layout", "2x512", "--input", str(source), "--yes")
    refused = run(*words)
    assert (refused.exit_code, disk.asked) == (1, [])
    assert "has 1000 bytes, and the layout 1024" in refused.stderr
    source.write_bytes(b"x" * 2000)
    assert run(*words).exit_code == 0
    assert disk.memory[:1025] == b"x" * 1024 + disk.memory[1024:1025]


WRONG = [
    (("write", "/dev/sda", "--layout", "512", "--pattern", "1"),
     2, "this overwrites 512 bytes of /dev/sda from byte 0 on: give --yes"),
    (("write", "/dev/sda", "--layout", "512", "--yes"), 2, "--input FILE, or with --pattern SEED"),
    (("read", "/dev/sda", "--layout", "512+z"), 2, "column 5: 'z' is no segment"),
    (("read", "/dev/sda", "--layout", "512", "--offset", "lots"), 2, "expected bytes with K"),
    (("read", "/dev/sda", "--layout", "[512][]"), 1, "no command of a disk is one"),
    (("read", "/dev/sda", "--layout", "[512][510]"),
     1, "logical_block_size is 512, and 510 is no multiple of it; the nearest legal layout is 512"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "status", "reason"), WRONG, ids=[w[2] for w in WRONG])
def test_what_cannot_be_is_refused_before_anything_is_done(
    disk: Disk, arguments: tuple[str, ...], status: int, reason: str
) -> None:
    before = bytes(disk.memory)
    done = run(*arguments)
    assert reason in " ".join(done.stderr.split())
    assert done.exit_code == status
    assert (disk.asked, bytes(disk.memory)) == ([], before)


@pytest.mark.usefixtures("disk")
def test_a_disk_that_ends_is_a_failure_that_says_where() -> None:
    done = run("read", "/dev/sda", "--layout", "4x4096", "--offset", str(SIZE - 4096))
    assert done.exit_code == 1
    assert "/dev/sda ended after 4096 of 16384 bytes" in done.stderr
    assert "bytes   4096" in done.stdout


@pytest.mark.usefixtures("disk")
def test_what_vhci_got_stands_beside_what_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = (Segment(512, 3584), Segment(512, 3584))
    other = (Segment(1024, 0),)

    class Trace:
        def __init__(self, node: str) -> None:
            assert node == "/dev/sda"

        def __enter__(self) -> Trace:  # noqa: PYI034 - a double
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def data_urbs(self) -> tuple[TracedUrb, ...]:
            return (TracedUrb(3, 2, 0x81, 1024, 2, asked), TracedUrb(3, 2, 0x02, 1024, 1, other))

    monkeypatch.setattr(command, "VhciTrace", Trace)
    done = run("read", "/dev/sda", "--layout", "2x512", "--trace")
    assert done.stdout.splitlines()[-2:] == [
        "vhci    IN 2x512@3584, as asked", "vhci    OUT 1024@0",
    ]  # fmt: skip
    said = json.loads(run("read", "/dev/sda", "--layout", "2x512", "--trace", "--json").stdout)
    assert said["vhci"][0] == {
        "direction": "IN", "length": 1024, "entries": 2, "layout": "2x512@3584",
    }  # fmt: skip
