"""An ordinary pyusb program over the userspace UDC: what it sees must be what libusb shows."""

from __future__ import annotations

import errno
import socket
import threading
import time
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import anyio
import pytest
import usb.core
import usb.util

from tests.devices import Scripted, echo, gadget
from usbip_vudc.errors import SoftDisconnect
from usbip_vudc.function import ControlRequest, Endpoint
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.host.blocking import BlockingHost
from usbip_vudc.host.handshake import Listed
from usbip_vudc.pyusb_backend import get_backend
from usbip_vudc.serving import serving, serving_udcs
from usbip_vudc.sglist import SGList
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.vudc import UserspaceUDC
from usbip_vudc.wire.pdu import UsbDevice

IN, OUT = 0x81, 0x01


@contextmanager
def found(port: int, **match: Any) -> Iterator[usb.core.Device]:
    device = usb.core.find(backend=get_backend(port=port), **match)
    assert device is not None
    try:
        yield device
    finally:
        usb.util.dispose_resources(device)


@contextmanager
def plugged(*functions: Scripted, speed: Speed | None = None) -> Iterator[usb.core.Device]:
    with serving(gadget(*functions), speed=speed) as port, found(port) as device:
        yield device


@contextmanager
def fails(number: int) -> Iterator[None]:
    with pytest.raises(usb.core.USBError) as caught:
        yield
    assert caught.value.errno == number
    assert isinstance(caught.value, usb.core.USBTimeoutError) == (number == errno.ETIMEDOUT)


# --- descriptors -------------------------------------------------------------------------------


def test_device_fields_and_strings() -> None:
    with plugged(Scripted(), speed=Speed.HIGH) as device:
        assert (device.idVendor, device.idProduct, device.bcdUSB) == (0x1D6B, 0x0104, 0x0200)
        assert (device.bus, device.address, device.port_number) == (1, 2, 1)
        assert device.port_numbers == (1,)
        assert (device.bMaxPacketSize0, device.bNumConfigurations) == (64, 1)
        assert device.langids == (0x0407, 0x0409)
        assert device.manufacturer == "Acme"
        assert usb.util.get_string(device, device.iProduct, 0x0409) == "Thing"
        assert usb.util.get_string(device, device.iProduct, 0x0407) == "Ding"
        assert device.parent is None
        assert "CONFIGURATION 1: 100 mA" in str(device)


@pytest.mark.parametrize(
    ("speed", "number"), [(Speed.FULL, 2), (Speed.HIGH, 3), (Speed.SUPER, 4)], ids=lambda s: str(s)
)
def test_speed_is_in_libusbs_numbers(speed: Speed, number: int) -> None:
    with plugged(Scripted(), speed=speed) as device:
        assert device.speed == number


