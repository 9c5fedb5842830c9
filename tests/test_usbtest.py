"""usbip-vudc usbtest, without usbtest: what is asked of the driver, and what is made of its answer.

The structures and the numbers of the ioctls are computed by hand from the kernel's headers.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import select
import signal
import struct
import subprocess
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
import usb.core
from click.testing import CliRunner, Result

from gadgets.usbtest.function import SourceSinkFunction
from tests.fake_sysfs import add_device, add_interface, files
from usbip_vudc.carrier import Carrier, carried
from usbip_vudc.cli import main
from usbip_vudc.errors import SchemeError, UsbipVudcError
from usbip_vudc.function import Endpoint as SeamEndpoint
from usbip_vudc.gadget import Config
from usbip_vudc.registry import GadgetOptions, load_gadget
from usbip_vudc.settle import wait_until
from usbip_vudc.sysfs import SysfsError
from usbip_vudc.usb.ch9 import Direction, Speed, TransferType
from usbip_vudc.usb.descriptors import (
    Configuration,
    ConfigurationDescriptor,
    DeviceDescriptor,
    Endpoint,
    EndpointDescriptor,
    Interface,
    InterfaceDescriptor,
    SuperSpeedEndpointCompanion,
)
from usbip_vudc.usbtest import (
    CASES,
    GROUPS,
    Case,
    Overrides,
    Parameters,
    Run,
    Target,
    UsbtestError,
    bound,
    judge,
    parameter,
    parse_cases,
    runs_of,
)
from usbip_vudc.usbtest import child as child_module
from usbip_vudc.usbtest import ioctl as ioctl_module
from usbip_vudc.usbtest.bringing import _end_what_hangs as end_what_hangs
from usbip_vudc.usbtest.bringing import modules_for, read_carrier, usual_gadget
from usbip_vudc.usbtest.child import run_in_child
from usbip_vudc.usbtest.driver import load
from usbip_vudc.usbtest.meaning import meaning, not_supported
from usbip_vudc.usbtest.parameters import FULL, HCD_TESTS, PROFILES, QUICK
from usbip_vudc.verdicts import FAIL, PASS, SKIP, Verdict
from usbip_vudc.vudc import UserspaceUDC

SMALL = Parameters(3, 1024, 512, 8)


def endpoint(address: int, kind: TransferType, size: int, companion: bytes = b"") -> Endpoint:
    descriptor = EndpointDescriptor(
        bEndpointAddress=address, bmAttributes=kind, wMaxPacketSize=size, bInterval=1
    )
    return Endpoint(descriptor, companion)


def six(bulk: int, iso: int, companion: bytes = b"") -> tuple[Endpoint, ...]:
    """The endpoints of the ready-made gadget."""
    return tuple(
        endpoint(direction | number, kind, size, companion)
        for number, kind, size in (
            (1, TransferType.BULK, bulk),
            (2, TransferType.INTERRUPT, bulk),
            (3, TransferType.ISOCHRONOUS, iso),
        )
        for direction in Direction
    )


BULK = (endpoint(0x81, TransferType.BULK, 512), endpoint(0x01, TransferType.BULK, 512))
LOW = (endpoint(0x82, TransferType.INTERRUPT, 8), endpoint(0x02, TransferType.INTERRUPT, 8))


def target(
    speed: Speed = Speed.HIGH,
    endpoints: tuple[Endpoint, ...] = BULK,
    controller: str = "vhci_hcd",
    ids: tuple[int, int] = (0x0525, 0xA4A0),
    node: str = "/nonexistent",
) -> Target:
    return Target(
        busid="3-1", node=node, interface=0, setting=0, speed=speed, ids=ids,
        controller=controller, endpoints=endpoints,
    )  # fmt: skip


def run(number: int, parameters: Parameters = SMALL) -> Run:
    return Run(f"test {number}", CASES[number], parameters)


# --- ioctls -------------------------------------------------------------------------------------


def test_the_ioctls_have_the_kernels_numbers() -> None:
    # _IOWR('U', 18, 16 bytes: int, int, pointer) and _IOWR('U', 100, 40 bytes: five u32, padding
    # of 4, two s64) where pointers have 64 bits; 12 and 28 bytes where they have 32.
    wide = struct.calcsize("P") == 8
    numbers = ioctl_module.USBDEVFS_IOCTL, ioctl_module.TEST_REQUEST
    assert numbers == ((0xC0105512, 0xC0285564) if wide else (0xC00C5512, 0xC01C5564))


def test_a_request_carries_the_parameters_and_brings_the_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def answer(fd: int, request: int, wrapper: Any) -> int:
        interface, code, _, address = struct.unpack("iI0P0sP", bytes(wrapper))
        raw = (ctypes.c_char * 40).from_address(address)
        asked.append((fd, request, interface, code, struct.unpack_from("5I", raw)))
        struct.pack_into("qq", raw, 24, 2, 500_000)
        return 0

    monkeypatch.setattr("usbip_vudc.usbtest.ioctl.fcntl.ioctl", answer)
    assert ioctl_module.issue(7, 1, 24, Parameters(5, 512, 64, 8)) == 2.5
    assert asked == [(7, 0xC0105512, 1, 0xC0285564, (24, 5, 512, 64, 8))]


# --- the child ----------------------------------------------------------------------------------


def in_child(
    monkeypatch: pytest.MonkeyPatch, what: Any, timeout: float = 20
) -> child_module.Ending:
    monkeypatch.setattr(child_module, "issue", what)
    fd = os.open(os.devnull, os.O_RDWR)
    try:
        return run_in_child(fd, 0, 1, SMALL, timeout)
    finally:
        os.close(fd)


def refuse(*_: object) -> float:
    raise OSError(errno.EOVERFLOW, "no")


def test_a_test_passes_or_fails_with_an_errno(monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_child(monkeypatch, lambda *_: 1.5) == child_module.Ending(0, 1.5)
    assert in_child(monkeypatch, refuse) == child_module.Ending(errno.EOVERFLOW, 0.0)


def test_the_child_has_no_file_of_ours_but_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()

    def look(fd: int, *_: object) -> float:
        os.fstat(fd)
        try:
            os.fstat(writer)
        except OSError:
            return 1.0
        return 2.0

    assert in_child(monkeypatch, look).seconds == 1.0
    os.close(reader)
    os.close(writer)


def test_a_test_that_takes_too_long_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    ending = in_child(monkeypatch, lambda *_: time.sleep(100), 0.05)
    assert (ending.errno, ending.hung) == (None, False)


def test_a_test_that_no_signal_ends_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # A process that cannot be killed cannot be made here: its killer is kept from it instead.
    left: list[int] = []
    monkeypatch.setattr(child_module, "GRACE", 0.05)
    with monkeypatch.context() as patched:
        patched.setattr("os.kill", lambda pid, _: left.append(pid))
        ending = in_child(patched, lambda *_: time.sleep(100), 0.05)
    assert (ending.errno, ending.hung) == (None, True)
    assert child_module.hanging()
    os.kill(left[0], signal.SIGKILL)
    assert wait_until(lambda: not child_module.hanging(), 20)


def test_an_interrupt_ends_the_test_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    wait = select.select
    asked: list[float] = []

    def interrupted(readers: list[int], _w: list[int], _x: list[int], timeout: float) -> Any:
        asked.append(timeout)
        if len(asked) == 1:
            raise KeyboardInterrupt
        return wait(readers, [], [], timeout)

    monkeypatch.setattr("usbip_vudc.usbtest.child.select.select", interrupted)
    with pytest.raises(KeyboardInterrupt):
        in_child(monkeypatch, lambda *_: time.sleep(100))
    assert len(asked) == 2  # it was waited for
    assert not child_module.hanging()


def test_a_child_that_dies_of_something_else_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsbipVudcError, match="without a result"):
        in_child(monkeypatch, lambda *_: os._exit(3))


# --- cases --------------------------------------------------------------------------------------


def numbers(cases: tuple[Case, ...]) -> list[int]:
    return [case.number for case in cases]


def test_there_are_thirty_and_each_is_at_its_number() -> None:
    assert numbers(CASES) == list(range(30))
    assert len({case.what for case in CASES}) == 30


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", [7]),
        ("0-3, 2, 7", [0, 1, 2, 3, 7]),
        ("out", [1, 3, 5, 7, 17, 19]),
        ("in", [2, 4, 6, 8, 18, 20]),
        ("control", [0, 9, 10, 14, 21]),
        ("iso-in,iso", [16, 23, 15, 22]),
        ("halt,unlink", [13, 29, 11, 12, 24]),
        ("interrupt,throughput", [25, 26, 27, 28]),
    ],
)
def test_cases_are_named_by_number_range_and_group(text: str, expected: list[int]) -> None:
    assert numbers(parse_cases(text)) == expected


@pytest.mark.parametrize(
    "text", ["", "30", "5-3", "-1", "bulk", "1-", "0-30", "1,,2", "1_0", "\u0663", "9" * 5000]
)
def test_other_words_are_refused_with_those_that_there_are(text: str) -> None:
    with pytest.raises(SchemeError, match=r"0 to 29.*throughput, iso-out, iso-in"):
        parse_cases(text)


def test_every_group_has_its_cases() -> None:
    assert sorted(n for group in GROUPS for n in numbers(parse_cases(group))) == list(range(30))


# --- parameters ---------------------------------------------------------------------------------

COMPANION = SuperSpeedEndpointCompanion(bMaxBurst=1, bmAttributes=2).pack()
TARGETS = {
    "super": target(Speed.SUPER, six(1024, 1024, COMPANION)),
    "high": target(Speed.HIGH, six(512, 1 << 11 | 1024)),
    "full": target(Speed.FULL, six(64, 1023)),
    "low": target(Speed.LOW, LOW, ids=(0xFFF0, 0xFFF0)),
    "small": target(Speed.FULL, six(8, 10)),
    "dummy": target(Speed.SUPER, six(1024, 1024), "dummy_hcd"),
    "nothing": target(Speed.HIGH, ()),
}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", TARGETS)
def test_what_is_read_is_always_whole_packets(name: str, profile: str) -> None:
    device = TARGETS[name]
    for case in (case for case in CASES if case.direction == Direction.IN):
        for one in runs_of(case, device, profile, Overrides()):
            unit = device.max_packet_size(case.transfer_type, Direction.IN)
            if case.group == "iso":
                unit = device.bytes_per_interval(Direction.IN)
                assert one.parameters.length // unit <= 1024
            assert one.parameters.length >= unit
            assert not one.parameters.length % unit, one
            if case.number in (4, 8):
                assert one.parameters.vary < one.parameters.length
                assert not one.parameters.vary % unit, one


def test_an_isochronous_interval_has_all_its_packets() -> None:
    assert TARGETS["super"].bytes_per_interval(Direction.IN) == 1024 * 2 * 3
    assert TARGETS["high"].bytes_per_interval(Direction.OUT) == 1024 * 2
    assert TARGETS["full"].bytes_per_interval(Direction.IN) == 1023


def test_odd_scatterlists_are_those_of_hcd_tests_where_the_controller_takes_them() -> None:
    odd = runs_of(CASES[7], TARGETS["super"], HCD_TESTS, Overrides())
    assert [(one.name, str(one.parameters)) for one in odd] == [
        ("test 7a", "-c 2000 -s 2048 -v 579 -g 32"),
        ("test 7b", "-c 2000 -s 4096 -v 41 -g 32"),
        ("test 7c", "-c 2000 -s 64 -v 63 -g 32"),
    ]
    (even,) = runs_of(CASES[7], TARGETS["dummy"], QUICK, Overrides())
    assert (even.name, str(even.parameters)) == ("test 7", "-c 20 -s 4096 -v 1024 -g 8")
    (mine,) = runs_of(CASES[7], TARGETS["super"], QUICK, Overrides(vary=421))
    assert (mine.name, mine.parameters.vary) == ("test 7", 421)
    fewer = runs_of(CASES[7], TARGETS["super"], QUICK, Overrides(iterations=1))
    assert [one.parameters.iterations for one in fewer] == [1, 1, 1]


@pytest.mark.parametrize(
    ("number", "name", "profile", "expected"),
    [
        (14, "high", QUICK, "-c 20 -s 256 -v 1 -g 8"),
        (14, "high", HCD_TESTS, "-c 15000 -s 256 -v 1 -g 32"),
        (21, "low", QUICK, "-c 20 -s 64 -v 1 -g 8"),
        (3, "high", QUICK, "-c 20 -s 1024 -v 421 -g 8"),
        (3, "low", QUICK, "-c 20 -s 64 -v 5 -g 8"),
        (10, "full", QUICK, "-c 5 -s 1024 -v 64 -g 32"),
        (1, "high", FULL, "-c 1000 -s 1024 -v 512 -g 32"),
        (15, "full", HCD_TESTS, "-c 1000 -s 32736 -v 0 -g 8"),
        (28, "super", QUICK, "-c 4 -s 16384 -v 0 -g 8"),
        (28, "low", QUICK, "-c 4 -s 64 -v 0 -g 8"),
    ],
)
def test_each_case_has_parameters_of_its_own(
    number: int, name: str, profile: str, expected: str
) -> None:
    (one,) = runs_of(CASES[number], TARGETS[name], profile, Overrides())
    assert str(one.parameters) == expected


def test_what_the_user_says_comes_first() -> None:
    (one,) = runs_of(CASES[4], TARGETS["high"], QUICK, Overrides(1, 1000, 0, 3))
    assert one.parameters == Parameters(1, 1000, 0, 3)


# --- meaning ------------------------------------------------------------------------------------

MEANINGS = [
    (run(4, Parameters(1, 1024, 421, 8)), 75, "high", "-EOVERFLOW: .*: vary 421 is no multiple"),
    (run(2, Parameters(1, 1000, 421, 8)), 75, "high", ": length 1000 is no .* maxpacket 512$"),
    (run(4), 75, "high", "-EOVERFLOW: the device sent more than the buffer holds$"),
    (run(7, Parameters(1, 1024, 421, 8)), 22, "dummy", "dummy_hcd refuses SG .*maxpacket 1024"),
    (run(7, Parameters(1, 1024, 421, 8)), 22, "high", "refused the parameters"),
    (run(2), 22, "high", "byte that is not of the pattern"),
    (run(14, Parameters(1, 4, 4, 8)), 22, "high", "vary 4 must be less than length 4"),
    (run(14), 74, "high", "-EBADMSG: what came back is not what was written"),
    (run(14), 32, "high", "-EPIPE: .*did not know the request"),
    (run(9), 33, "high", "-EDOM: a descriptor"),
    (run(10), 33, "high", "-EDOM: .*out of order"),
    (run(13), 22, "high", "-EINVAL: an endpoint was halted"),
    (run(11), 1000, "high", "unlinked has status 0, not -ECONNRESET"),
    (run(12), 2002, "high", "killed has status -ENOENT, not -ENOENT"),
    (run(12), 2032, "high", "killed has status -EPIPE, not -ENOENT"),
    (run(16), 5, "high", "a tenth of the packets"),
    (run(2), 121, "high", "-EREMOTEIO: .*short packet"),
    (run(1), 110, "high", "-ETIMEDOUT: .*10 s"),
    (run(15), 28, "high", "-ENOSPC: .*bandwidth"),
    (run(1), 999, "high", "^-999$"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "number", "name", "pattern"), MEANINGS)
def test_an_errno_is_told_in_the_words_of_the_test(
    one: Run, number: int, name: str, pattern: str
) -> None:
    assert re.search(pattern, meaning(number, one, TARGETS[name]))


BARE = target()
FFS = target(ids=(0x0525, 0xA4A4), endpoints=six(512, 1024))
REASONS = [
    (run(15), BARE, "no isochronous OUT endpoint in setting 0 of interface 0"),
    (run(26), BARE, "no interrupt IN endpoint"),
    (run(2), TARGETS["nothing"], "no bulk IN endpoint"),
    (run(13), TARGETS["nothing"], "no bulk endpoint"),
    (run(15), FFS, "usbtest does no iso tests with 0525:a4a4"),
    (run(25), FFS, "usbtest does no interrupt tests with 0525:a4a4"),
    (run(14), FFS, "does not ask 0525:a4a4 for vendor requests"),
    (run(23), TARGETS["low"], "low speed has no isochronous"),
    (run(25), TARGETS["low"], "in its bulk tests"),
    (run(24, Parameters(1, 512, 0, 3)), BARE, "queue of 4 URBs"),
    (run(3, Parameters(1, 512, 0, 3)), BARE, "-v 0 -g 3 leaves nothing"),
    (run(10, Parameters(0xFFFF_FFFF, 512, 0, 32)), BARE, "more requests than it can count"),
    (run(29), BARE, "of this kernel does not know"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "device", "text"), REASONS)
def test_what_is_not_supported_has_a_reason(one: Run, device: Target, text: str) -> None:
    assert text in (not_supported(errno.EOPNOTSUPP, one, device) or "")


def test_throughput_wants_pattern_0() -> None:
    why = not_supported(errno.EOPNOTSUPP, run(27), BARE, pattern=1)
    assert why is not None
    assert "module has pattern 1" in why


def test_a_queue_of_bulk_urbs_at_low_speed_is_no_fault_of_the_device() -> None:
    why = not_supported(errno.EINVAL, run(24), TARGETS["low"])
    assert why is not None
    assert "no interrupt endpoint" in why
    assert not_supported(errno.EINVAL, run(24), TARGETS["full"]) is None
    assert not_supported(errno.EINVAL, run(1), TARGETS["low"]) is None


# --- a device in a tree that looks like sysfs ---------------------------------------------------


def descriptors(ids: tuple[int, int], *settings: tuple[Endpoint, ...]) -> bytes:
    device = DeviceDescriptor(bcdUSB=0x0200, bMaxPacketSize0=64, idVendor=ids[0], idProduct=ids[1])
    configuration = Configuration(
        ConfigurationDescriptor(bConfigurationValue=1, wTotalLength=0, bNumInterfaces=1),
        tuple(
            Interface(InterfaceDescriptor(bInterfaceNumber=0, bAlternateSetting=n), endpoints)
            for n, endpoints in enumerate(settings)
        ),
    ).with_counts()
    return device.pack() + configuration.pack()


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """A machine with vhci_hcd and usbtest's module, and no device."""
    tree = tmp_path / "sys"
    controller = files(tree / "devices/platform/vhci_hcd.0")
    (controller / "driver").symlink_to("/sys/bus/platform/drivers/vhci_hcd")
    files(tree / "bus/usb/drivers/usbtest", bind="", unbind="")
    files(tree / "module/usbtest/parameters", alt="5", pattern="0")
    return tree


