"""Isochronous transfers end to end: our hosts and pyusb, the wire, the userspace UDC."""

from __future__ import annotations

import errno
import threading
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio
import pytest
import usb.core
import usb.util

from tests.devices import Scripted
from tests.iso_device import IN, OUT, PACKET, Iso, Loopback, blocking, iso_gadget, plugged
from usbip_vudc.errors import DeviceGone, LocalProtocolError, UrbError
from usbip_vudc.host.client import Host
from usbip_vudc.pyusb_backend import get_backend
from usbip_vudc.serving import serving
from usbip_vudc.urb import MAX_ISO_PACKETS, HostUrb, IsoUrb
from usbip_vudc.usb.ch9 import SetupPacket, Speed

SPEEDS = (Speed.FULL, Speed.HIGH, Speed.SUPER)
GET_INTERFACE = SetupPacket(0x81, 10, 0, 0, 1)


def pattern(length: int, seed: int = 0) -> bytes:
    return bytes((seed + i) % 251 for i in range(length))


async def until(happened: Callable[[], bool], host: Host) -> None:
    """Let the device go on until it is so; a control transfer is one turn of its loop."""
    with anyio.fail_after(10):
        while not happened():
            await host.control(GET_INTERFACE)


# --- async -------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("speed", SPEEDS)
async def test_each_packet_of_an_in_urb_is_one_request(speed: Speed) -> None:
    async with plugged(Iso(pattern(192), b"", pattern(37, 5)), speed) as host:
        urb = await host.transfer_iso(IN, (192, 192, 192), timeout=5)
        assert urb.received == (pattern(192), b"", pattern(37, 5))
        assert [packet.status for packet in urb.packets] == [0, 0, 0]
        assert (urb.actual, urb.error_count) == (229, 0)


@pytest.mark.anyio
@pytest.mark.parametrize("speed", SPEEDS)
async def test_each_packet_of_an_out_urb_is_one_request(speed: Speed) -> None:
    function = Iso()
    async with plugged(function, speed) as host:
        urb = await host.transfer_iso(OUT, (3, 0, 5), b"abcdefgh", timeout=5)
        assert [packet.actual_length for packet in urb.packets] == [3, 0, 5]
        assert function.taken == [b"abc", b"", b"defgh"]


@pytest.mark.anyio
async def test_a_packet_that_babbles_has_a_status_and_the_urb_has_not() -> None:
    async with plugged(Iso(b"abcdef", b"gh")) as host:
        urb = await host.transfer_iso(IN, (4, 4), timeout=5)
        assert (urb.status, urb.error_count) == (0, 1)
        assert [packet.status for packet in urb.packets] == [-errno.EOVERFLOW, 0]
        assert urb.received == (b"abcd", b"gh")


@pytest.mark.anyio
async def test_many_urbs_in_flight_keep_their_order() -> None:
    function = Loopback()
    lengths = [1 + (number * 37) % PACKET for number in range(64)]
    sent = [pattern(length, length) for length in lengths]
    async with plugged(function) as host:
        reads = [IsoUrb(IN, bytearray(PACKET * 8), [PACKET] * 8) for _ in range(8)]
        writes = []
        for first in range(0, 64, 8):
            part = slice(first, first + 8)
            writes.append(IsoUrb(OUT, b"".join(sent[part]), lengths[part]))
        ends = [host.submit(urb) for urb in (*reads, *writes)]
        with anyio.fail_after(10):
            for end in ends:
                await end.wait()
        assert [packet for urb in reads for packet in urb.received] == sent
        assert {urb.status for urb in (*reads, *writes)} == {0}


@pytest.mark.anyio
async def test_unlinking_one_of_several_lets_the_others_be() -> None:
    function = Loopback()
    async with plugged(function) as host:
        first, second = (IsoUrb(IN, bytearray(PACKET), (PACKET,)) for _ in range(2))
        ends = [host.submit(first), host.submit(second)]
        host.unlink(first)
        with anyio.fail_after(10):
            await ends[0].wait()
            await host.transfer_iso(OUT, (5,), b"hello", timeout=5)
            await ends[1].wait()
        assert (first.status, second.received) == (-errno.ECONNRESET, (b"hello",))


@pytest.mark.anyio
async def test_a_packet_that_nobody_offers_waits_and_a_timeout_unlinks_it() -> None:
    function = Loopback()
    async with plugged(function) as host:
        with pytest.raises(UrbError) as caught:
            await host.transfer_iso(IN, (PACKET,), timeout=0.05)
        assert caught.value.errno == errno.ETIMEDOUT
        await host.transfer_iso(OUT, (2,), b"go", timeout=5)
        urb = await host.transfer_iso(IN, (PACKET,), timeout=5)
        assert urb.received == (b"go",)


