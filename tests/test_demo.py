"""The demo, in a process of its own, with both file systems; and that it can fail."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from usbip_vudc.demo.disk_image import (
    Ext4,
    Fat,
    FileSystem,
    FileSystemDamaged,
    best_file_system,
    some_files,
)
from usbip_vudc.demo.stage import Stage
from usbip_vudc.demo.storage_case import disk_round_trip
from usbip_vudc.injection import Plan
from usbip_vudc.report import Row, table

CASES = [
    "disk read", "disk write", "read back", "file system", "serial line", "serial echo",
    "2019, no SG", "2019, recovery", "2019, SG",
]  # fmt: skip


def test_every_row_of_the_demo_is_as_expected() -> None:
    done = subprocess.run(
        (sys.executable, "-m", "usbip_vudc", "demo", "--json"),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert [row["case"] for row in said["rows"]] == CASES
    assert all(row["as_expected"] for row in said["rows"])
    red = next(row for row in said["rows"] if row["case"] == "2019, no SG")
    assert red["seen"] == "-EOVERFLOW"
    assert "why: without SG" in done.stderr


LOW_SPEED_CASES = [
    "enumeration", "no other speed", "endpoint", "report descriptor", "keyboard", "idle rate",
    "LEDs", "mouse", "boot protocol", "short packet", "ZLP", "no ZLP", "babble", "halt",
    "halt cleared", "NAK, unlink", "after the unlink", "OUT short packet", "OUT, no ZLP",
    "OUT ZLP", "OUT overflow", "bulk is refused", "served anyway", "serial echo", "usbtest 14",
    "usbtest 25", "usbtest 26",
]  # fmt: skip


def low_speed_demo(*options: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "usbip_vudc", "demo", "lowspeed", "--json", *options)
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)


def test_every_row_of_the_low_speed_demo_is_as_expected() -> None:
    done = low_speed_demo()
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert [r["case"] for r in said["rows"] if not r["case"].startswith("Linux")] == LOW_SPEED_CASES
    assert all(row["as_expected"] for row in said["rows"])
    seen = {row["case"]: row["seen"] for row in said["rows"]}
    assert (seen["enumeration"], seen["babble"]) == ("low speed, ep0 of 8", "-EOVERFLOW")
    assert "usbip-vudc lab" in said.get("note", "usbip-vudc lab")


def test_a_plan_makes_a_row_of_the_low_speed_demo_red() -> None:
    done = low_speed_demo("--plan", "hid_keyboard.in nth(3) corrupt(2)")
    assert done.returncode == 1, done.stdout + done.stderr
    red = [row["case"] for row in json.loads(done.stdout)["rows"] if not row["as_expected"]]
    assert red[0] == "keyboard"


def test_a_plan_that_leaves_packets_behind_crashes_nothing() -> None:
    done = low_speed_demo("--plan", "packets.in zlp")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


FILE_SYSTEMS = [
    pytest.param(Ext4, marks=pytest.mark.skipif(
        not Ext4.available(), reason="NOT CHECKED on ext4: e2fsprogs is not installed")),
    pytest.param(Fat, marks=pytest.mark.skipif(
        not Fat.available(), reason="NOT CHECKED on FAT: pyfatfs is not installed")),
]  # fmt: skip


@pytest.mark.parametrize("kind", FILE_SYSTEMS)
def test_damage_to_a_file_is_found(kind: type[FileSystem], tmp_path: Path) -> None:
    file_system = kind()
    files = some_files(0, size=2 << 20)
    folders = [tmp_path / name for name in ("in", "good", "bad")]
    for folder in folders:
        folder.mkdir()
    image = tmp_path / "disk.img"
    file_system.make(image, files, folders[0])
    file_system.verify(image, files, folders[1])
    data = bytearray(image.read_bytes())
    name = max(files, key=lambda name: len(files[name]))
    at = data.find(files[name][:4096])
    data[at + 100] ^= 1
    image.write_bytes(data)
    with pytest.raises(FileSystemDamaged, match=f"file {name} differs"):
        file_system.verify(image, files, folders[2])


def test_the_disk_round_trip_works_on_fat_too(tmp_path: Path) -> None:
    if not Fat.available():
        pytest.skip("NOT CHECKED on FAT: pyfatfs is not installed")
    rows = list(disk_round_trip(Console(quiet=True), Stage(Plan()), Fat(), tmp_path))
    assert [row.case for row in rows] == CASES[:4]
    assert all(row.as_expected for row in rows)


def test_the_best_file_system_is_ext4_where_it_can_be_made() -> None:
    assert best_file_system().name == ("ext4" if Ext4.available() else "fat32")


def test_a_row_that_is_not_as_expected_says_so() -> None:
    row = Row("case", "did", "right", "wrong")
    assert not row.as_expected
    assert row.as_dict()["as_expected"] is False
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table("t", [row]))
    assert "wrong" in console.export_text()
    console.print(table("t", [Row("case", "did", "right", "[b'\\x00', b'x'] [/y]")]))
    assert "[b'\\x00', b'x'] [/y]" in console.export_text()
