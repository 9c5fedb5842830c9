"""vudc, server and the async host: one device over a real TCP socket, on asyncio and trio."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import anyio.to_thread
import pytest

from tests.devices import Scripted, echo, gadget
from usbip_vudc.errors import (
    DeviceGone,
    EndpointDisabled,
    LocalProtocolError,
    Overflow,
    SchemeError,
    SoftDisconnect,
    UrbError,
)
from usbip_vudc.function import AltSetting, Endpoint, Request
from usbip_vudc.host.client import Host
from usbip_vudc.host.handshake import ImportRefused, import_device, list_devices
from usbip_vudc.server import Server, receive_exactly, send_all
from usbip_vudc.sglist import SGList, parse_layout
from usbip_vudc.urb import URB_SHORT_NOT_OK, HostUrb, IsoUrb
from usbip_vudc.usb.ch9 import SetupPacket, Speed
from usbip_vudc.vudc import UserspaceUDC
from usbip_vudc.wire.pdu import CmdSubmit, OpCode, OpHeader, OpStatus

pytestmark = pytest.mark.anyio

SET_CONFIGURATION = SetupPacket(0x00, 9, 1, 0, 0)
CLEAR_HALT_IN = SetupPacket(0x02, 1, 0, 0x81, 0)
SET_HALT_IN = SetupPacket(0x02, 3, 0, 0x81, 0)
STATUS_IN = SetupPacket(0x82, 0, 0, 0x81, 2)
DEVICE_DESCRIPTOR = SetupPacket(0x80, 6, 0x0100, 0, 18)


@asynccontextmanager
async def served(*udcs: UserspaceUDC) -> AsyncIterator[int]:
    """Export UDCs on a free port."""
    async with anyio.create_task_group() as tasks:
        _, port = await tasks.start(Server(udcs).serve, "127.0.0.1", 0)
        yield port
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def plugged(
    function: Scripted, speed: Speed = Speed.HIGH, *, pace: bool = False
) -> AsyncIterator[Host]:
    """A configured device of one function, held by a host."""
    async with (
        served(UserspaceUDC(gadget(function), speed=speed, pace=pace)) as port,
        Host.connect("127.0.0.1", port, "1-1") as host,
    ):
        await host.control(SET_CONFIGURATION)
        yield host


async def read(host: Host, length: int, timeout: float = 5.0) -> bytes:
    buffer = bytearray(length)
    return bytes(buffer[: await host.transfer(HostUrb(0x81, buffer), timeout)])


async def test_bytes_come_back() -> None:
    async with plugged(Scripted(echo)) as host:
        for data in (b"x", b"hello" * 30, bytes(range(256)) * 3 + b"!"):
            assert await host.transfer(HostUrb(0x01, data), 5) == len(data)
            assert await read(host, 2048) == data


async def test_a_function_may_reuse_its_memory_while_the_urb_still_waits_for_more() -> None:
    async def twice(endpoints: Mapping[str, Endpoint]) -> None:
        memory = bytearray(b"A" * 512)
        await endpoints["in"].submit(memory)
        memory[:] = b"B" * 512
        await endpoints["in"].submit(memory)
        memory[:] = b"C" * 512
        await endpoints["in"].submit(memoryview(memory)[:100])
        await anyio.sleep_forever()

    async with plugged(Scripted(twice)) as host:
        assert await read(host, 2048) == b"A" * 512 + b"B" * 512 + b"C" * 100


async def test_a_function_that_gives_up_may_reuse_what_a_host_has_yet_to_receive() -> None:
    """Replies wait for a host that does not receive them, and point into the request's memory."""
    size, count = 64 << 10, 64
    given_up = anyio.Event()
    scope = anyio.CancelScope()

    async def fickle(endpoints: Mapping[str, Endpoint]) -> None:
        memory = bytearray(b"A" * (2 * size * count))
        with scope:
            await endpoints["in"].submit(memory)
        memory[:] = b"B" * len(memory)
        given_up.set()
        await anyio.sleep_forever()

    udc = UserspaceUDC(gadget(Scripted(fickle)), speed=Speed.SUPER)
    ours, peer = socket.socketpair()
    with ours, peer, anyio.fail_after(20):
        ours.setblocking(False)
        peer.setblocking(False)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(udc.plug, ours)
            setup = CmdSubmit(seqnum=1, devid=0, direction=0, ep=0, setup=SET_CONFIGURATION.pack())
            await send_all(peer, setup.pack())
            await receive_exactly(peer, 48)
            await send_all(peer, b"".join(
                CmdSubmit(seqnum=2 + n, devid=0, direction=1, ep=1, transfer_buffer_length=size)
                .pack() for n in range(count)
            ))  # fmt: skip
            assert udc._connection is not None
            while len(udc._connection.outgoing) < count:
                await anyio.sleep(0.001)
            scope.cancel()
            await given_up.wait()
            for _ in range(count):
                assert (await receive_exactly(peer, 48 + size))[48:] == b"A" * size
            tasks.cancel_scope.cancel()