@pytest.mark.anyio
async def test_another_alternate_setting_ends_pending_packets() -> None:
    async with plugged(Iso()) as host:
        urb = IsoUrb(IN, bytearray(PACKET), (PACKET,))
        end = host.submit(urb)
        await host.control(SetupPacket(0x01, 11, 0, 0))
        with anyio.fail_after(10):
            await end.wait()
        assert (urb.status, urb.actual) == (-errno.ESHUTDOWN, 0)
        assert urb.packets[0].status == -errno.EXDEV


@pytest.mark.anyio
async def test_the_descriptors_of_pending_packets_count_in_what_is_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("usbip_vudc.vudc._MAX_HELD", 1 << 20)
    async with plugged(Iso()) as host:
        with anyio.fail_after(20):
            urbs = [IsoUrb(IN, b"", (0,) * MAX_ISO_PACKETS) for _ in range(65)]
            ends = [host.submit(urb) for urb in urbs]
            for end in ends:
                await end.wait()
        assert {urb.status for urb in urbs} == {-errno.ENODEV}


@pytest.mark.anyio
async def test_a_urb_that_is_held_no_more_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usbip_vudc.vudc._MAX_HELD", 1 << 20)
    async with plugged(Iso()) as host:
        for _ in range(3):
            urbs = [IsoUrb(IN, b"", (0,) * MAX_ISO_PACKETS) for _ in range(50)]
            ends = [host.submit(urb) for urb in urbs]
            for urb in urbs:
                host.unlink(urb)
            with anyio.fail_after(20):
                for end in ends:
                    await end.wait()
            assert {urb.status for urb in urbs} == {-errno.ECONNRESET}


@pytest.mark.anyio
async def test_the_packets_of_a_device_that_is_gone() -> None:
    async with plugged(Iso()) as host:
        urb = IsoUrb(IN, bytearray(PACKET), (PACKET,))
        end = host.submit(urb)
        host.close()
        with anyio.fail_after(10):
            await end.wait()
        assert urb.status == -errno.ENODEV
        with pytest.raises(DeviceGone):
            await host.transfer_iso(IN, (PACKET,), timeout=5)


@pytest.mark.anyio
async def test_a_urb_without_packets_is_refused_on_an_isochronous_endpoint() -> None:
    async with plugged(Iso(b"data")) as host:
        with pytest.raises(UrbError) as caught:
            await host.transfer(HostUrb(IN, bytearray(4)), 5)
        assert caught.value.errno == errno.EINVAL


@pytest.mark.anyio
async def test_what_the_function_has_no_room_for_is_its_own_affair() -> None:
    function = Iso(room=2)
    async with plugged(function) as host:
        urb = await host.transfer_iso(OUT, (5, 1), b"hello!", timeout=5)
        await until(lambda: len(function.taken) == 2, host)
        assert (urb.error_count, urb.actual) == (0, 6), "nothing is acknowledged"
        assert (function.taken, function.errors) == ([b"he", b"!"], ["Overflow"])


@pytest.mark.anyio
async def test_in_bus_time_what_nobody_offers_is_missed() -> None:
    async with plugged(Iso(b"one"), pace=True) as host:
        urb = await host.transfer_iso(IN, (PACKET,) * 8, timeout=5)
        assert urb.status == 0
        assert b"".join(urb.received) in (b"", b"one")
        assert urb.packets[-1].actual_length == 0


# --- blocking ----------------------------------------------------------------------------------


def test_blocking_loopback() -> None:
    with blocking(Loopback()) as host:
        host.transfer_iso(OUT, (3, 4), b"abcdefg", 5)
        urb = host.transfer_iso(IN, (PACKET, PACKET), timeout=5)
        assert urb.received == (b"abc", b"defg")
        assert urb.sg.gather()[PACKET : PACKET + 4] == b"defg"


def test_blocking_into_memory_of_the_caller() -> None:
    with blocking(Iso(b"abc")) as host:
        memory = bytearray(8)
        host.transfer_iso(IN, (4,), memory, timeout=5)
        assert memory == b"abc" + bytes(5)


def test_blocking_timeout_of_several_urbs_unlinks_all() -> None:
    with blocking(Iso()) as host:
        urbs = [IsoUrb(IN, bytearray(4), (4,)) for _ in range(3)]
        with pytest.raises(UrbError) as caught:
            host.transfer_each(urbs, 0.05)
        assert caught.value.errno == errno.ETIMEDOUT
        assert [urb.status for urb in urbs] == [-errno.ETIMEDOUT, *[-errno.ECONNRESET] * 2]


