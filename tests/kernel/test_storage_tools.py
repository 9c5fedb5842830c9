"""What people test disks with, on ours: fio, badblocks and f3probe, on good disks and on bad ones.

One device of four units: a good disk, a small one that is good as well, one with bad blocks and
one that claims more than it has. f3probe takes a first MiB for good, so the small one has more.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from gadgets.mass_storage.function import MassStorageFunction
from gadgets.mass_storage.lun import RamLun
from gadgets.mass_storage.models import with_models
from tests.kernel.carriers import USERSPACE_SUPER, need_program, prompt_scan, wait_for
from usbip_vudc.carrier import carried
from usbip_vudc.gadget import Config, Gadget

pytestmark = pytest.mark.kernel

MIB: Final = 1 << 20
SMALL_SIZE: Final = MIB + MIB // 4
REAL_SIZE: Final = 2 * MIB
FAKE_SIZE: Final = 3 * MIB + MIB // 4
GOOD, SMALL, DAMAGED, FAKE = range(4)

BLOCK: Final = 4096
"""The block of badblocks; its direct transfers are of whole pages (badblocks.c, set_o_direct)."""

WRAPAROUND: Final = 103
"""The status of f3probe for it: 100 and its enum fake_type (libdevs.h in f3)."""


@pytest.fixture(scope="module")
def disks(need_modules: Callable[..., None]) -> Iterator[tuple[str, ...]]:
    """The nodes of the units, by LUN."""
    need_modules("vhci-hcd", "usb-storage", "sd_mod")
    function = MassStorageFunction(
        [
            RamLun(4 * MIB),
            RamLun(SMALL_SIZE, block_size=BLOCK),
            with_models(RamLun(SMALL_SIZE), ["bad(1003, 2048-2055)"]),
            with_models(RamLun(REAL_SIZE, block_size=BLOCK), [f"fake({FAKE_SIZE}, wrap)"]),
        ]
    )
    gadget = Gadget(
        name="tools", idVendor=0x0525, idProduct=0xA4A5, serial="0123456789AB",
        configs=(Config(functions=(function,)),),
    )  # fmt: skip
    with prompt_scan(), carried(gadget, USERSPACE_SUPER) as device:
        yield _nodes(device.node("sd"), len(function.luns))


def _nodes(disk: str, count: int) -> tuple[str, ...]:
    first = (Path("/sys/class/block") / Path(disk).name / "device").resolve()
    address = first.name.rpartition(":")[0]

    def nodes() -> tuple[str, ...] | None:
        paths = (
            path for lun in range(count) for path in first.parent.glob(f"{address}:{lun}/block/*")
        )
        found = tuple(f"/dev/{path.name}" for path in paths)
        return found if len(found) == count and all(Path(node).exists() for node in found) else None

    return wait_for(nodes, f"{count} disks")


def run(*command: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    """What a tool said, which must end with this status."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == status, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done


def test_fio_reads_what_it_wrote(disks: tuple[str, ...]) -> None:
    done = run(
        need_program("fio", "fio"), "--name=tools", f"--filename={disks[GOOD]}", "--size=2M",
        "--thread", "--clocksource=clock_gettime", "--ioengine=libaio", "--iodepth=8",
        "--direct=1", "--rw=randwrite", "--randseed=1",
        "--bssplit=512/10:4k/20:7k/10:16k/20:64k/40", "--verify=crc32c", "--verify_fatal=1",
        "--verify_state_save=0", "--output-format=json",
    )  # fmt: skip
    (job,) = json.loads(done.stdout)["jobs"]
    assert job["error"] == 0
    # Reads are of the verification alone, since the job only writes.
    assert job["read"]["io_bytes"] == job["write"]["io_bytes"] == 2 * MIB


@pytest.mark.parametrize(
    ("lun", "patterns", "bad"),
    [
        pytest.param(SMALL, ("0xaa", "0x55", "0xff", "0"), [], id="good"),
        # LBA 1003 is in block 125, and LBAs 2048 to 2055 are all of block 256. One pattern, since
        # Linux tries each write that failed several times.
        pytest.param(DAMAGED, ("0xaa",), [125, 256], id="bad"),
    ],
)
def test_badblocks_finds_all_bad_blocks_and_no_others(
    disks: tuple[str, ...], lun: int, patterns: tuple[str, ...], bad: list[int]
) -> None:
    program = need_program("badblocks", "e2fsprogs")
    chosen = (word for pattern in patterns for word in ("-t", pattern))
    done = run(program, "-wsv", *chosen, "-b", str(BLOCK), "-c", "16", disks[lun])
    assert [int(line) for line in done.stdout.split()] == bad
    assert f"Pass completed, {len(bad)} bad blocks found." in done.stderr


@pytest.mark.parametrize(
    ("lun", "status", "verdict", "size"),
    [
        pytest.param(SMALL, 0, "is the real thing", SMALL_SIZE, id="good"),
        pytest.param(FAKE, WRAPAROUND, "is a counterfeit of type wraparound", REAL_SIZE, id="fake"),
    ],
)
def test_f3probe_tells_true_from_fake(
    disks: tuple[str, ...], lun: int, status: int, verdict: str, size: int
) -> None:
    done = run(need_program("f3probe", "f3"), "--destructive", disks[lun], status=status)
    assert f"{disks[lun]}' {verdict}\n" in done.stdout
    assert f"*Usable* size: {size / MIB:.2f} MB ({size // BLOCK} blocks)\n" in done.stdout
