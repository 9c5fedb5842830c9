"""Several serial ports in one gadget: each is a tty of its own, over vhci_hcd and FunctionFS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import serial

from gadgets.acm.function import AcmFunction
from gadgets.presets import serial as serial_gadget
from tests import loopback
from tests.kernel.carriers import MODULES, USERSPACE_HIGH, VUDC, on_carriers, wait_for
from usbip_vudc.carrier import PATIENCE, Carried, Carrier, carried
from usbip_vudc.registry import GadgetOptions
from usbip_vudc.sysfs import interfaces

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module", autouse=True)
def modules(need_modules: Callable[..., None]) -> None:
    need_modules(*MODULES, "cdc-acm")


def nodes(device: Carried, count: int) -> list[str]:
    """The ttys of a device in the order of its interfaces."""

    def look() -> list[str] | None:
        found = [
            f"/dev/{tty.name}"
            for interface in interfaces(device.sysfs)
            for tty in interface.glob("tty/ttyACM*")
        ]
        return found if len(found) == count else None

    return wait_for(look, f"{count} ttys")


@on_carriers(USERSPACE_HIGH, VUDC)
def test_two_ports_are_two_ttys(carrier: Carrier) -> None:
    gadget = serial_gadget(GadgetOptions(ports=2))
    functions = [f for f in gadget.configs[0].functions if isinstance(f, AcmFunction)]
    with carried(gadget, carrier) as device, ExitStack() as stack:
        device.node("ttyACM")
        ports = [
            stack.enter_context(serial.Serial(node, rate, timeout=PATIENCE))
            for node, rate in zip(nodes(device, 2), (9600, 57_600), strict=True)
        ]
        wait_for(lambda: all(f.dtr for f in functions), "DTR of both")
        wait_for(
            lambda: [f.line_coding.dwDTERate for f in functions] == [9600, 57_600], "their rates"
        )
        texts = (b"for the first", b"and for the second")
        for port, text in zip(ports, texts, strict=True):
            port.write(text)
        assert tuple(p.read(len(t)) for p, t in zip(ports, texts, strict=True)) == texts
        ports[0].dtr = False
        wait_for(lambda: not functions[0].dtr, "DTR of the first to fall")
        assert functions[1].dtr


@pytest.fixture(scope="module")
def acm() -> Iterator[str]:
    """The tty of a port that echoes."""
    with carried(serial_gadget(GadgetOptions()), USERSPACE_HIGH) as device:
        yield device.node("ttyACM")


@pytest.mark.parametrize("expectation", loopback.DATA, ids=lambda e: e.__name__)
def test_pyserial_on_cdc_acm(expectation: Callable[[loopback.Port], None], acm: str) -> None:
    with serial.Serial(acm, timeout=PATIENCE) as port:
        expectation(port)