def test_one_thread_listens_while_another_speaks() -> None:
    with blocking(Loopback()) as host:
        heard: list[bytes] = []

        def listen() -> None:
            for _ in range(20):
                heard.extend(host.transfer_iso(IN, (PACKET,) * 2, timeout=10).received)

        thread = threading.Thread(target=listen)
        thread.start()
        for number in range(20):
            host.transfer_iso(OUT, (2, 2), bytes([number] * 4), 10)
        thread.join(20)
        assert heard == [bytes([n] * 2) for n in range(20) for _ in range(2)]


# --- pyusb -------------------------------------------------------------------------------------


@contextmanager
def found(
    function: Iso, speed: Speed = Speed.HIGH, *, alternate: int = 1
) -> Iterator[usb.core.Device]:
    """The device for pyusb."""
    with serving(iso_gadget(function), speed=speed) as port:
        device = usb.core.find(backend=get_backend(port=port))
        assert device is not None
        try:
            device.set_interface_altsetting(0, alternate)
            yield device
        finally:
            usb.util.dispose_resources(device)


@contextmanager
def fails(number: int) -> Iterator[None]:
    with pytest.raises(usb.core.USBError) as caught:
        yield
    assert caught.value.errno == number
    assert isinstance(caught.value, usb.core.USBTimeoutError) == (number == errno.ETIMEDOUT)


@pytest.mark.parametrize("speed", SPEEDS)
def test_pyusb_reads_full_packets(speed: Speed) -> None:
    packets = [pattern(PACKET, number) for number in range(200)]
    with found(Iso(*packets), speed) as device:
        assert device.read(IN, 200 * PACKET, 5000).tobytes() == b"".join(packets)


def test_pyusb_leaves_the_gap_behind_a_short_packet_as_with_libusb() -> None:
    with found(Iso(b"abc", b"de")) as device:
        buffer = array("B", bytes(PACKET + 2))
        assert device.read(IN, buffer, 5000) == 5
        assert buffer.tobytes() == b"abc" + bytes(PACKET - 3) + b"de"


@pytest.mark.parametrize("speed", SPEEDS)
def test_pyusb_writes_packets_of_an_interval_and_the_rest(speed: Speed) -> None:
    function = Iso()
    data = pattern(150 * PACKET + 7)
    with found(function, speed) as device:
        assert device.write(OUT, data, 5000) == len(data)
        device.ctrl_transfer(0x81, 10, 0, 0, 1)  # the function hears of its packets before that
        assert function.taken == [data[at : at + PACKET] for at in range(0, len(data), PACKET)]


def test_pyusb_times_out_and_goes_on() -> None:
    with found(Loopback()) as device:
        with fails(errno.ETIMEDOUT):
            device.read(IN, PACKET, 50)
        assert device.write(OUT, b"go", 5000) == 2
        assert device.read(IN, 2, 5000).tobytes() == b"go"


def test_pyusb_needs_the_alternate_setting_that_has_the_endpoint() -> None:
    with found(Iso(), alternate=0) as device:
        handle = device._ctx.managed_open()
        usb.util.claim_interface(device, 0)
        for call in (device.backend.iso_read, device.backend.iso_write):
            with fails(errno.ENOENT):
                call(handle, IN, 0, array("B", bytes(4)), 100)


def test_pyusb_needs_the_interface_claimed() -> None:
    with found(Iso(b"abcd")) as device:
        backend, buffer = device.backend, array("B", bytes(4))
        handle = device._ctx.managed_open()
        usb.util.release_interface(device, 0)
        device.set_interface_altsetting(0, 1)
        usb.util.release_interface(device, 0)
        with fails(errno.ENOENT):
            backend.iso_read(handle, IN, 0, buffer, 100)
        other = backend.open_device(device._ctx.dev)
        backend.claim_interface(other, 0)
        with fails(errno.EBUSY):
            backend.iso_read(handle, IN, 0, buffer, 100)
        backend.close_device(other)


def test_pyusb_refuses_what_cannot_be_a_transfer() -> None:
    with found(Iso()) as device, fails(errno.EINVAL):
        device.write(OUT, b"", 100)


def test_iso_calls_on_a_bulk_endpoint_are_refused() -> None:
    with serving(iso_gadget(Scripted())) as port:
        device = usb.core.find(backend=get_backend(port=port))
        usb.util.claim_interface(device, 0)
        with pytest.raises(usb.core.USBError, match="bulk, not isochronous") as caught:
            device.backend.iso_read(device._ctx.handle, IN, 0, array("B", bytes(4)), 100)
        assert caught.value.errno == errno.EINVAL
        usb.util.dispose_resources(device)


def test_a_urb_has_no_more_packets_than_servers_take() -> None:
    with blocking(Iso()) as host, pytest.raises(LocalProtocolError, match="1025 packets"):
        host.transfer_iso(OUT, (1,) * 1025, bytes(1025))
