"""vhci_hcd takes the userspace gadgets, and what should appear appears."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gadgets.presets import composite, serial
from usbip_vudc.cli import main
from usbip_vudc.registry import GadgetOptions
from usbip_vudc.serving import serving
from usbip_vudc.sysfs import driver_of, interfaces, read_attribute
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.vhci import (
    Hub,
    NotReady,
    PortState,
    Remote,
    VhciError,
    attach,
    attach_remote,
    detach,
    detach_all,
    ports,
    remote_of,
    wait_device,
    wait_nodes,
)

pytestmark = pytest.mark.kernel

HOST = "127.0.0.1"


@pytest.fixture(scope="module", autouse=True)
def modules(need_modules: Callable[..., None]) -> None:
    need_modules("vhci-hcd", "usb-storage", "sd_mod", "cdc-acm")


def kinds(nodes: tuple[str, ...]) -> set[str]:
    """The nodes without their numbers: /dev/sda -> sd."""
    names = [Path(node).name for node in nodes[1:]]
    return {n[:2] if n.startswith("sd") else n.rstrip("0123456789") for n in names}


@pytest.mark.parametrize(
    ("speed", "hub", "mbit"),
    [(Speed.HIGH, Hub.HS, "480"), (Speed.SUPER, Hub.SS, "5000")],
    ids=["high", "super"],
)
def test_a_composite_gadget_gets_its_port_its_drivers_and_its_nodes(
    speed: Speed, hub: Hub, mbit: str
) -> None:
    gadget = composite(GadgetOptions(size=1 << 20))
    with serving(gadget, speed=speed) as port:
        attached = attach_remote(HOST, port, "1-1")
        try:
            row = ports()[attached.port]
            assert (row.number, row.hub) == (attached.port, hub)
            device = wait_device(attached.port)
            nodes = wait_nodes(device)
            assert remote_of(attached.port) == Remote(HOST, port, "1-1")
            assert read_attribute(device / "speed") == mbit
            assert [driver_of(i) for i in interfaces(device)].count("cdc_acm") == 2
            assert nodes[0].startswith("/dev/bus/usb/")
            assert {"ttyACM", "sd"} <= kinds(nodes)
            disk = next(node for node in nodes if Path(node).name.startswith("sd"))
            with open(disk, "rb", buffering=0) as file:  # noqa: PTH123 - unbuffered
                assert file.seek(0, os.SEEK_END) == 1 << 20
        finally:
            assert detach(attached.port)
        assert not device.exists()
        assert not any(Path(node).exists() for node in nodes)
        assert remote_of(attached.port) is None
        assert ports()[attached.port].state is PortState.FREE
        assert detach(attached.port) is False, "it is free already"


def command(*arguments: str) -> Result:
    """Run a command in this process: a new one costs seconds here."""
    return CliRunner().invoke(main, arguments)


def used() -> list[int]:
    return [row.number for row in ports() if row.state is not PortState.FREE]


def wait_for(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_devices_take_two_ports_and_detach_all_frees_both() -> None:
    gadgets = [serial(GadgetOptions(serial_number=str(n))) for n in range(2)]
    with serving(*gadgets, speed=Speed.FULL) as port:
        first, second = (attach_remote(HOST, port, busid).port for busid in ("1-1", "1-2"))
        assert used() == sorted({first, second})
        assert detach_all() == (first, second)
    assert used() == []


@pytest.mark.expected_dmesg("unable to enumerate USB device")
def test_a_server_that_closes_during_enumeration_is_no_device_and_the_next_one_is() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        number = attach(ours, devid=0x00010002, speed=Speed.HIGH)
        ours.close()
        assert theirs.recv(48), "enumeration has begun"
        theirs.close()
        with pytest.raises(NotReady, match="the connection was lost"):
            wait_device(number)
    wait_for(lambda: used() == [])
    # The hub's thread waits up to 5 s for an answer before it looks at its ports again.
    with serving(serial(GadgetOptions()), speed=Speed.HIGH) as port:
        attached = attach_remote(HOST, port, "1-1")
        try:
            assert wait_device(attached.port)
        finally:
            detach(attached.port)


def test_what_vhci_cannot_take_is_refused_with_a_reason() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for speed in (Speed.UNKNOWN, Speed.SUPER_PLUS):
            with pytest.raises(VhciError, match="low, full, high or super"):
                attach(ours, devid=0x00010002, speed=speed)
    with pytest.raises(VhciError, match="port 9999 does not exist: vhci_hcd has 0 to"):
        detach(9999)
    assert used() == []


def test_attach_port_list_and_detach_as_commands() -> None:
    gadget = composite(GadgetOptions(size=1 << 20))
    with serving(gadget, speed=Speed.HIGH) as port:
        done = command("attach", "-r", HOST, "-b", "1-1", "-t", str(port), "--wait", "--json")
        assert done.exit_code == 0, done.output
        said = json.loads(done.stdout)
        assert {"ttyACM", "sd"} <= kinds(tuple(said["nodes"]))
        number = said["port"]
        remote = f"usbip://{HOST}:{port}/1-1"
        assert command("port").stdout == f"{number} {said['busid']} 1d6b:0106 high {remote}\n"
        assert command("detach", "-p", str(number)).stdout == f"port {number} is detached\n"
        done = command("attach", "-r", HOST, "-b", "1-1", "-t", str(port), "--wait=20")
        nodes = tuple(done.stdout.splitlines())
        assert kinds(nodes) == kinds(tuple(said["nodes"])), "one a line"
        assert all(Path(node).exists() for node in nodes)
        assert command("detach", "--all").stdout == f"port {number} is detached\n"
        assert command("port").stdout == ""


def test_nodes_that_do_not_appear_in_time_leave_nothing_attached() -> None:
    with serving(serial(GadgetOptions()), speed=Speed.HIGH) as port:
        done = command("attach", "-r", HOST, "-b", "1-1", "-t", str(port), "--wait=0")
        assert done.exit_code == 1
        assert "after 0 s" in done.stderr
        assert used() == []


def test_retry_attaches_again_after_a_drop_until_ctrl_c() -> None:
    """The server goes and comes back, then its user presses Ctrl-C."""
    gadget = serial(GadgetOptions())
    with socket.create_server((HOST, 0)) as reserved:
        port = reserved.getsockname()[1]
    lives = 0

    def server() -> None:
        nonlocal lives
        try:
            for _ in range(2):
                with serving(gadget, speed=Speed.HIGH, port=port):
                    wait_for(used)
                    wait_device(used()[0])
                    lives += 1
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=server)
    thread.start()
    try:
        done = command("attach", "-r", HOST, "-b", "1-1", "-t", str(port), "--retry")
    finally:
        thread.join()
    assert lives == 2
    assert done.exit_code == 0, done.output
    assert "connection lost" in done.stderr
    assert used() == []


def test_retry_ends_when_somebody_detaches_the_port() -> None:
    with serving(serial(GadgetOptions()), speed=Speed.HIGH) as port:

        def somebody() -> None:
            wait_for(used)
            wait_device(used()[0])
            detach(used()[0])

        thread = threading.Thread(target=somebody)
        thread.start()
        done = command("attach", "-r", HOST, "-b", "1-1", "-t", str(port), "--retry")
        thread.join()
    assert done.exit_code == 0, done.output
    assert done.stderr.endswith("detached\n")