def plug(sysfs: Path, ids: tuple[int, int] = (0x0525, 0xA4A0), driver: str = "usbtest") -> Path:
    device = add_device(
        sysfs, "platform/vhci_hcd.0/usb3/3-1", speed="480", bConfigurationValue="1",
        idVendor=f"{ids[0]:04x}", idProduct=f"{ids[1]:04x}",
    )  # fmt: skip
    (device / "descriptors").write_bytes(descriptors(ids, (), six(512, 1024)))
    interface = add_interface(device, 0, driver)
    files(interface, bAlternateSetting=" 1")
    return interface


def test_a_target_is_read_from_sysfs(sysfs: Path) -> None:
    found = Target.of(plug(sysfs))
    assert (found.busid, found.node, found.interface) == ("3-1", "/dev/bus/usb/001/002", 0)
    assert (found.setting, found.speed, found.controller) == (1, Speed.HIGH, "vhci_hcd")
    assert found.any_sg
    assert len(found.endpoints) == 6
    assert str(found) == "3-1, 0525:a4a0 (Linux gadget zero), high speed at vhci_hcd"


@pytest.mark.parametrize("device", [None, "3-1", "/dev/bus/usb/001/002"])
def test_the_device_of_usbtest_is_found(sysfs: Path, device: str | None) -> None:
    plug(sysfs)
    with bound(device, sysfs=sysfs) as found:
        assert found.busid == "3-1"
    assert (sysfs / "bus/usb/drivers/usbtest/unbind").read_text() == "\n"


