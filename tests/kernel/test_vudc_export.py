"""Our server exports gadgets on the kernel's usbip-vudc: to vhci_hcd, to us, to usbip's tools."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import usb.core
from click.testing import CliRunner

from configfs.transaction import ConfigfsGadget
from gadgets.presets import storage
from tests.kernel.kernel_disk import CONTENT, disk_of, kernel_disk, read_disk
from usbip_vudc.cli import main
from usbip_vudc.host.handshake import ImportRefused, Listed, import_device, list_devices
from usbip_vudc.host.storage import UsbStorage
from usbip_vudc.kernel_export import KernelExport, VudcExport, vudcs
from usbip_vudc.pyusb_backend import get_backend
from usbip_vudc.registry import GadgetOptions
from usbip_vudc.serving import serving, serving_udcs
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.vhci import (
    PortState,
    attach_remote,
    detach,
    ports,
    remote_of,
    wait_device,
    wait_nodes,
)
from usbip_vudc.wire.pdu import OpStatus

pytestmark = pytest.mark.kernel

HOST = "127.0.0.1"
UDC = "usbip-vudc.0"
EMPTY_UDC = "usbip-vudc.3"
PATIENCE = 15
USBIP, USBIPD = (
    shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    for name in ("usbip", "usbipd")
)


@pytest.fixture(scope="module", autouse=True)
def modules(need_modules: Callable[..., None]) -> None:
    need_modules("vhci-hcd", "usbip-vudc", "libcomposite", "usb-storage", "sd_mod")


@pytest.fixture(scope="module")
def gadget(modules: None) -> Iterator[ConfigfsGadget]:  # noqa: ARG001 - comes first
    """A disk on the first vudc; each test finds it, and leaves it, bound and unplugged."""
    with kernel_disk(UDC, "vudcdisk") as made:
        yield made


def wait_for(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def free_port() -> int:
    with socket.create_server((HOST, 0)) as reserved:
        port: int = reserved.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Whether something listens there, found out without connecting: state 0A."""
    lines = Path("/proc/net/tcp").read_text().splitlines()
    return any(f":{port:04X} " in line and " 0A " in line for line in lines)


@contextmanager
def attached(port: int, busid: str) -> Iterator[tuple[str, ...]]:
    """The nodes of an attached device."""
    number = attach_remote(HOST, port, busid).port
    try:
        yield wait_nodes(wait_device(number))
    finally:
        detach(number)


@pytest.mark.usefixtures("gadget")
def test_vhci_reads_the_disk_twice_in_a_row() -> None:
    export = VudcExport(UDC)
    with serving_udcs(export) as port:
        for _ in range(2):
            with attached(port, UDC) as nodes:
                assert export.plugged
                assert read_disk(disk_of(nodes)) == CONTENT
        wait_for(lambda: not export.plugged)


@pytest.mark.usefixtures("gadget")
def test_the_list_says_what_the_gadget_is() -> None:
    with serving_udcs(VudcExport(UDC)) as port:
        (listed,) = list_devices(HOST, port)
    assert (listed.device.busid, listed.device.speed) == (UDC, Speed.HIGH)
    assert (listed.device.idVendor, listed.device.idProduct) == (0x0525, 0xA4A5)
    assert listed.interfaces == ()


@pytest.mark.usefixtures("gadget")
def test_a_pyusb_program_reads_the_kernels_disk_without_vhci() -> None:
    with serving_udcs(VudcExport(UDC)) as port:
        device = usb.core.find(backend=get_backend(HOST, port), idVendor=0x0525)
        device.set_configuration()
        disk = UsbStorage(device)
        disk.wait_ready()
        assert disk.inquiry().vendor == "Linux"
        assert disk.read(0, 240) == CONTENT[: 240 * 512]
        usb.util.dispose_resources(device)


def test_without_a_gadget_nothing_is_listed_and_an_import_is_refused() -> None:
    with serving_udcs(VudcExport(EMPTY_UDC)) as port:
        assert list_devices(HOST, port) == ()
        with pytest.raises(ImportRefused) as caught:
            import_device(HOST, port, EMPTY_UDC)
        assert caught.value.status is OpStatus.NODEV


@pytest.mark.usefixtures("gadget")
def test_a_second_host_hears_that_the_device_is_taken() -> None:
    with serving_udcs(VudcExport(UDC)) as port:
        sock, _ = import_device(HOST, port, UDC)
        with sock, pytest.raises(ImportRefused) as caught:
            import_device(HOST, port, UDC)
    assert caught.value.status is OpStatus.DEV_BUSY


def test_unbinding_the_gadget_ends_the_import(gadget: ConfigfsGadget) -> None:
    with serving_udcs(VudcExport(UDC)) as port:
        sock, _ = import_device(HOST, port, UDC)
        with sock:
            sock.settimeout(PATIENCE)
            gadget.unbind()
            assert sock.recv(1) == b""
        gadget.bind(UDC)
        sock, _ = import_device(HOST, port, UDC)
        sock.close()


