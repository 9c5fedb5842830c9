"""Every rule of the cable's seam at work: what the host sees, and that all is well afterwards."""

from __future__ import annotations

import errno
from contextlib import suppress

import pytest
import usb.core
import usb.util

from gadgets.mass_storage.function import MassStorageFunction
from gadgets.mass_storage.lun import RamLun
from tests.proxies import (
    GET_CONFIGURATION,
    HOST,
    IN,
    OUT,
    SET_CONFIGURATION,
    Watched,
    behind,
    outcome,
    plugged,
    read,
    write,
)
from usbip_vudc.errors import DeviceGone, RemoteProtocolError, UrbError
from usbip_vudc.exportable import Export
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.host.blocking import BlockingHost
from usbip_vudc.host.handshake import ImportRefused, import_device
from usbip_vudc.host.storage import UsbStorage
from usbip_vudc.injection import CATALOGUE, Plan
from usbip_vudc.proxy.export import InjectedExport
from usbip_vudc.pyusb_backend import get_backend
from usbip_vudc.serving import serving_udcs
from usbip_vudc.urb import HostUrb
from usbip_vudc.usb.ch9 import SetupPacket
from usbip_vudc.wire.pdu import CmdSubmit, OpStatus

# --- one row an action: what the first transfer gets, and what the device then says ---------------

IN_ROWS = [
    # The device has b"hello" for the host: what becomes of it, and what the next read brings.
    ("short(2)", "he", None),
    ("short(0)", "", None),
    ("babble(1)", "EOVERFLOW 64", None),
    ("status(-71)", "EPROTO 5", None),
    ("status(0)", "hello", None),
    ("actual(3)", "hel", None),
    ("actual(7)", "hello\0\0", None),
    ("corrupt(0, 0x20)", "Hello", None),
    ("delay(1ms)", "hello", None),
    ("tcp_stall(1ms)", "hello", None),
    ("tcp_cut(1, 47, 100)", "hello", None),
    ("stall", "EPIPE 0", "hello"),
    ("drop", "ETIMEDOUT 0", "hello"),
    ("delay(60s)", "ETIMEDOUT 0", None),
    ("reorder(9)", "ETIMEDOUT 0", None),
]

OUT_ROWS = [
    # The host writes b"hello": what it is told, and what the device got.
    ("short(2)", "2", "he"),
    ("corrupt(0, 0x20)", "5", "Hello"),
    ("status(-71)", "EPROTO 5", "hello"),
    ("actual(2)", "2", "hello"),
    ("delay(1ms)", "5", "hello"),
    ("stall", "EPIPE 0", None),
    ("drop", "ETIMEDOUT 0", None),
    ("delay(60s)", "ETIMEDOUT 0", "hello"),
    ("tcp_stall(1ms)", "5", "hello"),
    ("tcp_cut(1)", "5", "hello"),
]
SHORT = 0.3
"""Seconds that a transfer which never ends is waited for."""


def recovers(host: BlockingHost) -> None:
    """The next transfers are as if nothing had been."""
    for word in (b"again", b"and again"):
        assert write(host, word) == len(word)
        assert read(host, 64) == word


def patience(expected: str) -> float:
    return SHORT if expected.startswith("ETIMEDOUT") else 10.0


@pytest.mark.parametrize(("what", "first", "then"), IN_ROWS, ids=[row[0] for row in IN_ROWS])
def test_in(what: str, first: str, then: str | None) -> None:
    with behind(f"cable.in nth(1) {what}") as (port, export, _), plugged(port) as host:
        write(host, b"hello")
        assert outcome(host, IN, 64, patience(first)) == first
        if then is not None:
            assert read(host, 64).decode() == then
        recovers(host)
        assert export.injector.trace == [f"1: cable 0x81 IN 64 B #1: {what}"]


@pytest.mark.parametrize(("what", "first", "then"), OUT_ROWS, ids=[row[0] for row in OUT_ROWS])
def test_out(what: str, first: str, then: str | None) -> None:
    with behind(f"cable.out nth(1) {what}") as (port, export, _), plugged(port) as host:
        assert outcome(host, OUT, b"hello", patience(first)) == first
        if then is not None:
            assert read(host, 64).decode() == then
        recovers(host)
        assert export.injector.trace == [f"1: cable 0x01 OUT 5 B #1: {what}"]


