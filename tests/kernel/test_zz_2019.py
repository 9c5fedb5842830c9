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
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from rich.console import Console

from gadgets.mass_storage.function import MassStorageFunction
from gadgets.mass_storage.lun import RamLun
from tests.kernel.kernel_disk import CONTENT, disk_of, kernel_disk
from tests.kernel.no_sg import Modules, exchangeable
from tests.kernel.usbmon import BulkUrb, UsbMon, data_urbs
from usbip_vudc.block.trace import VhciTrace
from usbip_vudc.block.transfer import read_sg
from usbip_vudc.errors import errno_name
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.injection.layout import Segment
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
FAILURES: Final = (errno.EIO, errno.EREMOTEIO)
"""EIO where the CSW went into one of the URBs that were cancelled, and the device was reset;
EREMOTEIO where it came, as usb-storage then says "invalid field in CDB" (transport.c)."""

OFFSET: Final = 512 << 10
BLOCK: Final = 512


Urbs = Callable[[], list[int]]
"""The lengths in bytes of the URBs of one data stage, as far as they have been seen."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A disk with `CONTENT`; ``watching`` sees the URBs that its controller gets for our read."""

    tcp_port: int
    busid: str
    watching: Callable[[], AbstractContextManager[Urbs]]


class Watched(UserspaceUDC):
    """Keeps what it is asked for on bulk IN."""

    def __init__(self, gadget: Gadget) -> None:
        super().__init__(gadget, speed=Speed.SUPER)
        self.asked: list[int] = []

    def submit(self, urb: Urb) -> None:
        if urb.endpoint & Direction.IN and urb.endpoint & 0x0F:
            self.asked.append(urb.length)
        super().submit(urb)

    @contextmanager
    def watching(self) -> Iterator[Urbs]:
        """Nobody else uses the disk meanwhile: our read is the first, and ends with its CSW."""
        start = len(self.asked)

        def urbs() -> list[int]:
            asked = self.asked[start:]
            return asked[: asked.index(13)] if 13 in asked else asked

        yield urbs


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
    udc = Watched(gadget)
    with serving_udcs(udc) as port:
        yield Exported(port, "1-1", udc.watching)


@contextmanager
def dummy_hcd() -> Iterator[Exported]:
    """The kernel's mass storage on dummy_udc, its host controller's device behind usbip-host."""
    with kernel_disk("dummy_udc.0", "sgdisk"):
        device = _appeared()
        bus = int(read_attribute(device / "busnum"))

        @contextmanager
        def watching() -> Iterator[Urbs]:
            with UsbMon(bus) as monitor:
                yield lambda: [urb.length for urb in data_stage(monitor)]

        bind(device.name)
        try:
            with serving_udcs(StubExport(device.name)) as port:
                yield Exported(port, device.name, watching)
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


def data_stage(monitor: UsbMon) -> list[BulkUrb]:
    """The URBs of our read on a bus."""
    return data_urbs(monitor.urbs(), OFFSET // BLOCK, sum(LAYOUT) // BLOCK)


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
    """Read with `LAYOUT`: what came, and the URBs at vhci and at the server or what failed."""
    bus = int(read_attribute(device / "busnum"))
    with UsbMon(bus) as monitor, exported.watching() as server, VhciTrace(node) as trace:
        try:
            data = read_sg(node, OFFSET, tuple(map(Segment, LAYOUT)))
            said = verdict(data, CONTENT[OFFSET : OFFSET + sum(LAYOUT)])
        except OSError as error:
            if error.errno not in FAILURES:
                raise
            said = "read fails"
        got = [urb.lengths or (urb.length,) for urb in trace.data_urbs()]
        urbs = data_stage(monitor)
        there = server()
    lengths = [urb.length for urb in urbs]
    if status := urbs[0].status:
        assert tuple(lengths) == LAYOUT[: len(lengths)], "one URB of each entry, until one failed"
        assert there[0] == LAYOUT[0]
        assert LAYOUT[:1] in got
        return f"{said}; {errno_name(status).partition(' ')[0]} in {lengths[0]}"
    assert LAYOUT in got, f"vhci_hcd was not given {LAYOUT}: {got}"
    return f"{said}; {format_layout(lengths)}, {format_layout(there)}"


# --- the claims ---------------------------------------------------------------------------------

SERVERS: Final = {
    "userspace VUDC": userspace_vudc,
    "dummy_hcd SG": dummy_hcd,
    "dummy_hcd no SG": dummy_hcd,
}

GREEN: Final = "data equal; 32256, {}"
RED: Final = "read fails; -EOVERFLOW in 3584"

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
    shown = table(
        "SG list 3584+7x4096 at SuperSpeed: what came, URBs at vhci and at the server", claims
    )
    with capture.global_and_fixture_disabled():
        print()
        Console(width=130).print(shown)
    if results := os.environ.get("USBIP_VUDC_LAB_RESULTS"):
        with (Path(results) / "2019.txt").open("w") as file:
            Console(file=file, width=130).print(shown)


@pytest.mark.parametrize(
    ("vhci", "server", "expected"),
    CASES,
    ids=[f"{vhci} at vhci, {server}" for vhci, server, _ in CASES],
)
def test_sg_at_vhci_decides_whether_the_read_overflows(
    vhci: str, server: str, expected: str, modules: Modules, rows: list[Row]
) -> None:
    modules.want("vhci-hcd", sg=vhci == "SG")
    modules.want("dummy_hcd", sg=server != "dummy_hcd no SG")
    case = f"vhci {vhci}, {server}"
    mine = []

    def claim(done: str, expected: str, seen: str) -> None:
        mine.append(Row(case, done, expected, seen))
        rows.append(mine[-1])

    with SERVERS[server]() as exported, attached(exported) as (device, node):
        claim("plain read, 1 MiB", "data equal", plain_read(node))
        with impatient(node):
            claim("preadv 3584+7x4096", expected, awkward_read(device, node, exported))
        if expected == RED:
            claim("plain read afterwards", "data equal", plain_read(node))
    assert [row.seen for row in mine] == [row.expected for row in mine]