async def test_one_megabyte_each_way_with_many_urbs_in_flight() -> None:
    sent = bytes(range(256)) * 4096

    async def mirror(endpoints: Mapping[str, Endpoint]) -> None:
        buffer = bytearray(len(sent))
        await endpoints["out"].submit(buffer)
        await endpoints["in"].submit(buffer)
        await anyio.sleep_forever()

    async with plugged(Scripted(mirror), Speed.SUPER) as host:
        buffer = bytearray(len(sent))
        async with anyio.create_task_group() as tasks:
            for offset in range(0, len(sent), 65536):
                tasks.start_soon(host.transfer, HostUrb(1, sent[offset : offset + 65536]))
            for offset in range(0, len(sent), 65536):
                view = memoryview(buffer)[offset : offset + 65536]
                tasks.start_soon(host.transfer, HostUrb(0x81, view))
        assert buffer == sent


async def test_nak_is_a_pending_urb_and_timeout_unlinks_it() -> None:
    function = Scripted()
    async with plugged(function) as host:
        with pytest.raises(UrbError) as caught:
            await read(host, 512, timeout=0.05)
        assert caught.value.errno == errno.ETIMEDOUT
        assert len(await host.control(DEVICE_DESCRIPTOR)) == 18, "the device still works"


async def test_unlinked_urb_takes_no_data() -> None:
    release = anyio.Event()

    async def late(endpoints: Mapping[str, Endpoint]) -> None:
        await release.wait()
        await endpoints["in"].submit(b"kept for the next")
        await anyio.sleep_forever()

    async with plugged(Scripted(late)) as host:
        with pytest.raises(UrbError):
            await read(host, 512, timeout=0.05)
        release.set()
        assert await read(host, 512) == b"kept for the next"


async def test_cancelled_transfer_is_unlinked() -> None:
    async with plugged(Scripted(echo)) as host:
        with anyio.move_on_after(0.05):
            await read(host, 512)
        await host.transfer(HostUrb(1, b"after"), 5)
        assert await read(host, 512) == b"after"


async def test_halt_by_the_function_and_csw_behind_it() -> None:
    async def stall(endpoints: Mapping[str, Endpoint]) -> None:
        endpoints["in"].halt()
        await endpoints["in"].submit(b"status")
        await anyio.sleep_forever()

    async with plugged(Scripted(stall)) as host:
        with pytest.raises(UrbError) as caught:
            await read(host, 512)
        assert caught.value.errno == errno.EPIPE
        assert await host.control(STATUS_IN) == b"\1\0"
        await host.control(CLEAR_HALT_IN)
        assert await read(host, 512) == b"status"


async def test_halt_by_the_host() -> None:
    async with plugged(Scripted(echo)) as host:
        await host.control(SET_HALT_IN)
        with pytest.raises(UrbError) as caught:
            await read(host, 512)
        assert caught.value.errno == errno.EPIPE
        await host.control(CLEAR_HALT_IN)
        await host.transfer(HostUrb(1, b"again"), 5)
        assert await read(host, 512) == b"again"