@pytest.mark.usefixtures("gadget")
def test_a_server_that_stops_takes_the_device_back() -> None:
    export = VudcExport(UDC)
    with serving_udcs(export) as port:
        sock, _ = import_device(HOST, port, UDC)
        assert export.plugged
    with sock:
        sock.settimeout(PATIENCE)
        assert sock.recv(1) == b""
    wait_for(lambda: not export.plugged)


@pytest.mark.usefixtures("gadget")
def test_a_vudc_that_an_unknown_command_has_deafened_comes_back() -> None:
    # v_rx_pdu only logs it, its thread ends, and nothing sees the host leave.
    with serving_udcs(VudcExport(UDC)) as port:
        sock, _ = import_device(HOST, port, UDC)
        sock.sendall(struct.pack(">I", 9) + bytes(44))
        sock.close()

        def imported() -> bool:
            try:
                import_device(HOST, port, UDC)[0].close()
            except ImportRefused:
                return False
            return True

        wait_for(imported)


def test_the_kernels_gadgets_stand_beside_userspace_ones(gadget: ConfigfsGadget) -> None:
    assert UDC in vudcs()
    exports: list[KernelExport] = [VudcExport(UDC)]
    with serving_udcs(*exports) as port:
        assert [d.device.busid for d in list_devices(HOST, port)] == [UDC]
    assert exports[0].name == gadget.name


@pytest.mark.usefixtures("gadget")
def test_the_command_exports_all_that_there_is_beside_a_gadget_of_its_own() -> None:
    port = free_port()
    found: dict[str, Listed] = {}

    def host() -> None:
        try:
            wait_for(lambda: listens(port))
            found.update((d.device.busid, d) for d in list_devices(HOST, port))
            with attached(port, UDC) as nodes:
                assert read_disk(disk_of(nodes)) == CONTENT
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=host)
    thread.start()
    done = CliRunner().invoke(main, ("export", "--gadget", "serial", "-t", str(port)))
    thread.join()
    assert done.exit_code == 0, done.output
    assert set(found) == {"1-1", UDC}
    assert done.stdout.splitlines() == [
        f"listening on {HOST}:{port}", f"{UDC} vudcdisk 0525:a4a5 high",
        "1-1 serial 0525:a4a7 super",
    ]  # fmt: skip


# --- the distribution's own tools ---------------------------------------------------------------

needs_usbip = pytest.mark.skipif(
    USBIP is None or USBIPD is None,
    reason="NOT CHECKED against Linux's own usbip: apt install usbip",
)


def usbip(*arguments: str) -> str:
    done = subprocess.run(
        (str(USBIP), *arguments), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@needs_usbip
@pytest.mark.usefixtures("gadget")
def test_usbip_attaches_what_our_server_exports() -> None:
    with serving_udcs(VudcExport(UDC)) as port:
        at = ("--tcp-port", str(port))
        assert f"{UDC}: " in usbip(*at, "list", "-r", HOST)
        usbip(*at, "attach", "-r", HOST, "-d", UDC)
        (row,) = (row for row in ports() if row.state is not PortState.FREE)
        remote = remote_of(row.number)
        assert remote is not None
        assert (remote.host, remote.tcp_port, remote.busid) == (HOST, port, UDC)
        assert read_disk(disk_of(wait_nodes(wait_device(row.number)))) == CONTENT
        usbip("detach", "-p", str(row.number))
        wait_for(lambda: ports()[row.number].state is PortState.FREE)


@needs_usbip
def test_usbip_attaches_a_userspace_gadget_and_we_detach_it() -> None:
    with serving(storage(GadgetOptions(size=1 << 20)), speed=Speed.SUPER) as port:
        at = ("--tcp-port", str(port))
        listed = usbip(*at, "list", "-r", HOST)
        assert "1-1: " in listed
        assert "(08/06/50)" in listed, "its interface: mass storage, SCSI, Bulk-Only"
        usbip(*at, "attach", "-r", HOST, "-b", "1-1")
        (row,) = (row for row in ports() if row.state is not PortState.FREE)
        assert disk_of(wait_nodes(wait_device(row.number)))
        assert detach(row.number)


@needs_usbip
@pytest.mark.usefixtures("gadget")
def test_we_attach_what_usbipd_exports_and_usbip_port_knows_it() -> None:
    port = free_port()
    with subprocess.Popen((str(USBIPD), "--device", "-4", f"-t{port}")) as usbipd:
        try:
            wait_for(lambda: listens(port))
            number = attach_remote(HOST, port, UDC).port
            try:
                nodes = wait_nodes(wait_device(number))
                assert read_disk(disk_of(nodes)) == CONTENT
                assert f"usbip://{HOST}:{port}/{UDC}" in usbip("port")
            finally:
                detach(number)
        finally:
            usbipd.terminate()