@pytest.mark.parametrize("device", [None, "3-1"])
def test_a_known_device_without_a_driver_is_bound_for_a_while(
    sysfs: Path, device: str | None
) -> None:
    plug(sysfs, driver="")
    with bound(device, sysfs=sysfs):
        assert (sysfs / "bus/usb/drivers/usbtest/bind").read_text() == "3-1:1.0"
    assert (sysfs / "bus/usb/drivers/usbtest/unbind").read_text() == "3-1:1.0"


def test_another_driver_keeps_its_device(sysfs: Path) -> None:
    plug(sysfs, driver="cdc_acm")
    with (
        pytest.raises(UsbtestError, match=r"belongs to driver cdc_acm: echo 3-1:1\.0"),
        bound("3-1", sysfs=sysfs),
    ):
        pass


def test_an_unknown_device_is_refused_with_what_there_is(sysfs: Path) -> None:
    plug(sysfs, ids=(0x1234, 0x5678), driver="")
    with (
        pytest.raises(UsbtestError, match=r"1234:5678 is none of 0525:a4a0.*vendor=0x1234"),
        bound("3-1", sysfs=sysfs),
    ):
        pass
    with pytest.raises(UsbtestError, match="usbtest has no device"), bound(None, sysfs=sysfs):
        pass


