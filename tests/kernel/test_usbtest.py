"""Linux's usbtest judges our sources and sinks, and beside them those of the kernel itself.

What usbtest has no pipe for is "not supported" (a skip), and each place's set of those is written
down here: a test that is skipped by mistake fails as one that fails does.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, Protocol

import pytest

from gadgets.usbtest.pattern import MOD63
from gadgets.usbtest.presets import usbtest, usbtest_ffs, usbtest_low
from tests.kernel.carriers import (
    DUMMY_HIGH,
    DUMMY_SUPER,
    USERSPACE_HIGH,
    USERSPACE_SUPER,
    VUDC,
)
from usbip_vudc.carrier import Carrier, carried
from usbip_vudc.gadget import Config, Gadget, KernelFunction
from usbip_vudc.registry import GadgetOptions
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.usbtest import CASES, Overrides, Parameters, bound, judge, judging, parameter
from usbip_vudc.usbtest.child import Ending
from usbip_vudc.usbtest.ioctl import issue
from usbip_vudc.verdicts import FAIL, PASS, SKIP, Verdict

pytestmark = pytest.mark.kernel

EVERY: Final = frozenset(case.number for case in CASES)
VENDOR: Final = frozenset({14, 21})
ISO: Final = frozenset({15, 16, 22, 23})
INTERRUPT: Final = frozenset({25, 26})
THROUGHPUT: Final = frozenset({27, 28})
MOVING: Final = frozenset(range(1, 9)) | frozenset(range(17, 21)) | {13, 25, 26, 29}
"""Those that look at the bytes of bulk and interrupt endpoints, or whose bytes our sink sees."""

FEW: Final = Overrides(iterations=3)
"""What counts is a verdict on each."""

DEADLINE: Final = 40.0
"""Seconds for one test, which takes well below one: usbtest waits 10 for a URB."""

ODD: Final = Overrides(iterations=2, length=1024, vary=421, sglen=8)
"""Scatterlists for 7 and 8 whose entries are no whole packets."""

ODD_ON_VHCI: Final = {"test 8": "-EOVERFLOW"}
"""All of them reach the device, and reads that end within a packet are babble."""

ODD_ON_DUMMY: Final = {"test 7": "-EINVAL", "test 8": "-EINVAL"}
"""usb_submit_urb refuses them unless the host controller has no_sg_constraint."""


def unload(module: str) -> None:
    subprocess.run((shutil.which("modprobe") or "/sbin/modprobe", "-r", module), check=True)


@pytest.fixture(scope="module", autouse=True)
def modules(need_modules: Callable[..., None]) -> Iterator[None]:
    need_modules(
        "vhci-hcd", "usbip-vudc", "dummy_hcd", "libcomposite", "usb_f_fs", "usb_f_ss_lb", "usbtest"
    )
    yield
    unload("usbtest")  # it would take the gadgets of other tests for its own


@pytest.fixture
def in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test in a thread: under emulation a process for each takes longer than the test.

    One that hangs is a verdict after its deadline nevertheless.
    """

    def run(fd: int, interface: int, number: int, parameters: Parameters, timeout: float) -> Ending:
        endings: list[Ending] = []

        def work() -> None:
            try:
                endings.append(Ending(0, issue(fd, interface, number, parameters)))
            except OSError as error:
                endings.append(Ending(error.errno, 0.0))

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(timeout)
        return endings[0] if endings else Ending(None, timeout, hung=True)

    monkeypatch.setattr(judging, "run_in_child", run)


threaded = pytest.mark.usefixtures("in_a_thread")


def kernels_own() -> Gadget:
    """What g_zero is, and usbtest was written for: drivers/usb/gadget/function/f_sourcesink.c."""
    function = KernelFunction(driver="SourceSink")
    return Gadget(
        name="sourcesink", idVendor=0x0525, idProduct=0xA4A0, device_class=(0xFF, 0, 0),
        configs=(Config(functions=(function,)),),
    )  # fmt: skip


def ours(pattern: int = 0) -> Gadget:
    """Every endpoint that usbtest knows; on FunctionFS without the isochronous ones."""
    return usbtest(GadgetOptions(pattern=pattern))


def one_pair() -> Gadget:
    return usbtest_ffs(GadgetOptions())


class Run(Protocol):
    """Runs tests on a device that is there: their verdicts."""

    def __call__(
        self, cases: Iterable[int] = EVERY, overrides: Overrides = FEW
    ) -> list[Verdict]: ...


@contextmanager
def usbtest_on(gadget: Gadget, carrier: Carrier, *, alt: int | None = None) -> Iterator[Run]:
    """A gadget on its UDC, and this machine's usbtest on the gadget."""
    with carried(gadget, carrier) as way, bound(way.sysfs.name, alt=alt) as target:

        def run(cases: Iterable[int] = EVERY, overrides: Overrides = FEW) -> list[Verdict]:
            chosen = [CASES[number] for number in sorted(cases)]
            return judge(target, chosen, overrides=overrides, timeout=DEADLINE)

        yield run


