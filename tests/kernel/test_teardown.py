"""Down and away: whatever ends a gadget, nothing of it is left, and nobody waits for it for ever.

After every test the fixtures look for gadgets, mounts, vhci ports, processes, and at dmesg. What a
user could meet here, and the tests avoid:

- dummy_hcd never enumerates again what `soft_connect` disconnected and connected ("unable to
  enumerate"): bind it anew.
- dummy_hcd's SuperSpeed root hub refuses to suspend a port ("can't suspend, status -32").
- FunctionFS mounted with no_disconnect=1 hangs for ever when ep0 is closed and opened again.
- A program that waits for a URB on vhci_hcd, and is killed, stays in state D for as long as its
  server neither answers the unlink nor closes: `usbip-vudc detach` frees it.
- usbip-vudc that was disconnected while it was busy sends its next host what it still had for the
  last one (nothing empties its tx_queue, drivers/usb/usbip/vudc_tx.c); vhci_hcd knows no such URB
  and drops the connection at once: attach again.
- usbip-host keeps the bus id of a device that was unplugged, in a table of 16.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from configfs.records import clean, records, stale
from gadgets.mass_storage.function import MassStorageFunction
from gadgets.mass_storage.lun import FileLun, Lun, RamLun
from tests.devices import Scripted, echo, gadget
from tests.kernel.carriers import (
    DUMMY_HIGH,
    DUMMY_SUPER,
    EVERY,
    MODULES,
    STUB,
    USERSPACE_HIGH,
    USERSPACE_SUPER,
    VUDC,
    name_of,
    on_carriers,
    on_dummy,
    prompt_scan,
    wait_for,
)
from tests.kernel.conftest import left_behind
from tests.kernel.usbfs import usbfs
from usbip_vudc.carrier import PATIENCE, Carrier, HostEnd, OwnBusHost, carried
from usbip_vudc.gadget import Gadget
from usbip_vudc.sysfs import read_attribute, write_attribute

pytestmark = pytest.mark.kernel

MIB: Final = 1 << 20
COPY: Final = Path("/dev/shm/teardown.copy")
IMAGE: Final = Path("/dev/shm/teardown.img")


@pytest.fixture(scope="module", autouse=True)
def modules(need_modules: Callable[..., None]) -> Iterator[None]:
    need_modules(*MODULES, "usb-storage", "sd_mod")
    with prompt_scan():
        yield


@pytest.fixture
def endless() -> Iterator[Path]:
    """The image of a disk that no dd reads to its end; it takes no memory."""
    with IMAGE.open("wb") as file:
        file.truncate(64 << 30)
    yield IMAGE
    IMAGE.unlink()


def disk(lun: Lun) -> Gadget:
    return replace(gadget(MassStorageFunction(luns=[lun])), serial="0123456789AB")


# --- a hundred lives ----------------------------------------------------------------------------


def exchange(device: Path, data: bytes) -> None:
    """Send bytes to a device that echoes them, and read them back."""
    with usbfs(device) as host:
        host.claim()
        assert host.write(data) == len(data)
        assert host.read(1024) == data


def read_block(node: str) -> None:
    fd = os.open(node, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, 4096) as memory:
            assert os.preadv(fd, [memory], 8 * MIB) == 4096
    finally:
        os.close(fd)


def open_files() -> list[str]:
    """What this process has open."""
    links = []
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # of the directory itself
            links.append(str(path.readlink()))
    return sorted(links)


@pytest.mark.parametrize(
    ("carrier", "times"),
    [
        pytest.param(carrier, times, id=f"{times} on {name_of(carrier)}")
        for carrier, times in (
            (USERSPACE_HIGH, 20),
            (USERSPACE_SUPER, 20),
            (VUDC, 25),
            (DUMMY_HIGH, 15),
            (DUMMY_SUPER, 15),
            (STUB, 5),
        )
    ],
)
def test_a_hundred_lives_leave_nothing(carrier: Carrier, times: int) -> None:
    before = open_files(), threading.active_count(), left_behind()
    for life in range(times):
        if life % 5 == 4:
            with carried(disk(RamLun(16 * MIB)), carrier) as device:
                read_block(device.node("sd"))
        else:
            function = Scripted(echo, alternates=1)
            with carried(gadget(function), carrier) as device:
                exchange(device.sysfs, b"%d" % life)
            assert function.lives == function.ended
    assert (open_files(), threading.active_count(), left_behind()) == before
    assert records() == ()


# --- gone while it is busy ----------------------------------------------------------------------


@contextmanager
def reading(
    node: str, *, into: str | Path = "/dev/null", block: str = "1M"
) -> Iterator[subprocess.Popen[bytes]]:
    """A dd that reads all of a disk, and has begun."""
    command = ("dd", f"if={node}", f"of={into}", f"bs={block}", "iflag=direct", "status=none")
    with subprocess.Popen(command, stderr=subprocess.PIPE) as dd:
        try:
            wait_reading(node)
            assert dd.poll() is None
            yield dd
        finally:
            dd.kill()


def ends_early(dd: subprocess.Popen[bytes]) -> None:
    """It ends, though the disk is not at its end: with EIO, or, once the disk has size 0, as if."""
    dd.wait(PATIENCE)


def wait_reading(node: str) -> None:
    """Wait until a disk has completed more reads (Documentation/block/stat.rst)."""
    stat = Path("/sys/class/block") / Path(node).name / "stat"

    def completed() -> int:
        return int(read_attribute(stat).split()[0])

    before = completed()
    wait_for(lambda: completed() > before + 4, f"reads of {node}")


def wait_nobody_hangs() -> None:
    """Wait until nothing is in state D, uninterruptible."""

    def nobody() -> bool:
        return not [path for path in Path("/proc").glob("[0-9]*/stat") if state(path) == "D"]

    wait_for(nobody, "nobody in state D")


def state(stat: Path) -> str:
    try:
        return stat.read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


@on_carriers(*EVERY)
def test_dd_ends_and_nothing_hangs_where_the_gadget_is_unplugged(
    carrier: Carrier, endless: Path
) -> None:
    with FileLun(endless, read_only=True) as lun, carried(disk(lun), carrier) as device:
        with reading(device.node("sd")) as dd:
            device.unplug()
            ends_early(dd)
        device.wait_gone()
        wait_nobody_hangs()
    with carried(gadget(Scripted(echo, alternates=1)), carrier) as device:
        exchange(device.sysfs, b"the next one")


@contextmanager
def held_disk(image: Path) -> Iterator[tuple[subprocess.Popen[bytes], HostEnd]]:
    """`usbip-vudc up storage`, in a process of its own, and the disk that appears."""
    words = ("-m", "usbip_vudc", "up", "storage", "--udc", DUMMY_SUPER.udc, "--image", image)
    with subprocess.Popen((sys.executable, *words), stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"storage dummy_udc.0\n"
            host = OwnBusHost(on_dummy(DUMMY_SUPER))
            host.plug()
            yield holder, host
        finally:
            holder.kill()


def test_what_kill_9_leaves_of_a_busy_gadget_is_found_and_removed(endless: Path) -> None:
    before = left_behind()
    with held_disk(endless) as (holder, device):
        with reading(device.node("sd")) as dd:
            holder.kill()
            holder.wait(PATIENCE)
            ends_early(dd)
        device.wait_gone()
        wait_nobody_hangs()
        (record,) = stale()
        assert (record.name, record.pid) == ("storage", holder.pid)
        clean(record)
        assert stale() == records() == ()
        assert left_behind() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_signal_ends_a_busy_gadget_and_leaves_nothing(
    number: signal.Signals, endless: Path
) -> None:
    before = left_behind()
    with held_disk(endless) as (holder, device):
        with reading(device.node("sd")) as dd:
            holder.send_signal(number)
            ends_early(dd)
            assert holder.wait(PATIENCE) == 0
        device.wait_gone()
        wait_nobody_hangs()
        assert records() == ()
        assert left_behind() == before


# --- what a host may do to a device, and goes on ------------------------------------------------


@on_carriers(*(carrier for carrier in EVERY if carrier is not DUMMY_SUPER))
def test_a_device_that_was_suspended_goes_on(carrier: Carrier) -> None:
    function = Scripted(echo, alternates=1)
    with carried(gadget(function), carrier) as device:
        power = device.sysfs / "power"
        write_attribute(power / "autosuspend_delay_ms", "0")
        exchange(device.sysfs, b"never suspended")
        lives = function.lives  # two on the stub: its own driver's configuration was the first
        for number in range(2):
            write_attribute(power / "control", "auto")
            wait_for(lambda: runtime_status(power) == "suspended", "suspended")
            exchange(device.sysfs, b"opening the node has resumed it %d" % number)
            write_attribute(power / "control", "on")
            wait_for(lambda: runtime_status(power) == "active", "resumed")
        assert function.lives == lives


def runtime_status(power: Path) -> str:
    return read_attribute(power / "runtime_status")


@on_carriers(*EVERY)
def test_dd_goes_on_over_resets_of_its_device(carrier: Carrier) -> None:
    data = random.Random(5).randbytes(2 * MIB)
    lun = RamLun(len(data))
    lun.memory[:] = data
    try:
        with carried(disk(lun), carrier) as device:
            node = device.node("sd")
            with usbfs(device.sysfs) as host, reading(node, into=COPY, block="16K") as dd:
                for _ in range(3):
                    host.reset()
                    wait_reading(node)
                    assert dd.poll() is None
                assert dd.wait(PATIENCE) == 0
        assert COPY.read_bytes() == data
    finally:
        COPY.unlink(missing_ok=True)
