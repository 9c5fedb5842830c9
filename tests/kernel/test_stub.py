"""The stub path in one machine: dummy_hcd's gadget -> usbip-host -> our server -> vhci_hcd."""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.kernel.kernel_disk import CONTENT, disk_of, kernel_disk, read_disk
from usbip_vudc.cli import main
from usbip_vudc.host.handshake import ImportRefused, import_device, list_devices
from usbip_vudc.kernel_export import Discovery, StubExport
from usbip_vudc.serving import serving_udcs
from usbip_vudc.stub import StubError, bind, bound, unbind
from usbip_vudc.sysfs import (
    SysfsError,
    driver_of,
    interfaces,
    nodes,
    read_attribute,
    usb_device,
    usb_devices,
    write_attribute,
)
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.vhci import attach_remote, detach, wait_device, wait_nodes
from usbip_vudc.wire.pdu import OpStatus, UsbInterface

pytestmark = pytest.mark.kernel

HOST = "127.0.0.1"
PATIENCE = 15
USBDEVFS_CLAIM_PORT = 0x80045518
"""_IOR('U', 24, unsigned int) (include/uapi/linux/usbdevice_fs.h)."""

TABLE = Path("/sys/bus/usb/drivers/usbip-host/match_busid")


def run(*arguments: str) -> str:
    """What a command prints."""
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def found(matches: Callable[[Path], bool]) -> Path:
    deadline = time.monotonic() + PATIENCE
    while True:
        for path in usb_devices():
            if matches(path):
                return path
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_dummys_disk(path: Path) -> bool:
    return "dummy_hcd" in str(path) and (path / "product").exists()  and (
        read_attribute(path / "product") == "Kernel disk"
    )  # fmt: skip


@pytest.fixture(scope="module")
def busid(need_modules: Callable[..., None]) -> Iterator[str]:
    """A disk on dummy_hcd; each test finds it, and leaves it, with its own driver."""
    need_modules("vhci-hcd", "usbip-host", "dummy_hcd", "libcomposite", "usb-storage", "sd_mod")
    with kernel_disk("dummy_udc.0", "stubdisk"):
        device = found(is_dummys_disk)
        wait_nodes(device)
        yield device.name


def test_a_device_goes_through_the_stub_and_comes_back(busid: str) -> None:
    bind(busid)
    try:
        assert driver_of(usb_device(busid)) == "usbip-host"
        assert bound() == (busid,)
        export = StubExport(busid)
        with serving_udcs(export) as port:
            (listed,) = list_devices(HOST, port)
            assert (listed.device.busid, listed.device.speed) == (busid, Speed.SUPER)
            assert listed.interfaces == (), "no configuration before a host selects one"
            for _ in range(2):
                number = attach_remote(HOST, port, busid).port
                try:
                    assert export.plugged
                    assert read_disk(disk_of(wait_nodes(wait_device(number)))) == CONTENT
                finally:
                    detach(number)
            (listed,) = list_devices(HOST, port)
            assert listed.interfaces == (UsbInterface(8, 6, 0x50),)
    finally:
        unbind(busid)
    assert bound() == ()
    assert TABLE.read_text().split() == []
    device = usb_device(busid)
    assert driver_of(device) == "usb"
    nodes = wait_nodes(device)
    assert [driver_of(interface) for interface in interfaces(device)] == ["usb-storage"]
    assert read_disk(disk_of(nodes)) == CONTENT


def test_a_device_may_be_bound_while_the_server_runs(busid: str) -> None:
    discovery = Discovery()
    assert busid not in [export.busid for export in discovery()]
    assert run("bind", "-b", busid) == f"{busid} is bound to usbip-host\n"
    assert busid in [export.busid for export in discovery()]
    assert run("unbind", "-b", busid) == f"{busid} has its own driver again\n"
    assert busid not in [export.busid for export in discovery()]


def test_unbinding_takes_the_device_from_its_host(busid: str) -> None:
    bind(busid)
    with serving_udcs(StubExport(busid)) as port:
        sock, _ = import_device(HOST, port, busid)
        with sock:
            sock.settimeout(PATIENCE)
            unbind(busid)
            assert sock.recv(1) == b""
        with pytest.raises(ImportRefused) as caught:
            import_device(HOST, port, busid)
    assert caught.value.status is OpStatus.NODEV


def test_what_cannot_be_exported_is_refused_with_a_reason(busid: str) -> None:
    with pytest.raises(StubError, match=r"no USB device '9-9'; there are: .*" + busid):
        bind("9-9")
    with pytest.raises(StubError, match="usb1 is a hub"):
        bind("usb1")
    with pytest.raises(StubError, match=f"{busid} is not bound to usbip-host, but to usb"):
        unbind(busid)
    bind(busid)
    try:
        with pytest.raises(StubError, match="already"):
            bind(busid)
        with serving_udcs(StubExport(busid)) as port:
            number = attach_remote(HOST, port, busid).port
            try:
                device = wait_device(number)
                with pytest.raises(StubError, match="came through vhci_hcd"):
                    bind(device.name)
            finally:
                detach(number)
    finally:
        unbind(busid)


def test_a_bind_that_fails_gives_the_device_back(busid: str) -> None:
    # Somebody has claimed the hub's port that the device is on, as usbip-host itself does.
    hub = usb_device(busid).parent
    number = int(busid.rpartition("-")[2])
    fd = os.open(nodes(hub)[0], os.O_RDWR)
    try:
        fcntl.ioctl(fd, USBDEVFS_CLAIM_PORT, struct.pack("I", number))
        with pytest.raises(SysfsError, match=f"usbip-host/bind: writing '{busid}'.*EBUSY"):
            bind(busid)
        assert driver_of(usb_device(busid)) == "usb"
    finally:
        os.close(fd)
    # The kernel does not configure a device whose port is claimed.
    write_attribute(usb_device(busid) / "bConfigurationValue", "1")
    assert disk_of(wait_nodes(usb_device(busid)))
    bind(busid)
    unbind(busid)
    assert TABLE.read_text().split() == []