def test_a_new_id_names_a_device_that_the_driver_knows_and_is_removed(sysfs: Path) -> None:
    plug(sysfs, ids=(0x1234, 0x5678), driver="")
    directory = files(sysfs / "bus/usb/drivers/usbtest", new_id="", remove_id="")
    with bound("3-1", sysfs=sysfs):
        assert (directory / "new_id").read_text() == "1234 5678 0 0525 a4a0"
        assert (directory / "remove_id").read_text() == "\n"
    assert (directory / "remove_id").read_text() == "1234 5678"


def test_an_alternate_setting_is_chosen_by_a_parameter_that_is_put_back(sysfs: Path) -> None:
    plug(sysfs)
    alt = sysfs / "module/usbtest/parameters/alt"
    with bound("3-1", alt=1, sysfs=sysfs):
        assert alt.read_text().split() == ["1"]
        assert (sysfs / "bus/usb/drivers/usbtest/bind").read_text() == "3-1:1.0"
        (sysfs / "bus/usb/drivers/usbtest/bind").write_text("")
    assert alt.read_text().split() == ["5"]
    assert (sysfs / "bus/usb/drivers/usbtest/bind").read_text() == "3-1:1.0"


@pytest.mark.parametrize("driver", ["usbtest", ""])
def test_behind_a_test_that_hangs_nothing_is_changed_that_would_wait_for_it(
    sysfs: Path, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plug(sysfs, driver=driver)
    directory = sysfs / "bus/usb/drivers/usbtest"
    with bound("3-1", alt=1, sysfs=sysfs):
        for name in ("bind", "unbind"):
            (directory / name).write_text("")
        monkeypatch.setattr("usbip_vudc.usbtest.driver.hanging", lambda: True)
    assert (directory / "bind").read_text() == (directory / "unbind").read_text() == ""
    assert (sysfs / "module/usbtest/parameters/alt").read_text().split() == ["5"]


def test_a_device_that_vanishes_while_it_is_read_is_named(
    sysfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interface = plug(sysfs)
    monkeypatch.setattr("usbip_vudc.usbtest.target.nodes", lambda _device: ())
    with pytest.raises(SysfsError, match="3-1: reading: No such device"):
        Target.of(interface)


def test_a_parameter_is_put_back_after_a_failure(sysfs: Path) -> None:
    path = sysfs / "module/usbtest/parameters/pattern"
    with pytest.raises(KeyError), parameter("pattern", 1, sysfs=sysfs):
        assert path.read_text().split() == ["1"]
        raise KeyError
    assert path.read_text().split() == ["0"]


# --- modprobe and carriers ----------------------------------------------------------------------


def modprobe(monkeypatch: pytest.MonkeyPatch, status: int, uid: int = 0) -> list[tuple[str, ...]]:
    asked: list[tuple[str, ...]] = []

    def run_it(command: tuple[str, ...], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, status, "", "FATAL: Module usbtest not found\n")

    monkeypatch.setattr("subprocess.run", run_it)
    monkeypatch.setattr("os.geteuid", lambda: uid)
    return asked


def test_a_module_that_is_not_there_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    modprobe(monkeypatch, 1)
    with pytest.raises(UsbtestError, match=r"modprobe usbtest: FATAL.*linux-image.*cloud"):
        load("usbtest")
    modprobe(monkeypatch, 1, uid=1000)
    with pytest.raises(UsbtestError, match="run as root"):
        load("usbtest")
    asked = modprobe(monkeypatch, 0)
    load("usbip-vudc", "num=2")
    assert asked == [("modprobe", "usbip-vudc", "num=2")]


def test_a_machine_without_modprobe_is_told_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(UsbtestError, match="apt install kmod"):
        load("usbtest")


@pytest.mark.parametrize(
    ("text", "modules", "gadget"),
    [
        ("vudc,super", [("vhci-hcd",)], "usbtest"),
        ("vudc,low", [("vhci-hcd",)], "usbtest-low"),
        (
            "usbip-vudc.1",
            [("vhci-hcd",), ("libcomposite",), ("usb_f_fs",), ("usbip-vudc", "num=2")],
            "usbtest",
        ),
        (
            "dummy_udc.0,high,stub",
            [
                ("vhci-hcd",), ("libcomposite",), ("usb_f_fs",),
                ("dummy_hcd", "is_super_speed=1", "num=1"), ("usbip-host",),
            ],
            "usbtest",
        ),
        ("fe980000.usb", [("libcomposite",), ("usb_f_fs",)], "usbtest"),
    ],
)  # fmt: skip
def test_a_carrier_has_its_modules_and_its_gadget(
    text: str, modules: list[tuple[str, ...]], gadget: str
) -> None:
    carrier = read_carrier(text)
    assert carrier.host == "linux"
    assert list(modules_for(carrier)) == modules
    assert usual_gadget(carrier) == gadget


def test_our_own_host_has_no_usbtest() -> None:
    with pytest.raises(SchemeError, match="leave `pyusb` out"):
        read_carrier("vudc,pyusb")


class Deaf(SourceSinkFunction):
    """It has nothing for anyone."""

    async def run(self, endpoints: Mapping[str, SeamEndpoint]) -> None:  # noqa: ARG002
        await anyio.sleep_forever()


def test_urbs_that_nobody_answers_end_before_the_device_is_taken_away() -> None:
    gadget = replace(load_gadget("usbtest-ffs", GadgetOptions()), name="deaf",
                     configs=(Config(functions=(Deaf(endpoints="bulk"),)),))  # fmt: skip
    with carried(gadget, Carrier()) as carrying, ThreadPoolExecutor(1) as pool:
        device = carrying.device()
        device.set_configuration()
        udc = carrying.udc
        assert isinstance(udc, UserspaceUDC)
        reading = pool.submit(device.read, 0x81, 512, 60_000)
        assert wait_until(lambda: bool(udc._pending), 20)
        end_what_hangs(carrying)
        with pytest.raises(usb.core.USBError) as failed:
            reading.result(timeout=20)
        assert failed.value.errno != errno.ETIMEDOUT


# --- judging ------------------------------------------------------------------------------------

ANSWERS: dict[int, float | int] = {0: 0.01, 1: 0.5, 4: 75, 15: 95, 28: 0.004, 29: 19}


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Target]:
    """A device whose driver answers as ANSWERS has it: seconds, or an errno."""

    def answer(_fd: int, _interface: int, number: int, _parameters: Parameters) -> float:
        found = ANSWERS.get(number, 0.0)
        if number == 2:
            time.sleep(100)
        if isinstance(found, int):
            raise OSError(found, os.strerror(found))
        return found

    monkeypatch.setattr(child_module, "issue", answer)
    node = tmp_path / "node"
    node.write_text("")
    yield target(node=str(node), endpoints=BULK)


def verdicts(device: Target, cases: str, **options: Any) -> dict[str, Verdict]:
    made = judge(device, parse_cases(cases), **options)
    return {verdict.name: verdict for verdict in made}


def test_each_answer_becomes_a_verdict(answering: Target) -> None:
    told: list[Verdict] = []
    made = verdicts(answering, "0,1,4,15,28", tell=told.append)
    assert list(made.values()) == told
    assert {name: verdict.result for name, verdict in made.items()} == {
        "test 0": PASS, "test 1": PASS, "test 4": FAIL, "test 15": SKIP, "test 28": PASS,
    }  # fmt: skip
    assert made["test 1"].seconds == 0.5
    assert made["test 28"].why == "131.1 MB/s"  # 4 times 8 URBs of 16384 bytes in 4 ms
    assert made["test 4"].why.startswith("-EOVERFLOW: the device sent more")
    assert "no isochronous OUT endpoint" in made["test 15"].why
    assert made["test 4"].diagnostics == (
        "again: usbip-vudc usbtest --device 3-1 --cases 4 --iterations 20 --length 2048 "
        "--vary 512 --sglen 8",
    )


def test_a_slow_test_fails_and_the_next_one_runs(answering: Target) -> None:
    made = verdicts(answering, "2,1", timeout=0.2)
    assert made["test 2"].result == FAIL
    assert "not done after 0.2 s" in made["test 2"].why
    assert made["test 1"].result == PASS


def test_nothing_runs_on_a_device_that_hangs(
    answering: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[int] = []
    monkeypatch.setattr(child_module, "GRACE", 0.05)
    with monkeypatch.context() as patched:
        patched.setattr("os.kill", lambda pid, _: left.append(pid))
        made = verdicts(answering, "2,1", timeout=0.2)
    os.kill(left[0], signal.SIGKILL)
    assert wait_until(lambda: not child_module.hanging(), 20)
    assert made["test 2"].result == FAIL
    assert "hung" in made["test 2"].why
    assert made["test 1"].result == SKIP
    assert "test 2 hangs in the kernel" in made["test 1"].why


def test_nothing_runs_on_a_device_that_is_gone(answering: Target) -> None:
    made = verdicts(answering, "29,1")
    assert made["test 1"].result == PASS  # its node is still there

    def leave(verdict: Verdict) -> None:
        if verdict.name == "test 0":
            Path(answering.node).unlink()

    made = verdicts(answering, "0,29,1", tell=leave)
    assert made["test 29"].result == FAIL
    assert "the device is gone" in made["test 29"].why
    assert made["test 1"].why == "not run: the device went away in test 29"


def test_a_node_that_cannot_be_opened_is_an_error() -> None:
    with pytest.raises(UsbtestError, match="/nonexistent: No such file"):
        judge(target())


# --- the command --------------------------------------------------------------------------------


def invoke(*words: str) -> Result:
    return CliRunner().invoke(main, ("usbtest", *words))


def test_the_cases_can_be_listed_anywhere() -> None:
    done = invoke("--list")
    assert done.exit_code == 0
    assert all(case.what in done.output for case in CASES)
    assert "halt" not in invoke("--list", "--cases", "iso").output


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--cases", "31"), "expected a number of 0 to 29"),
        (("--on", "vudc,fast"), "'fast' is unknown"),
        (("--on", "vudc", "--device", "1-1"), "give one"),
        (("--gadget", "usbtest"), "--gadget is for a device of --on"),
        (("--sglen", "129"), "129"),
        (("--timeout", "0"), "0"),
        (("--profile", "slow"), "hcd-tests"),
        (("--json", "--ktap"), "give one"),
    ],
)
def test_wrong_usage_is_told_apart(words: tuple[str, ...], text: str) -> None:
    done = invoke(*words)
    assert done.exit_code == 2
    assert text in done.output


