"""The case of 2019 on Linux's own code: a SuperSpeed disk, read with the SG list of the thread.

Linux's "usbip: Implement SG support to vhci-hcd and stub driver" (2019) says: without SG at vhci
the first URB of 3584 bytes ends with an overflow; with it all is well, whether the server's host
controller has SG or not, as the stub driver makes one URB of each entry where it has none.

The file is named so that it runs last: it exchanges modules that every other test uses.
"""

from __future__ import annotations

import errno
import mmap
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from rich.console import Console

from gadgets.mass_storage.function import MassStorageFunction
from gadgets.mass_storage.lun import RamLun
from tests.kernel.kernel_disk import CONTENT, disk_of, kernel_disk
from tests.kernel.no_sg import Modules, exchangeable
from tests.kernel.sg_read import read_sg, watched_lists
from tests.kernel.usbmon import UsbMon, data_urbs
from usbip_vudc.errors import errno_name
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.kernel_export import StubExport
from usbip_vudc.report import Row, table
from usbip_vudc.serving import serving_udcs
from usbip_vudc.sglist import format_layout, parse_layout
from usbip_vudc.stub import bind, unbind
from usbip_vudc.sysfs import SYSFS, read_attribute, usb_device, usb_devices, write_attribute
from usbip_vudc.urb import Urb
from usbip_vudc.usb.ch9 import Direction, Speed
from usbip_vudc.vhci import attach_remote, detach, wait_device, wait_nodes
from usbip_vudc.vudc import UserspaceUDC

pytestmark = pytest.mark.kernel

HOST: Final = "127.0.0.1"
DUMMY: Final = SYSFS / "devices/platform/dummy_hcd.0"
PATIENCE: Final = 15

LAYOUT: Final = parse_layout("3584+7x4096")
OFFSET: Final = 512 << 10
BLOCK: Final = 512


@dataclass(frozen=True, slots=True)
class Exported:
    """A disk with `CONTENT`, and the data URBs in bytes that its controller got for our read."""

    tcp_port: int
    busid: str
    urbs: Callable[[], list[int]]


class Watched(UserspaceUDC):
    """Keeps what it is asked for on bulk IN."""

    asked: list[int]

    def submit(self, urb: Urb) -> None:
        if urb.endpoint & Direction.IN and urb.endpoint != Direction.IN:
            self.asked.append(urb.length)
        super().submit(urb)


@contextmanager
def userspace_vudc() -> Iterator[Exported]:
    """Our own mass storage on our own controller."""
    lun = RamLun(len(CONTENT))
    lun.memory[:] = CONTENT
    function = MassStorageFunction(luns=[lun])
    gadget = Gadget(
        name="disk",
        idVendor=0x0525,
        idProduct=0xA4A5,
        serial="0123456789AB",
        configs=(Config(functions=(function,)),),
    )
    udc = Watched(gadget, speed=Speed.SUPER)
    udc.asked = []
    with serving_udcs(udc) as port:
        # What the host asked first is how big the disk is; the CSW's 13 bytes end each command.
        yield Exported(port, "1-1", lambda: _first_data_stage(udc.asked))


def _first_data_stage(asked: list[int]) -> list[int]:
    for number, length in enumerate(asked):
        if length in (sum(LAYOUT), LAYOUT[0]):
            stage = asked[number:]
            return stage[: stage.index(13)] if 13 in stage else stage
    return []


@contextmanager
def dummy_hcd() -> Iterator[Exported]:
    """The kernel's mass storage on dummy_udc, its host controller's device behind usbip-host."""
    with kernel_disk("dummy_udc.0", "sgdisk"):
        device = _appeared()
        bind(device.name)
        try:
            with (
                UsbMon(int(read_attribute(device / "busnum"))) as monitor,
                serving_udcs(StubExport(device.name)) as port,
            ):
                yield Exported(port, device.name, lambda: _lengths(monitor))
        finally:
            unbind(device.name)


def _appeared() -> Path:
    """The device on dummy_hcd, as soon as it is configured."""
    deadline = time.monotonic() + PATIENCE
    while True:
        for path in usb_devices():
            if DUMMY in path.parents and not path.name.startswith("usb"):
                value = path / "bConfigurationValue"
                if value.exists() and read_attribute(value) == "1":
                    return usb_device(path.name)
        assert time.monotonic() < deadline, "dummy_hcd shows no device"
        time.sleep(0.02)


