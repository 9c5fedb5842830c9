"""The tester of USB disks on real UDCs: our disk behind FunctionFS, and Linux's own."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import usb.core

from gadgets.mass_storage import MassStorageFunction, RamLun
from tests.kernel.kernel_disk import kernel_disk
from tests.little_disk import gadget_of
from usbip_vudc.bot_check.checks import CHECKS, choose
from usbip_vudc.bot_check.initiator import Initiator
from usbip_vudc.bot_check.known import KNOWN
from usbip_vudc.bot_check.running import examine
from usbip_vudc.bot_check.subject import Subject
from usbip_vudc.bot_check.target import remote
from usbip_vudc.carrier import Carrier, carried
from usbip_vudc.kernel_export import VudcExport
from usbip_vudc.server import DEFAULT_HOST
from usbip_vudc.serving import serving_udcs
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.verdicts import FAIL, PASS, Verdict

pytestmark = pytest.mark.kernel

UDC = "usbip-vudc.0"
OURS = Carrier(UDC, Speed.HIGH, "pyusb")

WORDS = {"1": ("cases", "cbw", "class"), "0": ("1", "4-8", "class")}
"""Without ``stall`` a CBW that is not meaningful has no answer, and each would be waited for."""


@pytest.fixture(scope="module", autouse=True)
def modules(need_modules: Callable[..., None]) -> None:
    need_modules("usbip-vudc", "libcomposite", "usb_f_fs", "usb_f_mass_storage")


def verdicts_of(device: usb.core.Device, *words: str) -> dict[str, Verdict]:
    subject = Subject(Initiator(device))
    subject.prepare()
    return {verdict.name: verdict for verdict in examine(subject, choose(words))}


def told(verdicts: dict[str, Verdict]) -> str:
    return "\n".join(f"{v.name}: {v.result} {v.why}" for v in verdicts.values())


def test_our_disk_behind_functionfs_passes_every_check() -> None:
    lun = RamLun(1 << 20)
    with carried(gadget_of(MassStorageFunction([lun])), OURS) as way:
        verdicts = verdicts_of(way.device())
    assert {verdict.result for verdict in verdicts.values()} == {PASS}, told(verdicts)
    assert len(verdicts) == len(CHECKS)


@pytest.mark.parametrize("stall", ["1", "0"])
def test_linuxs_disk_breaks_what_it_is_known_to_break(stall: str) -> None:
    with (
        kernel_disk(UDC, "botcheck", stall=stall),
        serving_udcs(VudcExport(UDC)) as port,
        remote(DEFAULT_HOST, port, UDC) as device,
    ):
        verdicts = verdicts_of(device, *WORDS[stall])
    failed = {name for name, verdict in verdicts.items() if verdict.result == FAIL}
    known = set(KNOWN["f_mass_storage" if stall == "1" else "f_mass_storage, stall=0"])
    if os.uname().release.startswith("6.1."):
        assert failed == known, told(verdicts)
    else:  # another kernel may have mended something
        assert failed <= known, told(verdicts)
    passed = {name for name, verdict in verdicts.items() if verdict.result == PASS}
    assert passed == set(verdicts) - failed, told(verdicts)