async def test_babble_reaches_host_and_function() -> None:
    moved: list[int] = []

    async def babble(endpoints: Mapping[str, Endpoint]) -> None:
        moved.append(await endpoints["in"].submit(bytes(100)))
        await anyio.sleep_forever()

    async with plugged(Scripted(babble)) as host:
        with pytest.raises(UrbError) as caught:
            await read(host, 64)
        assert (caught.value.errno, caught.value.actual_length) == (errno.EOVERFLOW, 64)
        assert moved == [64]


async def test_function_sees_overflow() -> None:
    seen: list[BaseException] = []

    async def small(endpoints: Mapping[str, Endpoint]) -> None:
        try:
            await endpoints["out"].submit(bytearray(100))
        except Overflow as error:
            seen.append(error)
        await anyio.sleep_forever()

    async with plugged(Scripted(small)) as host:
        assert await host.transfer(HostUrb(1, bytes(512)), 5) == 100
        await anyio.wait_all_tasks_blocked()
    assert len(seen) == 1


async def test_the_case_of_2019() -> None:
    layout = parse_layout("3584+7x4096")
    data = bytes(i % 251 for i in range(32256))

    async def disk(endpoints: Mapping[str, Endpoint]) -> None:
        while True:
            await endpoints["in"].submit(data)

    async with plugged(Scripted(disk), Speed.SUPER) as host:
        green = SGList.laid_out(bytearray(32256), layout)
        result = await host.transfer_sg(0x81, green)
        assert (result.status, result.actual, len(result.urbs)) == (0, 32256, 1)
        assert green.gather() == data
        red = SGList.laid_out(bytearray(32256), layout)
        result = await host.transfer_sg(0x81, red, scatter_gather=False)
        assert result.status == -errno.EOVERFLOW
        assert [u.length for u in result.urbs] == list(layout)
        assert result.urbs[0].status == -errno.EOVERFLOW


async def test_short_not_ok() -> None:
    async def short(endpoints: Mapping[str, Endpoint]) -> None:
        await endpoints["in"].submit(b"short")
        await anyio.sleep_forever()

    async with plugged(Scripted(short)) as host:
        with pytest.raises(UrbError) as caught:
            await host.transfer(HostUrb(0x81, bytearray(512), flags=URB_SHORT_NOT_OK), 5)
        assert (caught.value.errno, caught.value.actual_length) == (errno.EREMOTEIO, 5)


# --- lifecycle ---------------------------------------------------------------------------------


async def test_set_configuration_again_restarts_the_function() -> None:
    function = Scripted(echo)
    async with plugged(function) as host:
        await host.control(SET_CONFIGURATION)
        await host.transfer(HostUrb(1, b"alive"), 5)
        assert await read(host, 512) == b"alive"
        assert (function.lives, function.ended) == (2, 1)
        await host.control(SetupPacket(0x00, 9, 0, 0, 0))
        await anyio.wait_all_tasks_blocked()
        assert (function.lives, function.ended) == (2, 2)
        with pytest.raises(UrbError) as caught:
            await read(host, 512)
        assert caught.value.errno == errno.EPROTO, "no endpoint, no answer"


async def test_set_interface_changes_the_endpoints() -> None:
    roles: list[set[str]] = []

    async def note(endpoints: Mapping[str, Endpoint]) -> None:
        roles.append(set(endpoints))
        await anyio.sleep_forever()

    async with plugged(Scripted(note)) as host:
        await host.control(SetupPacket(0x01, 11, 1, 0, 0))
        assert await host.control(SetupPacket(0x81, 10, 0, 0, 1)) == b"\1"
        await anyio.wait_all_tasks_blocked()
    assert roles[-1] == {"int-in", "int-out"}


