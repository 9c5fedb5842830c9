"""A gadget without a plan pays nothing: it is not wrapped, and nothing of injection is imported.

What it costs to have the package imported all the same, `python -m bench --injection` shows.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.devices import Scripted, echo, gadget
from usbip_vudc.injection import Injector, Plan, injected

ROOMS = (
    "usbip_vudc.server",
    "usbip_vudc.vudc",
    "usbip_vudc.pipe",
    "usbip_vudc.host.blocking",
    "usbip_vudc.host.client",
    "usbip_vudc.pyusb_backend",
    "usbip_vudc.serving",
    "gadgets.presets",
    "configfs.udc",
    "configfs.cli.lifecycle",
    "usbip_vudc.cli.serve",
    "usbip_vudc.cli.export",
)


def test_no_room_below_imports_it() -> None:
    program = (
        f"import sys, importlib\n"
        f"for room in {ROOMS!r}: importlib.import_module(room)\n"
        f"print([m for m in sys.modules if m.startswith('usbip_vudc.injection')])"
    )
    done = subprocess.run(
        (sys.executable, "-c", program), capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("plan", [Plan(), Plan.parse("host stall; cable drop")], ids=str)
def test_a_gadget_without_rules_for_functions_is_the_same_object(plan: Plan) -> None:
    device = gadget(Scripted(echo))
    assert injected(device, plan) is device
    assert injected(device, Injector(plan, "function")) is device