def test_a_control_transfer_can_be_stalled_too() -> None:
    with behind("cable control(0x5b) nth(1) stall") as (port, _, function), plugged(port) as host:
        store = SetupPacket(0x41, 0x5B, 0, 0, 3)
        with pytest.raises(UrbError) as caught:
            host.control(store, b"abc")
        assert caught.value.errno == errno.EPIPE
        assert function.requests == []
        host.control(store, b"abc")
        assert function.stored == b"abc"


def test_reorder_lets_the_next_one_pass() -> None:
    with behind("cable.out nth(1) reorder(1)") as (port, _, _), plugged(port) as host:
        done: list[HostUrb] = []
        first = HostUrb(OUT, b"first")
        second = HostUrb(0, bytearray(1), setup=GET_CONFIGURATION)
        for urb in (first, second):
            urb.on_complete = done.append
            host.submit(urb)
        assert all(host.wait(urb, 10.0) for urb in (first, second))
        assert done == [second, first]
        assert read(host, 64) == b"first"
        recovers(host)


def test_a_delayed_reply_is_overtaken_and_can_be_taken_back() -> None:
    with behind("cable.out nth(1) delay(60s)") as (port, _, _), plugged(port) as host:
        urb = HostUrb(OUT, b"late")
        host.submit(urb)
        assert host.control(GET_CONFIGURATION) == b"\x01"
        assert read(host, 64) == b"late", "the device has had it for long"
        assert urb.status is None
        host.unlink(urb)
        assert host.wait(urb, 10.0)
        assert urb.status == -errno.ECONNRESET
        recovers(host)


def test_unlink_ends_a_urb_that_the_host_still_wants() -> None:
    with behind("cable.in nth(1) unlink(0s)") as (port, _, _), plugged(port) as host:
        assert outcome(host, IN, 64) == "ECONNRESET 0"
        recovers(host)


def test_bus_reset_comes_before_its_transfer() -> None:
    with behind("cable.out nth(1) bus_reset") as (port, _, function), plugged(port) as host:
        assert outcome(host, OUT, b"hello") == "EPROTO 0", "there is no such endpoint now"
        assert host.control(GET_CONFIGURATION) == b"\0"
        host.control(SET_CONFIGURATION)
        recovers(host)
        assert function.lives == 2


def test_disconnect_keeps_the_device_away() -> None:
    with behind("cable.out nth(1) disconnect(60s)") as (port, _, _):
        with plugged(port) as host, pytest.raises(DeviceGone):
            write(host, b"hello")
        with pytest.raises(ImportRefused) as caught:
            import_device(HOST, port, "1-1")
        assert caught.value.status is OpStatus.NA


def test_disconnect_without_a_time_lets_it_come_back_at_once() -> None:
    with behind("cable.out nth(1) disconnect") as (port, export, _):
        with plugged(port) as host, pytest.raises(DeviceGone):
            write(host, b"hello")
        with plugged(port) as host:
            recovers(host)
        assert len(export.injector.trace) == 1, "the second life begins behind the first"


def test_tcp_reset_is_a_reset() -> None:
    with behind("cable control(9) tcp_reset") as (port, _, _):
        sock, _ = import_device(HOST, port, "1-1")
        with sock:
            sock.settimeout(10)
            sock.sendall(
                CmdSubmit(
                    seqnum=1, devid=0, direction=0, ep=0, setup=SET_CONFIGURATION.pack()
                ).pack()
            )
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
    with behind("cable.in nth(1) tcp_reset") as (port, _, _):
        with plugged(port) as host:
            write(host, b"hello")
            with pytest.raises(DeviceGone):
                read(host, 64)
        with plugged(port) as host:
            recovers(host)


def test_an_actual_length_that_no_host_can_take_ends_the_connection() -> None:
    with behind("cable.in nth(1) actual(65)") as (port, _, _):
        with plugged(port) as host:
            write(host, b"hello")
            with pytest.raises(RemoteProtocolError, match="actual_length 65"):
                read(host, 64)
        with plugged(port) as host:
            recovers(host)


# --- splitting ---------------------------------------------------------------------------------


def urbs_of(export: InjectedExport) -> list[tuple[int, int | None]]:
    assert isinstance(export.inner, Export)
    assert isinstance(export.inner.udc, Watched)
    return export.inner.udc.urbs


@pytest.mark.parametrize("layout", ["each:packets:3", "each:2x1024", "[1024][2048]", "each:5x4096"])
def test_a_benign_split_shows_nowhere_but_at_the_device(layout: str) -> None:
    data = bytes(range(250)) * 40
    with behind(f"cable layout({layout})") as (port, export, _), plugged(port) as host:
        assert write(host, data) == len(data)
        assert read(host, len(data)) == data
    lengths = [length for length, _ in urbs_of(export)]
    assert sum(lengths) == 2 * len(data)
    assert len(lengths) > 2


