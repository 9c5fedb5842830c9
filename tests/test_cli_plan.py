"""``usbip-vudc plan``, and ``--plan`` where gadgets are served, brought up and shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import usb.core
import usb.util
from click.testing import CliRunner, Result

from tests.test_cli import listening_port, serving
from usbip_vudc.cli import main
from usbip_vudc.host.storage import TransportError, UsbStorage
from usbip_vudc.injection import CATALOGUE, Plan, load_plan
from usbip_vudc.pyusb_backend import get_backend

PATTERN = bytes(range(256)) * 2 * 63


def run(*arguments: str, status: int = 0) -> Result:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == status, done.output
    return done


@contextmanager
def disk(port: int, busid: str = "1-1") -> Iterator[UsbStorage]:
    device = usb.core.find(backend=get_backend(port=port), idProduct=0xA4A5)
    assert device is not None, busid
    try:
        storage = UsbStorage(device)
        storage.wait_ready()
        yield storage
    finally:
        usb.util.dispose_resources(device)


# --- plan --------------------------------------------------------------------------------------


def test_list_names_every_ready_made_plan_with_its_bug() -> None:
    said = json.loads(run("plan", "list", "--json").stdout)
    assert set(said) == set(CATALOGUE)
    for name, entry in said.items():
        assert Plan.parse(entry["rules"]), name
        assert entry["bug"], name
        assert entry["reference"], name
    table = run("plan", "list").stdout
    assert all(name in table for name in CATALOGUE)


def test_explain_says_in_english_what_will_happen() -> None:
    said = run("plan", "explain", "sg-2019", "--seed", "7").stdout
    assert "cut into URBs as each:3584+7x4096 says" in said
    assert "SCSI command 0x28" in said
    assert "seed=7)" in said.splitlines()[-1]


def test_a_plan_is_kept_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    rules = "mass_storage.in cbw(0x28) nth(3) stall; cable p(0.25) delay(20ms)"
    path.write_text(run("plan", "toml", rules, "--seed", "9").stdout)
    assert load_plan(path) == Plan.parse(rules, seed=9)
    assert repr(Plan.parse(rules, seed=9)) in run("plan", "explain", str(path)).stdout


def test_layout_says_whether_it_is_benign() -> None:
    assert "benign" in run("plan", "layout", "3584+7x4096", "--maxp", "1024").stdout
    cut = run("plan", "layout", "each:3584+7x4096", "--maxp", "1024").stdout
    assert "hostile: request 1 of 8 has 3584 bytes" in cut
    assert "benign" in run("plan", "layout", "each:3584+7x4096", "--maxp", "512").stdout


def test_words_shows_every_word() -> None:
    said = run("plan", "words").stdout
    assert all(word in said for word in ("nth(", "cbw(", "tcp_cut(", "page-offset:OFFSET"))


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("plan", "explain", "sg2019"), 2, "did you mean sg-2019?"),
        (("plan", "explain", "mass_storage.in stal"), 2, "there are layout, packet_size"),
        (("plan", "explain", "nowhere.toml"), 1, "nowhere.toml: No such file"),
        (("plan", "layout", "3584+x"), 2, "column 6"),
        (("serve", "serial", "--plan", "host.in stall"), 2, "acts in a host of ours"),
        (("serve", "serial", "--plan", "mass_storage.in stall"), 2, "functions that are: acm"),
        (("serve", "serial", "--plan", "acm.data_in stall"), 2, "there are "),
        (("serve", "serial", "--plan-seed", "3"), 2, "says nothing without --plan"),
        (("serve", "storage", "--speed", "high", "--size", "8M",
          "--plan", "function packet_size(high=64)"), 2, "expected 512 (USB 2.0"),
        (("proxy", "-r", "localhost", "--plan", "function stall"), 2, "functions of ours"),
    ],
)  # fmt: skip
def test_what_a_plan_cannot_be_is_said(
    arguments: tuple[str, ...], status: int, message: str
) -> None:
    assert message in run(*arguments, status=status).output


# --- serve, export, demo -----------------------------------------------------------------------


def test_serve_does_what_the_plan_says_and_tells() -> None:
    rules = "mass_storage.in cbw(0x28) phase(status) nth(1) csw(tag=1); cable.in byte(0) delay(1ms)"
    with serving("storage", "--size", "8M", "--plan", rules) as process:
        with disk(listening_port(process)) as storage:
            storage.write(0, PATTERN)
            with pytest.raises(TransportError, match="CSW tag"):
                storage.read(0, 63)
            storage.wait_ready()
            assert storage.read(0, 63) == PATTERN
        process.terminate()
        _, log = process.communicate(timeout=10)
    assert f"plan: Plan.parse('{rules}')" in log
    assert "1: mass_storage.in 0x81 IN 13 B #1: csw(tag=1)" in log
    assert "2: cable 0x81 IN" in log


def test_a_ready_made_plan_by_its_name() -> None:
    with serving("storage", "--size", "8M", "--plan", "stalled-csw") as process:
        with disk(listening_port(process)) as storage:
            for lba in range(10):
                storage.write(lba * 63, PATTERN)
                assert storage.read(lba * 63, 63) == PATTERN
        process.terminate()
        _, log = process.communicate(timeout=10)
    assert log.count(": stall") >= 3


def test_the_demo_under_a_plan_is_red_where_it_must_be() -> None:
    rules = "mass_storage.in cbw(0x28) phase(data) nth(2) corrupt(100)"
    done = CliRunner().invoke(main, ("demo", "--json", "--plan", rules))
    assert done.exit_code == 1
    rows = {row["case"]: row for row in json.loads(done.stdout)["rows"]}
    assert not rows["disk read"]["as_expected"]
    assert rows["serial echo"]["as_expected"]
    assert rows["2019, no SG"]["seen"] == "-EOVERFLOW"
