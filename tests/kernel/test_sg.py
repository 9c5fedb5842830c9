"""The SG list that vhci_hcd gets is the one that was asked for: the kernel is asked, not us.

The disk is ours, in memory: what was read or written is compared with that memory, which no block
layer stands before. One attach and one trace serve all layouts of a speed.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from click.testing import CliRunner

from gadgets.mass_storage.function import MassStorageFunction
from gadgets.mass_storage.lun import RamLun
from tests.kernel.carriers import MODULES, USERSPACE_HIGH, USERSPACE_SUPER, name_of, prompt_scan
from usbip_vudc.block.events import GROUP
from usbip_vudc.block.trace import VhciTrace
from usbip_vudc.block.transfer import DiskInUse, read_sg, write_sg
from usbip_vudc.carrier import carried
from usbip_vudc.cli import main
from usbip_vudc.errors import SchemeError
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.injection.layout import Layout, Segment
from usbip_vudc.sysfs import write_attribute

pytestmark = pytest.mark.kernel

CONTENT: Final = random.Random(4).randbytes(1 << 20)
OFFSET: Final = 128 << 10

LISTS: Final = {
    "3584+7x4096": "3584@512+7x4096@0",
    "8x512": "8x512@3584",
    "1536@512+2560@1024+512@3584+4096@0+1024@2048": "1536@512+2560@1024+512@3584+4096@0+1024@2048",
    "4096": "4096@0",
    "512@512+1024@0": "512@512+1024@0",
    "32x512": "32x512@3584",
    "512+61440@512+512": "512@3584+61440@512+512@3584",
}
"""Layout -> the list that vhci_hcd is to get. One entry, two and more are three shapes of SCSI's
list; the last one needs a huge page."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk of this machine, and the memory behind it."""

    node: str
    memory: memoryview


@pytest.fixture(scope="module", autouse=True)
def modules(need_modules: Callable[..., None]) -> Iterator[None]:
    need_modules(*MODULES, "usb-storage", "sd_mod")
    with prompt_scan():
        yield


@pytest.fixture(scope="module", params=[USERSPACE_HIGH, USERSPACE_SUPER], ids=name_of)
def disk(request: pytest.FixtureRequest) -> Iterator[Disk]:
    lun = RamLun(len(CONTENT))
    lun.memory[:] = CONTENT
    gadget = Gadget(
        name="sgdisk",
        idVendor=0x0525,
        idProduct=0xA4A5,
        serial="0123456789AB",
        configs=(Config(functions=(MassStorageFunction(luns=[lun]),)),),
    )
    with carried(gadget, request.param) as device:
        yield Disk(device.node("sd"), memoryview(lun.memory))


# --- the command, which traces by itself: before there is a trace of ours ------------------------


def tracefs() -> Path:
    roots = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
    return next(root for root in roots if (root / "kprobe_events").exists())


def traces() -> list[str]:
    """Everything of ours in tracefs."""
    events = (tracefs() / "kprobe_events").read_text().splitlines()
    instances = map(str, (tracefs() / "instances").glob(GROUP))
    return [line for line in events if GROUP in line] + list(instances)


def leave_what_a_killed_trace_leaves() -> None:
    fd = os.open(tracefs() / "kprobe_events", os.O_WRONLY | os.O_APPEND)
    os.write(fd, f"p:{GROUP}/list vhci_hcd:vhci_urb_enqueue count=$arg2:x64".encode())
    os.close(fd)
    instance = tracefs() / "instances" / GROUP
    instance.mkdir()
    write_attribute(instance / "events" / GROUP / "enable", "1")


def test_the_command_shows_what_vhci_got_and_leaves_no_trace(disk: Disk, tmp_path: Path) -> None:
    output = tmp_path / "read"
    leave_what_a_killed_trace_leaves()
    words = ("--layout", "3584+7x4096", "--offset", "4K", "--output", str(output))
    done = CliRunner().invoke(main, ("sg", "read", disk.node, *words, "--trace", "--json"))
    assert done.exit_code == 0, done.output
    assert traces() == []
    asked = "3584@512+7x4096@0"
    said = json.loads(done.stdout)
    assert said["layouts"] == [asked]
    assert said["bytes"] == 32256
    expected = {"direction": "IN", "length": 32256, "entries": 8, "layout": asked}
    assert expected in said["vhci"]
    assert output.read_bytes() == CONTENT[4096 : 4096 + 32256]


