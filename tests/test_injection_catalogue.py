"""Every ready-made plan on a port and a disk: it acts, and shows as the bug that it stands for.

The host is stricter than an operating system: what Linux looks away from is an error here.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
import usb.core
import usb.util

from gadgets.acm.function import AcmFunction
from gadgets.mass_storage import MassStorageFunction, RamLun
from usbip_vudc.exportable import Export
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.host.serial import UsbSerial
from usbip_vudc.host.storage import StorageError, UsbStorage
from usbip_vudc.injection import CATALOGUE, Injector, Plan, find_plan, injected, injected_connect
from usbip_vudc.injection.transfer import SEAMS
from usbip_vudc.proxy.export import InjectedExport
from usbip_vudc.pyusb_backend import get_backend
from usbip_vudc.serving import serving_udcs
from usbip_vudc.settle import wait_until
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.vudc import UserspaceUDC

DEADLINE = 10.0
LENGTH = 32256
"""Bytes of the command of 2019: 3584 and seven pages."""


class Lab:
    """A port and a disk behind a plan, and a host that goes on whatever happens."""

    def __init__(self, plan: Plan, speed: Speed) -> None:
        self.injectors = {seam: Injector(plan, seam) for seam in SEAMS}
        self.lun = RamLun(1 << 20)
        self.outcomes: list[str] = []
        self.speed = speed

    @contextmanager
    def running(self) -> Iterator[None]:
        gadget = Gadget(
            name="lab", idVendor=0x1D6B, idProduct=0x0106,
            configs=(Config(functions=(AcmFunction(), MassStorageFunction([self.lun]))),),
        )  # fmt: skip
        udc = UserspaceUDC(injected(gadget, self.injectors["function"]), speed=self.speed)
        export = InjectedExport(Export(1, udc), self.injectors["cable"])
        with serving_udcs(export) as port, ExitStack() as self.stack:
            self.backend = get_backend(port=port, connect=injected_connect(self.injectors["host"]))
            self.open()
            yield

    def open(self) -> None:
        """Have the device, as soon as it is there."""
        found: list[usb.core.Device] = []

        def there() -> bool:
            with suppress(usb.core.USBError):
                device = usb.core.find(backend=self.backend)
                if device is not None:
                    device.get_active_configuration()
                    found.append(device)
            return bool(found)

        assert wait_until(there, DEADLINE)
        self.device = found[0]
        self.stack.callback(usb.util.dispose_resources, self.device)
        self.disk = UsbStorage(self.device, timeout_ms=2000)

    def cycle(self, number: int) -> None:
        """A write, a read and an INQUIRY of the disk, and an echo of the port."""
        data = bytes((number + i) % 251 for i in range(LENGTH))
        self.note("ready", lambda: self.disk.wait_ready())
        self.note("write", lambda: self.disk.write(8, data))
        self.note("read", lambda: self.disk.read(8, LENGTH // 512) == data)
        self.note("inquiry", lambda: self.disk.inquiry().vendor != "")
        self.note("echo", lambda: self.echo(data[:3000]))

    def echo(self, data: bytes) -> bool:
        port = UsbSerial(self.device)
        port.write(data)
        back = b""
        while len(back) < len(data) and (piece := port.read()):
            back += piece
        return back == data

    def note(self, what: str, call: object) -> None:
        assert callable(call)
        try:
            outcome = "ok" if call() in (None, True) else "changed"
        except StorageError as error:
            outcome = type(error).__name__
        except usb.core.USBError as error:
            outcome = f"-{errno.errorcode[error.errno or 0]}"
            self.mend(error)
        self.outcomes.append(f"{what} {outcome}")

    def mend(self, error: usb.core.USBError) -> None:
        if error.errno == errno.ENODEV:
            usb.util.dispose_resources(self.device)
            self.open()
        else:
            with suppress(usb.core.USBError):
                self.disk.reset_recovery()


def run(plan: Plan, speed: Speed = Speed.HIGH, cycles: int = 3) -> Lab:
    lab = Lab(plan, speed)
    with lab.running():
        for number in range(cycles):
            lab.cycle(number)
    return lab


# What comes of it, besides what goes well. The disk's own UNIT ATTENTION follows each reset.
BAD = {
    "sg-2019": {"read -EOVERFLOW"},
    "wrong-tag": {"write TransportError", "read CheckCondition"},
    "residue-lies": {"read StorageError"},
    "olympus-signature": {
        f"{what} TransportError" for what in ("ready", "write", "read", "inquiry")
    },
    "data-with-csw": {"inquiry -EOVERFLOW"},
    "bit-rot": {"read changed"},
    "pulled-plug": {"write -ENODEV", "read CheckCondition"},
}
RACES = {"flaky-wire", "unlink-race"}
"""What is hit depends on how many URBs a port's echo takes, or on who is first."""


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_ready_made_plan_shows(name: str) -> None:
    speed = Speed.SUPER if name == "sg-2019" else Speed.HIGH
    lab = run(find_plan(name, seed=7), speed)
    assert any(injector.trace for injector in lab.injectors.values())
    bad = {outcome for outcome in lab.outcomes if not outcome.endswith(" ok")}
    if name not in RACES:
        assert bad == BAD.get(name, set())
    assert len(lab.outcomes) == 15, "it went on to the end"


def test_the_case_of_2019_is_none_at_high_speed() -> None:
    lab = run(find_plan("sg-2019"), Speed.HIGH)
    assert all(outcome.endswith(" ok") for outcome in lab.outcomes)
    assert lab.injectors["host"].trace


def test_every_expectation_is_of_a_plan() -> None:
    assert set(BAD) | RACES <= set(CATALOGUE)