async def test_requests_and_urbs_in_flight_end_at_reconfiguration() -> None:
    ends: list[BaseException] = []

    async def wait_for_ever(endpoints: Mapping[str, Endpoint]) -> None:
        request = Request(bytearray(512))
        request.on_complete = lambda r: ends.append(r.error or AssertionError("completed"))
        endpoints["out"].queue(request)
        await anyio.sleep_forever()

    async with plugged(Scripted(wait_for_ever)) as host:
        statuses: list[int] = []

        async def pending() -> None:
            try:
                await read(host, 512)
            except UrbError as error:
                statuses.append(error.errno)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pending)
            await anyio.wait_all_tasks_blocked()
            await anyio.sleep(0.02)
            await host.control(SetupPacket(0x00, 9, 0, 0, 0))
        assert [type(e) for e in ends] == [EndpointDisabled]
        assert statuses in ([errno.ENODEV], [errno.ESHUTDOWN])


async def test_disconnect_ends_the_function_and_the_device_is_ready_again() -> None:
    function = Scripted(echo)
    udc = UserspaceUDC(gadget(function), speed=Speed.HIGH)
    async with served(udc) as port:
        for _ in range(3):
            async with Host.connect("127.0.0.1", port, "1-1") as host:
                await host.control(SET_CONFIGURATION)
                await host.transfer(HostUrb(1, b"once more"), 5)
                assert await read(host, 512) == b"once more"
                await host.control(SET_HALT_IN)
            with anyio.fail_after(5):
                await udc.wait_unplugged()
            assert udc.configuration == 0
        assert (function.lives, function.ended) == (3, 3)


async def test_unplug_ends_the_hosts_urbs() -> None:
    udc = UserspaceUDC(gadget(Scripted()), speed=Speed.HIGH)
    async with served(udc) as port, Host.connect("127.0.0.1", port, "1-1") as host:
        await host.control(SET_CONFIGURATION)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_expect_gone, host)
            await anyio.sleep(0.02)
            udc.unplug()


async def _expect_gone(host: Host) -> None:
    with pytest.raises(DeviceGone):
        await read(host, 512)


async def test_port_reset_is_a_bus_reset() -> None:
    function = Scripted(echo)
    async with plugged(function) as host:
        await host.control(SetupPacket(0x23, 3, 4, 0, 0))
        assert await host.control(SetupPacket(0x80, 8, 0, 0, 1)) == b"\0"


async def test_crash_of_a_function_unplugs_the_device(caplog: pytest.LogCaptureFixture) -> None:
    async def crash(_endpoints: Mapping[str, Endpoint]) -> None:
        raise ZeroDivisionError("a bug of the function")

    udc = UserspaceUDC(gadget(Scripted(crash)), speed=Speed.HIGH)
    async with served(udc) as port:
        async with Host.connect("127.0.0.1", port, "1-1") as host:
            with pytest.raises(DeviceGone):
                await host.control(SET_CONFIGURATION)
                await read(host, 512)
        await udc.wait_unplugged()
        assert "function scripted crashed" in caplog.text
        assert "ZeroDivisionError" in caplog.text


async def test_crash_on_being_selected_unplugs_the_device(caplog: pytest.LogCaptureFixture) -> None:
    class Crashing(Scripted):
        def selected(self) -> None:
            raise ZeroDivisionError("a bug of the function")

    udc = UserspaceUDC(gadget(Crashing()), speed=Speed.HIGH)
    async with served(udc) as port:
        async with Host.connect("127.0.0.1", port, "1-1") as host:
            with pytest.raises(DeviceGone):
                await host.control(SET_CONFIGURATION)
                await read(host, 512)
        await udc.wait_unplugged()
    assert "function scripted crashed" in caplog.text
    assert "bug of ours" not in caplog.text


def leaving(seconds: float) -> Scripted:
    """It leaves the bus once the host has read from it, and echoes in every later life."""

    async def leave(endpoints: Mapping[str, Endpoint]) -> None:
        leaves.script = echo
        await endpoints["in"].submit(b"bye")
        raise SoftDisconnect(seconds)

    leaves = Scripted(leave)
    return leaves


async def see_it_leave(host: Host) -> None:
    await host.control(SET_CONFIGURATION)
    assert await read(host, 512) == b"bye"
    with pytest.raises(DeviceGone):
        await read(host, 512)


