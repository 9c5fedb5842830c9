"""The kernel's own servers, behind the distribution's usbipd, under the tester of USB/IP servers.

Rules that only repeat another one's failure, or that every lane of the tests needs to pass anyway,
are left to docs/conformance.md, which has all of them.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import anyio
import pytest

from configfs.transaction import ConfigfsGadget
from tests.kernel.kernel_disk import kernel_disk
from tests.kernel.test_stub import found, is_dummys_disk
from tests.kernel.test_vudc_export import HOST, UDC, USBIPD, free_port, listens, wait_for
from usbip_vudc.conformance.known import KNOWN
from usbip_vudc.conformance.rules import choose
from usbip_vudc.conformance.running import examine
from usbip_vudc.conformance.subject import GET_DEVICE, Subject
from usbip_vudc.host.blocking import BlockingHost
from usbip_vudc.kernel_export import VudcExport
from usbip_vudc.stub import bind, unbind
from usbip_vudc.sysfs import SYSFS, write_attribute
from usbip_vudc.verdicts import FAIL, PASS

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(USBIPD is None, reason="usbipd is not installed (Debian: usbip)"),
]

IN_TIME: Final = 2.0
"""Seconds; whatever passes needs a tenth of it, and what hangs is waited for as long."""

AT_LAST: Final = 20.0
"""Seconds for what should have passed and did not: the machine may have been busy."""

VUDC_RULES: Final = (
    "devlist", "import-busy", "version", "never-more", "stall", "out-reply", "ep0-beside-pending",
    "unlink-unknown", "unlink-pending", "unlink-race", "unlink-queue", "close-pending",
    "endpoint-absent-in", "stale-replies", "unknown-command",
)  # fmt: skip
STUB_RULES: Final = (
    "devlist-busid", "descriptor", "unlink-unknown", "unlink-pending", "unlink-race",
    "unlink-queue", "devid-wrong", "endpoint-absent-out", "unknown-command", "sg-flag-empty",
)  # fmt: skip


@contextmanager
def usbipd(*options: str) -> Iterator[int]:
    """The distribution's server; yields its port."""
    port = free_port()
    with subprocess.Popen((str(USBIPD), *options, "-4", f"-t{port}")) as process:
        try:
            wait_for(lambda: listens(port))
            yield port
        finally:
            process.terminate()


def judge(
    driver: str, port: int, busid: str, names: tuple[str, ...], recover: Callable[[], None]
) -> None:
    """The verdicts must be those that are known of this driver."""
    known = set(KNOWN[driver]) & set(names)
    subject = Subject(HOST, port, busid, timeout=IN_TIME)
    verdicts = {v.name: v for v in examine(subject, choose(names), recover=recover)}
    again = tuple(n for n, v in verdicts.items() if v.result != PASS and n not in known)
    if again:
        recover()
        subject = Subject(HOST, port, busid, timeout=AT_LAST)
        verdicts |= {v.name: v for v in examine(subject, choose(again), recover=recover)}
    failed = {name for name, verdict in verdicts.items() if verdict.result == FAIL}
    told = "\n".join(f"{v.name}: {v.result} {v.why}" for v in verdicts.values())
    if os.uname().release.startswith("6.1."):
        assert failed == known, told
    else:  # another kernel may have mended something
        assert failed <= known, told
    passed = {name for name, verdict in verdicts.items() if verdict.result == PASS}
    assert passed == set(names) - failed, told


@pytest.fixture(scope="module")
def vudc(need_modules: Callable[..., None]) -> Iterator[ConfigfsGadget]:
    need_modules("usbip-vudc", "libcomposite", "usb_f_mass_storage")
    with kernel_disk(UDC, "conformdisk") as made:
        yield made


def test_our_host_reads_what_usbipd_has(vudc: ConfigfsGadget) -> None:
    assert vudc.name
    with usbipd("--device") as port, BlockingHost(HOST, port, UDC) as host:
        assert host.control(GET_DEVICE)[8:12] == bytes.fromhex("2505a5a4")


def test_usbip_vudc_breaks_the_rules_that_it_is_known_to_break(vudc: ConfigfsGadget) -> None:
    def recover() -> None:
        vudc.unbind()
        vudc.bind(UDC)
        # What it owes to a host that has left outlives even that, and would spoil the next rule.
        anyio.run(VudcExport(UDC).prepare)

    with usbipd("--device") as port:
        judge("usbip-vudc", port, UDC, VUDC_RULES, recover)


@pytest.fixture
def busid(need_modules: Callable[..., None]) -> Iterator[str]:
    """A kernel's disk on dummy_hcd that usbip-host holds."""
    need_modules("usbip-host", "dummy_hcd", "libcomposite", "usb_f_mass_storage")
    with kernel_disk("dummy_udc.0", "conformstub"):
        name = found(is_dummys_disk).name
        bind(name)
        try:
            yield name
        finally:
            unbind(name)


def test_usbip_host_breaks_the_rules_that_it_is_known_to_break(busid: str) -> None:
    driver = SYSFS / "bus/usb/drivers/usbip-host"

    def recover() -> None:
        write_attribute(driver / "unbind", busid)
        write_attribute(driver / "bind", busid)

    with usbipd() as port:
        judge("usbip-host", port, busid, STUB_RULES, recover)
