"""A composite device and Linux: OS descriptors as its gadgets answer, and functions apart.

The kernel is the referee of version 1.0: what composite.c answers with, our UDC answers with too.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from gadgets.acm.function import AcmFunction
from gadgets.serial.generic import GenericSerialFunction
from gadgets.serial.profiles import Echo
from tests.kernel.carriers import MODULES, USERSPACE_HIGH, prompt_scan
from tests.kernel.test_injection import (
    BLOCK,
    CONTENT,
    CountedDisk,
    assert_echo,
    content,
    direct,
    read_at,
)
from usbip_vudc.carrier import Carrier, carried
from usbip_vudc.gadget import Config, Gadget, OsDescriptors, OsFeatures, WebUsb
from usbip_vudc.injection import Injector, Plan, injected
from usbip_vudc.sysfs import read_attribute
from usbip_vudc.usb.ch9 import Speed

pytestmark = pytest.mark.kernel

VUDC_AND_OUR_HOST: Final = Carrier("usbip-vudc.0", Speed.HIGH, "pyusb")
GUID: Final = "{01234567-89AB-CDEF-0123-456789ABCDEF}"


@pytest.fixture(scope="module", autouse=True)
def modules(need_modules: Callable[..., None]) -> Iterator[None]:
    need_modules(*MODULES, "usb-storage", "sd_mod", "cdc-acm")
    with prompt_scan():
        yield


def test_version_1_is_answered_as_the_kernel_answers_it() -> None:
    features = {
        0: OsFeatures(compatible_id="WINUSB", properties={"DeviceInterfaceGUID": GUID}),
        1: OsFeatures(compatible_id="A", sub_compatible_id="B_1", properties={"b": b"\0\1\xff"}),
    }
    gadget = Gadget(
        name="osdesc",
        idVendor=0x1D6B,
        idProduct=0x0104,
        os_descriptors=OsDescriptors(vendor_code=0xCD, features=features),
        configs=(Config(functions=(GenericSerialFunction(Echo()), CountedDisk())),),
    )
    described = gadget.describe(Speed.HIGH)
    # composite.c knows the interface in the low byte of wValue, of requests to an interface.
    asked = [(0xC0, 0xCD, 0, 4), (0xC1, 0xCD, 0, 5), (0xC1, 0xCD, 1, 5)]
    with carried(gadget, VUDC_AND_OUR_HOST) as device:
        host = device.device()
        assert ask(host, 0x80, 6, 0x03EE, 0) == described.strings[0xEE, 0]
        assert [ask(host, *each) for each in asked] == [described.vendor_replies[e] for e in asked]
        assert ask(host, 0xC0, 0xCD, 0, 4, length=16) == described.vendor_replies[asked[0]][:16]


def ask(host: Any, *fields: int, length: int = 1024) -> bytes:
    return bytes(host.ctrl_transfer(*fields, length))


# --- disk and port, under a plan on one --------------------------------------------------------


@contextmanager
def both(plan: str) -> Iterator[tuple[str, str, CountedDisk, Injector]]:
    """A port, a disk, and the plan at work, on Linux."""
    disk, injector = CountedDisk(), Injector(Plan.parse(plan), "function")
    gadget = Gadget(
        name="both",
        idVendor=0x1D6B,
        idProduct=0x0106,
        serial="0123456789AB",
        os_descriptors=OsDescriptors(vendor_code=0xCD, versions=(1, 2)),
        webusb=WebUsb(vendor_code=0xCD, url="https://example.org"),
        configs=(Config(functions=(AcmFunction(Echo()), disk)),),
    )
    with carried(injected(gadget, injector), USERSPACE_HIGH) as device:
        # Linux reads the BOS of such a device, and minds nothing in it.
        assert read_attribute(device.sysfs / "version").strip() == "2.10"
        yield device.node("ttyACM"), device.node("sd"), disk, injector


@contextmanager
def meanwhile(work: Callable[[int], None]) -> Iterator[None]:
    """Do this again and again, numbered, in a thread; what it raises is raised at the end."""
    over = threading.Event()
    failures: list[BaseException] = []

    def loop() -> None:
        number = 0
        try:
            while not over.is_set():
                work(number)
                number += 1
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    for failure in failures:
        raise failure


def test_a_disk_whose_status_stalls_does_not_disturb_the_port() -> None:
    plan = "mass_storage.in phase(status) every(2) stall"
    with both(plan) as (port, node, disk, injector), direct(node) as fd:

        def read(number: int) -> None:
            lba = number * 8 % (len(CONTENT) // BLOCK)
            assert read_at(fd, lba, 8) == content(lba, 8)

        before = len(injector.trace)
        with meanwhile(read):
            messages = 0
            while len(injector.trace) < before + 3 or messages < 2:
                assert_echo(port, random.Random(messages).randbytes(2100))
                messages += 1
        assert disk.lives == 1, "nobody reset the device"


def test_a_port_that_stalls_does_not_disturb_the_disk() -> None:
    with both("acm.out every(2) stall") as (port, node, disk, injector), direct(node) as fd:

        def write(_number: int) -> None:
            with Path(port).open("wb", buffering=0) as line:
                line.write(bytes(64))

        with meanwhile(write):
            turns = 0
            while not injector.trace or turns < 5:
                lba = turns * 240 % 7200
                assert read_at(fd, lba, 240) == content(lba, 240)
                turns += 1
        assert disk.lives == 1