async def test_a_device_that_left_the_bus_can_be_had_again_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    function = leaving(0)
    udc = UserspaceUDC(gadget(function), speed=Speed.HIGH)
    async with served(udc) as port:
        async with Host.connect("127.0.0.1", port, "1-1") as host:
            await see_it_leave(host)
        async with Host.connect("127.0.0.1", port, "1-1") as host:
            await host.control(SET_CONFIGURATION)
            await host.transfer(HostUrb(1, b"hello again"), 5)
            assert await read(host, 512) == b"hello again"
            assert (function.lives, function.ended) == (2, 1)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_until_it_is_back_a_device_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0

    class Clock:
        monotonic = staticmethod(lambda: now)

    monkeypatch.setattr("usbip_vudc.vudc.time", Clock)
    udc = UserspaceUDC(gadget(leaving(60)), speed=Speed.HIGH)
    other = UserspaceUDC(gadget(Scripted(echo)), speed=Speed.HIGH)

    async def listed() -> list[str]:
        found = await anyio.to_thread.run_sync(list_devices, "127.0.0.1", port)
        return [each.device.busid for each in found]

    async with served(udc, other) as port:
        async with Host.connect("127.0.0.1", port, "1-1") as host:
            await see_it_leave(host)
        now += 59
        assert not udc.connected
        assert await listed() == ["1-2"]
        with pytest.raises(ImportRefused) as caught:
            await Host.connect("127.0.0.1", port, "1-1").__aenter__()
        assert caught.value.status == OpStatus.NODEV
        ours, theirs = socket.socketpair()
        with ours, theirs, pytest.raises(LocalProtocolError, match="left the bus for a while"):
            await udc.plug(ours)
        now += 1
        assert udc.connected
        assert await listed() == ["1-1", "1-2"]
        async with Host.connect("127.0.0.1", port, "1-1") as host:
            await host.control(SET_CONFIGURATION)


async def test_a_device_that_leaves_the_bus_takes_its_other_functions_along() -> None:
    neighbour = Scripted(echo)
    udc = UserspaceUDC(gadget(leaving(0), neighbour), speed=Speed.HIGH)
    async with served(udc) as port:
        async with Host.connect("127.0.0.1", port, "1-1") as host:
            await see_it_leave(host)
        with anyio.fail_after(5):
            await udc.wait_unplugged()
        assert (neighbour.lives, neighbour.ended) == (1, 1)


async def test_crash_in_a_completion_unplugs_the_device_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def crash(_request: Request) -> None:
        raise ZeroDivisionError("a bug in on_complete")

    async def queue(endpoints: Mapping[str, Endpoint]) -> None:
        endpoints["in"].queue(Request(b"x", on_complete=crash))
        await anyio.sleep_forever()

    udcs = [UserspaceUDC(gadget(Scripted(s)), speed=Speed.HIGH) for s in (queue, echo)]
    async with served(*udcs) as port, Host.connect("127.0.0.1", port, "1-2") as other:
        async with Host.connect("127.0.0.1", port, "1-1") as host:
            await host.control(SET_CONFIGURATION)
            with contextlib.suppress(DeviceGone):
                await read(host, 512)
            with anyio.fail_after(5):
                await udcs[0].wait_unplugged()
        assert "a bug in on_complete" in caplog.text
        assert len(await other.control(DEVICE_DESCRIPTOR)) == 18, "the other device goes on"


async def test_exception_in_setup_stalls_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with plugged(Scripted(echo)) as host:
        with pytest.raises(UrbError) as caught:
            await host.control(SetupPacket(0xC1, 0xEE, 0, 0, 8))
        assert caught.value.errno == errno.EPIPE
        assert "a bug in setup()" in caplog.text
        assert len(await host.control(DEVICE_DESCRIPTOR)) == 18


