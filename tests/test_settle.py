from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest

from tests.fake_sysfs import add_device, add_interface, add_node
from usbip_vudc import settle
from usbip_vudc.settle import NotReady, wait_nodes, wait_until
from usbip_vudc.sysfs import nodes


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle, "POLL", 0.001)
    monkeypatch.setattr(settle, "_QUIET", 0.02)
    monkeypatch.setattr(settle, "_DRIVERLESS", 0.04)


@pytest.fixture
def device(tmp_path: Path) -> Path:
    return add_device(tmp_path, "usb1/1-1")


def test_a_serial_port_is_ready_with_its_node(device: Path, tmp_path: Path) -> None:
    add_node(add_interface(device, 0, "cdc_acm") / "tty/ttyACM0", "ttyACM0")
    assert wait_nodes(device, 5, udev=tmp_path) == ("/dev/bus/usb/001/002", "/dev/ttyACM0")


def test_a_disk_is_waited_for_after_its_driver(device: Path, tmp_path: Path) -> None:
    interface = add_interface(device, 0, "usb-storage")
    add_node(interface / "bsg/0:0:0:0", "bsg/0:0:0:0")
    later = threading.Timer(0.2, add_node, (interface / "host0/block/sda", "sda"))
    later.start()
    assert "/dev/sda" in wait_nodes(device, 5, udev=tmp_path)
    later.join()


def test_a_disk_that_comes_between_two_looks_is_not_missed(
    device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interface = add_interface(device, 0, "usb-storage")
    quiet = time.monotonic() + 0.1

    def then_the_disk_comes(directory: Path) -> tuple[str, ...]:
        found = nodes(directory)
        if directory == device and time.monotonic() > quiet:
            add_node(interface / "host0/block/sda", "sda")
        return found

    monkeypatch.setattr(settle, "nodes", then_the_disk_comes)
    assert "/dev/sda" in wait_nodes(device, 5, udev=tmp_path)


def test_a_disk_that_never_comes_is_named(device: Path, tmp_path: Path) -> None:
    add_interface(device, 0, "usb-storage")
    with pytest.raises(NotReady, match=r"usb-storage has found no disk on interface 1-1:1\.0"):
        wait_nodes(device, 0.1, udev=tmp_path)


def test_an_interface_without_a_driver_only_takes_longer(device: Path, tmp_path: Path) -> None:
    add_interface(device, 0)
    assert wait_nodes(device, 5, udev=tmp_path) == ("/dev/bus/usb/001/002",)


def test_a_busy_udev_is_waited_for(device: Path, tmp_path: Path) -> None:
    add_interface(device, 0, "cdc_acm")
    (tmp_path / "queue").touch()
    with pytest.raises(NotReady, match="udev is still busy"):
        wait_nodes(device, 0.1, udev=tmp_path)
    later = threading.Timer(0.1, (tmp_path / "queue").unlink)
    later.start()
    assert wait_nodes(device, 5, udev=tmp_path)
    later.join()


def test_a_device_that_goes_away_is_not_waited_for(device: Path, tmp_path: Path) -> None:
    shutil.rmtree(device)
    with pytest.raises(NotReady, match="1-1 went away"):
        wait_nodes(device, 60, udev=tmp_path)


def test_wait_until_looks_once_more_at_the_end() -> None:
    assert wait_until(lambda: True, 0)
    assert not wait_until(lambda: False, 0)
