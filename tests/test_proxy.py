"""The proxy between a server and its hosts: transparent, many at once, and ends that vanish."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
import usb.core
import usb.util
from click.testing import CliRunner

from tests.devices import Scripted, echo, gadget
from tests.proxies import (
    GET_CONFIGURATION,
    HOST,
    SET_CONFIGURATION,
    plugged,
    proxying,
    read,
    write,
)
from tests.test_golden_traces import replay, turns
from usbip_vudc.cli import main
from usbip_vudc.errors import DeviceGone
from usbip_vudc.exportable import Export
from usbip_vudc.host.blocking import BlockingHost
from usbip_vudc.host.handshake import ImportRefused, import_device, list_devices
from usbip_vudc.host.storage import UsbStorage
from usbip_vudc.injection import Plan
from usbip_vudc.proxy.driver import carry
from usbip_vudc.proxy.export import InjectedExport
from usbip_vudc.proxy.relay import Cut, Pause, Relay
from usbip_vudc.proxy.server import Proxy
from usbip_vudc.pyusb_backend import get_backend
from usbip_vudc.registry import GadgetOptions, load_gadget
from usbip_vudc.server import Server
from usbip_vudc.serving import serving
from usbip_vudc.sglist import Buffer
from usbip_vudc.urb import HostUrb
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.vudc import UserspaceUDC
from usbip_vudc.wire.pdu import (
    HEADER_SIZE,
    CmdSubmit,
    OpCode,
    OpHeader,
    OpRepImport,
    OpStatus,
    RetSubmit,
    UsbDevice,
)


def disks() -> list[UserspaceUDC]:
    """What the golden traces were made with."""
    options = [GadgetOptions(size=1 << 20, serial_number=f"{n:04d}") for n in (1, 2)]
    return [
        UserspaceUDC(load_gadget(name, option), speed=Speed.SUPER)
        for name, option in zip(("storage", "serial"), options, strict=True)
    ]


# --- transparent -------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["storage", "serial"])
@pytest.mark.parametrize("plan", ["", "cable nth(1000000) stall", "cable tcp_cut(1, 47, 100)"])
async def test_a_kernels_conversation_passes_through_a_proxy_unchanged(
    name: str, plan: str
) -> None:
    async with anyio.create_task_group() as tasks:
        _, server = await tasks.start(Server(disks()).serve, HOST, 0)
        proxy = Proxy(HOST, server, Plan.parse(plan))
        _, port = await tasks.start(proxy.serve, HOST, 0)
        await anyio.to_thread.run_sync(replay, port, turns(f"vhci-6.1-{name}.txt"))
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_kernels_conversation_passes_through_an_injected_export_unchanged() -> None:
    exports = [
        InjectedExport(Export(number, udc), Plan.parse("cable nth(1000000) stall"))
        for number, udc in enumerate(disks(), 1)
    ]
    async with anyio.create_task_group() as tasks:
        _, port = await tasks.start(Server(exports).serve, HOST, 0)
        await anyio.to_thread.run_sync(replay, port, turns("vhci-6.1-storage.txt"))
        tasks.cancel_scope.cancel()


@contextmanager
def proxied(plan: str = "", speed: Speed | None = None) -> Iterator[tuple[int, Proxy, Scripted]]:
    """An echoing device behind a server behind a proxy."""
    function = Scripted(echo)
    with serving(gadget(function), speed=speed) as server:
        proxy = Proxy(HOST, server, Plan.parse(plan))
        with proxying(proxy) as port:
            yield port, proxy, function


def test_the_list_is_the_servers_own() -> None:
    with (
        serving(gadget(Scripted()), gadget(Scripted())) as server,
        proxying(Proxy(HOST, server)) as port,
    ):
        assert list_devices(HOST, port) == list_devices(HOST, server)
        with pytest.raises(ImportRefused) as caught:
            import_device(HOST, port, "1-9")
        assert caught.value.status is OpStatus.NODEV


def test_a_disk_works_as_it_does_without_a_proxy() -> None:
    with serving(load_gadget("storage", GadgetOptions(size=8 << 20))) as server:
        proxy = Proxy(HOST, server, Plan.parse("cable cbw(0x28) layout(each:packets:5)"))
        with proxying(proxy) as port:
            device = usb.core.find(backend=get_backend(port=port), idVendor=0x0525)
            storage = UsbStorage(device)
            storage.wait_ready()
            data = bytes(range(256)) * (4 << 12)
            storage.write(16, data)
            assert storage.read(16, len(data) // 512) == data
            usb.util.dispose_resources(device)
    assert proxy.urbs > 20
    assert proxy.traces["1-1"]


def test_a_device_is_busy_for_a_second_host_and_free_once_the_first_has_left() -> None:
    with proxied() as (port, _, _):
        for _ in range(3):
            with plugged(port) as host:
                with pytest.raises(ImportRefused) as caught:
                    import_device(HOST, port, "1-1")
                assert caught.value.status is OpStatus.DEV_BUSY
                write(host, b"mine")
                assert read(host, 64) == b"mine"


def test_twenty_connections_at_once() -> None:
    gadgets = [gadget(Scripted(echo)) for _ in range(20)]

    def use(number: int, port: int) -> bool:
        with BlockingHost(HOST, port, f"1-{number}") as host:
            host.control(SET_CONFIGURATION)
            return all(
                (write(host, data), read(host, 8192))[1] == data
                for data in (bytes((number,)) * n for n in (1, 1000, 5000))
            )

    with serving(*gadgets) as server:
        proxy = Proxy(HOST, server, Plan.parse("cable p(0.2) delay(1ms); cable nth(3) tcp_cut(9)"))
        with proxying(proxy) as port, ThreadPoolExecutor(20) as pool:
            assert all(pool.map(use, range(1, 21), [port] * 20))
        assert proxy.imports == 20


def test_a_rule_counts_over_the_imports_of_a_device() -> None:
    with proxied("cable.out nth(2) disconnect") as (port, proxy, _):
        with plugged(port) as host:
            write(host, b"one")
            with pytest.raises(DeviceGone):
                write(host, b"two")
        with plugged(port) as host:
            write(host, b"three")
        assert len(proxy.traces["1-1"]) == 1


def test_a_disconnected_device_is_not_available_for_a_while() -> None:
    with proxied("cable.out nth(1) disconnect(60s)") as (port, _, _):
        with plugged(port) as host, pytest.raises(DeviceGone):
            write(host, b"one")
        with pytest.raises(ImportRefused) as caught:
            import_device(HOST, port, "1-1")
        assert caught.value.status is OpStatus.NA
        assert len(list_devices(HOST, port)) == 1, "the list is still the server's"


# --- ends that vanish ----------------------------------------------------------------------------

DEVICE = UsbDevice(
    path="/sys/x", busid="1-1", busnum=1, devnum=2, speed=Speed.HIGH, idVendor=1, idProduct=2,
    bcdDevice=3, bDeviceClass=0, bDeviceSubClass=0, bDeviceProtocol=0, bConfigurationValue=1,
    bNumConfigurations=1, bNumInterfaces=0,
)  # fmt: skip


@contextmanager
def remote(*replies: bytes) -> Iterator[int]:
    """A server that answers each thing that it hears with the next of these, then closes."""

    def serve() -> None:
        sock, _ = listener.accept()
        listener.close()
        with sock:
            for reply in replies:
                sock.recv(65536)
                sock.sendall(reply)

    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join(10)


def test_a_dead_remote_refuses_the_import_and_the_log_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.create_server((HOST, 0)) as listener:
        dead = listener.getsockname()[1]
    with proxying(Proxy(HOST, dead)) as port:
        with pytest.raises(ImportRefused) as caught:
            import_device(HOST, port, "1-1")
        assert caught.value.status is OpStatus.NA
        assert f"cannot reach {HOST} port {dead}: Connection refused" in caplog.text
        with socket.create_connection((HOST, port), 10) as sock:
            sock.sendall(OpHeader(OpCode.REQ_DEVLIST).pack())
            assert sock.recv(100) == OpHeader(OpCode.REP_DEVLIST, OpStatus.NA).pack()


@pytest.mark.parametrize("said", [b"", b"nonsense", OpRepImport(OpStatus.OK, DEVICE).pack()[:100]])
def test_a_remote_that_breaks_off_in_the_handshake_refuses_the_import(
    said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with remote(said) as server, proxying(Proxy(HOST, server)) as port:
        with pytest.raises(ImportRefused) as caught:
            import_device(HOST, port, "1-1")
        assert caught.value.status is OpStatus.NA
        assert f"1-1: {HOST} port {server} answers no import" in caplog.text


@pytest.mark.parametrize("plan", ["", "cable nth(1000) stall"])
def test_a_remote_that_vanishes_inside_a_pdu_takes_only_its_own_host_along(
    plan: str, caplog: pytest.LogCaptureFixture
) -> None:
    reply = RetSubmit(seqnum=1, actual_length=512).pack() + bytes(100)
    with (
        remote(OpRepImport(OpStatus.OK, DEVICE).pack(), reply) as server,
        proxying(Proxy(HOST, server, Plan.parse(plan))) as port,
    ):
        with BlockingHost(HOST, port, "1-1") as host, pytest.raises(DeviceGone):
            host.transfer(HostUrb(0x81, bytearray(512)), 10.0)
        with pytest.raises(ImportRefused):
            import_device(HOST, port, "1-1")
    assert "the device closed the connection inside a PDU" in caplog.text


def test_a_host_that_vanishes_inside_a_pdu_leaves_the_device_to_the_next() -> None:
    with proxied() as (port, _, function):
        sock, _ = import_device(HOST, port, "1-1")
        head = CmdSubmit(seqnum=1, devid=0, direction=0, ep=1, transfer_buffer_length=99)
        sock.sendall(head.pack() + b"half")
        sock.close()
        with plugged(port) as host:
            write(host, b"next")
            assert read(host, 64) == b"next"
        assert function.lives == 1


def test_the_devices_last_words_reach_the_host() -> None:
    last = RetSubmit(seqnum=1, actual_length=3).pack() + b"bye"
    with (
        remote(OpRepImport(OpStatus.OK, DEVICE).pack(), last) as server,
        proxying(Proxy(HOST, server)) as port,
        BlockingHost(HOST, port, "1-1") as host,
    ):
        assert read(host, 64) == b"bye"
        with pytest.raises(DeviceGone):
            host.control(GET_CONFIGURATION)


# --- the driver --------------------------------------------------------------------------------


class Sending(socket.socket):
    """Notes the size of each write."""

    sizes: list[int]

    def send(self, data: Buffer, flags: int = 0) -> int:  # type: ignore[override]
        count = super().send(data, flags)
        self.sizes.append(count)
        return count


def pair() -> tuple[socket.socket, socket.socket]:
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    return ends


async def receive(sock: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        await anyio.wait_readable(sock)
        data += sock.recv(length - len(data))
    return data


@pytest.mark.anyio
async def test_bytes_leave_in_writes_of_the_sizes_asked_for() -> None:
    ours, host = pair()
    theirs, device = pair()
    sending = Sending(fileno=ours.detach())
    sending.sizes = []
    relay = Relay()
    reply = RetSubmit(seqnum=1, actual_length=200).pack() + bytes(200)
    with host, device, anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(carry, relay, sending, theirs)
            relay.to_host.append(Cut((1, 47, 100)))
            host.send(
                CmdSubmit(seqnum=1, devid=0, direction=1, ep=1, transfer_buffer_length=200).pack()
            )
            await receive(device, HEADER_SIZE)
            device.send(reply)
            assert await receive(host, len(reply)) == reply
            host.close()
    assert sending.sizes == [1, 47, 100, 1, 47, 52]


@pytest.mark.anyio
async def test_a_pause_holds_what_is_behind_it_alone() -> None:
    ours, host = pair()
    theirs, device = pair()
    relay = Relay()
    with host, device, anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(carry, relay, ours, theirs)
            relay.to_host.extend((b"before", Pause(3600.0), b"behind"))
            command = CmdSubmit(seqnum=1, devid=0, direction=1, ep=1).pack()
            host.send(command)
            assert await receive(device, HEADER_SIZE) == command
            assert await receive(host, 6) == b"before"
            with pytest.raises(BlockingIOError):
                host.recv(1)
            tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_host_that_reads_nothing_is_waited_for_and_memory_stays_bounded() -> None:
    ours, host = pair()
    theirs, device = pair()
    relay = Relay()
    payload = bytes(256 << 10)
    total = 64
    sent = 0

    async def answer() -> None:
        nonlocal sent
        for seqnum in range(1, total + 1):
            view = memoryview(RetSubmit(seqnum=seqnum, actual_length=len(payload)).pack() + payload)
            while view:
                try:
                    count = device.send(view)
                except BlockingIOError:
                    await anyio.wait_writable(device)
                    continue
                view = view[count:]
            sent += 1

    with host, device, anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(carry, relay, ours, theirs)
            asks = b"".join(
                CmdSubmit(
                    seqnum=n, devid=0, direction=1, ep=1, transfer_buffer_length=len(payload)
                ).pack()
                for n in range(1, total + 1)
            )
            host.send(asks)
            await receive(device, len(asks))
            tasks.start_soon(answer)
            await anyio.wait_all_tasks_blocked()
            assert sent < total, "the device is made to wait"
            assert sum(len(b) for b in relay.to_host if isinstance(b, bytes | memoryview)) < 4 << 20
            whole = total * (HEADER_SIZE + len(payload))
            assert len(await receive(host, whole)) == whole
            host.close()
    assert sent == total


# --- the command -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        ("mass_storage.in stall", "rule 'mass_storage.in stall' acts in functions of ours"),
        ("cable drop; host.in layout(odd)", "rule 'host.in layout(odd)' acts in a host of ours"),
        ("cable zlp", "zlp acts at"),
        ("nonsense", "nonsense"),
    ],
)
def test_a_plan_for_other_places_is_refused(plan: str, says: str) -> None:
    done = CliRunner().invoke(main, ["proxy", "-r", HOST, "--plan", plan])
    assert done.exit_code == 2
    assert says in " ".join(done.stderr.split())


def test_the_command_proxies_says_what_fires_and_sums_up(tmp_path: Path) -> None:
    record = tmp_path / "all.pcapng"
    with serving(gadget(Scripted(echo))) as server:
        command = [
            sys.executable, "-m", "usbip_vudc", "proxy", "-r", HOST, f"--remote-port={server}",
            "-t0", "--json", "--plan", "cable.out nth(1) short(2)", "--plan-seed=7",
            f"--record={record}",
        ]  # fmt: skip
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            with plugged(said["port"]) as host:
                assert write(host, b"hello") == 2
                assert read(host, 64) == b"he"
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert json.loads(out) == {"imports": 1, "urbs": 3, "firings": {"1-1": 1}}
    assert "1: cable 0x01 OUT 5 B #1: short(2)" in err
    assert record.stat().st_size > 500
