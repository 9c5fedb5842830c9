"""The proxy between Linux's vhci_hcd and a server: ours, and usbipd with usbip-host."""

from __future__ import annotations

import errno
import mmap
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from gadgets.mass_storage.function import MassStorageFunction
from gadgets.mass_storage.lun import RamLun
from tests.kernel.kernel_disk import CONTENT, disk_of, kernel_disk
from tests.kernel.test_stub import found, is_dummys_disk
from tests.kernel.test_vudc_export import USBIPD
from tests.kernel.test_zz_2019 import impatient
from tests.proxies import Watched, proxying
from usbip_vudc.capture import Capture
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.host.handshake import list_devices
from usbip_vudc.injection import Plan
from usbip_vudc.kernel_export import StubExport, VudcExport
from usbip_vudc.proxy.export import InjectedExport
from usbip_vudc.proxy.server import Proxy
from usbip_vudc.serving import serving_udcs
from usbip_vudc.stub import bind, unbind
from usbip_vudc.vhci import attach_remote, detach, wait_device, wait_nodes

pytestmark = pytest.mark.kernel

HOST: Final = "127.0.0.1"
PATIENCE: Final = 15
SIZE: Final = 32256
"""Bytes of the read of 2019: 3584 + 7 x 4096."""

LBA: Final = 1501
"""Where nobody looks who only wants to know what is on a disk."""

OFFSET: Final = LBA * 512


@pytest.fixture(scope="module", autouse=True)
def modules(need_modules: Callable[..., None]) -> None:
    need_modules("vhci-hcd", "usb-storage", "sd_mod")


@contextmanager
def attached(port: int, busid: str) -> Iterator[str]:
    """The disk in /dev that has come through a server's port."""
    number = attach_remote(HOST, port, busid).port
    try:
        yield disk_of(wait_nodes(wait_device(number)))
    finally:
        detach(number)


def direct(node: str, offset: int, length: int, data: bytes | None = None) -> bytes:
    """Read as ``dd iflag=direct`` does, or write where there are data. Raises OSError."""
    with mmap.mmap(-1, length) as buffer:
        fd = os.open(node, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
        try:
            if data is not None:
                buffer[:] = data
                assert os.pwritev(fd, [buffer], offset) == length
                os.fsync(fd)
            else:
                assert os.preadv(fd, [buffer], offset) == length
            return buffer[:]
        finally:
            os.close(fd)


@contextmanager
def our_disk() -> Iterator[tuple[int, Watched, RamLun]]:
    """A SuperSpeed disk of ours behind our server."""
    lun = RamLun(len(CONTENT))
    lun.memory[:] = CONTENT
    gadget = Gadget(
        name="disk",
        idVendor=0x0525,
        idProduct=0xA4A5,
        serial="0123456789AB",
        configs=(Config(functions=(MassStorageFunction(luns=[lun]),)),),
    )
    udc = Watched(gadget)
    with serving_udcs(udc) as port:
        yield port, udc, lun


def test_a_stream_cut_anywhere_and_urbs_split_between_packets_change_nothing() -> None:
    # Cut from our first read on: what udev reads before that takes long in this many pieces.
    plan = Plan.parse(
        f"cable cbw(0x28, lba={LBA}) tcp_cut(1, 47, 100); cable phase(data) layout(each:packets:3)"
    )
    with our_disk() as (server, _, lun):
        proxy = Proxy(HOST, server, plan)
        with proxying(proxy) as port, attached(port, "1-1") as node:
            assert direct(node, OFFSET, SIZE) == CONTENT[OFFSET : OFFSET + SIZE]
            direct(node, OFFSET, 8192, b"\xa5" * 8192)
            assert lun.memory[OFFSET : OFFSET + 8192] == b"\xa5" * 8192
            assert direct(node, OFFSET, 8192) == b"\xa5" * 8192
        assert proxy.imports == 1
        assert len(proxy.traces["1-1"]) > 10


def test_a_split_inside_a_packet_overflows_at_the_server_as_in_2019(tmp_path: Path) -> None:
    plan = Plan.parse(f"cable.in cbw(0x28, lba={LBA}) phase(data) nth(1) layout(each:3584+7x4096)")
    with our_disk() as (server, udc, _), Capture(tmp_path / "2019.pcapng") as capture:
        proxy = Proxy(HOST, server, plan, record=lambda _: capture.connection("host", "device"))
        with proxying(proxy) as port, attached(port, "1-1") as node:
            with impatient(node), pytest.raises(OSError) as caught:
                direct(node, OFFSET, SIZE)
            assert caught.value.errno in (errno.EIO, errno.ETIMEDOUT)
            first = udc.urbs.index((3584, -errno.EOVERFLOW))
            assert [length for length, _ in udc.urbs[first : first + 8]] == [3584, *[4096] * 7]
            assert direct(node, OFFSET, SIZE) == CONTENT[OFFSET : OFFSET + SIZE]
        assert len(proxy.traces["1-1"]) == 1
        assert capture.records > 100


@pytest.fixture(scope="module")
def bound(need_modules: Callable[..., None]) -> Iterator[str]:
    """The busid of a kernel's disk on dummy_hcd that usbip-host holds."""
    need_modules("usbip-host", "dummy_hcd", "libcomposite", "usb_f_mass_storage")
    with kernel_disk("dummy_udc.0", "proxydisk"):
        busid = found(is_dummys_disk).name
        bind(busid)
        try:
            yield busid
        finally:
            unbind(busid)


SPLIT: Final = Plan.parse("cable phase(data) layout(each:packets:3)")


@pytest.mark.skipif(USBIPD is None, reason="usbipd is not installed (Debian: usbip)")
def test_what_usbipd_has_is_served_through_the_proxy(bound: str) -> None:
    with usbipd() as server:
        proxy = Proxy(HOST, server, SPLIT)
        with proxying(proxy) as port:
            (listed,) = list_devices(HOST, port)
            assert listed.device.busid == bound
            with attached(port, bound) as node:
                assert direct(node, OFFSET, SIZE) == CONTENT[OFFSET : OFFSET + SIZE]
    assert proxy.traces[bound]


def test_usbip_host_takes_the_relays_end_of_a_socketpair(bound: str) -> None:
    export = InjectedExport(StubExport(bound), SPLIT)
    with serving_udcs(export) as port:
        with attached(port, bound) as node:
            assert direct(node, OFFSET, SIZE) == CONTENT[OFFSET : OFFSET + SIZE]
        assert export.injector.trace


def test_a_vudc_takes_the_relays_end_of_a_socketpair(need_modules: Callable[..., None]) -> None:
    need_modules("usbip-vudc", "libcomposite", "usb_f_mass_storage")
    export = InjectedExport(VudcExport("usbip-vudc.0"), SPLIT)
    with kernel_disk("usbip-vudc.0", "proxyvudc"), serving_udcs(export) as port:
        with attached(port, export.busid) as node:
            assert direct(node, OFFSET, SIZE) == CONTENT[OFFSET : OFFSET + SIZE]
        assert export.injector.trace


@contextmanager
def usbipd() -> Iterator[int]:
    """The distribution's server, on a port that was free."""
    with socket.create_server((HOST, 0)) as probe:
        port = probe.getsockname()[1]
    with subprocess.Popen((str(USBIPD), "-4", f"-t{port}")) as process:
        try:
            deadline = time.monotonic() + PATIENCE
            while True:
                try:
                    socket.create_connection((HOST, port)).close()
                    break
                except ConnectionRefusedError:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            yield port
        finally:
            process.terminate()
