from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.fake_sysfs import add_device, files
from usbip_vudc import stub
from usbip_vudc.stub import StubError, bind, bound, forget, unbind
from usbip_vudc.sysfs import SysfsError


class FakeDriver:
    """Notes what is written; refuses what it is told to refuse."""

    def __init__(self, sysfs: Path) -> None:
        self.sysfs = sysfs
        files(sysfs / "bus/usb/drivers/usbip-host")
        self.written: list[str] = []
        self.refused: dict[str, int] = {}

    def write(self, path: Path, value: str) -> None:
        name = str(path.relative_to(self.sysfs / "bus/usb")).removeprefix("drivers/")
        self.written.append(f"{name} {value}")
        for line, number in self.refused.items():
            if self.written[-1].startswith(line):
                raise SysfsError(number, path, value)


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    made = FakeDriver(tmp_path)
    monkeypatch.setattr(stub, "write_attribute", made.write)
    return made


@pytest.fixture
def device(driver: FakeDriver) -> Path:
    made = add_device(driver.sysfs, "pci0/usb3/3-1")
    (made / "driver").symlink_to("/sys/bus/usb/drivers/usb")
    return made


def to_stub(device: Path) -> None:
    (device / "driver").unlink()
    (device / "driver").symlink_to("/sys/bus/usb/drivers/usbip-host")


@pytest.mark.usefixtures("device")
def test_bind_takes_the_device_from_its_driver_first(driver: FakeDriver) -> None:
    bind("3-1", sysfs=driver.sysfs)
    assert driver.written == [
        "usb/unbind 3-1", "usbip-host/match_busid add 3-1", "usbip-host/bind 3-1",
    ]  # fmt: skip


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("where", ["usbip-host/bind", "usbip-host/match_busid add"])
def test_a_bind_that_fails_gives_the_device_back(driver: FakeDriver, where: str) -> None:
    driver.refused[where] = errno.ENODEV
    with pytest.raises(SysfsError, match=f"{where.split()[0]}: writing '(add )?3-1'.*ENODEV"):
        bind("3-1", sysfs=driver.sysfs)
    assert driver.written[-2:] == ["usbip-host/match_busid del 3-1", "drivers_probe 3-1"]


@pytest.mark.usefixtures("device")
def test_a_full_table_is_named(driver: FakeDriver) -> None:
    driver.refused["usbip-host/match_busid add"] = errno.ENOMEM
    with pytest.raises(StubError, match="holds 16 devices already"):
        bind("3-1", sysfs=driver.sysfs)


def test_unbind_forgets_the_device_and_probes_it_anew(driver: FakeDriver, device: Path) -> None:
    to_stub(device)
    assert bound(sysfs=driver.sysfs) == ("3-1",)
    unbind("3-1", sysfs=driver.sysfs)
    assert driver.written == [
        "usbip-host/unbind 3-1", "usbip-host/match_busid del 3-1", "usbip-host/rebind 3-1",
    ]  # fmt: skip


def test_a_kernel_that_forgot_the_device_gives_it_back_too(
    driver: FakeDriver, device: Path
) -> None:
    to_stub(device)
    driver.refused = {"usbip-host/match_busid": errno.ENODEV, "usbip-host/rebind": errno.ENODEV}
    unbind("3-1", sysfs=driver.sysfs)
    assert driver.written[-1] == "drivers_probe 3-1"


def test_what_cannot_be_bound_says_why_and_nothing_is_written(
    driver: FakeDriver, device: Path
) -> None:
    files(add_device(driver.sysfs, "pci0/usb3"), bDeviceClass="09")
    add_device(driver.sysfs, "platform/vhci_hcd.0/usb1/1-1")
    for busid, reason in (
        ("9-9", "no USB device '9-9'; there are: 1-1, 3-1"),
        ("usb3", "usb3 is a hub"),
        ("1-1", "1-1 came through vhci_hcd"),
    ):
        with pytest.raises(StubError, match=reason):
            bind(busid, sysfs=driver.sysfs)
    with pytest.raises(StubError, match="3-1 is not bound to usbip-host, but to usb"):
        unbind("3-1", sysfs=driver.sysfs)
    to_stub(device)
    with pytest.raises(StubError, match="3-1 is bound to usbip-host already"):
        bind("3-1", sysfs=driver.sysfs)
    assert driver.written == []


@pytest.mark.usefixtures("device")
def test_a_missing_module_is_named_with_its_command(driver: FakeDriver) -> None:
    (driver.sysfs / "bus/usb/drivers/usbip-host").rmdir()
    with pytest.raises(StubError, match="run: modprobe usbip-host"):
        bind("3-1", sysfs=driver.sysfs)


def test_a_device_that_left_can_be_forgotten_more_than_once(driver: FakeDriver) -> None:
    forget("3-1", sysfs=driver.sysfs)
    assert driver.written == ["usbip-host/match_busid del 3-1"]
    driver.refused["usbip-host/match_busid del"] = errno.ENODEV
    forget("3-1", sysfs=driver.sysfs)
    driver.refused["usbip-host/match_busid del"] = errno.EIO
    with pytest.raises(SysfsError, match="EIO"):
        forget("3-1", sysfs=driver.sysfs)