def _lengths(monitor: UsbMon) -> list[int]:
    urbs = data_urbs(monitor.urbs(), OFFSET // BLOCK, sum(LAYOUT) // BLOCK)
    return [urb.length for urb in urbs]


@contextmanager
def attached(exported: Exported) -> Iterator[tuple[Path, str]]:
    """The device behind vhci_hcd in sysfs, and its disk in /dev."""
    port = attach_remote(HOST, exported.tcp_port, exported.busid).port
    try:
        device = wait_device(port)
        assert read_attribute(device / "speed") == "5000"
        yield device, disk_of(wait_nodes(device))
    finally:
        detach(port)


def plain_read(node: str) -> str:
    """What ``dd bs=1M iflag=direct`` reads, in words: entries of whole pages only."""
    buffer = mmap.mmap(-1, len(CONTENT))
    fd = os.open(node, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    try:
        assert os.preadv(fd, [buffer], 0) == len(CONTENT)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    finally:
        os.close(fd)
    return verdict(buffer[:], CONTENT)


def verdict(seen: bytes, expected: bytes) -> str:
    return "data equal" if seen == expected else "data differs"


@contextmanager
def impatient(node: str) -> Iterator[None]:
    """One try of two seconds for a command, where Linux would make six of thirty."""
    device = SYSFS / "class/block" / Path(node).name / "device"
    values = {device / "timeout": "2"}
    values |= dict.fromkeys(device.glob("scsi_disk/*/max_retries"), "0")
    before = {path: read_attribute(path) for path in values}
    for path, value in values.items():
        write_attribute(path, value)
    yield
    for path, value in before.items():
        write_attribute(path, value)


def awkward_read(device: Path, node: str, exported: Exported) -> str:
    """Read with `LAYOUT`, and say what came and in which URBs."""
    with UsbMon(int(read_attribute(device / "busnum"))) as monitor, watched_lists() as probe:
        try:
            data = read_sg(node, OFFSET, LAYOUT)
            said = verdict(data, CONTENT[OFFSET : OFFSET + sum(LAYOUT)])
        except OSError as error:
            said = errno.errorcode[error.errno or 0]
        assert LAYOUT in probe.lists(), f"usb-storage was not given {LAYOUT}: {probe.lists()}"
        urbs = data_urbs(monitor.urbs(), OFFSET // BLOCK, sum(LAYOUT) // BLOCK)
    lengths = [urb.length for urb in urbs]
    if status := urbs[0].status:
        assert tuple(lengths) == LAYOUT[: len(lengths)], "one URB of each entry, until one failed"
        assert exported.urbs()[0] == LAYOUT[0]
        return f"{said}; URB of {lengths[0]}: {errno_name(status).partition(' ')[0]}"
    return f"{said}; URB {format_layout(lengths)}, server's {format_layout(exported.urbs())}"


# --- the claims ---------------------------------------------------------------------------------

SERVERS: Final = {
    "userspace VUDC": userspace_vudc,
    "dummy_hcd SG": dummy_hcd,
    "dummy_hcd no SG": dummy_hcd,
}

GREEN: Final = "data equal; URB 32256, server's {}"
RED: Final = "EIO; URB of 3584: -EOVERFLOW"

# In this order no module is exchanged twice.
CASES: Final = (
    ("SG", "userspace VUDC", GREEN.format("32256")),
    ("SG", "dummy_hcd SG", GREEN.format("32256")),
    ("SG", "dummy_hcd no SG", GREEN.format("7x4096+3584")),
    ("no SG", "dummy_hcd no SG", RED),
    ("no SG", "dummy_hcd SG", RED),
    ("no SG", "userspace VUDC", RED),
)


@pytest.fixture(scope="module")
def modules(need_modules: Callable[..., None]) -> Iterator[Modules]:
    need_modules("vhci-hcd", "dummy_hcd", "usbip-host", "libcomposite", "usb_f_mass_storage")
    need_modules("usb-storage", "sd_mod", "usbmon")
    with exchangeable("vhci-hcd", "dummy_hcd") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def rows(request: pytest.FixtureRequest) -> Iterator[list[Row]]:
    """All claims, and what was seen, in one table for people, and for the lab's results."""
    claims: list[Row] = []
    yield claims
    capture = request.config.pluginmanager.getplugin("capturemanager")
    shown = table("the SG list 3584+7x4096 at SuperSpeed", claims)
    with capture.global_and_fixture_disabled():
        print()
        Console(width=130).print(shown)
    if results := os.environ.get("USBIP_VUDC_LAB_RESULTS"):
        with (Path(results) / "2019.txt").open("w") as file:
            Console(file=file, width=130).print(shown)


@pytest.mark.parametrize(("vhci", "server", "expected"), CASES, ids=lambda text: text)
def test_sg_at_vhci_decides_whether_the_read_overflows(
    vhci: str, server: str, expected: str, modules: Modules, rows: list[Row]
) -> None:
    modules.want("vhci-hcd", sg=vhci == "SG")
    modules.want("dummy_hcd", sg=server != "dummy_hcd no SG")
    case = f"vhci {vhci}, server {server}"
    mine = []

    def claim(done: str, expected: str, seen: str) -> None:
        mine.append(Row(case, done, expected, seen))
        rows.append(mine[-1])

    with SERVERS[server]() as exported, attached(exported) as (device, node):
        claim("plain read of 1 MiB", "data equal", plain_read(node))
        with impatient(node):
            claim("preadv 3584+7x4096", expected, awkward_read(device, node, exported))
        if expected == RED:
            claim("plain read afterwards", "data equal", plain_read(node))
    assert [row.seen for row in mine] == [row.expected for row in mine]
