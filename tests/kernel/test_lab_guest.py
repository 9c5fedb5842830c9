"""The lab, seen from inside: what every other test of this lane takes for granted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.kernel

ROOT = Path(__file__).parent.parent.parent


def mounted(where: str) -> str | None:
    rows = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return next((row[2] for row in reversed(rows) if row[1] == where), None)


def test_we_are_root_in_a_kernel_with_its_modules() -> None:
    assert os.geteuid() == 0
    assert (Path("/lib/modules") / os.uname().release / "modules.dep").exists()


def test_directory_and_python_are_those_of_the_host() -> None:
    assert Path.cwd() == ROOT
    assert "shims" not in os.environ["PATH"]
    assert Path(sys.executable).exists()


def test_configfs_and_debugfs_are_mounted_and_tmp_is_the_guests_own() -> None:
    assert mounted("/sys/kernel/config") == "configfs"
    assert mounted("/sys/kernel/debug") == "debugfs"
    assert mounted("/tmp") == "tmpfs"


def test_loopback_is_up() -> None:
    assert int(Path("/sys/class/net/lo/flags").read_text(), 16) & 1, "IFF_UP"


def test_controllers_appear_as_many_as_everyone_expects(need_modules: Callable[..., None]) -> None:
    need_modules("vhci-hcd", "usbip-vudc", "dummy_hcd", "libcomposite")
    names = {path.name for path in Path("/sys/class/udc").iterdir()}
    assert {f"usbip-vudc.{n}" for n in range(4)} | {"dummy_udc.0", "dummy_udc.1"} <= names


def test_a_module_that_there_is_not_is_named(need_modules: Callable[..., None]) -> None:
    with pytest.raises(pytest.fail.Exception, match="no_such_module"):
        need_modules("no_such_module")


def test_trouble_in_the_log_is_seen_and_may_be_expected(
    expected_dmesg: Callable[..., None],
) -> None:
    expected_dmesg("WARNING: written by a test")
    fd = os.open("/dev/kmsg", os.O_WRONLY)
    try:
        os.write(fd, b"WARNING: written by a test, on purpose\n")
    finally:
        os.close(fd)


def test_a_process_left_behind_is_seen() -> None:
    from tests.kernel.conftest import left_behind

    with subprocess.Popen(("sleep", "60")) as process:
        assert f"process {process.pid}" in left_behind()
        process.kill()
    assert f"process {process.pid}" not in left_behind()
