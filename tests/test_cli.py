"""The command, as its users run it: in a process of its own."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from usbip_vudc.errors import SchemeError
from usbip_vudc.host.handshake import import_device, list_devices
from usbip_vudc.registry import GADGETS
from usbip_vudc.scheme import parse_size

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
    assert done.returncode == 2
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
    (("serve", "serial", "--image", "/dev/null"), "backs one storage gadget, but 0"),
    (("serve", "serial", "--profile", "fax"), "there are echo, sink[:SEED], source"),
    (("serve", "generic", "--baud-paced"), "a generic serial port has no line"),
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


def test_sizes() -> None:
    assert [parse_size(s) for s in ("512", "4k", "64M", "1GiB", "2tb")] == [
        512, 4096, 64 << 20, 1 << 30, 2 << 40,
    ]  # fmt: skip
    for text in ("", "M", "-1", "1.5G", "0"):
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
