"""endpoint0: whom a control request goes to."""

from __future__ import annotations

import errno

import pytest

from tests.devices import Scripted, gadget
from usbip_vudc.endpoint0 import Endpoint0
from usbip_vudc.function import ControlRequest
from usbip_vudc.sglist import Buffer
from usbip_vudc.standard_requests import ExitLatency, StandardRequests
from usbip_vudc.urb import Urb
from usbip_vudc.usb.ch9 import SetupPacket, Speed
from usbip_vudc.vudc import UserspaceUDC


class Reported(Scripted):
    """A function whose interface has a report descriptor (HID 7.1.1)."""

    answer: Buffer | None = None

    def setup(self, request: ControlRequest) -> Buffer | None:
        super().setup(request)
        return b"\x05\x01" if request.setup.wValue == 0x2200 else self.answer


class Device:
    """A SuperSpeed device of one function, asked directly."""

    def __init__(self) -> None:
        self.function = Reported()
        udc = UserspaceUDC(gadget(self.function), speed=Speed.SUPER)
        self.standard = StandardRequests(udc.description, udc)
        self.done: list[Urb] = []
        self.submit = Endpoint0(udc, self.standard, self.done.append).submit

    def ask(self, *fields: int, data: bytes = b"") -> tuple[int | None, bytes]:
        """Status of the control URB, and the bytes that came."""
        setup = SetupPacket(*fields)
        urb = Urb(1, setup.direction, setup.wLength, setup=setup.pack())
        urb.payload = data
        self.submit(urb)
        assert self.done.pop() is urb
        return urb.status, b"".join(urb.data)


@pytest.fixture
def device() -> Device:
    return Device()


@pytest.fixture
def configured(device: Device) -> Device:
    assert device.ask(0x00, 9, 1, 0, 0) == (0, b"")
    return device


STALLED = (-errno.EPIPE, b"")


def test_a_descriptor_of_an_interface_comes_from_its_function(configured: Device) -> None:
    assert configured.ask(0x81, 6, 0x2200, 0, 64) == (0, b"\x05\x01")
    assert configured.ask(0x81, 6, 0x2200, 0, 1) == (0, b"\x05")
    assert [r.interface for r in configured.function.requests] == ["data", "data"]
    assert configured.ask(0x81, 6, 0x2300, 0, 64) == STALLED, "one that the function has not"
    assert configured.ask(0x81, 6, 0x2200, 7, 64) == STALLED, "no such interface"
    assert configured.ask(0x80, 6, 0x2200, 0, 64) == STALLED, "the device has none"
    assert configured.ask(0x82, 6, 0x2200, 0x81, 64) == STALLED, "an endpoint has none"
    assert len(configured.function.requests) == 3


@pytest.mark.parametrize("asked_before", [False, True])
def test_a_descriptor_goes_to_the_host_only(device: Device, asked_before: bool) -> None:
    """A URB of the other direction has no room for the data that its setup packet asks for."""
    setup = SetupPacket(0x80, 6, 0x0100, 0, 18)
    if asked_before:
        status, data = device.ask(0x80, 6, 0x0100, 0, 18)
        assert (status, len(data)) == (0, 18)
    urb = Urb(1, 0, 18, setup=setup.pack())
    urb.payload = bytes(18)
    device.submit(urb)
    assert (urb.status, b"".join(urb.data)) == STALLED


def test_what_a_function_answered_it_may_change(configured: Device) -> None:
    memory = bytearray(b"A" * 512)
    configured.function.answer = memory
    urb = Urb(1, 0x80, 512, setup=SetupPacket(0xC1, 1, 0, 0, 512).pack())
    configured.submit(urb)
    memory[:] = b"B" * 512
    assert b"".join(urb.data) == b"A" * 512


def test_an_answer_of_no_bytes_is_a_bug_of_the_function_and_stalls(configured: Device) -> None:
    configured.function.answer = 5  # type: ignore[assignment]
    assert configured.ask(0xC1, 1, 0, 0, 8) == STALLED


def test_in_the_address_state_there_is_no_interface_to_ask(device: Device) -> None:
    assert device.ask(0x81, 6, 0x2200, 0, 64) == STALLED
    assert device.function.requests == []


def test_other_standard_requests_never_reach_a_function(configured: Device) -> None:
    for setup in ((0x81, 0, 0, 0, 2), (0x81, 10, 0, 0, 1), (0x81, 7, 0x2200, 0, 64)):
        configured.ask(*setup)
    assert configured.function.requests == []


def test_exit_latencies_come_in_the_data_stage(device: Device) -> None:
    assert device.ask(0x00, 48, 0, 0, 6, data=bytes((1, 2, 3, 0, 4, 0))) == (0, b"")
    assert device.standard.exit_latency == ExitLatency(1, 2, 3, 4)
    assert device.ask(0x00, 48, 0, 0, 6, data=b"short") == STALLED
