"""attach, detach, port, export, bind, list -r: what they say where there is no kernel to ask."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gadgets.presets import composite, serial
from usbip_vudc import vhci
from usbip_vudc.cli import main
from usbip_vudc.cli.remote import print_remote
from usbip_vudc.registry import GadgetOptions
from usbip_vudc.serving import serving
from usbip_vudc.usb.ch9 import Speed

HOST = "127.0.0.1"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


WRONG = [
    (("attach", "-b", "1-1"), "Missing option '-r'"),
    (("attach", "-r", HOST), "-b BUSID, or with -d UDC"),
    (("attach", "-r", HOST, "-b", "1-1", "-d", "usbip-vudc.0"), "-b BUSID, or with -d UDC"),
    (("attach", "-r", HOST, "-b", "1-1", "--wait=soon"), "'soon' is not a valid float"),
    (("detach",), "-p PORT, or --all"),
    (("detach", "-p", "0", "--all"), "-p PORT, or --all"),
    (("export", "--gadget", "toaster"), "'serial', 'storage'"),
    (("export", "nosuch_udc.0"), "'nosuch_udc.0' is no usbip-vudc"),
    (("bind",), "Missing option '-b'"),
    (("unbind",), "Missing option '-b'"),
]


@pytest.mark.parametrize(("arguments", "reason"), WRONG, ids=[" ".join(a) for a, _ in WRONG])
def test_wrong_usage_says_what_would_be_right(
    arguments: tuple[str, ...], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    done = run(*arguments)
    assert done.exit_code == 2
    assert reason in " ".join(done.stderr.split())


def test_export_is_roots() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.geteuid", lambda: 1000)
        done = run("export")
    assert done.exit_code == 1
    assert "run as root" in done.stderr


@pytest.mark.parametrize("command", [("port",), ("detach", "--all"), ("detach", "-p", "0")])
def test_without_vhci_hcd_the_module_is_named(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = vhci._vhci
    monkeypatch.setattr(vhci, "_vhci", lambda _sysfs: real(tmp_path))
    done = run(*command)
    assert done.exit_code == 1
    assert "run: modprobe vhci-hcd" in done.stderr


def test_a_server_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server((HOST, 0)) as reserved:
        port = reserved.getsockname()[1]
    monkeypatch.setattr(vhci, "_vhci", lambda sysfs: sysfs)
    monkeypatch.setattr("os.access", lambda *_: True)
    done = run("attach", "-r", HOST, "-t", str(port), "-b", "1-1")
    assert done.exit_code == 1
    assert f"{HOST} port {port}: Connection refused; is a USB/IP server running" in done.stderr


def test_a_servers_devices_are_listed_one_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    gadgets = [composite(GadgetOptions(size=1 << 20)), serial(GadgetOptions())]
    with serving(*gadgets, speed=Speed.HIGH) as port:
        print_remote(HOST, port, as_json=False)
        assert capsys.readouterr().out.splitlines() == [
            "1-1 1d6b:0106 high 02/02/01,0a/00/00,08/06/50", "1-2 0525:a4a7 high 02/02/01,0a/00/00",
        ]  # fmt: skip
        print_remote(HOST, port, as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert (said["host"], said["port"]) == (HOST, port)
    assert said["devices"][1] == {
        "busid": "1-2", "path": "/sys/devices/usbip-vudc/1-2", "idVendor": "0525",
        "idProduct": "a4a7", "speed": "high", "devid": 0x10003,
        "interfaces": ["02/02/01", "0a/00/00"],
    }  # fmt: skip
