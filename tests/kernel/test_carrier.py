"""A gadget carried to a host on every UDC, by Linux and by our own host: there, away, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import usb.core
import usb.util

from tests.devices import Scripted, echo, gadget
from tests.kernel.carriers import DUMMY_SUPER, MODULES, STUB, USERSPACE_SUPER, VUDC
from tests.kernel.conftest import left_behind
from usbip_vudc.carrier import Carried, Carrier, CarrierError, carried
from usbip_vudc.errors import SoftDisconnect
from usbip_vudc.function import Endpoint
from usbip_vudc.usb.ch9 import Speed

pytestmark = pytest.mark.kernel

WAYS = (
    USERSPACE_SUPER, VUDC, DUMMY_SUPER, STUB,
    replace(VUDC, host="pyusb"), replace(STUB, host="pyusb"),
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def modules(need_modules: Callable[..., None]) -> None:
    need_modules(*MODULES)


async def obey(endpoints: Mapping[str, Endpoint]) -> None:
    """Echo, but leave the bus for a moment when told so."""
    buffer = bytearray(512)
    while True:
        said = bytes(buffer[: await endpoints["out"].submit(buffer)])
        if said == b"leave":
            raise SoftDisconnect(0.2)
        await endpoints["in"].submit(said)


def addresses(device: usb.core.Device) -> tuple[int, int]:
    """Of its bulk pair, which each UDC numbers as it likes."""
    found = [endpoint.bEndpointAddress for endpoint in device.get_active_configuration()[(0, 0)]]
    return min(found), max(found)


def exchange(way: Carried, data: bytes) -> usb.core.Device:
    device = way.device()
    out, in_ = addresses(device)
    assert device.write(out, data, 5000) == len(data)
    assert device.read(in_, 512, 5000).tobytes() == data
    return device


@pytest.mark.parametrize("carrier", WAYS, ids=str)
def test_a_device_may_leave_and_come_back_in_either_way(carrier: Carrier) -> None:
    before = left_behind()
    assert carrier.why_not() is None
    with carried(gadget(Scripted(obey, alternates=1)), carrier) as way:
        first = exchange(way, b"there")
        assert way.device() is first
        way.unplug()
        second = exchange(way, b"plugged in again")
        assert second is not first
        second.write(addresses(second)[0], b"leave", 5000)
        way.wait_gone()
        assert exchange(way, b"back by itself") is not second
    assert left_behind() == before


def test_a_udc_that_is_taken_or_too_slow_says_so() -> None:
    assert "goes up to high speed" in str(replace(VUDC, speed=Speed.SUPER).why_not())
    assert Carrier.parse(VUDC.udc) == replace(VUDC, host="pyusb")
    one, other = (gadget(Scripted(echo, alternates=1)) for _ in range(2))
    with (
        carried(one, replace(VUDC, host="pyusb")),
        pytest.raises(CarrierError, match="is taken by gadget test: usbip-vudc down test"),
        carried(other, VUDC),
    ):
        pass
