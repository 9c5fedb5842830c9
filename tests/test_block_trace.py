from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from tests.fake_sysfs import add_device, files
from tests.test_block_btf import Blob
from tests.test_block_events import STRUCTS
from usbip_vudc.block import trace
from usbip_vudc.block.btf import BtfError
from usbip_vudc.block.events import GROUP, TraceError
from usbip_vudc.block.trace import VhciTrace, kernel_structs
from usbip_vudc.errors import SchemeError
from usbip_vudc.sysfs import SysfsError


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """A disk sda behind vhci_hcd, and sdb behind another controller."""
    root = tmp_path / "sys"
    files(root / "class/block")
    for disk, place in (("sda", "platform/vhci_hcd.0/usb3/3-1"), ("sdb", "pci0000:00/usb1/1-2")):
        device = add_device(root, place, busnum="3")
        (root / "class/block" / disk).symlink_to(files(device / "block" / disk, dev="8:0"))
    return root


@pytest.fixture
def tracefs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tracefs that takes lines, but whose instances stay empty: what is asked of one fails."""
    monkeypatch.setattr(trace, "kernel_structs", lambda: STRUCTS)
    root = tmp_path / "tracing"
    (root / "instances").mkdir(parents=True)
    (root / "kprobe_events").touch()
    return root


def test_a_disk_that_is_not_behind_vhci_cannot_be_traced(sysfs: Path, tracefs: Path) -> None:
    with pytest.raises(SchemeError, match="/dev/sdb is not behind vhci_hcd"):
        VhciTrace("/dev/sdb", sysfs=sysfs, tracefs=tracefs)


def test_where_the_kernel_refuses_nothing_is_left(sysfs: Path, tracefs: Path) -> None:
    with (
        pytest.raises(SysfsError, match="trace_clock"),
        VhciTrace("/dev/sda", sysfs=sysfs, tracefs=tracefs),
    ):
        pytest.fail("its instance is empty")
    assert list((tracefs / "instances").iterdir()) == []
    with_lock_of_another(tracefs)  # given back, too


def test_what_a_killed_trace_left_is_removed_first(sysfs: Path, tracefs: Path) -> None:
    (tracefs / "instances" / GROUP).mkdir()
    (tracefs / "events" / GROUP / "chain0").mkdir(parents=True)
    with (
        pytest.raises(SysfsError, match="trace_clock"),
        VhciTrace("/dev/sda", sysfs=sysfs, tracefs=tracefs),
    ):
        pytest.fail("its instance is empty")
    said = (tracefs / "kprobe_events").read_text()
    assert said.startswith(f"-:{GROUP}/chain0")
    assert not (tracefs / "instances" / GROUP).exists()


def test_a_second_trace_is_refused_while_the_first_one_runs(sysfs: Path, tracefs: Path) -> None:
    fd = os.open(tracefs / "instances", os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with (
            pytest.raises(TraceError, match="another usbip-vudc traces"),
            VhciTrace("/dev/sda", sysfs=sysfs, tracefs=tracefs),
        ):
            pytest.fail("two at once")
    finally:
        os.close(fd)
    assert (tracefs / "kprobe_events").read_text() == ""


def with_lock_of_another(tracefs: Path) -> None:
    fd = os.open(tracefs / "instances", os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(fd)


def test_without_kprobe_events_it_says_what_to_mount(
    sysfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "kernel_structs", lambda: STRUCTS)
    monkeypatch.setattr(trace, "_TRACEFS", (tmp_path / "nowhere",))
    with pytest.raises(TraceError, match=r"mount -t tracefs none .*nowhere \(as root\)"):
        VhciTrace("/dev/sda", sysfs=sysfs)


# --- the structs of the kernel that runs --------------------------------------------------------


def btf_of(*names: str) -> bytes:
    blob = Blob()
    for name in names:
        blob.add_struct(name, 8, {"member": 0})
    return blob.packed()


def test_structs_of_usb_may_be_in_a_modules_btf(tmp_path: Path) -> None:
    kernel = Blob()
    kernel.add_struct("scatterlist", 8, {"member": 0})
    kernel.add_struct("usb_device", 8, {"member": 0})
    (tmp_path / "vmlinux").write_bytes(kernel.packed())
    module = Blob(first_string=len(kernel.strings))
    module.add_struct("urb", 184, {"sg": 896})
    module.add_struct("usb_bus", 8, {"busnum": 0})
    (tmp_path / "usbcore").write_bytes(module.packed())
    found = kernel_structs(tmp_path)
    assert sorted(found) == ["scatterlist", "urb", "usb_bus", "usb_device"]
    assert found["urb"].offset("sg") == 112


def test_a_struct_that_no_btf_has_is_named(tmp_path: Path) -> None:
    (tmp_path / "vmlinux").write_bytes(btf_of("scatterlist", "usb_device", "usb_bus"))
    with pytest.raises(BtfError, match="no struct urb, neither there nor in a module's"):
        kernel_structs(tmp_path)


def test_a_kernel_without_btf_says_what_it_was_built_without(tmp_path: Path) -> None:
    with pytest.raises(BtfError, match="CONFIG_DEBUG_INFO_BTF"):
        kernel_structs(tmp_path)
