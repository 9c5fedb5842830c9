"""Fixtures of the kernel lane: it runs in the lab, and each test leaves the kernel as it was."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from usbip_vudc.kernel_log import KernelLog
from usbip_vudc.lab.trouble import EXPECTED, trouble

HERE = Path(__file__).parent
IN_LAB = os.environ.get("USBIP_VUDC_LAB") == "1" and os.geteuid() == 0
WHY_NOT = (
    "KERNEL LANE DID NOT RUN: it needs Linux's own USB drivers and root. "
    "`make test` and `usbip-vudc lab -- pytest -m kernel tests/kernel` boot a kernel for it; "
    "USBIP_VUDC_LAB=1 as root runs it on this machine's own."
)

TIMEOUT: Final = 300
"""Seconds for one test: under emulation Python is 10 to 20 times slower."""

MODULE_OPTIONS: Final = {
    "usbip_vudc": ("num=4",),
    "dummy_hcd": ("is_super_speed=1", "num=2"),
}
"""All tests share one boot, and these modules cannot be loaded again: the same for everyone."""

SETTLE: Final = 10.0
"""Seconds that the kernel may take to finish what a test has begun to take down."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "expected_dmesg(*regexes): lines of trouble that this test provokes on purpose"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents and item.get_closest_marker("kernel"):
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TIMEOUT))
            if not IN_LAB:
                item.add_marker(pytest.mark.skip(reason=WHY_NOT))


@pytest.fixture
def anyio_backend() -> str:
    """One event loop is enough here; a test that wants both parametrizes ``anyio_backend``."""
    return "asyncio"


# What the kernel says


@pytest.fixture(scope="session")
def _kernel_log() -> Iterator[KernelLog]:
    with KernelLog() as log:
        yield log
        bad = trouble(log.read())
        assert not bad, "in the kernel's log after the last test:\n" + "\n".join(bad)


def _note_as_expected(lines: Iterable[str]) -> None:
    if results := os.environ.get("USBIP_VUDC_LAB_RESULTS"):
        with (Path(results) / EXPECTED).open("a") as file:
            file.writelines(f"{line}\n" for line in lines)


@pytest.fixture(autouse=True)
def expected_dmesg(
    request: pytest.FixtureRequest, _kernel_log: KernelLog
) -> Iterator[Callable[..., None]]:
    """Fails the test if the kernel's log has trouble in it afterwards.

    Call it with regexes of what the test provokes on purpose, or use the marker of that name.
    """
    expected: list[str] = []
    for marker in request.node.iter_markers("expected_dmesg"):
        expected.extend(marker.args)
    bad = trouble(_kernel_log.read())
    assert not bad, "in the kernel's log before this test, after the last:\n" + "\n".join(bad)
    yield lambda *regexes: expected.extend(regexes)
    lines = _kernel_log.read()
    bad = trouble(lines, expected=expected)
    _note_as_expected(line for line in trouble(lines) if line not in bad)
    assert not bad, (
        "trouble in the kernel's log:\n" + "\n".join(bad) + "\n\nall of it:\n" + ("\n".join(lines))
    )


# What a test leaves behind


def _gadgets() -> set[str]:
    directory = Path("/sys/kernel/config/usb_gadget")
    return {f"gadget {path}" for path in directory.iterdir()} if directory.exists() else set()


def _functionfs_mounts() -> set[str]:
    rows = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    return {
        f"functionfs {name} on {where}" for name, where, kind, *_ in rows if kind == "functionfs"
    }


def _vhci_ports() -> set[str]:
    # "hs  0000 004 000 00000000 000000 0-0": 004 is VDEV_ST_NULL (drivers/usb/usbip/usbip_common.h)
    rows = [
        line.split()
        for path in Path("/sys/devices/platform/vhci_hcd.0").glob("status*")
        for line in path.read_text().splitlines()[1:]
    ]
    # Which of the other states it is in says nothing: a device that works may be in 5 or in 6.
    return {f"vhci port {row[1]}" for row in rows if row[2] != "004"}


def _children() -> set[str]:
    tasks = Path("/proc/self/task").glob("*/children")
    return {f"process {pid}" for path in tasks for pid in path.read_text().split()}


def _described(left: str) -> str:
    kind, _, pid = left.partition(" ")
    if kind != "process":
        return left
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        return f"{left}: {' '.join(words).strip() or 'a zombie'}"
    return left


def left_behind() -> set[str]:
    """What a test could have left in this kernel, in words."""
    return _gadgets() | _functionfs_mounts() | _vhci_ports() | _children()


def _hubs_settle() -> None:
    """Wait until no hub enumerates any more: what it says is of this test, not of the next one.

    Reading this attribute takes the lock that the hub's thread holds meanwhile (drivers/usb/core,
    sysfs.c and hub.c).
    """
    for hub in Path("/sys/bus/usb/devices").glob("usb*/bConfigurationValue"):
        with suppress(OSError):
            hub.read_text()


def _nothing_new(before: set[str]) -> None:
    deadline = time.monotonic() + SETTLE
    while (new := left_behind() - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not new, "left behind:\n" + "\n".join(map(_described, sorted(new)))


@pytest.fixture(scope="session")
def _clean_session() -> Iterator[None]:
    before = left_behind()
    yield
    _nothing_new(before)


@pytest.fixture(autouse=True)
def leftovers(
    expected_dmesg: Callable[..., None],  # noqa: ARG001 - looked at after this
    _clean_session: None,
) -> Iterator[None]:
    """Fails the test that leaves a gadget, a functionfs mount, a vhci port in use or a process."""
    before = left_behind()
    yield
    _nothing_new(before)
    _hubs_settle()


# What a test needs


@pytest.fixture(scope="session")
def need_modules() -> Callable[..., None]:
    """``need_modules("vhci-hcd", "usb_f_fs")`` loads them, with the options that all agree on."""

    def load(*names: str) -> None:
        for name in names:
            options = MODULE_OPTIONS.get(name.replace("-", "_"), ())
            command = (shutil.which("modprobe") or "/sbin/modprobe", name, *options)
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                kernel = os.uname().release
                pytest.fail(f"{' '.join(command)} on {kernel}: {done.stderr.strip()}")

    return load