def test_the_host_can_unlink_a_urb_that_was_split() -> None:
    with behind("cable.in nth(1) layout(each:3x1024)") as (port, export, _), plugged(port) as host:
        assert outcome(host, IN, 3072, SHORT) == "ETIMEDOUT 0"
        recovers(host)
    assert urbs_of(export)[:3] == [(1024, None)] * 3, "none of them completed"


def test_a_split_inside_a_packet_overflows_at_the_device_as_in_2019() -> None:
    lun = RamLun(1 << 20)
    lun.memory[:] = bytes(range(256)) * 4096
    disk = Gadget(
        name="disk", idVendor=0x0525, idProduct=0xA4A5,
        configs=(Config(functions=(MassStorageFunction(luns=[lun]),)),),
    )  # fmt: skip
    plan = Plan.parse("cable.in cbw(0x28) phase(data) nth(1) layout(each:3584+7x4096)")
    udc = Watched(disk)
    export = InjectedExport(Export(1, udc), plan)
    with serving_udcs(export) as port:
        device = usb.core.find(backend=get_backend(port=port), idVendor=0x0525)
        storage = UsbStorage(device)
        storage.wait_ready()
        assert storage.block_size == 512
        storage.timeout_ms = 300
        # As with usbip-host the reply waits for all eight, and the disk has nothing left for some.
        with pytest.raises(usb.core.USBTimeoutError):
            storage.read(0, 63)
        storage.timeout_ms = 10_000
        storage.reset_recovery()
        storage.wait_ready()
        assert storage.read(0, 63) == bytes(lun.memory[: 63 * 512])
        usb.util.dispose_resources(device)
    first = udc.urbs.index((3584, -errno.EOVERFLOW))
    asked = [length for length, _ in udc.urbs[first : first + 8]]
    assert asked == [3584] + [4096] * 7


@pytest.mark.parametrize(
    "name", [name for name, made in CATALOGUE.items() if "cable" in made.rules]
)
def test_the_ready_made_plans_for_the_cable_let_a_device_be_used(name: str) -> None:
    with behind(CATALOGUE[name].rules) as (port, _, _), plugged(port) as host:
        for number in range(30):
            host.control(GET_CONFIGURATION)
            data = bytes((number,)) * 5000
            try:
                write(host, data)
                read(host, 5120)
            except UrbError as error:
                assert error.errno == errno.EPROTO, name


# --- the two ends --------------------------------------------------------------------------------


def test_a_second_host_is_refused_and_the_first_keeps_the_device() -> None:
    with behind("cable nth(1000) stall") as (port, export, _), plugged(port) as host:
        assert export.plugged
        with pytest.raises(ImportRefused) as caught:
            import_device(HOST, port, "1-1")
        assert caught.value.status is OpStatus.DEV_BUSY
        recovers(host)


def test_the_device_is_free_again_once_the_host_has_left() -> None:
    with behind("cable nth(1000) stall") as (port, _, function):
        for _ in range(3):
            with plugged(port) as host:
                recovers(host)
        assert function.lives == 3


def test_a_host_that_breaks_the_protocol_loses_the_device_which_lives_on() -> None:
    with behind("cable nth(1000) stall") as (port, _, _):
        sock, _ = import_device(HOST, port, "1-1")
        with sock:
            sock.settimeout(10)
            sock.sendall(b"nonsense" * 6)
            with suppress(ConnectionResetError):  # where it had not read all of it
                assert sock.recv(1) == b""
        with plugged(port) as host:
            recovers(host)


def test_the_same_plan_and_traffic_leave_the_same_trace() -> None:
    traces = []
    for _ in range(2):
        with behind("cable p(0.3) corrupt(0); cable.out every(3) status(-71)") as (port, export, _):
            with plugged(port) as host:
                for number in range(40):
                    outcome(host, OUT, bytes((number,)) * 10)
                    host.transfer(HostUrb(IN, bytearray(64)), 10.0)
            traces.append(list(export.injector.trace))
    assert traces[0] == traces[1]
    assert len(traces[0]) > 20


def test_the_greeting_is_the_devices_own() -> None:
    with behind("cable tcp_cut(1)") as (port, export, _):
        sock, device = import_device(HOST, port, "1-1")
        sock.close()
        assert device == export.inner.device()
