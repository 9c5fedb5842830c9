from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.fake_sysfs import add_device, add_interface, add_node, files
from usbip_vudc.sysfs import (
    SysfsError,
    driver_of,
    interfaces,
    nodes,
    read_attribute,
    read_bytes,
    usb_device,
    usb_devices,
    write_attribute,
)


def test_attributes_lose_the_white_space_that_the_kernel_adds(tmp_path: Path) -> None:
    files(tmp_path, bNumInterfaces=" 1", product="Disk drive", empty="")
    assert read_attribute(tmp_path / "bNumInterfaces") == "1"
    assert read_attribute(tmp_path / "product") == "Disk drive"
    assert read_attribute(tmp_path / "empty") == ""


def test_binary_attributes_come_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "dev_desc").write_bytes(bytes(range(20)))
    assert read_bytes(tmp_path / "dev_desc", 18) == bytes(range(18))


def test_a_value_is_written_in_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "attach"
    path.touch()
    writes: list[bytes] = []
    write = os.write

    def spy(fd: int, data: bytes) -> int:
        writes.append(data)
        return write(fd, data)

    monkeypatch.setattr(os, "write", spy)
    write_attribute(path, "0 4 65538 3")
    write_attribute(path, b"\x01")
    assert writes == [b"0 4 65538 3", b"\x01"]


def test_a_refused_write_names_path_value_and_what_the_kernel_said() -> None:
    full = Path("/dev/full")
    with pytest.raises(SysfsError) as caught:
        write_attribute(full, "0 4 65538 3")
    error = caught.value
    assert str(error) == "/dev/full: writing '0 4 65538 3': No space left on device (ENOSPC)"
    assert (error.errno, error.filename, error.written) == (
        errno.ENOSPC, "/dev/full", "0 4 65538 3",
    )  # fmt: skip


def test_a_missing_attribute_is_named(tmp_path: Path) -> None:
    with pytest.raises(SysfsError, match=r"nowhere: reading: No such file or directory \(ENOENT\)"):
        read_attribute(tmp_path / "nowhere")


def test_a_refusal_that_root_would_not_get_says_so() -> None:
    assert str(SysfsError(errno.EACCES, Path("/sys/x"), "1")).endswith("(EACCES); run as root")


def test_devices_are_found_by_bus_id_where_they_really_are(tmp_path: Path) -> None:
    device = add_device(tmp_path, "platform/vhci_hcd.0/usb1/1-1")
    add_interface(device, 0)
    (tmp_path / "bus/usb/devices/1-1:1.0").symlink_to(device / "1-1:1.0")
    assert usb_device("1-1", sysfs=tmp_path) == device.resolve()
    assert usb_devices(sysfs=tmp_path) == (device.resolve(),), "an interface is no device"
    for wrong in ("1-2", "1-1:1.0", "../devices/1-1", ""):
        with pytest.raises(SysfsError, match="ENODEV"):
            usb_device(wrong, sysfs=tmp_path)


def test_without_usb_there_are_no_devices(tmp_path: Path) -> None:
    assert usb_devices(sysfs=tmp_path) == ()


def test_interfaces_and_their_drivers(tmp_path: Path) -> None:
    device = add_device(tmp_path, "usb1/1-1")
    first, second = add_interface(device, 0, "cdc_acm"), add_interface(device, 1)
    assert interfaces(device) == (first, second)
    assert [driver_of(i) for i in (first, second)] == ["cdc_acm", None]
    assert interfaces(tmp_path / "gone") == ()


def test_nodes_are_those_below_the_device_its_own_first(tmp_path: Path) -> None:
    device = add_device(tmp_path, "usb1/1-1")
    disk = add_interface(device, 0) / "host0/target0:0:0/0:0:0:0"
    add_node(disk / "block/sda", "sda")
    add_node(disk / "block/sda/sda1", "sda1")
    add_node(disk / "bsg/0:0:0:0", "bsg/0:0:0:0")
    add_node(add_interface(device, 1) / "tty/ttyACM0", "ttyACM0")
    (device / "subsystem").symlink_to(tmp_path)
    assert nodes(device) == (
        "/dev/bus/usb/001/002", "/dev/bsg/0:0:0:0", "/dev/sda", "/dev/sda1", "/dev/ttyACM0",
    )  # fmt: skip
    assert nodes(disk.parent.parent.parent)[-2:] == ("/dev/sda", "/dev/sda1")


def test_devices_behind_a_hub_are_not_its_own(tmp_path: Path) -> None:
    hub = add_device(tmp_path, "usb1/1-1")
    behind = add_device(tmp_path, "usb1/1-1/1-1.1")
    add_node(add_interface(behind, 0) / "tty/ttyUSB0", "ttyUSB0")
    assert nodes(hub) == ("/dev/bus/usb/001/002",)


def test_a_device_that_has_gone_has_no_nodes(tmp_path: Path) -> None:
    assert nodes(tmp_path / "gone") == ()
