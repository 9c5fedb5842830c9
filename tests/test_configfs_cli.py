"""up, down, list, udc, check, template and save, on a configfs of our own (kernel functions)."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from configfs import records
from configfs.cli import inspect as inspect_commands
from configfs.cli import lifecycle as lifecycle_commands
from configfs.transaction import ConfigfsGadget
from tests.fake_configfs import FakeConfigfs, add_udc, configfs
from usbip_vudc.cli import main
from usbip_vudc.gadget import Config, Gadget, KernelFunction
from usbip_vudc.registry import GADGETS as READY_MADE

__all__ = ("configfs",)

SCHEME = """
name = "net"
idVendor = 0x1d6b
idProduct = 0x0104
serial = "1"

[[configs]]

[[configs.functions]]
kernel = "ncm"

[configs.functions.attributes]
qmult = 7
"""
OTHERS = Gadget(
    name="others", idVendor=1, idProduct=2,
    configs=(Config(functions=(KernelFunction(driver="acm"),)),),
)  # fmt: skip


@pytest.fixture
def machine(
    configfs: FakeConfigfs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> FakeConfigfs:
    """The commands find the fake configfs and two virtual UDCs, in a directory with net.toml."""
    udcs = tmp_path / "udc"
    add_udc(udcs, "dummy_udc.0", "dummy_udc")
    add_udc(udcs, "dummy_udc.1", "dummy_udc")
    for module in (lifecycle_commands, inspect_commands):
        monkeypatch.setattr(module, "GADGETS", configfs.root)
        monkeypatch.setattr(module, "UDC_CLASS", udcs)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.toml").write_text(SCHEME)
    return configfs


def run(*arguments: str, status: int = 0) -> Result:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == status, done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done


def up(*arguments: str) -> Result:
    return run("up", "net.toml", "--udc", "dummy_udc.0", *arguments)


# --- up ----------------------------------------------------------------------------------------


def test_up_makes_binds_and_leaves_a_gadget_of_kernel_functions(machine: FakeConfigfs) -> None:
    assert up().stdout == "net dummy_udc.0\n"
    gadget = ConfigfsGadget(machine.root / "net")
    assert (gadget.udc, gadget.functions()) == ("dummy_udc.0", ["ncm.0"])
    assert (gadget.path / "functions/ncm.0/qmult").read_text() == "7\n"
    record = records.find("net")
    assert record is not None
    assert not record.held


def test_up_of_the_same_gadget_does_nothing_and_says_so(machine: FakeConfigfs) -> None:
    up()
    machine.calls.clear()
    done = up()
    assert (done.stdout, done.stderr) == (
        "net dummy_udc.0\n", "net was up already; nothing was done\n",
    )  # fmt: skip
    assert run("up", "net.toml").stdout == "net dummy_udc.0\n", "whatever UDC"
    assert machine.calls == []


def test_up_again_binds_what_was_unbound(machine: FakeConfigfs) -> None:
    up()
    gadget = ConfigfsGadget(machine.root / "net")
    gadget.unbind()
    done = run("up", "net.toml", "--udc", "dummy_udc.1", "--json")
    assert json.loads(done.stdout) == {
        "gadget": "net", "udc": "dummy_udc.1", "changed": True, "pid": None,
    }  # fmt: skip
    assert gadget.udc == "dummy_udc.1"


def test_up_of_another_gadget_of_that_name_is_an_error(machine: FakeConfigfs) -> None:
    up()
    machine.calls.clear()
    Path("net.toml").write_text(SCHEME.replace("qmult = 7", "qmult = 8"))
    done = run("up", "net.toml", status=1)
    assert done.stderr == (
        "usbip-vudc: gadget net is up, and not as net.toml says now; first: usbip-vudc down net\n"
    )
    Path("net.toml").write_text(SCHEME)
    assert "up on dummy_udc.0, not dummy_udc.1" in run(
        "up", "net.toml", "--udc", "dummy_udc.1", status=1
    ).stderr  # fmt: skip
    assert machine.calls == []


def test_up_leaves_the_gadgets_of_others_alone(machine: FakeConfigfs) -> None:
    ConfigfsGadget.create(replace(OTHERS, name="net"), root=machine.root)
    done = run("up", "net.toml", "--udc", "dummy_udc.0", status=1)
    assert "gadget net is in configfs, and not ours; first: usbip-vudc down net" in done.stderr


def test_up_takes_no_udc_that_is_taken_or_was_not_named(machine: FakeConfigfs) -> None:
    ConfigfsGadget.create(OTHERS, root=machine.root).bind("dummy_udc.0")
    assert "dummy_udc.0 is taken by gadget others" in run(
        "up", "net.toml", "--udc", "dummy_udc.0", status=1
    ).stderr  # fmt: skip
    assert "only virtual UDCs, which must be named; write --udc dummy_udc.0" in run(
        "up", "net.toml", status=1
    ).stderr  # fmt: skip
    assert [path.name for path in machine.root.iterdir()] == ["others"]


def test_up_knows_directories_and_schemes_of_gt(machine: FakeConfigfs) -> None:
    Path("lab").mkdir()
    assert run("up", "lab", status=1).stderr == (
        "usbip-vudc: lab: a directory must have its scheme in scheme.toml\n"
    )
    Path("lab/scheme.toml").write_text(SCHEME)
    assert run("up", "lab", "--udc", "dummy_udc.0").stdout == "net dummy_udc.0\n"
    Path("old.scheme").write_text(
        'functions = { a = { type = "acm"; instance = "0"; } }\n'
        'configs = ( { id = 1; name = "c"; functions = ( "a" ); } )\n'
    )
    assert run("up", "old.scheme", "--udc", "dummy_udc.1").stdout == "old dummy_udc.1\n"
    assert (machine.root / "old/configs/c.1/acm.0").is_symlink()


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        (
            ("nobody",),
            2,
            "nobody: neither a file nor a ready-made gadget (composite, ",
        ),
        (("serial", "--profile", "fax"), 2, "serial profile 'fax' is unknown"),
        (("storage", "--size", "12x"), 2, "size '12x': expected bytes"),
        (("bad.toml",), 1, "usbip-vudc: bad.toml: idVendor is missing: expected a number"),
        ((), 2, "Missing argument"),
    ],
)
def test_up_says_what_is_wrong(
    machine: FakeConfigfs, arguments: tuple[str, ...], status: int, reason: str
) -> None:
    Path("bad.toml").write_text("name = 'x'\n[[configs]]\n")
    assert reason in run("up", *arguments, status=status).stderr
    assert machine.calls == []


# --- down and list -----------------------------------------------------------------------------


def test_a_plan_needs_functions_of_ours(machine: FakeConfigfs) -> None:
    done = run("up", "net.toml", "--udc", "dummy_udc.0", "--plan", "ncm.in stall", status=1)
    assert "function ncm is the kernel's own, out of a plan's reach" in done.output
    assert not (machine.root / "net").exists()
    cable = run("up", "net.toml", "--udc", "dummy_udc.0", "--plan", "cable drop", status=2)
    assert "acts in a server or a proxy of ours" in cable.output


def test_down_is_idempotent(machine: FakeConfigfs) -> None:
    up()
    assert run("down", "net").stdout == "net removed\n"
    done = run("down", "net")
    assert (done.stdout, done.stderr) == ("", "net is not up; nothing was done\n")
    assert not list(machine.root.iterdir())
    assert records.records() == ()


def test_down_all_is_ours_and_a_name_is_anybodys(machine: FakeConfigfs) -> None:
    up()
    ConfigfsGadget.create(OTHERS, root=machine.root)
    done = run("down", "--all")
    assert done.stdout == "net removed\n"
    assert done.stderr == "others is not ours and stays: usbip-vudc down others\n"
    assert run("down", "others").stdout == "others removed\n"
    assert not list(machine.root.iterdir())


def test_down_wants_one_or_all(machine: FakeConfigfs) -> None:
    for arguments in ((), ("net", "--all")):
        assert "give the NAME of a gadget, or --all" in run("down", *arguments, status=2).stderr
    assert "expected 1 to 64 letters" in " ".join(run("down", "../x", status=2).stderr.split())
    assert machine.calls == []


def test_list_says_what_there_is_and_whose(machine: FakeConfigfs) -> None:
    assert run("list").stderr == "there is no gadget in configfs\n"
    up()
    ConfigfsGadget.create(OTHERS, root=machine.root)
    record = records.claim(replace(OTHERS, name="held"), root=machine.root)
    ConfigfsGadget.create(replace(OTHERS, name="held"), root=machine.root)
    assert run("list").stdout.splitlines() == [
        f"held - - ours:{os.getpid()} acm.0",
        "net dummy_udc.0 not-attached ours ncm.0",
        "others - - foreign acm.0",
    ]
    assert json.loads(run("list", "--json").stdout)["gadgets"][0] == {
        "gadget": "held", "udc": "", "state": "", "owner": "ours", "pid": os.getpid(),
        "functions": ["acm.0"],
    }  # fmt: skip
    records.release(record)


@pytest.mark.parametrize("command", [("list",), ("down", "net"), ("up", "net.toml")])
def test_what_is_stale_is_removed_first(machine: FakeConfigfs, command: tuple[str, ...]) -> None:
    record = records.claim(replace(OTHERS, name="stale"), root=machine.root)
    records.save(replace(record, start_time=0))
    ConfigfsGadget.create(replace(OTHERS, name="stale"), root=machine.root)
    done = CliRunner().invoke(main, command)
    line = done.stderr.splitlines()[0]
    assert line == f"stale: stale, its process {os.getpid()} is gone; removed"
    assert not list(machine.root.iterdir())


def test_what_is_stale_and_stays_is_said(machine: FakeConfigfs) -> None:
    record = records.claim(replace(OTHERS, name="stale"), root=machine.root)
    records.save(replace(record, start_time=0))
    ConfigfsGadget.create(replace(OTHERS, name="stale"), root=machine.root)
    machine.refuse = {"rmdir stale/functions/acm.0": 16}
    assert "it stays: " in run("list").stderr


# --- udc, check, template, save ----------------------------------------------------------------


def test_udc_lists_the_controllers(machine: FakeConfigfs) -> None:
    up()
    assert run("udc").stdout.splitlines() == [
        "dummy_udc.0 dummy_udc virtual - super-speed not-attached net",
        "dummy_udc.1 dummy_udc virtual - super-speed not-attached -",
    ]
    first = json.loads(run("udc", "--json").stdout)["udcs"][0]
    assert (first["name"], first["virtual"], first["gadget"]) == ("dummy_udc.0", True, "net")
    assert machine.calls


def test_check_shows_a_gadget_at_each_speed(machine: FakeConfigfs) -> None:
    Path("disk.toml").write_text(run("template", "composite").stdout)
    said = run("check", "disk.toml").stdout
    assert said.startswith("composite 1d6b:0106, 1 configuration, at most super speed\nsuper: ")
    assert "    interface 2 08/06/50 mass_storage: 83 bulk IN 1024, 02 bulk OUT 1024\n" in said
    assert "high: bcdUSB 2.00, class ef/02/01, ep0 64\n  config 1: 100 mA, 98 bytes\n" in said
    assert machine.calls == []


def test_check_shows_kernel_functions_and_warns(machine: FakeConfigfs) -> None:
    Path("odd.toml").write_text(
        SCHEME.replace('"ncm"', '"ncn"').replace("0x1d6b", "0").replace('"1"', '""')
        + "[[configs]]\nmax_power_ma = 600\n"
    )
    said = run("check", "odd.toml").stdout.splitlines()
    assert said == [
        "net 0000:0104, 2 configurations, at most super speed",
        "config 1: 100 mA",
        "  ncn.0 (kernel)",
        "    qmult = 7",
        "config 2: 600 mA",
        "warning: ncn.0: no kernel function is known by that name; did you mean ncm?",
        "warning: idVendor 0: hosts may refuse the device",
        "warning: no serial: a host cannot tell two such devices apart",
        "warning: config 2 has no function: it cannot be bound",
        "warning: config 2: more than 500 mA is for SuperSpeed only",
    ]
    assert machine.calls == []


def test_check_fails_where_nothing_is_possible(machine: FakeConfigfs) -> None:
    scheme = run("template", "storage").stdout.replace('max_speed = "super"', 'max_speed = "low"')
    Path("slow.toml").write_text(scheme)
    done = run("check", "slow.toml", status=1)
    assert done.stderr.startswith("usbip-vudc: low: not possible: function mass_storage: endpoint")
    assert "/nowhere: neither a file" in run("check", "/nowhere", status=1).stderr
    assert machine.calls == []


def test_check_shows_one_speed_and_names_every_rule_that_is_broken(machine: FakeConfigfs) -> None:
    said = run("check", "storage", "--speed", "full").stdout.splitlines()
    assert [line.partition(":")[0] for line in said if not line.startswith(" ")][1:] == ["full"]
    refused = run("check", "storage", "--speed", "low", status=1).stderr
    assert refused.count("low: not possible: function mass_storage: endpoint") == 2
    shown = run("check", "storage", "--speed", "low", "--deliberately-illegal").stdout.splitlines()
    assert shown[0].endswith("at most super speed, deliberately illegal")
    assert shown[1] == "low: bcdUSB 2.00, class 00/00/00, ep0 8"
    assert [line for line in shown if line.startswith("  though USB forbids it: ")] == [
        f"  though USB forbids it: function mass_storage: endpoint {role}: a bulk endpoint at low "
        f"speed: expected interrupt, or full, high or super speed (USB 2.0 5.8.3)"
        for role in ("in", "out")
    ]
    assert "unknown; use low, full" in run("check", "storage", "--speed", "warp", status=2).stderr
    assert machine.calls == []


def test_check_says_what_the_kernel_will_not_keep_or_carry(machine: FakeConfigfs) -> None:
    head = "name = 'g'\nidVendor = 1\nidProduct = 1\nserial = '1'\n"
    body = "[[configs]]\n[[configs.functions]]\ntype = 'acm'\n"
    sizes = "bcdUSB = { high = 0x0210 }\nbMaxPacketSize0 = { full = 8 }\n"
    Path("sizes.toml").write_text(head + sizes + body)
    assert run("check", "sizes.toml").stdout.splitlines()[-2:] == [
        f"warning: {what} is not kept on a UDC of the kernel, which writes the controller's "
        f"(drivers/usb/gadget/composite.c)"
        for what in ("bcdUSB 0x0210 at high speed", "bMaxPacketSize0 8 at full speed")
    ]
    slow = "max_speed = 'low'\ndeliberately_illegal = true\n"
    Path("slow.toml").write_text(head + slow + body)
    assert "warning: gadget g: max_speed low: the kernel's UDCs cannot be low-speed devices: " in (
        run("check", "slow.toml").stdout
    )
    assert machine.calls == []


def test_template_lists_names_and_knows_no_other(machine: FakeConfigfs) -> None:
    assert run("template").stdout.split() == list(READY_MADE)
    assert f"there are {', '.join(READY_MADE)}" in run("template", "x", status=2).stderr
    assert machine.calls == []


def test_saved_up_and_saved_again_is_the_same(machine: FakeConfigfs) -> None:
    up()
    saved = run("save", "net").stdout
    assert 'kernel = "ncm"' in saved
    run("save", "net", "saved.toml")
    assert "saved.toml exists; --force writes over it" in run(
        "save", "net", "saved.toml", status=1
    ).stderr  # fmt: skip
    run("save", "net", "saved.toml", "--force")
    run("down", "net")
    run("up", "saved.toml", "--udc", "dummy_udc.1")
    assert run("save", "net").stdout == saved
    assert "there is no gadget nobody in configfs" in run("save", "nobody", status=1).stderr
    assert list(machine.root.iterdir())