async def test_class_and_vendor_requests_reach_their_function() -> None:
    function = Scripted()
    async with plugged(function) as host:
        await host.control(SetupPacket(0x41, 0x5B, 1, 0, 5), b"store")
        assert await host.control(SetupPacket(0xC1, 0x5C, 0, 0, 64)) == b"store"
        assert await host.control(SetupPacket(0xC1, 0x5C, 0, 0, 3)) == b"sto", "cut to wLength"
        assert function.requests[0].interface == "data"
        assert await host.control(SetupPacket(0xC2, 0x5C, 0, 0x81, 64)) == b"store"
        assert function.requests[-1].endpoint == "in"
        for setup in (SetupPacket(0xC1, 0x77, 0, 0, 8), SetupPacket(0xC1, 0x5C, 0, 9, 8)):
            with pytest.raises(UrbError) as caught:
                await host.control(setup)
            assert caught.value.errno == errno.EPIPE


# --- the server --------------------------------------------------------------------------------


async def test_devlist_and_import_by_busid() -> None:
    udcs = (UserspaceUDC(gadget(Scripted()), speed=Speed.HIGH),
            UserspaceUDC(gadget(Scripted()), speed=Speed.SUPER))  # fmt: skip
    async with served(*udcs) as port:
        listed = await anyio.to_thread.run_sync(list_devices, "127.0.0.1", port)
        assert [(d.device.busid, d.device.speed) for d in listed] == [
            ("1-1", Speed.HIGH), ("1-2", Speed.SUPER),
        ]  # fmt: skip
        assert [i.bInterfaceClass for i in listed[0].interfaces] == [0xFF]
        async with Host.connect("127.0.0.1", port, "1-2") as host:
            assert host.device.devid == 0x00010003


async def test_second_import_is_refused_as_busy_and_unknown_busid_as_such() -> None:
    async with served(UserspaceUDC(gadget(Scripted()), speed=Speed.HIGH)) as port:
        async with Host.connect("127.0.0.1", port, "1-1"):
            with pytest.raises(ImportRefused, match="already imported") as caught:
                await anyio.to_thread.run_sync(import_device, "127.0.0.1", port, "1-1")
            assert caught.value.status == OpStatus.DEV_BUSY
        with pytest.raises(ImportRefused, match="no such busid") as caught:
            await anyio.to_thread.run_sync(import_device, "127.0.0.1", port, "7-7")
        assert caught.value.status == OpStatus.NODEV


async def test_a_host_that_closes_may_come_back_at_once() -> None:
    def come_and_go(port: int) -> None:
        for _ in range(20):
            sock, _ = import_device("127.0.0.1", port, "1-1")
            sock.close()

    async with served(UserspaceUDC(gadget(Scripted(echo)), speed=Speed.HIGH)) as port:
        await anyio.to_thread.run_sync(come_and_go, port)


NONSENSE = [
    (b"GET / HTTP/1.1\r\n\r\n", "USB/IP version 0x4745"),
    (OpHeader(0x8009).pack(), "operation 0x8009"),
    (OpHeader(OpCode.REQ_IMPORT).pack() + b"1-1", "3 of 32 bytes came"),
]


@pytest.mark.parametrize(("data", "reason"), NONSENSE, ids=["http", "operation", "cut"])
async def test_nonsense_costs_the_peer_its_connection_only(
    data: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        served(UserspaceUDC(gadget(Scripted(echo)), speed=Speed.HIGH)) as port,
        Host.connect("127.0.0.1", port, "1-1") as host,
    ):
        await host.control(SET_CONFIGURATION)
        assert await anyio.to_thread.run_sync(say, port, data)
        await host.transfer(HostUrb(1, b"unharmed"), 5)
        assert await read(host, 512) == b"unharmed"
        await logged(caplog, reason)


