"""A disk and a serial port in one device: both busy, a plan on one, and the other does not notice.

Each side goes on until it has seen what it waits for from the other, so that they do overlap; no
test knows how long that takes.
"""

from __future__ import annotations

import itertools
import random
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import pytest
import usb.core
import usb.util

from gadgets.acm.function import AcmFunction
from gadgets.mass_storage import MassStorageFunction, RamLun
from gadgets.serial.profiles import Echo
from usbip_vudc.gadget import Config, Gadget, OsDescriptors, OsFeatures, WebUsb
from usbip_vudc.host.blocking import BlockingHost
from usbip_vudc.host.enumeration import set_configuration
from usbip_vudc.host.scsi import write_command
from usbip_vudc.host.serial import UsbSerial
from usbip_vudc.host.storage import StorageError, UsbStorage
from usbip_vudc.injection import Injector, Plan, injected
from usbip_vudc.pyusb_backend import get_backend
from usbip_vudc.serving import serving
from usbip_vudc.urb import HostUrb
from usbip_vudc.usb.bot import Cbw
from usbip_vudc.usb.ch9 import Direction, SetupPacket, Speed

DEADLINE: Final = 15.0
BLOCK: Final = 512
FAULTS: Final = 3
"""Firings of a plan that one side must live through while the other works."""


class Composite:
    """The device, its two hosts' drivers, and the plan at work."""

    def __init__(self, plan: str, speed: Speed) -> None:
        self.lun = RamLun(1 << 20)
        self.acm = AcmFunction(Echo())
        self.injector = Injector(Plan.parse(plan), "function")
        gadget = Gadget(
            name="both",
            idVendor=0x1D6B,
            idProduct=0x0106,
            os_descriptors=OsDescriptors(
                vendor_code=0xCD, versions=(1, 2), features={0: OsFeatures(compatible_id="WINUSB")}
            ),
            webusb=WebUsb(vendor_code=0xCD, url="https://example.org"),
            configs=(Config(functions=(self.acm, MassStorageFunction([self.lun]))),),
        )
        self.gadget = injected(gadget, self.injector)
        self.speed = speed

    @contextmanager
    def running(self) -> Iterator[None]:
        with serving(self.gadget, speed=self.speed) as port:
            self.device = usb.core.find(backend=get_backend(port=port))
            try:
                self.serial = UsbSerial(self.device)
                self.disk = UsbStorage(self.device, timeout_ms=100)
                yield
            finally:
                usb.util.dispose_resources(self.device)

    @property
    def faults(self) -> int:
        """How often the plan has acted."""
        return len(self.injector.trace)


@contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """Do this again and again in a thread of its own; what it raises is raised at the end."""
    over = threading.Event()
    failures: list[BaseException] = []

    def loop() -> None:
        try:
            while not over.is_set():
                work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(DEADLINE)
    assert not thread.is_alive()
    for failure in failures:
        raise failure


def until(done: Callable[[], bool], work: Callable[[int], None]) -> int:
    """Work, numbered from 0, until it is done; how often that was."""
    end = time.monotonic() + DEADLINE
    for number in itertools.count(1):
        work(number - 1)
        if done():
            return number
        assert time.monotonic() < end, "the other side came to nothing"
    raise AssertionError


# --- what the undisturbed side does, each byte checked -----------------------------------------


