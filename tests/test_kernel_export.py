"""The kernel's half of an export is played by files, and a fake that takes the socket."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from gadgets.presets import serial
from tests.fake_sysfs import add_device, add_interface, files
from usbip_vudc import kernel_export, server
from usbip_vudc.cable import set_options
from usbip_vudc.errors import SchemeError
from usbip_vudc.exportable import Exportable, NotExportable
from usbip_vudc.host.handshake import ImportRefused, Listed, import_device, list_devices
from usbip_vudc.kernel_export import Discovery, StubExport, VudcExport, vudcs
from usbip_vudc.registry import GadgetOptions
from usbip_vudc.server import Server
from usbip_vudc.sysfs import SysfsError
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.vudc import UserspaceUDC
from usbip_vudc.wire.pdu import CmdUnlink, OpStatus, RetUnlink, UsbDevice, UsbInterface

pytestmark = pytest.mark.anyio

HOST = "127.0.0.1"
UDC = "usbip-vudc.0"

# f_mass_storage on usbip-vudc, as Linux 6.1 shows it in dev_desc.
DEV_DESC = bytes.fromhex("12010002 00000040 2505a5a4 01060102 0301".replace(" ", ""))


class FakeKernel:
    """A usbip-vudc.0 and, bound to usbip-host, 3-1; takes sockets as the kernel does."""

    def __init__(self, sysfs: Path) -> None:
        self.sysfs = sysfs
        self.vudc = files(sysfs / f"devices/platform/{UDC}", usbip_sockfd="", usbip_status="1")
        (self.vudc / "dev_desc").write_bytes(DEV_DESC)
        udc = files(sysfs / "class/udc" / UDC, function="disk", current_speed="high-speed")
        (udc / "device").symlink_to(self.vudc)
        files(sysfs / "class/udc/dummy_udc.0/device")
        self.stub = add_device(
            sysfs, "pci0/usb3/3-1", busnum="3", speed="5000", idVendor="0525", idProduct="a4a5",
            bcdDevice="0601", bDeviceSubClass="00", bDeviceProtocol="00", bNumConfigurations="1",
            bConfigurationValue="1", product="Kernel disk", usbip_status="1", usbip_sockfd="",
        )  # fmt: skip
        (self.stub / "driver").symlink_to("/sys/bus/usb/drivers/usbip-host")
        files(
            add_interface(self.stub, 0), bInterfaceClass="08", bInterfaceSubClass="06",
            bInterfaceProtocol="50",
        )  # fmt: skip
        self.socks: list[socket.socket] = []
        self.refuses = 0
        self.left_over = b""

    def write(self, path: Path, value: str) -> None:
        assert path.name == "usbip_sockfd"
        if self.refuses:
            raise SysfsError(self.refuses, path, value)
        if value != "-1":
            sock = socket.socket(fileno=os.dup(int(value)))
            if path.parent == self.vudc and self.rinses(sock):
                return
            self.socks.append(sock)
            self.status(path.parent, "2")
        else:
            self.shut(path.parent)

    def rinses(self, sock: socket.socket) -> bool:
        """Send what was left for the last host, and the answer to an unlink that is there."""
        try:
            unlink = CmdUnlink.parse(sock.recv(48, socket.MSG_DONTWAIT))
        except BlockingIOError:
            sock.sendall(self.left_over)
            return False
        with sock:
            sock.sendall(self.left_over + RetUnlink(seqnum=unlink.seqnum, status=0).pack())
        self.left_over = b""
        return True

    def status(self, directory: Path, value: str) -> None:
        (directory / "usbip_status").write_text(value)  # usbip-vudc writes no newline

    def shut(self, directory: Path) -> None:
        """End the connection, as on an unbind."""
        with self.socks.pop() as sock:
            sock.shutdown(socket.SHUT_RDWR)
        self.status(directory, "1")


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKernel]:
    made = FakeKernel(tmp_path)
    monkeypatch.setattr(kernel_export, "write_attribute", made.write)
    monkeypatch.setattr(kernel_export, "_GRACE", 0.05)
    yield made
    for sock in made.socks:
        sock.close()


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[int]:
    async with anyio.create_task_group() as tasks:
        _, port = await tasks.start(server.serve, HOST, 0)
        yield port
        tasks.cancel_scope.cancel()


async def listed(port: int) -> tuple[Listed, ...]:
    return await anyio.to_thread.run_sync(list_devices, HOST, port)


async def imported(port: int, busid: str) -> tuple[socket.socket, UsbDevice]:
    return await anyio.to_thread.run_sync(import_device, HOST, port, busid)


async def refusal(port: int, busid: str) -> OpStatus:
    with pytest.raises(ImportRefused) as caught:
        await imported(port, busid)
    return caught.value.status


async def end_of(sock: socket.socket) -> bytes:
    sock.settimeout(10)
    return await anyio.to_thread.run_sync(sock.recv, 1)


# --- what they are ------------------------------------------------------------------------------


def test_only_usbip_vudcs_udcs_are_found(kernel: FakeKernel) -> None:
    assert vudcs(sysfs=kernel.sysfs) == (UDC,)
    with pytest.raises(SchemeError, match=r"'dummy_udc\.0' is no usbip-vudc; there are: usbip-v"):
        VudcExport("dummy_udc.0", sysfs=kernel.sysfs)


def test_without_the_module_its_command_is_named(tmp_path: Path) -> None:
    with pytest.raises(SchemeError, match="run: modprobe usbip-vudc"):
        VudcExport(UDC, sysfs=tmp_path)


def test_a_vudc_is_described_by_its_device_descriptor(kernel: FakeKernel) -> None:
    export = VudcExport(UDC, sysfs=kernel.sysfs)
    assert export.device() == UsbDevice(
        path=str(kernel.vudc), busid=UDC, busnum=0, devnum=1, speed=Speed.HIGH, idVendor=0x0525,
        idProduct=0xA4A5, bcdDevice=0x0601, bDeviceClass=0, bDeviceSubClass=0, bDeviceProtocol=0,
        bConfigurationValue=0, bNumConfigurations=1, bNumInterfaces=0,
    )  # fmt: skip
    assert (export.name, export.interfaces()) == ("disk", ())


@pytest.mark.parametrize(
    ("current", "maximum", "speed"),
    [("full-speed", "high-speed", Speed.FULL), ("UNKNOWN", "full-speed", Speed.FULL),
     ("UNKNOWN", "UNKNOWN", Speed.HIGH)],
)  # fmt: skip
def test_a_vudc_without_a_current_speed_has_its_maximum(
    kernel: FakeKernel, current: str, maximum: str, speed: Speed
) -> None:
    files(kernel.sysfs / "class/udc" / UDC, current_speed=current, maximum_speed=maximum)
    assert VudcExport(UDC, sysfs=kernel.sysfs).device().speed is speed


def test_a_bound_device_is_described_by_its_attributes(kernel: FakeKernel) -> None:
    export = StubExport("3-1", sysfs=kernel.sysfs)
    device = export.device()
    assert (device.busid, device.devid, device.speed) == ("3-1", 3 << 16 | 2, Speed.SUPER)
    assert (device.idVendor, device.idProduct, device.bcdDevice) == (0x0525, 0xA4A5, 0x0601)
    assert export.interfaces() == (UsbInterface(8, 6, 0x50),)
    assert (device.bNumInterfaces, export.name) == (1, "Kernel disk")


def test_a_device_that_is_not_bound_cannot_be_had(kernel: FakeKernel) -> None:
    export = StubExport("3-1", sysfs=kernel.sysfs)
    (kernel.stub / "driver").unlink()
    with pytest.raises(NotExportable, match="run: usbip-vudc bind -b 3-1"):
        export.device()
    assert not export.plugged
    with pytest.raises(NotExportable, match="9-9 is not there"):
        StubExport("9-9", sysfs=kernel.sysfs).device()


def test_discovery_follows_what_comes_and_goes(kernel: FakeKernel) -> None:
    discovery = Discovery(sysfs=kernel.sysfs)
    first = discovery()
    assert [export.busid for export in first] == [UDC, "3-1"]
    (kernel.stub / "driver").unlink()
    assert discovery() == first[:1], "the same object: it may hold a socket"


# --- the server ---------------------------------------------------------------------------------


def exports(kernel: FakeKernel) -> list[Exportable]:
    return [VudcExport(UDC, sysfs=kernel.sysfs), StubExport("3-1", sysfs=kernel.sysfs)]


@pytest.mark.parametrize("busid", [UDC, "3-1"])
async def test_the_kernel_gets_the_socket_and_the_host_its_reply(
    kernel: FakeKernel, busid: str
) -> None:
    async with serving(Server(exports(kernel))) as port:
        for _ in range(2):
            sock, device = await imported(port, busid)
            assert device.busid == busid
            kernel.socks[0].sendall(b"URB")
            assert await anyio.to_thread.run_sync(sock.recv, 3) == b"URB"
            assert await refusal(port, busid) is OpStatus.DEV_BUSY
            sock.close()
            kernel.shut(kernel.vudc if busid == UDC else kernel.stub)


async def test_what_a_vudc_still_had_for_its_last_host_reaches_nobody(kernel: FakeKernel) -> None:
    kernel.left_over = bytes(1000)
    async with serving(Server(exports(kernel))) as port:
        sock, _ = await imported(port, UDC)
        with sock:
            kernel.shut(kernel.vudc)
            assert await end_of(sock) == b""


async def test_a_host_that_comes_back_at_once_is_let_in_when_the_kernel_is_ready(
    kernel: FakeKernel,
) -> None:
    async with serving(Server(exports(kernel))) as port, anyio.create_task_group() as tasks:
        sock, _ = await imported(port, "3-1")
        sock.close()

        async def second() -> None:
            sock, _ = await imported(port, "3-1")
            sock.close()

        tasks.start_soon(second)
        await anyio.sleep(0.3)  # longer than a host that has not left is waited for
        kernel.shut(kernel.stub)


async def test_seeing_a_host_off_never_unplugs_the_next(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The look that would see the vudc free comes after the next host has come.
    monkeypatch.setattr(kernel_export, "_FIRST_LOOK", 0.4)
    monkeypatch.setattr(kernel_export, "_GRACE", 0.3)
    async with serving(Server([VudcExport(UDC, sysfs=kernel.sysfs)])) as port:
        sock, _ = await imported(port, UDC)
        sock.close()
        await anyio.sleep(0.1)  # it is being seen off
        kernel.shut(kernel.vudc)
        sock, _ = await imported(port, UDC)
        with sock:
            await anyio.sleep(0.5)
            kernel.socks[0].sendall(b"URB")
            assert await anyio.to_thread.run_sync(sock.recv, 3) == b"URB"


async def test_peers_that_are_lost_at_once_leave_the_server_open_for_others(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[socket.socket] = []

    def prepare(sock: socket.socket) -> None:
        if len(lost) < 4:
            lost.append(sock)
            raise ConnectionResetError(errno.ECONNRESET, "lost")
        set_options(sock)

    monkeypatch.setattr(server, "_MAX_HANDSHAKES", 2)
    monkeypatch.setattr(server, "set_options", prepare)
    async with serving(Server(exports(kernel))) as port:
        with anyio.fail_after(20):
            for number in range(4):
                with socket.create_connection((HOST, port)):
                    while len(lost) <= number:
                        await anyio.sleep(0)
            assert len(await listed(port)) == 2


async def test_the_end_of_the_kernels_side_is_the_end_for_the_host(kernel: FakeKernel) -> None:
    async with serving(Server(exports(kernel))) as port:
        sock, _ = await imported(port, UDC)
        with sock:
            kernel.shut(kernel.vudc)
            assert await end_of(sock) == b""
        sock, _ = await imported(port, UDC)
        sock.close()


async def test_a_server_that_stops_takes_its_devices_back(kernel: FakeKernel) -> None:
    async with serving(Server(exports(kernel))) as port:
        sock, _ = await imported(port, UDC)
    with sock:
        assert kernel.socks == []
        assert await end_of(sock) == b""


async def test_a_vudc_that_does_not_see_its_host_leave_is_told(kernel: FakeKernel) -> None:
    export = VudcExport(UDC, sysfs=kernel.sysfs)
    async with serving(Server([export])) as port:
        sock, _ = await imported(port, UDC)
        sock.close()
        with anyio.fail_after(10):
            await export.wait_unplugged()
        assert kernel.socks == []


async def test_a_gadgetless_vudc_is_not_listed_and_not_imported(kernel: FakeKernel) -> None:
    (kernel.vudc / "dev_desc").unlink()
    async with serving(Server(exports(kernel))) as port:
        assert [found.device.busid for found in await listed(port)] == ["3-1"]
        assert await refusal(port, UDC) is OpStatus.NODEV


async def test_a_device_in_error_is_refused_with_the_remedy_in_the_log(
    kernel: FakeKernel, caplog: pytest.LogCaptureFixture
) -> None:
    kernel.status(kernel.stub, "3")
    async with serving(Server(exports(kernel))) as port:
        assert await refusal(port, "3-1") is OpStatus.DEV_ERR
    assert "3-1 is in an error state; unbind it and bind it again" in caplog.text


async def test_a_socket_that_the_kernel_refuses_is_no_import(
    kernel: FakeKernel, caplog: pytest.LogCaptureFixture
) -> None:
    kernel.refuses = errno.EACCES
    async with serving(Server(exports(kernel))) as port:
        assert await refusal(port, UDC) is OpStatus.DEV_ERR
    assert "usbip_sockfd: writing" in caplog.text
    assert "run as root" in caplog.text


async def test_kernel_and_userspace_devices_stand_side_by_side(kernel: FakeKernel) -> None:
    udcs = [UserspaceUDC(serial(GadgetOptions())) for _ in range(2)]
    server = Server([udcs[0], *exports(kernel), udcs[1]])
    async with serving(server) as port:
        names = {found.device.busid: len(found.interfaces) for found in await listed(port)}
        assert names == {"1-1": 2, "1-2": 2, UDC: 0, "3-1": 1}
        for busid in names:
            sock, _ = await imported(port, busid)
            sock.close()


async def test_userspace_devices_keep_clear_of_bus_ids_that_are_taken(tmp_path: Path) -> None:
    kernel = FakeKernel(tmp_path)
    real = add_device(tmp_path, "pci0/usb1/1-1", usbip_status="1")
    (real / "driver").symlink_to("/sys/bus/usb/drivers/usbip-host")
    udcs = [UserspaceUDC(serial(GadgetOptions())) for _ in range(2)]
    server = Server(udcs, discover=Discovery(sysfs=kernel.sysfs))
    assert {export.busid for export in server.exports} == {"1-1", "1-2", "1-3", UDC, "3-1"}
    assert Server([], discover=tuple).exports == (), "what is to come is enough"


def test_a_busid_is_exported_once(kernel: FakeKernel) -> None:
    twice = [VudcExport(UDC, sysfs=kernel.sysfs) for _ in range(2)]
    with pytest.raises(SchemeError, match="each once"):
        Server(twice)
