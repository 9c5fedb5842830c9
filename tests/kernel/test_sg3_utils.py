"""sg3_utils against our SCSI target: a table of commands and of the status each must exit with.

One device of four units: a thin disk over a file, a stick, a read-only disk and a CD-ROM drive.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from gadgets.mass_storage.function import MassStorageFunction
from gadgets.mass_storage.lun import FileLun, RamLun
from tests.kernel.carriers import USERSPACE_SUPER, need_program, prompt_scan, wait_for
from usbip_vudc.carrier import carried
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.sysfs import write_attribute

pytestmark = pytest.mark.kernel

MIB: Final = 1 << 20
SIZE: Final = 16 * MIB
LAST: Final = SIZE // 512 - 1

IMAGE: Final = Path("/dev/shm/sg3.img")
DISC: Final = Path("/dev/shm/sg3.iso")
BLOCK: Final = Path("/dev/shm/sg3.block")
OTHER: Final = Path("/dev/shm/sg3.other")
CONTENT: Final = bytes(range(256)) * 2

# The exit statuses of sg3_utils (sg3_utils(8), EXIT STATUS).
GOOD: Final = 0
NOT_READY: Final = 2
ILLEGAL_REQUEST: Final = 5
DATA_PROTECT: Final = 7
INVALID_OPCODE: Final = 9
MISCOMPARE: Final = 14
OUT_OF_RANGE: Final = 22

Table = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Units:
    """The units as Linux sees them: generic nodes by LUN, and the directories in sysfs."""

    function: MassStorageFunction
    generic: tuple[str, ...]
    directories: tuple[Path, ...]

    def block(self, lun: int) -> str:
        """The block device of a unit, as soon as its driver has made one."""
        directory = self.directories[lun] / "block"
        found = wait_for(lambda: [*directory.glob("*")], f"{directory}/*")
        return f"/dev/{found[0].name}"


@pytest.fixture(scope="module")
def units(need_modules: Callable[..., None]) -> Iterator[Units]:
    need_modules("vhci-hcd", "usb-storage", "sd_mod", "sr_mod", "sg")
    need_program("sg_turs", "sg3-utils")
    IMAGE.write_bytes(CONTENT * (SIZE // 512))
    DISC.write_bytes(CONTENT * (2 * MIB // 512))
    BLOCK.write_bytes(CONTENT)
    OTHER.write_bytes(CONTENT[::-1])
    try:
        with (
            FileLun(IMAGE, thin=True) as thin,
            FileLun(DISC, cdrom=True) as drive,
            prompt_scan(),
        ):
            stick, fixed = RamLun(SIZE, removable=True), RamLun(SIZE, read_only=True)
            function = MassStorageFunction([thin, stick, fixed, drive])
            gadget = Gadget(
                name="sg3", idVendor=0x0525, idProduct=0xA4A5, serial="0123456789AB",
                configs=(Config(functions=(function,)),),
            )  # fmt: skip
            with carried(gadget, USERSPACE_SUPER) as device:
                yield _units(function, device.node("sd"))
    finally:
        for path in (IMAGE, DISC, BLOCK, OTHER):
            path.unlink(missing_ok=True)


def _units(function: MassStorageFunction, disk: str) -> Units:
    first = (Path("/sys/class/block") / Path(disk).name / "device").resolve()
    address = first.name.rpartition(":")[0]
    directories = tuple(first.parent / f"{address}:{lun}" for lun in range(4))

    def generic() -> list[str] | None:
        found = [f"/dev/{path.name}" for one in directories for path in one.glob("scsi_generic/*")]
        return found if len(found) == 4 and all(Path(node).exists() for node in found) else None

    return Units(function, tuple(wait_for(generic, "four generic nodes")), directories)


def run(node: str, table: Table) -> None:
    """Run each command of a table on a node, with one shell: all exit as they should."""
    lines = (line.format(block=BLOCK, other=OTHER) for line, _ in table)
    script = "".join(
        f"{line.replace('@', node) if '@' in line else f'{line} {node}'}; echo @@$?@@\n"
        for line in lines
    )
    done = subprocess.run(
        ("sh", "-c", script), text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, check=True,
    )  # fmt: skip
    ended = re.findall(r"(.*?)@@(\d+)@@\n", done.stdout, re.DOTALL)
    wrong = [
        f"{line}: status {status}, expected {expected}\n{said.strip()}"
        for (line, expected), (said, status) in zip(table, ended, strict=True)
        if int(status) != expected
    ]
    assert not wrong, "\n".join(wrong)


EVERY_UNIT: Final[Table] = (
    ("sg_turs", GOOD),
    ("sg_inq", GOOD),
    ("sg_vpd -a", GOOD),
    ("sg_opcodes -R -m", GOOD),
    ("sg_modes -a", GOOD),
    ("sg_raw @ 28 00 ff ff ff ff 00 00 01 00", OUT_OF_RANGE),
)

DISK: Final[Table] = (
    ("sg_vpd --force -p 0xc0", ILLEGAL_REQUEST),
    ("sg_luns", GOOD),
    ("sg_modes -p 0x05", ILLEGAL_REQUEST),
    ("sg_raw @ 85 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00", INVALID_OPCODE),  # ATA
    ("sg_raw @ 28 00 00 00 00 00 00 00 00 04", ILLEGAL_REQUEST),  # NACA
    ("sg_readcap --long", GOOD),
    ("sg_sync", GOOD),
    ("sg_sync --16 --immed", GOOD),
    (f"sg_verify --16 --lba={LAST} --count=2", OUT_OF_RANGE),
)

WRITABLE: Final[Table] = (
    ("sg_write_verify --16 --lba=8 --bytchk=1 --in={block}", GOOD),
    ("sg_write_verify --lba=8 --bytchk=2 --in={block}", ILLEGAL_REQUEST),
    ("sg_verify --lba=8 --count=1 --ndo=512 --in={block}", GOOD),
    ("sg_verify --quiet --lba=8 --count=1 --ndo=512 --in={other}", MISCOMPARE),
    ("sg_verify --16 --lba=8 --count=2 --ebytchk=3 --ndo=512 --in={block}", GOOD),
    ("sg_write_same --10 --lba=64 --num=64 --in={other}", GOOD),
    ("sg_verify --lba=64 --count=64 --ebytchk=3 --ndo=512 --in={other}", GOOD),
    ("sg_write_same --16 --lba=64 --num=32 --ndob", GOOD),
    ("sg_verify --lba=64 --count=32 --ebytchk=3 --ndo=512 --0", GOOD),
    (f"sg_write_same --16 --lba={LAST} --num=2 --in={{block}}", OUT_OF_RANGE),
    ("sg_write_same --10 --anchor --lba=0 --num=1 --in={block}", ILLEGAL_REQUEST),
    ("sg_wr_mode --page=0x0a --contents=0a,0a,0,0,8,0,0,0,0,0,0,0", GOOD),  # SWP
    ("sg_write_same --lba=0 --num=1 --in={block}", DATA_PROTECT),
    ("sg_wr_mode --six --page=0x0a --contents=0a,0a,0,0,0,0,0,0,0,0,0,0", GOOD),
)

THIN: Final[Table] = (
    ("sg_prevent", INVALID_OPCODE),
    ("sg_unmap --force --lba=1024 --num=1024", GOOD),
    ("sg_unmap --force --lba=0,4096,8192 --num=8,8,8", GOOD),
    (f"sg_unmap --force --lba={LAST} --num=2", OUT_OF_RANGE),
    ("sg_unmap --force --anchor --lba=0 --num=8", ILLEGAL_REQUEST),
    ("sg_write_same --unmap --lba=2048 --num=1024", GOOD),
    ("sg_verify --lba=1024 --count=127 --ebytchk=3 --ndo=512 --0", GOOD),
)

STICK: Final[Table] = (
    ("sg_unmap --force --lba=1024 --num=1024", INVALID_OPCODE),
    ("sg_write_same --unmap --lba=2048 --num=1024", ILLEGAL_REQUEST),
    ("sg_prevent", GOOD),
    ("sg_start --eject", ILLEGAL_REQUEST),
    ("sg_prevent --allow", GOOD),
    ("sg_start --eject", GOOD),
    ("sg_turs", NOT_READY),
    ("sg_readcap", NOT_READY),
)

PROTECTED: Final[Table] = (
    ("sg_write_same --lba=0 --num=1 --in={block}", DATA_PROTECT),
    ("sg_write_verify --lba=0 --in={block}", DATA_PROTECT),
)

DRIVE: Final[Table] = (
    ("sg_get_config --current", GOOD),
    ("sg_vpd --force -p bl", ILLEGAL_REQUEST),
    ("sg_raw -r 64 @ 43 00 00 00 00 00 00 00 40 00", GOOD),
    ("sg_raw -r 64 @ 43 02 02 00 00 00 01 00 40 00", GOOD),
    ("sg_raw -r 64 @ 43 00 05 00 00 00 00 00 40 00", ILLEGAL_REQUEST),
    ("sg_raw -r 64 @ 4a 01 00 00 10 00 00 00 40 00", GOOD),
    ("sg_raw -r 64 @ 4a 00 00 00 10 00 00 00 40 00", ILLEGAL_REQUEST),
    ("sg_write_same --lba=0 --num=1 --in={block}", INVALID_OPCODE),
)


@pytest.mark.parametrize(
    ("lun", "table"),
    [
        pytest.param(0, EVERY_UNIT + DISK + WRITABLE + THIN, id="thin"),
        pytest.param(1, STICK, id="stick"),
        pytest.param(2, PROTECTED, id="protected"),
        pytest.param(3, EVERY_UNIT + DRIVE, id="cdrom"),
    ],
)
def test_every_command_exits_as_it_should(units: Units, lun: int, table: Table) -> None:
    run(units.generic[lun], table)


def test_linux_reads_the_disc(units: Units) -> None:
    with Path(units.block(3)).open("rb", buffering=0) as disc:
        assert disc.read(4096) == CONTENT * 8
    assert (units.directories[3] / "type").read_text().strip() == "5"


def test_blkdiscard_punches_holes(units: Units) -> None:
    directory = units.directories[0] / "scsi_disk" / units.directories[0].name
    write_attribute(directory / "provisioning_mode", "unmap")
    before = IMAGE.stat().st_blocks
    subprocess.run(
        ("blkdiscard", "--offset", str(8 * MIB), "--length", str(4 * MIB), units.block(0)),
        check=True,
    )
    assert IMAGE.stat().st_blocks <= before - 4 * MIB // 512
    with IMAGE.open("rb") as image:
        image.seek(8 * MIB - 512)
        assert image.read(1024) == CONTENT + bytes(512)


def test_linux_turns_the_write_cache_off(units: Units) -> None:
    lun = units.function.luns[0]
    directory = units.directories[0] / "scsi_disk" / units.directories[0].name
    attribute = directory / "cache_type"
    assert attribute.read_text().strip() == "write back"
    write_attribute(attribute, "write through")
    assert lun.write_through and attribute.read_text().strip() == "write through"
    write_attribute(attribute, "write back")
    assert not lun.write_through and attribute.read_text().strip() == "write back"