def write_and_read(both: Composite, number: int) -> None:
    """Some blocks to the disk, and back."""
    dice = random.Random(number)
    blocks = dice.randrange(1, 65)
    lba = dice.randrange((1 << 20) // BLOCK - blocks)
    data = dice.randbytes(blocks * BLOCK)
    both.disk.write(lba, data)
    assert both.lun.memory[lba * BLOCK :][: len(data)] == data
    assert both.disk.read(lba, blocks) == data


def echo(both: Composite, number: int) -> None:
    """Bytes to the port, and back in their order."""
    data = random.Random(number).randbytes(1 + number * 37 % 3000)
    both.serial.write(data)
    back = b""
    while len(back) < len(data):
        part = both.serial.read(len(data) - len(back), timeout_ms=int(DEADLINE * 1000))
        assert part, f"{len(back)} of {len(data)} bytes came back"
        back += part
    assert back == data


# --- what the disturbed side does, whatever comes of it -----------------------------------------


def hammer_disk(both: Composite) -> None:
    """Commands, and reset recovery after each that USB or the transport did not carry."""
    try:
        both.disk.read(0, 16)
        both.disk.write(64, bytes(4 * BLOCK))
    except (StorageError, usb.core.USBError):
        with suppress(StorageError, usb.core.USBError):
            both.disk.reset_recovery()


def hammer_port(both: Composite) -> None:
    """Messages that nobody need get back, whatever comes instead, and halts cleared."""
    data = next(i for i in both.device.get_active_configuration() if i.bInterfaceClass == 0x0A)
    for transfer in (
        lambda: both.serial.write(bytes(100), timeout_ms=100),
        lambda: both.serial.read(4096, timeout_ms=100),
    ):
        try:
            transfer()
        except usb.core.USBError:
            for endpoint in data:
                both.device.clear_halt(endpoint)


DISK_PLANS: Final = (
    "mass_storage.in every(2) stall",
    "mass_storage.out every(2) stall",
    "mass_storage.in phase(status) every(2) csw(tag=1)",
    "mass_storage.in phase(status) every(3) drop",
    "mass_storage.in phase(data) every(2) babble(600)",
    "mass_storage.in phase(data) every(2) short(100)",
    "mass_storage.in phase(data) every(2) zlp",
    "mass_storage.in every(2) delay(50ms)",
    "mass_storage layout(odd)",
)
PORT_PLANS: Final = (
    "acm.in every(2) stall",
    "acm.out every(2) stall",
    "acm.in every(2) drop",
    "acm.in every(2) corrupt(0)",
    "acm.in every(2) babble(600)",
    "acm.in every(2) nak(50ms)",
    "acm layout(odd)",
)


@pytest.mark.parametrize("plan", DISK_PLANS)
def test_the_port_does_not_notice_a_plan_on_the_disk(plan: str) -> None:
    both = Composite(plan, Speed.HIGH)
    with both.running(), meanwhile(lambda: hammer_disk(both)):
        messages = until(lambda: both.faults >= FAULTS, lambda n: echo(both, n))
        for number in range(messages, messages + 20):
            echo(both, number)
    assert {line.split()[1].partition(".")[0] for line in both.injector.trace} == {"mass_storage"}


@pytest.mark.parametrize("plan", PORT_PLANS)
def test_the_disk_does_not_notice_a_plan_on_the_port(plan: str) -> None:
    both = Composite(plan, Speed.HIGH)
    with both.running():
        both.disk.wait_ready()
        with meanwhile(lambda: hammer_port(both)):
            turns = until(lambda: both.faults >= FAULTS, lambda n: write_and_read(both, n))
            for number in range(turns, turns + 10):
                write_and_read(both, number)
    assert {line.split()[1].partition(".")[0] for line in both.injector.trace} == {"acm"}


def test_a_port_that_nobody_reads_holds_up_no_disk() -> None:
    """Its bytes wait in the device; the disk's pass them."""
    both = Composite("acm.out nth(1000000) stall", Speed.HIGH)
    with both.running():
        both.disk.wait_ready()
        with pytest.raises(usb.core.USBTimeoutError):
            while True:
                both.serial.write(bytes(4096), timeout_ms=50)
        for number in range(10):
            write_and_read(both, number)
        both.serial.read()


def test_a_command_that_waits_holds_up_no_port() -> None:
    """The disk waits for data that its host does not send."""
    both = Composite("acm.out nth(1000000) stall", Speed.HIGH)
    with both.running():
        both.disk.wait_ready()
        cbw = Cbw(1, 128 * BLOCK, Direction.OUT, 0, write_command(0, 128))
        storage = next(i for i in both.device.get_active_configuration() if i.bInterfaceClass == 8)
        next(e for e in storage if not e.bEndpointAddress & 0x80).write(cbw.pack())
        for number in range(10):
            echo(both, number)
        both.disk.reset_recovery()
        both.disk.wait_ready()
        write_and_read(both, 0)


def test_both_at_once_move_every_byte() -> None:
    both = Composite("function layout(odd)", Speed.SUPER)
    messages = 0

    def talk() -> None:
        nonlocal messages
        echo(both, messages)
        messages += 1

    with both.running():
        both.disk.wait_ready()
        with meanwhile(talk):
            until(lambda: messages >= 20, lambda number: write_and_read(both, number))


def test_vendor_requests_are_answered_while_both_are_busy() -> None:
    both = Composite("mass_storage.in every(2) stall", Speed.HIGH)
    described = both.gadget.describe(Speed.HIGH)
    with both.running(), meanwhile(lambda: hammer_disk(both)):

        def ask(number: int) -> None:
            echo(both, number)
            for (kind, code, value, index), reply in described.vendor_replies.items():
                assert bytes(both.device.ctrl_transfer(kind, code, value, index, 4096)) == reply

        assert until(lambda: both.faults >= FAULTS, ask)


def test_a_wait_ends_though_replies_for_others_keep_coming(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever waits reads for all, but no longer than it has time."""
    both = Composite("acm.out nth(1000000) stall", Speed.HIGH)
    with (
        serving(both.gadget, speed=Speed.HIGH) as port,
        BlockingHost("127.0.0.1", port, "1-1") as host,
    ):
        host.control(set_configuration(1))
        silent = HostUrb(0x83, bytearray(BLOCK))  # the disk's: nobody has asked it anything
        host.submit(silent)
        read, reads = host._read, itertools.count()

        def read_for_others(deadline: float | None) -> bool:
            assert next(reads) < 1000, "it reads for ever"
            get_status = SetupPacket(0x80, 0, 0, 0, 2)
            host.submit(HostUrb(0, bytearray(2), setup=get_status))
            assert select.select([host._sock], [], [], DEADLINE)[0]
            return read(deadline)

        monkeypatch.setattr(host, "_read", read_for_others)
        assert not host.wait(silent, 0.01)
        assert silent.status is None
