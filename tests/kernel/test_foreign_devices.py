"""Test devices of other projects on real UDCs, judged by those projects' hosts where they have one.

python-functionfs's host script (functionfs.tests.host, through libusb1) has no verdict but an
exception, and a line for each endpoint with its bandwidth.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final

import pytest
import usb.core
import usb.util
from functionfs.tests import host as functionfs_host

from gadgets.ffs_test.presets import ffs_test
from gadgets.functionfs_test.presets import functionfs_test
from gadgets.pyusb_test.presets import pyusb_test
from tests.kernel.carriers import DUMMY_SUPER, MODULES, VUDC, on_carriers
from usbip_vudc.carrier import OURS, Carrier, carried
from usbip_vudc.registry import GadgetOptions
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.usbtest import Overrides, bound, judge, parse_cases
from usbip_vudc.verdicts import PASS

pytestmark = pytest.mark.kernel

PAIRS: Final = 3
"""Bulk pairs that each of the kernel's controllers has endpoints for."""

TIMEOUT_MS: Final = 20_000


@pytest.fixture(scope="module", autouse=True)
def modules(need_modules: Callable[..., None]) -> None:
    need_modules(*MODULES, "usbtest")


@on_carriers(VUDC, DUMMY_SUPER)
def test_functionfs_test(carrier: Carrier, capsys: pytest.CaptureFixture[str]) -> None:
    with carried(functionfs_test(GadgetOptions(pairs=PAIRS)), carrier) as way:
        device = way.device()
        device.default_timeout = TIMEOUT_MS
        addresses = [endpoint.bEndpointAddress for endpoint in device[0][(0, 0)]]
        assert len(addresses) == 2 * PAIRS
        for address in addresses:
            if address & 0x80:
                assert device.read(address, 1024).tobytes() == bytes([address]) + bytes(1023)
        _halts([address for address in addresses if not address & 0x80], device)
        usb.util.dispose_resources(device)
        functionfs_host.main()
        _measured_each_endpoint(capsys.readouterr().out)


def _halts(addresses: list[int], device: usb.core.Device) -> None:
    first, second, *_ = addresses
    device.write(first, bytes([second]))
    with pytest.raises(usb.core.USBError) as caught:
        for _ in range(3):  # the function hears of the first one when two more may have come
            device.write(first, bytes([first]))
    assert caught.value.errno == errno.EPIPE
    device.write(second, bytes([second]))
    device.clear_halt(first)
    device.write(first, bytes([first]))


def _measured_each_endpoint(said: str) -> None:
    assert "Device not found" not in said
    assert "bytearray(b'foo bar baz')" in said, said
    bandwidths = [line.split()[2] for line in said.splitlines() if "bandwidth:" in line]
    assert len(bandwidths) == 2 * PAIRS, said
    assert all(int(bandwidth) > 0 for bandwidth in bandwidths), said


def test_pyusb_test_device_under_vhci() -> None:
    gadget = pyusb_test(GadgetOptions())
    with carried(gadget, Carrier(OURS, Speed.FULL, "linux")) as way:
        device = way.device()
        device.default_timeout = TIMEOUT_MS
        assert (way.sysfs / "descriptors").read_bytes()[18:] == (
            gadget.describe(Speed.FULL).configurations[0].pack()
        )
        for setting, lengths in enumerate(((8, 2, 0), (8, 2, 0), (64, 16))):
            device.set_interface_altsetting(0, setting)
            _loops(device, setting + 1, lengths)
        device.reset()
        _loops(device, 1, (8, 2))
        usb.util.dispose_resources(device)


def _loops(device: usb.core.Device, number: int, lengths: tuple[int, ...]) -> None:
    for length in lengths:
        assert device.write(number, bytes(range(length))) == length
    for length in lengths:
        assert device.read(0x80 | number, length or 16).tobytes() == bytes(range(length))


def test_ffs_test_in_the_hands_of_usbtest() -> None:
    gadget = ffs_test(GadgetOptions())
    with carried(gadget, DUMMY_SUPER) as way, bound(way.sysfs.name) as target:
        assert (way.sysfs / "descriptors").read_bytes()[18 + 9 :] == (
            gadget.describe(Speed.SUPER).configurations[0].pack()[9:]
        )
        [name] = way.sysfs.glob("*:*/interface")
        assert name.read_text() == "Source/Sink\n"
        verdicts = judge(target, parse_cases("1-8"), overrides=Overrides(iterations=5))
    assert [verdict.name for verdict in verdicts if verdict.result == PASS] == [
        f"test {number}" for number in range(1, 9)
    ]