@pytest.mark.parametrize(
    ("busid", "ports"),
    [("1-1", (1,)), ("2-1.3", (1, 3)), ("usbip-vudc.0", None), ("1-\u00b2", None)],
)
def test_ports_are_those_of_a_busid_that_has_some(
    busid: str, ports: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a server calls its devices; \u00b2 is a digit, but no number."""
    device = UsbDevice(
        path="/p", busid=busid, busnum=1, devnum=2, speed=Speed.HIGH, idVendor=1, idProduct=2,
        bcdDevice=0, bDeviceClass=0, bDeviceSubClass=0, bDeviceProtocol=0, bConfigurationValue=0,
        bNumConfigurations=1, bNumInterfaces=0,
    )  # fmt: skip
    backend = get_backend()
    monkeypatch.setattr("usbip_vudc.pyusb_backend.list_devices", lambda *_: (Listed(device, ()),))
    monkeypatch.setattr(backend, "_describe", lambda _: None)
    [found] = backend.enumerate_devices()
    assert backend.get_device_descriptor(found).port_numbers == ports


def test_alternate_settings_and_superspeed_companions() -> None:
    with plugged(Scripted()) as device:
        configuration = device[0]
        bulk, interrupt = configuration.interfaces()
        assert [i.bAlternateSetting for i in (bulk, interrupt)] == [0, 1]
        assert configuration[(0, 1)].bAlternateSetting == 1
        kinds = [usb.util.endpoint_type(i[0].bmAttributes) for i in (bulk, interrupt)]
        assert kinds == [usb.util.ENDPOINT_TYPE_BULK, usb.util.ENDPOINT_TYPE_INTR]
        assert bulk[0].wMaxPacketSize == 1024
        assert bulk[0].extra_descriptors == [6, 48, 0, 0, 0, 0]
        with pytest.raises(IndexError):
            configuration[(1, 0)]


def test_several_devices_are_found_by_their_ids() -> None:
    gadgets = [
        Gadget(
            name=f"n{n}",
            idVendor=0x1D6B,
            idProduct=n,
            serial=f"serial {n}",
            configs=(Config(functions=(Scripted(echo),)),),
        )
        for n in (1, 2, 3)
    ]
    with (
        serving(*gadgets) as port,
        found(port, idProduct=2) as second,
        found(port, idProduct=3) as third,
    ):
        assert [d.serial_number for d in (second, third)] == ["serial 2", "serial 3"]
        second.write(OUT, b"to 2")
        third.write(OUT, b"to 3")
        assert second.read(IN, 64).tobytes() == b"to 2"
        assert third.read(IN, 64).tobytes() == b"to 3"
        backend = get_backend(port=port)
        assert len(list(usb.core.find(find_all=True, backend=backend))) == 3
        assert usb.core.find(backend=backend, idVendor=0xDEAD) is None


def test_a_stalled_configuration_does_not_break_find(monkeypatch: pytest.MonkeyPatch) -> None:
    udc = UserspaceUDC(gadget(Scripted()))
    monkeypatch.delitem(udc._standard._descriptors, (0x0200, 0))
    with serving_udcs(udc) as port, found(port) as device:
        assert device.iManufacturer
        with fails(errno.EIO):
            device[0]


def test_a_stalled_device_descriptor_leaves_what_the_list_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    udc = UserspaceUDC(gadget(Scripted()))
    monkeypatch.delitem(udc._standard._descriptors, (0x0100, 0))
    with serving_udcs(udc) as port, found(port) as device:
        assert (device.idVendor, device.iManufacturer, device.bcdUSB) == (0x1D6B, 0, 0)


# --- transfers ---------------------------------------------------------------------------------


def test_bulk_goes_out_and_comes_back() -> None:
    with plugged(Scripted(echo)) as device:
        assert device.write(OUT, b"hello") == 5
        assert device.read(IN, 1024) == array("B", b"hello")
        endpoint_in, endpoint_out = device[0][(0, 0)]
        assert endpoint_out.write("text") == 4
        assert endpoint_in.read(1024).tobytes() == b"text"


def test_data_land_in_the_callers_array() -> None:
    with plugged(Scripted(echo)) as device:
        buffer = usb.util.create_buffer(1024)
        device.write(OUT, b"x" * 100)
        assert device.read(IN, buffer) == 100
        assert buffer[:100].tobytes() == b"x" * 100
        buffer.extend(b"nobody holds the array any more")
        assert device.ctrl_transfer(0x40, 0x5B, 0, 0, b"stored") == 6
        assert device.ctrl_transfer(0xC0, 0x5C, 0, 0, buffer) == 6
        assert buffer[:6].tobytes() == b"stored"


def test_control_transfers_both_ways() -> None:
    with plugged(Scripted()) as device:
        assert device.ctrl_transfer(0x40, 0x5B, 7, 0, bytes(range(200))) == 200
        assert device.ctrl_transfer(0xC0, 0x5C, 7, 0, 300).tobytes() == bytes(range(200))
        assert device.ctrl_transfer(0x40, 0x5B, 7, 0, None) == 0
        with fails(errno.EPIPE):
            device.ctrl_transfer(0xC0, 0x99, 0, 0, 8)


def test_interrupt_endpoints_of_an_alternate_setting() -> None:
    async def tick(endpoints: Mapping[str, Endpoint]) -> None:
        if "int-in" in endpoints:
            heard = bytearray(64)
            count = await endpoints["int-out"].submit(heard)
            await endpoints["int-in"].submit(bytes(heard[:count]).upper())
        await anyio.sleep_forever()

    with plugged(Scripted(tick)) as device:
        device.set_interface_altsetting(0, 1)
        assert device.write(OUT, b"tick") == 4
        assert device.read(IN, 64).tobytes() == b"TICK"
        usb.util.release_interface(device, 0)  # as usbfs: alternate setting 0 comes back
        assert device.ctrl_transfer(0x81, 10, 0, 0, 1)[0] == 0


def test_a_timeout_takes_the_urb_back_and_the_device_goes_on() -> None:
    with plugged(Scripted(echo)) as device:
        started = time.monotonic()
        with fails(errno.ETIMEDOUT):
            device.read(IN, 1024, timeout=100)
        assert 0.09 < time.monotonic() - started < 2
        device.write(OUT, b"still here")
        assert device.read(IN, 1024).tobytes() == b"still here"


def test_timeout_0_waits_for_ever() -> None:
    async def late(endpoints: Mapping[str, Endpoint]) -> None:
        await anyio.sleep(0.3)
        await endpoints["in"].submit(b"late")

    with plugged(Scripted(late)) as device:
        device.default_timeout = 50
        assert device.read(IN, 1024, timeout=0).tobytes() == b"late"


def test_a_stall_is_errno_32_until_clear_halt() -> None:
    async def halting(endpoints: Mapping[str, Endpoint]) -> None:
        endpoints["in"].halt()
        await endpoints["in"].submit(b"after the halt")

    with plugged(Scripted(halting)) as device:
        for _ in range(2):
            with fails(errno.EPIPE):
                device.read(IN, 1024)
        assert device.ctrl_transfer(0x82, 0, 0, IN, 2)[0] == 1
        device.clear_halt(IN)
        assert device.read(IN, 1024).tobytes() == b"after the halt"


async def send_300(endpoints: Mapping[str, Endpoint]) -> None:
    while True:
        await endpoints["in"].submit(bytes(300))


def test_babble_is_errno_75() -> None:
    with plugged(Scripted(send_300)) as device:
        with fails(errno.EOVERFLOW):
            device.read(IN, 200)
        assert len(device.read(IN, 1024)) == 300


def test_a_transfer_beyond_16_mib_is_refused_with_a_reason() -> None:
    with plugged(Scripted(echo)) as device:
        with pytest.raises(usb.core.USBError, match="at most 16777216 bytes") as caught:
            device.write(OUT, bytes((16 << 20) + 1))
        assert caught.value.errno == errno.EINVAL


def test_one_thread_waits_to_read_while_another_writes() -> None:
    heard: list[bytes] = []
    with plugged(Scripted(echo)) as device:
        usb.util.claim_interface(device, 0)

        def listen() -> None:
            while (data := device.read(IN, 1024, timeout=10_000).tobytes()) != b"end":
                heard.append(data)

        thread = threading.Thread(target=listen)
        thread.start()
        for number in range(50):
            device.write(OUT, str(number).encode())
        device.write(OUT, b"end")
        thread.join(10)
    assert heard == [str(number).encode() for number in range(50)]


def test_eight_threads_of_control_transfers() -> None:
    wrong: list[object] = []
    with plugged(Scripted()) as device:

        def work() -> None:
            for _ in range(100):
                text = usb.util.get_string(device, device.iProduct, 0x0407)
                if text != "Ding":
                    wrong.append(text)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert not wrong


# --- configuration, claims, reset --------------------------------------------------------------


def test_a_device_is_configured_on_opening_as_linux_does() -> None:
    with plugged(Scripted(echo)) as device:
        assert device.get_active_configuration().bConfigurationValue == 1
        assert device.ctrl_transfer(0x80, 8, 0, 0, 1)[0] == 1


def test_set_configuration_restarts_the_function_and_0_ends_it() -> None:
    function = Scripted(echo)
    with plugged(function) as device:
        device.write(OUT, b"x")
        usb.util.release_interface(device, 0)
        for lives in (2, 3):
            device.set_configuration()
            device.write(OUT, b"x")  # lost with its configuration
            assert function.lives == lives
            usb.util.release_interface(device, 0)
        device.set_configuration(0)
        assert device.ctrl_transfer(0x80, 8, 0, 0, 1)[0] == 0
    assert function.ended == 3


def test_set_configuration_of_a_claimed_device_is_busy_as_on_linux() -> None:
    with plugged(Scripted(echo)) as device:
        usb.util.claim_interface(device, 0)
        with fails(errno.EBUSY):
            device.set_configuration()


def test_two_handles_share_the_device_but_not_an_interface() -> None:
    with serving(gadget(Scripted(echo))) as port:
        backend = get_backend(port=port)
        first, second = (usb.core.find(backend=backend) for _ in range(2))
        assert first == second
        usb.util.claim_interface(first, 0)
        with fails(errno.EBUSY):
            usb.util.claim_interface(second, 0)
        assert second.product == "Ding"
        with fails(errno.ENOENT):
            usb.util.claim_interface(first, 9)
        usb.util.dispose_resources(first)
        second.write(OUT, b"mine now")
        assert second.read(IN, 64).tobytes() == b"mine now"
        usb.util.dispose_resources(second)


def test_reset_restores_configuration_and_alternate_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    udc = UserspaceUDC(gadget(Scripted()))
    seen: list[tuple[int, int | None]] = []
    reset = udc.bus_reset

    def bus_reset() -> None:
        reset()
        seen.append((udc.configuration, udc.alternate(0)))

    with serving_udcs(udc) as port:
        backend = get_backend(port=port)
        handle = backend.open_device(next(iter(backend.enumerate_devices())))
        backend.claim_interface(handle, 0)
        backend.set_interface_altsetting(handle, 0, 1)
        monkeypatch.setattr(udc, "bus_reset", bus_reset)
        backend.reset_device(handle)
        assert seen == [(0, None)]
        answer = array("B", bytes(1))
        assert backend.ctrl_transfer(handle, 0x81, 10, 0, 0, answer, 1000) == 1
        assert (answer[0], backend.get_configuration(handle)) == (1, 1)
        backend.close_device(handle)


def test_a_reset_program_goes_on() -> None:
    with plugged(Scripted(echo)) as device:
        device.write(OUT, b"lost by the reset")
        device.reset()
        device.write(OUT, b"after")
        assert device.read(IN, 64).tobytes() == b"after"


def test_kernel_driver_calls_do_nothing() -> None:
    with plugged(Scripted()) as device:
        assert device.is_kernel_driver_active(0) is False
        device.detach_kernel_driver(0)
        device.attach_kernel_driver(0)


# --- who holds the device ----------------------------------------------------------------------


def test_a_device_that_another_client_holds_is_found_but_busy() -> None:
    with serving(gadget(Scripted(echo))) as port:
        with BlockingHost("127.0.0.1", port, "1-1"), found(port, idVendor=0x1D6B) as device:
            assert (device.idProduct, device.iProduct, device.bcdUSB) == (0x0104, 0, 0)
            assert device.speed == 4
            with fails(errno.EBUSY):
                device[0]
            with fails(errno.EBUSY):
                device.write(OUT, b"x")
            assert "USBError Accessing Configurations" in str(device)
        device.write(OUT, b"free again")  # its configurations are read now
        assert device.read(IN, 64).tobytes() == b"free again"
        usb.util.dispose_resources(device)


def test_dispose_gives_the_device_back() -> None:
    with serving(gadget(Scripted(echo))) as port, found(port) as device:
        device.write(OUT, b"x")
        for _ in range(20):
            usb.util.dispose_resources(device)
            with BlockingHost("127.0.0.1", port, "1-1"):
                pass
            assert device.serial_number == "0042"
            device.write(OUT, b"x")


def test_finding_again_and_again_never_meets_its_own_shadow() -> None:
    with serving(gadget(Scripted(echo))) as port:
        for _ in range(30):
            with found(port) as device:
                assert device.iProduct
                device.write(OUT, b"x")


def test_an_unplugged_device_is_errno_19() -> None:
    udc = UserspaceUDC(gadget(Scripted(unplug_on_out)))
    udcs.append(udc)
    with serving_udcs(udc) as port, found(port) as device:
        usb.util.claim_interface(device, 0)
        device.write(OUT, b"go")
        with fails(errno.ENODEV):
            device.read(IN, 64)
        with fails(errno.ENODEV):
            device.ctrl_transfer(0x80, 8, 0, 0, 1)
        usb.util.dispose_resources(device)
        assert device.manufacturer == "Acme"  # plugged in again


udcs: list[UserspaceUDC] = []


async def unplug_on_out(endpoints: Mapping[str, Endpoint]) -> None:
    await endpoints["out"].submit(bytearray(1024))
    udcs[-1].unplug()


def test_a_device_that_left_is_found_again_though_nobody_closed_it() -> None:
    async def leave(endpoints: Mapping[str, Endpoint]) -> None:
        await endpoints["out"].submit(bytearray(512))
        leaving.script = echo
        raise SoftDisconnect(0)

    leaving = Scripted(leave)
    with serving(gadget(leaving)) as port:
        backend = get_backend(port=port)
        first = usb.core.find(backend=backend)
        first.write(OUT, b"leave")
        with fails(errno.ENODEV):
            first.read(IN, 512)
        second = usb.core.find(backend=backend)
        assert second.write(OUT, b"back") == 4
        assert second.read(IN, 512).tobytes() == b"back"
        for device in (first, second):
            usb.util.dispose_resources(device)


def test_connect_makes_the_host_of_each_import() -> None:
    calls: list[tuple[str, int, str]] = []

    def connect(host: str, port: int, busid: str) -> BlockingHost:
        calls.append((host, port, busid))
        return BlockingHost(host, port, busid)

    with serving(gadget(Scripted())) as port:
        backend = get_backend(port=port, connect=connect)
        device = usb.core.find(backend=backend)
        assert calls == [("127.0.0.1", port, "1-1")], "to read its descriptors"
        device.ctrl_transfer(0x80, 0, 0, 0, 2)
        usb.util.dispose_resources(device)
        assert len(calls) == 2


def test_an_unreachable_server_says_where_and_what_to_do() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(usb.core.USBError) as caught:
            usb.core.find(backend=get_backend(port=port))
    assert caught.value.errno == errno.ECONNREFUSED
    assert f"no USB/IP server at 127.0.0.1 port {port}" in str(caught.value)
    assert "start one there" in str(caught.value)


def test_a_data_stage_too_long_for_wlength_is_refused_and_harms_nothing() -> None:
    with plugged(Scripted()) as device:
        with pytest.raises(usb.core.USBError, match="wLength holds at most 65535") as caught:
            device.ctrl_transfer(0x40, 0x5B, 0, 0, bytes(65536))
        assert caught.value.errno == errno.EINVAL
        assert device.ctrl_transfer(0x40, 0x5B, -1, 0, b"x") == 1  # cut to ffff, as by ctypes


# --- scatter-gather ----------------------------------------------------------------------------

LAYOUT_2019 = (3584, *[4096] * 7)


async def one_request(endpoints: Mapping[str, Endpoint]) -> None:
    while True:
        await endpoints["in"].submit(bytes(range(256)) * 126)


@pytest.mark.parametrize("scatter_gather", [True, False], ids=("sg", "no-sg"))
def test_the_case_of_2019(scatter_gather: bool) -> None:
    with serving(gadget(Scripted(one_request)), speed=Speed.SUPER) as port:
        backend = get_backend(port=port, scatter_gather=scatter_gather)
        device = usb.core.find(backend=backend)
        usb.util.claim_interface(device, 0)
        buffer = bytearray(sum(LAYOUT_2019))
        result = backend.bulk_sg(
            device._ctx.handle, IN, 0, SGList.laid_out(buffer, LAYOUT_2019), 5000
        )
        if scatter_gather:
            assert (result.status, result.actual, len(result.urbs)) == (0, 32256, 1)
            assert buffer == bytes(range(256)) * 126
        else:
            assert (result.status, len(result.urbs)) == (-errno.EOVERFLOW, 8)
        usb.util.dispose_resources(device)


def test_requests_name_what_pyusb_sent() -> None:
    function = Scripted()
    with plugged(function) as device:
        device.ctrl_transfer(0x41, 0x5B, 0x1234, 0x0000, b"\1\2")
    request: ControlRequest = function.requests[-1]
    assert str(request.setup) == "41 5b 1234 0000 0002"
    assert (request.interface, request.data) == ("data", b"\1\2")