# --- the lists ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trace(disk: Disk) -> Iterator[VhciTrace]:
    with VhciTrace(disk.node) as made:
        yield made


def lists_during(trace: VhciTrace, direction: int, work: Callable[[], object]) -> list[str]:
    """The lists in this direction that vhci_hcd gets meanwhile, each one whole."""
    trace.clear()
    work()
    urbs = trace.data_urbs()
    for urb in urbs:
        assert len(urb.entries) == urb.count, urb
        # The last blocks are read one by one into a list for more, such as by udev meanwhile.
        assert sum(urb.lengths) >= urb.length, urb
    return [str(urb) for urb in urbs if urb.endpoint & 0x80 == direction]


def segments_of(text: str) -> tuple[Segment, ...]:
    layout = Layout.parse(text)
    return layout.apply(layout.length, 512)[0]


@pytest.mark.parametrize("text", LISTS)
def test_a_read_has_the_list_asked_for(disk: Disk, trace: VhciTrace, text: str) -> None:
    segments = segments_of(text)
    got: list[bytes] = []
    lists = lists_during(trace, 0x80, lambda: got.append(read_sg(disk.node, OFFSET, segments)))
    assert LISTS[text] in lists
    end = OFFSET + sum(segment.length for segment in segments)
    assert got == [bytes(disk.memory[OFFSET:end])]


@pytest.mark.parametrize("text", LISTS)
def test_a_write_has_the_list_asked_for(disk: Disk, trace: VhciTrace, text: str) -> None:
    segments = segments_of(text)
    data = random.Random(text).randbytes(sum(segment.length for segment in segments))
    end = OFFSET + len(data)
    around = bytes(disk.memory[:OFFSET]), bytes(disk.memory[end:])
    lists = lists_during(trace, 0, lambda: write_sg(disk.node, OFFSET, segments, data))
    assert LISTS[text] in lists
    assert disk.memory[OFFSET:end] == data
    assert (bytes(disk.memory[:OFFSET]), bytes(disk.memory[end:])) == around


REFUSED: Final = [
    ("33x512", "max_segments is 32, and these are 33; the nearest legal layout is 32x512"),
    ("512+4092", "logical_block_size is 512, and 4092 is no multiple of it"),
    ("512@256", "dma_alignment is 511: 256 is no multiple of 512"),
    ("66048", "max_segment_size is 65536; the nearest legal layout is 65536+512"),
    ("17x65536", "max_sectors_kb is "),
]


@pytest.mark.parametrize(("text", "reason"), REFUSED, ids=[text for text, _ in REFUSED])
def test_what_the_queue_forbids_is_refused_by_the_name_of_its_limit(
    disk: Disk, text: str, reason: str
) -> None:
    with pytest.raises(SchemeError) as refused:
        read_sg(disk.node, 0, segments_of(text))
    assert reason in str(refused.value)


def test_the_last_blocks_are_refused_where_linux_touches_them_one_by_one(
    disk: Disk, trace: VhciTrace
) -> None:
    end = len(CONTENT) - 8 * 512
    with pytest.raises(SchemeError, match=f"one at a time .*; end at {end}"):
        read_sg(disk.node, end - 512, segments_of("2x512"))
    segments = segments_of("512@512+1024@0")
    lists = lists_during(trace, 0x80, lambda: read_sg(disk.node, end - 1536, segments))
    assert "512@512+1024@0" in lists


def test_a_disk_that_somebody_holds_is_not_written_to(disk: Disk) -> None:
    before = bytes(disk.memory)
    holder = os.open(disk.node, os.O_RDONLY | os.O_EXCL)
    try:
        with pytest.raises(DiskInUse, match="nothing was written"):
            write_sg(disk.node, 0, [Segment(512)], bytes(512))
    finally:
        os.close(holder)
    assert bytes(disk.memory) == before