@pytest.mark.parametrize(
    ("pdu", "reason"),
    [
        (b"\0\0\0\x09" + bytes(44), "command 0x9"),
        (CmdSubmit(seqnum=1, devid=0, direction=3, ep=0).pack(), "direction 3"),
        (CmdSubmit(seqnum=1, devid=0, direction=0, ep=0).pack()[:20], "inside a PDU"),
    ],
    ids=["command", "direction", "cut"],
)
async def test_a_bad_pdu_ends_its_import_with_a_named_reason(
    pdu: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    def misbehave(port: int) -> None:
        sock, _ = import_device("127.0.0.1", port, "1-1")
        with sock:
            sock.sendall(pdu)
            assert ended(sock)

    udc = UserspaceUDC(gadget(Scripted(echo)), speed=Speed.HIGH)
    async with served(udc) as port:
        await anyio.to_thread.run_sync(misbehave, port)
        await logged(caplog, "1-1 of 127.0.0.1")
        await logged(caplog, reason)
        async with Host.connect("127.0.0.1", port, "1-1") as host:
            assert len(await host.control(DEVICE_DESCRIPTOR)) == 18


async def test_a_bug_of_ours_ends_one_connection_only(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(_urb: object) -> None:
        raise ZeroDivisionError("a bug of the controller")

    udcs = [UserspaceUDC(gadget(Scripted(echo)), speed=Speed.HIGH) for _ in range(2)]
    monkeypatch.setattr(udcs[0], "_control", bug)
    async with served(*udcs) as port, Host.connect("127.0.0.1", port, "1-2") as other:
        async with Host.connect("127.0.0.1", port, "1-1") as host:
            with pytest.raises(DeviceGone):
                await host.control(DEVICE_DESCRIPTOR)
        await logged(caplog, "closed by a bug of ours")
        assert "a bug of the controller" in caplog.text
        assert len(await other.control(DEVICE_DESCRIPTOR)) == 18


async def test_seqnum_in_use_twice_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    def misbehave(port: int) -> None:
        sock, _ = import_device("127.0.0.1", port, "1-1")
        with sock:
            setup = CmdSubmit(seqnum=1, devid=0, direction=0, ep=0, setup=SET_CONFIGURATION.pack())
            sock.sendall(setup.pack())
            assert len(sock.recv(48)) == 48
            pending = CmdSubmit(seqnum=2, devid=0, direction=1, ep=1, transfer_buffer_length=8)
            sock.sendall(pending.pack() * 2)
            assert ended(sock)

    async with served(UserspaceUDC(gadget(Scripted()), speed=Speed.HIGH)) as port:
        await anyio.to_thread.run_sync(misbehave, port)
        await logged(caplog, "seqnum 2 is in use")


async def test_what_a_host_can_make_us_hold_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    def flood(port: int) -> int:
        sock, _ = import_device("127.0.0.1", port, "1-1")
        with sock:
            setup = CmdSubmit(seqnum=1, devid=0, direction=0, ep=0, setup=SET_CONFIGURATION.pack())
            sock.sendall(setup.pack())
            assert len(sock.recv(48)) == 48
            block = bytes(8 << 20)
            for seqnum in range(2, 20):
                pdu = CmdSubmit(
                    seqnum=seqnum, devid=0, direction=0, ep=1, transfer_buffer_length=len(block)
                )
                try:
                    sock.sendall(pdu.pack() + block)
                except OSError:
                    return seqnum
        return 0

    async with served(UserspaceUDC(gadget(Scripted()), speed=Speed.HIGH)) as port:
        assert 2 < await anyio.to_thread.run_sync(flood, port) < 16
        await logged(caplog, "bytes are held")


async def test_listening_where_nobody_may_says_what_to_do() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = Server([UserspaceUDC(gadget(Scripted()), speed=Speed.HIGH)])
        with pytest.raises(OSError, match=rf"port {port}.*in use.*usbipd"):
            await server.serve("127.0.0.1", port)


async def test_a_server_needs_something_to_export() -> None:
    with pytest.raises(SchemeError, match="0 devices"):
        Server([])


async def test_unix_socket_works_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = str(tmp_path_factory.mktemp("s") / "usbip")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        listener.setblocking(False)
        server = Server([UserspaceUDC(gadget(Scripted()), speed=Speed.HIGH)])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve_on, listener)

            def ask() -> bytes:
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.connect(path)
                    sock.sendall(OpHeader(OpCode.REQ_DEVLIST).pack())
                    return sock.recv(12)

            reply = await anyio.to_thread.run_sync(ask)
            assert reply == bytes.fromhex("0111 0005 00000000 00000001")
            tasks.cancel_scope.cancel()


async def logged(caplog: pytest.LogCaptureFixture, text: str) -> None:
    """Wait for a line in the log; it is written after the peer has seen its connection close."""
    with anyio.fail_after(5):
        while text not in caplog.text:
            await anyio.sleep(0.005)


def say(port: int, data: bytes) -> bool:
    """Send bytes to a server; whether it then closes without a word."""
    with socket.create_connection(("127.0.0.1", port), 5) as sock:
        sock.sendall(data)
        return ended(sock)


def ended(sock: socket.socket) -> bool:
    """Say that nothing more comes; whether the server closes without a word."""
    try:
        sock.shutdown(socket.SHUT_WR)
        return not sock.recv(1)
    except OSError:
        return True  # reset, since some of our bytes were not read: ECONNRESET, or ENOTCONN by now


@pytest.fixture(autouse=True)
def _log_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


@pytest.mark.parametrize("pace", [False, True])
async def test_an_endpoint_that_says_0_bytes_moves_one_at_a_time(pace: bool) -> None:
    function = Scripted(echo)
    spec = function.interfaces[0]
    nothing = tuple(
        replace(endpoint, role=endpoint.role.removeprefix("int-"), max_packet_size={Speed.HIGH: 0})
        for endpoint in spec.alternates[pace].endpoints  # those of an interval where there is one
    )
    function.interfaces = (replace(spec, alternates=(AltSetting(endpoints=nothing),)),)
    illegal = replace(gadget(function), deliberately_illegal=True)
    async with (
        served(UserspaceUDC(illegal, speed=Speed.HIGH, pace=pace)) as port,
        Host.connect("127.0.0.1", port, "1-1") as host,
    ):
        await host.control(SET_CONFIGURATION)
        assert await host.transfer(HostUrb(0x01, b"abc"), 5) == 3
        assert await host.transfer(HostUrb(0x01, b""), 5) == 0
        assert await read(host, 3) == b"abc"


async def test_a_urb_of_packets_is_refused_where_there_are_none() -> None:
    async with plugged(Scripted(echo)) as host:
        for urb in (IsoUrb(0x01, b"12345678", (4, 4)), IsoUrb(0x81, bytearray(8), (4, 4))):
            with pytest.raises(UrbError, match="EINVAL"):
                await host.transfer(urb, 5)
        assert await host.transfer(HostUrb(0x01, b"still here"), 5) == 10
        assert await read(host, 64) == b"still here"


# --- bus time ------------------------------------------------------------------------------------


async def test_in_bus_time_bytes_come_back_as_they_went() -> None:
    async with plugged(Scripted(echo), Speed.FULL, pace=True) as host:
        for data in (b"x", b"hello" * 30, bytes(range(256)) * 3 + b"!"):
            assert await host.transfer(HostUrb(0x01, data), 5) == len(data)
            assert await read(host, 2048) == data


async def test_in_bus_time_an_interrupt_endpoint_keeps_its_interval() -> None:
    at: list[float] = []

    async def report(endpoints: Mapping[str, Endpoint]) -> None:
        while "int-in" in endpoints:
            await endpoints["int-in"].submit(b"report")
        await anyio.sleep_forever()

    async with plugged(Scripted(report), Speed.FULL, pace=True) as host:
        await host.control(SetupPacket(0x01, 11, 1, 0, 0))
        started = time.monotonic()
        for _ in range(5):
            assert await host.transfer(HostUrb(0x81, bytearray(8)), 5) == 6
            at.append(time.monotonic() - started)
    # Never sooner than bus time allows; how much later is this machine's affair.
    assert at[-1] >= 4 * 8e-3 - 1e-3


async def test_in_bus_time_a_pending_urb_is_unlinked_and_a_reset_ends_all() -> None:
    async with plugged(Scripted(), Speed.FULL, pace=True) as host:
        with pytest.raises(UrbError, match="ETIMEDOUT"):
            await read(host, 64, 0.05)
        await host.control(SET_CONFIGURATION)
        with pytest.raises(UrbError, match="ETIMEDOUT"):
            await read(host, 64, 0.05)
