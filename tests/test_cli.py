"""The command, as its users run it: in a process of its own."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from usbip_vudc.cli import COMMANDS, main
from usbip_vudc.cli.examples import EXAMPLES
from usbip_vudc.errors import SchemeError
from usbip_vudc.host.handshake import import_device, list_devices
from usbip_vudc.registry import GADGETS, OPTIONS, GadgetOptions, load_gadget
from usbip_vudc.scheme import dump_scheme, parse_size

COMMAND = (sys.executable, "-W", "error", "-m", "usbip_vudc")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (*COMMAND, *arguments), capture_output=True, text=True, timeout=60, check=False
    )


@contextmanager
def serving(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        (*COMMAND, "-v", "serve", *arguments, "--tcp-port", "0"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def listening_port(process: subprocess.Popen[str]) -> int:
    text = line(process)
    assert text.startswith("listening on 127.0.0.1:"), text
    return int(text.rpartition(":")[2])


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_serve_prints_what_it_serves_and_ends_cleanly(how: signal.Signals) -> None:
    with serving("storage", "serial", "composite", "--speed", "high") as process:
        port = listening_port(process)
        assert [line(process) for _ in range(3)] == [
            "1-1 storage 0525:a4a5 high", "1-2 serial 0525:a4a7 high",
            "1-3 composite 1d6b:0106 high",
        ]  # fmt: skip
        assert [d.device.bNumInterfaces for d in list_devices("127.0.0.1", port)] == [1, 2, 3]
        sock, _ = import_device("127.0.0.1", port, "1-2")
        with sock:
            process.send_signal(how)
            _, log = process.communicate(timeout=10)
            assert process.returncode == 0
            assert sock.recv(1) == b"", "the host sees the device go"
    assert "1-2: serial imported by 127.0.0.1" in log
    assert "Traceback" not in log


def test_serve_json_is_one_object() -> None:
    with serving("serial", "--json") as process:
        said = json.loads(line(process))
        assert said["host"] == "127.0.0.1"
        assert len(list_devices("127.0.0.1", said["port"])) == 1
        assert said["devices"] == [
            {"busid": "1-1", "gadget": "serial", "idVendor": "0525", "idProduct": "a4a7",
             "speed": "super"}
        ]  # fmt: skip


def test_serve_creates_an_image_and_keeps_it(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with serving("storage", "--image", str(image), "--size", "8M") as process:
        listening_port(process)
        assert image.stat().st_size == 8 << 20
        second = run("serve", "storage", "--image", str(image))
        assert second.returncode == 2
        assert str(image) in second.stderr


def test_serve_takes_schemes_beside_ready_made_gadgets(tmp_path: Path) -> None:
    scheme = tmp_path / "mine.toml"
    scheme.write_text(run("template", "storage").stdout.replace('"storage"', '"mine"'))
    with serving(str(scheme), "serial", "--speed", "high") as process:
        listening_port(process)
        assert [line(process) for _ in range(2)] == [
            "1-1 mine 0525:a4a5 high", "1-2 serial 0525:a4a7 high",
        ]  # fmt: skip
    scheme.write_text("name = 1\n")
    done = run("serve", str(scheme))
    assert done.returncode == 1, "the file is wrong, and not the command line"
    assert "mine.toml: configs is missing: expected at least one" in " ".join(done.stderr.split())


def test_serve_serves_what_is_illegal_on_demand() -> None:
    with serving("serial", "--speed", "low", "--deliberately-illegal") as process:
        listening_port(process)
        assert line(process) == "1-1 serial 0525:a4a7 low"


BAD = [
    (("serve", "toaster"), f"'toaster' is unknown; there are {', '.join(sorted(GADGETS))}"),
    (("serve",), "Missing argument 'NAME...'"),
    (("serve", "serial", "--speed", "warp"), "speed 'warp' is unknown; use low, full, high, super"),
    (
        ("serve", "storage", "--speed", "low"),
        "function mass_storage: endpoint in: a bulk endpoint at low speed: expected interrupt, or "
        "full, high or super speed (USB 2.0 5.8.3), and 1 more (usbip-vudc check); "
        "deliberately_illegal (--deliberately-illegal) serves it anyway",
    ),
    (("serve", "storage", "--size", "12x"), "size '12x': expected bytes with K, M, G or T"),
    (("serve", "storage", "--image", "/nowhere/disk"), "/nowhere/disk does not exist"),
    (
        ("serve", "serial", "--image", "/dev/null"),
        "--image is for storage, composite, and not for serial",
    ),
    (("serve", "storage", "storage", "--image", "x"), "backs one storage gadget, but 2"),
    (("serve", "serial", "--profile", "fax"), "there are echo, sink[:SEED], source"),
    (("serve", "generic", "--baud-paced"), "a generic serial port has no line"),
    (
        ("serve", "keyboard", "--ports", "2"),
        "--ports is for serial, generic, ftdi, composite, and not for keyboard",
    ),
    (
        ("serve", "storage", "serial", "--type", "x"),
        "--type is for keyboard, and not for storage, serial",
    ),
    (("serve", "serial", "--no-zlp", "--read-only"), "--read-only is for storage, composite"),
    (("serve", "storage", "--profile", "echo"), "--profile is for serial"),
    (
        ("serve", "./a.toml", "--size", "1M"),
        "--size is for storage, composite, and not for ./a.toml (a scheme has keys for it)",
    ),
    (("up", "mouse", "--pairs", "3"), "--pairs is for functionfs-test, and not for mouse"),
    (("check", "storage", "--speed", "warp"), "speed 'warp' is unknown; use low, full, high"),
    (("save", "../x"), "gadget name '../x': expected 1 to 64 letters"),
    (("serve", "serial", "--control", "x"), "none of these gadgets has media"),
    (("plan", "layout", "odd", "--length", "-3"), "0<=x<="),
    (("plan", "layout", "odd", "--maxp", "0"), "1<=x<=1024"),
    (("lab", "--qemu", "-device '", "--", "true"), "No closing quotation"),
    (("serve", "serial", "--tcp-port", "99999"), "0<=x<=65535"),
    (("bake",), "No such command 'bake'"),
]


@pytest.mark.parametrize(("arguments", "reason"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_wrong_usage_says_what_would_be_right(arguments: tuple[str, ...], reason: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert reason in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_port_in_use_fails_with_advice() -> None:
    with serving("serial") as process:
        port = listening_port(process)
        done = run("serve", "serial", "--tcp-port", str(port))
    assert done.returncode == 1
    assert "in use" in done.stderr
    assert "usbipd" in done.stderr


# --- a line of the command, whatever happens ---------------------------------------------------


GROUPS = ("media", "plan", "sg")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_of_the_help_are_right(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert EXAMPLES[name]
    for example in EXAMPLES[name]:
        assert command.epilog is not None
        assert f"\n  {example}" in command.epilog
        words = shlex.split(example.partition(" > ")[0])
        while words[:2] == ["usbip-vudc", "lab"] and name != "lab":
            words = words[words.index("--") + 1 :]
        assert words[:2] == ["usbip-vudc", name]
        context = command.make_context(name, words[2:3] if name in GROUPS else words[2:])
        if isinstance(command, click.Group):
            below = command.get_command(context, words[2])
            assert below is not None, words[2]
            below.make_context(words[2], words[3:], parent=context)


def test_the_help_has_every_command_in_a_section_and_says_the_statuses() -> None:
    done = run("--help")
    listed = re.findall(r"^  ([a-z][a-z-]*) +[A-Z].*\.$", done.stdout, re.MULTILINE)
    assert listed == list(COMMANDS)
    assert "Exit status: 0 done, 1 failed, 2 wrong usage, 4 nothing could be tried" in done.stdout


@pytest.mark.parametrize(
    ("how", "status", "said"),
    [(signal.SIGINT, 130, "usbip-vudc: interrupted\n"), (signal.SIGTERM, 143, ""),
     (signal.SIGHUP, 129, "")],
)  # fmt: skip
def test_a_signal_ends_a_command_which_takes_its_files_along(
    how: signal.Signals, status: int, said: str, tmp_path: Path
) -> None:
    demo = subprocess.Popen(
        (*COMMAND, "demo"),
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with demo:
        assert demo.stdout is not None
        while "reading the disk" not in demo.stdout.readline():
            assert demo.poll() is None
        assert list(tmp_path.iterdir())
        demo.send_signal(how)
        _, log = demo.communicate(timeout=30)
    assert (demo.returncode, log) == (status, said)
    assert list(tmp_path.iterdir()) == []


def test_a_signal_that_was_ignored_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def look() -> list[object]:
        seen.append(signal.getsignal(signal.SIGHUP))
        return []

    monkeypatch.setattr("configfs.cli.inspect.controllers", lambda **_: look())
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        CliRunner().invoke(main, ["udc"])
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert seen == [signal.SIG_IGN]


def test_every_failure_has_one_form() -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        free = reserved.getsockname()[1]
    for arguments in (
        ("list", "-r", "127.0.0.1", "-t", str(free)),
        ("list", "-r", "x" * 64),
        ("check", "/nowhere.toml"),
        ("media", "--control", "/nowhere/x", "list"),
    ):
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("usbip-vudc: "), done.stderr
        assert done.stderr.count("\n") == 1
    assert done.stderr == "usbip-vudc: /nowhere/x: No such file or directory\n"


def test_two_processes_with_a_disk_each_are_told_apart(tmp_path: Path) -> None:
    first, second = tmp_path / "1.sock", tmp_path / "2.sock"
    options = ("storage", "--size", "1M", "--removable", "--control")
    with serving(*options, str(first)) as one, serving(*options, str(second)) as two:
        listening_port(one)
        listening_port(two)
        assert run("media", "--control", str(second), "eject").returncode == 0
        rows = json.loads(run("media", "--control", str(second), "list", "--json").stdout)["media"]
        assert [(row["control"], row["size"]) for row in rows] == [(str(second), 0)]
        assert run("media", "--control", str(first), "list").stdout.split()[3] == "1048576"


# --- words -------------------------------------------------------------------------------------


def test_options_of_one_gadget_leave_the_others_alone() -> None:
    with serving("keyboard", "serial", "--ports", "2") as process:
        port = listening_port(process)
        assert [d.device.bNumInterfaces for d in list_devices("127.0.0.1", port)] == [1, 4]


def test_every_option_of_a_ready_made_gadget_is_somebodys() -> None:
    ours = {field.name for field in fields(GadgetOptions)} - {"serial_number"}
    assert set().union(*OPTIONS.values()) == ours
    assert OPTIONS.keys() == GADGETS.keys()


OTHER_VALUES: dict[str, object] = {
    "size": 1 << 20, "read_only": True, "removable": True, "models": ("limit",),
    "profile": "sink", "back_pressure": "drop-new", "zlp": False, "baud_paced": True,
    "wait_for_dtr": True, "ports": 2, "pairs": 2, "text": "x", "path": "1,1", "pattern": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", GADGETS)
def test_a_gadget_looks_at_its_options_and_at_no_others(name: str) -> None:
    usual = dump_scheme(load_gadget(name, GadgetOptions()))
    for option, value in OTHER_VALUES.items():
        try:
            made = dump_scheme(load_gadget(name, GadgetOptions(**{option: value})))  # type: ignore[arg-type]
        except SchemeError:  # it has looked, and cannot
            made = "refused"
        assert (made != usual) == (option in OPTIONS[name]), option


def test_sizes() -> None:
    assert [parse_size(s) for s in ("512", "4k", "64M", "1GiB", "2tb")] == [
        512, 4096, 64 << 20, 1 << 30, 2 << 40,
    ]  # fmt: skip
    for text in ("", "M", "-1", "1.5G", "0", "8388608T", "9" * 5000):
        with pytest.raises(SchemeError, match="expected bytes"):
            parse_size(text)


def test_version() -> None:
    assert run("--version").stdout.startswith("usbip-vudc, version 0.")


USBIP = shutil.which("usbip", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")


@pytest.mark.skipif(USBIP is None, reason="NOT CHECKED against Linux's own usbip: "
                    "the package usbip is not installed (apt install usbip)")  # fmt: skip
def test_the_distributions_usbip_lists_the_gadgets() -> None:
    with serving("storage", "serial") as process:
        port = listening_port(process)
        done = subprocess.run(
            (str(USBIP), "--tcp-port", str(port), "list", "-r", "127.0.0.1"),
            capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1-1: " in done.stdout
    assert "(0525:a4a5)" in done.stdout
    assert "(0525:a4a7)" in done.stdout
    assert "(08/06/50)" in done.stdout
    assert "(02/02/01)" in done.stdout