def test_without_the_module_the_command_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    modprobe(monkeypatch, 1)
    done = invoke("--device", "1-1")
    assert done.exit_code == 1
    assert "modprobe usbtest: FATAL" in done.output


def test_the_command_judges_the_device_that_it_brought(
    answering: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def bring(
        text: str, gadget: str | None, *, alt: int | None, pattern: int | None
    ) -> Iterator[Target]:
        assert (text, gadget, alt, pattern) == ("vudc,super", "usbtest", None, None)
        yield answering

    monkeypatch.setattr("usbip_vudc.cli.usbtest.brought", bring)
    words = ("--on", "vudc,super", "--gadget", "usbtest", "--cases", "0,4,15")
    done = invoke(*words)
    assert done.exit_code == 1
    assert "usbtest: 3-1, 0525:a4a0 (Linux gadget zero), high speed at vhci_hcd" in done.output
    assert "1 pass, 1 fail, 1 skip" in done.output
    again = "again: usbip-vudc usbtest --on vudc,super --gadget usbtest --cases 4"
    assert again in done.output
    values = json.loads(invoke(*words, "--json").stdout)
    assert [verdict["result"] for verdict in values["verdicts"]] == [PASS, FAIL, SKIP]
    assert values["device"].startswith("3-1")
    assert "not ok 2 test 4" in invoke(*words, "--ktap").stdout
    assert invoke(*words[:-1], "0").exit_code == 0
    assert invoke(*words[:-1], "15").exit_code == 4


def test_what_is_known_before_an_interrupt_is_told(
    answering: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def bring(*_: object, **__: object) -> Iterator[Target]:
        yield answering

    def interrupted(_fd: int, _interface: int, number: int, *_: object) -> child_module.Ending:
        if number == 1:
            raise KeyboardInterrupt
        return child_module.Ending(0, 0.5)

    monkeypatch.setattr("usbip_vudc.cli.usbtest.brought", bring)
    monkeypatch.setattr("usbip_vudc.usbtest.judging.run_in_child", interrupted)
    done = invoke("--on", "vudc", "--cases", "0-2", "--ktap")
    assert done.exit_code == 130
    assert done.stdout.splitlines()[2:] == ["1..1", "ok 1 test 0"]
    assert "interrupted; the rest was not tried" in done.stderr


def test_trouble_in_taking_the_device_away_hides_no_verdict(
    answering: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def bring(*_: object, **__: object) -> Iterator[Target]:
        yield answering
        raise UsbipVudcError("port 15 is not free")

    monkeypatch.setattr("usbip_vudc.cli.usbtest.brought", bring)
    done = invoke("--on", "vudc", "--cases", "0,4", "--ktap")
    assert done.exit_code == 1
    assert "not ok 2 test 4" in done.stdout
    assert "afterwards: port 15 is not free" in done.stderr