def numbers(verdicts: Iterable[Verdict], result: str) -> set[int]:
    """The tests that came out so, with each of the parameters that they were run with."""
    found: dict[int, set[str]] = {}
    for verdict in verdicts:
        number = int(re.findall(r"\d+", verdict.name)[0])
        found.setdefault(number, set()).add(verdict.result)
    return {number for number, results in found.items() if results == {result}}


def failures(verdicts: Iterable[Verdict]) -> dict[str, str]:
    """Test -> errno, of those that failed."""
    return {v.name: v.why.partition(":")[0] for v in verdicts if v.result == FAIL}


def assert_passes(verdicts: list[Verdict], expected: Iterable[int], *, of: frozenset[int]) -> None:
    """These tests pass, the others are not supported, and none fails."""
    assert failures(verdicts) == {}, "\n".join(str(v) for v in verdicts if v.result == FAIL)
    assert numbers(verdicts, PASS) == set(expected)
    assert numbers(verdicts, SKIP) == of - set(expected)


# --- our UDC under vhci_hcd --------------------------------------------------------------------


@threaded
@pytest.mark.parametrize("speed", [Speed.HIGH, Speed.FULL, Speed.SUPER], ids=lambda s: s.word)
def test_all_thirty_pass_on_the_userspace_udc(speed: Speed) -> None:
    with usbtest_on(ours(), replace(USERSPACE_HIGH, speed=speed)) as run:
        verdicts = run()
        assert_passes(verdicts, EVERY, of=EVERY)
        # The odd scatterlists of tools/usb/hcd-tests.sh.
        assert {"test 7a", "test 7b", "test 7c"} <= {verdict.name for verdict in verdicts}
        assert failures(run((7, 8), ODD)) == ODD_ON_VHCI


@threaded
def test_at_low_speed_all_pass_that_usbtest_can_do_there() -> None:
    with usbtest_on(usbtest_low(GadgetOptions()), replace(USERSPACE_HIGH, speed=Speed.LOW)) as run:
        # Its interrupt endpoints are those of the bulk tests (usbtest_probe), and 24 gives its
        # URBs no interval, which usb_submit_urb refuses for them with -EINVAL: no low-speed
        # device passes.
        assert_passes(run(), EVERY - ISO - INTERRUPT - {24}, of=EVERY)


@threaded
def test_every_byte_is_as_pattern_1_has_it() -> None:
    with parameter("pattern", MOD63), usbtest_on(ours(MOD63), USERSPACE_SUPER) as run:
        verdicts = run(MOVING | THROUGHPUT)
    # usbtest_do_ioctl does the tests of throughput only with pattern 0.
    assert_passes(verdicts, MOVING, of=MOVING | THROUGHPUT)


def test_a_device_that_sends_and_wants_other_bytes_fails() -> None:
    with usbtest_on(ours(MOD63), USERSPACE_HIGH) as run:
        assert failures(run((1, 2))) == {"test 1": "-EPIPE", "test 2": "-EINVAL"}


# --- the kernel's UDCs -------------------------------------------------------------------------


@threaded
@pytest.mark.parametrize(
    ("carrier", "odd"),
    [(VUDC, ODD_ON_VHCI), (DUMMY_SUPER, ODD_ON_DUMMY), (DUMMY_HIGH, ODD_ON_DUMMY)],
    ids=["vudc", "dummy-super", "dummy-high"],
)
def test_what_passes_with_the_kernels_sourcesink_passes_with_ours(
    carrier: Carrier, odd: dict[str, str]
) -> None:
    for gadget, expected in (
        (kernels_own(), EVERY - ISO - INTERRUPT),
        (ours(), EVERY - ISO),
        # usbtest asks 0525:a4a4 for no vendor requests (um_info).
        (one_pair(), EVERY - ISO - INTERRUPT - VENDOR),
    ):
        with usbtest_on(gadget, carrier) as run:
            assert_passes(run(), expected, of=EVERY)
            assert failures(run((7, 8), ODD)) == odd


@threaded
def test_every_byte_is_the_same_through_functionfs() -> None:
    some = frozenset({2, 3, 8, 26})
    with parameter("pattern", MOD63), usbtest_on(ours(MOD63), DUMMY_HIGH) as run:
        assert_passes(run(some), some, of=some)


def test_the_kernels_vudc_moves_no_isochronous_data(need_modules: Callable[..., None]) -> None:
    # f_sourcesink.c forgets its setting 1 on every UDC once it was on one without isochronous
    # endpoints, such as dummy_udc's: the tables that it clears are static.
    unload("usb_f_ss_lb")
    need_modules("usb_f_ss_lb")
    # drivers/usb/usbip/vudc_transfer.c answers each such URB with -EXDEV.
    with usbtest_on(kernels_own(), VUDC, alt=1) as run:
        assert failures(run(ISO)) == {f"test {number}": "-EIO" for number in ISO}
