"""Carriers: a gadget carried to this machine's own host side, on any UDC.

One gadget, six ways: on the userspace UDC or on one of the kernel's, straight or through USB/IP,
and each ends as a USB device in this machine's sysfs, with its drivers and nodes.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

import anyio
import anyio.abc
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from configfs.transaction import ConfigfsGadget
from configfs.tree import userspace_functions
from configfs.udc import KernelUDC
from usbip_vudc.exportable import Exportable
from usbip_vudc.gadget import Gadget
from usbip_vudc.kernel_export import StubExport, VudcExport
from usbip_vudc.server import Server
from usbip_vudc.stub import bind, unbind
from usbip_vudc.sysfs import interfaces, nodes, read_attribute, write_attribute
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.vhci import attach_remote, detach, wait_device
from usbip_vudc.vudc import UserspaceUDC

__all__ = (
    "DUMMY_HIGH",
    "DUMMY_SUPER",
    "EVERY",
    "MODULES",
    "PATIENCE",
    "STUB",
    "USERSPACE_HIGH",
    "USERSPACE_SUPER",
    "VUDC",
    "Carried",
    "Carrier",
    "Host",
    "carried",
    "dummy_device",
    "need_program",
    "on_carriers",
    "on_kernel_udc",
    "prompt_scan",
    "wait_for",
)

HOST: Final = "127.0.0.1"

PATIENCE: Final = 30.0
"""Seconds that anything may take, under emulation, before it counts as never."""

MODULES: Final = (
    "vhci-hcd", "usbip-vudc", "usbip-host", "dummy_hcd", "libcomposite", "usb_f_fs",
)  # fmt: skip

_STUB_TABLE: Final = Path("/sys/bus/usb/drivers/usbip-host/match_busid")
_DELAY: Final = Path("/sys/module/usb_storage/parameters/delay_use")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Carrier:
    """A way from a gadget to this machine. ``udc`` is the kernel's, empty for the userspace one."""

    name: str
    speed: Speed
    udc: str = ""
    stub: bool = False


USERSPACE_HIGH: Final = Carrier("userspace-high", Speed.HIGH)
USERSPACE_SUPER: Final = Carrier("userspace-super", Speed.SUPER)
VUDC: Final = Carrier("vudc", Speed.HIGH, "usbip-vudc.0")  # it does no SuperSpeed
DUMMY_HIGH: Final = Carrier("dummy-high", Speed.HIGH, "dummy_udc.0")
DUMMY_SUPER: Final = Carrier("dummy-super", Speed.SUPER, "dummy_udc.0")
STUB: Final = Carrier("stub", Speed.SUPER, "dummy_udc.0", stub=True)

EVERY: Final = (USERSPACE_HIGH, USERSPACE_SUPER, VUDC, DUMMY_HIGH, DUMMY_SUPER, STUB)


def on_carriers(*carriers: Carrier) -> pytest.MarkDecorator:
    """Run a test with argument ``carrier`` on each of them."""
    return pytest.mark.parametrize("carrier", carriers, ids=lambda carrier: carrier.name)


def need_program(name: str, package: str) -> str:
    """The path of a program; fails the test where Debian's package of it is not installed."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None:
        pytest.fail(f"{name} is not installed; run: apt install {package}")
    return found


@contextmanager
def prompt_scan() -> Iterator[None]:
    """Usb-storage looks for its disk at once, instead of a second after the device appeared."""
    before = read_attribute(_DELAY)
    write_attribute(_DELAY, "0")
    try:
        yield
    finally:
        write_attribute(_DELAY, before)


def wait_for(look: Callable[[], _T | None], what: str, timeout: float = PATIENCE) -> _T:
    """Look until there is something; fails the test after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {timeout:g} s")
        time.sleep(0.01)


@dataclass(frozen=True, slots=True)
class Host:
    """What this machine has of a gadget: ``device`` is its directory in sysfs."""

    device: Path

    def node(self, prefix: str) -> str:
        """The node whose name begins so, such as sd or ttyACM, as soon as it is there."""

        def look() -> str | None:
            for node in nodes(self.device):
                path = Path(node)
                if path.name.startswith(prefix) and path.exists():
                    return node
            return None

        return wait_for(look, f"{self.device.name}: a node {prefix}*")

    def wait_gone(self) -> None:
        """Wait until this machine has noticed that it was unplugged."""
        wait_for(lambda: not self.device.exists(), f"{self.device.name} gone")


@dataclass(frozen=True, slots=True)
class Carried(Host):
    """A gadget that this machine sees, and that this process carries.

    ``unplug`` takes it away at the gadget's end, as pulling its cable would. What is to run
    beside the gadget is started through ``portal``.
    """

    portal: BlockingPortal
    unplug: Callable[[], None]


@contextmanager
def carried(gadget: Gadget, carrier: Carrier) -> Iterator[Carried]:
    """The gadget on its UDC, at the carrier's speed, enumerated; nothing is left afterwards."""
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal())
        if not carrier.udc:
            udc = UserspaceUDC(gadget, speed=carrier.speed, name=gadget.name)
            port = stack.enter_context(_server(portal, udc))
            device = stack.enter_context(_attached(port, "1-1"))
            yield Carried(device, portal, lambda: portal.call(udc.unplug))
            return
        unplug = stack.enter_context(
            on_kernel_udc(portal, replace(gadget, max_speed=carrier.speed), carrier.udc)
        )
        export: Exportable
        if carrier is VUDC:
            export = VudcExport(carrier.udc)
        else:
            device = dummy_device(carrier)
            if not carrier.stub:
                yield Carried(device, portal, unplug)
                return
            export = stack.enter_context(_bound_to_stub(device))
        port = stack.enter_context(_server(portal, export))
        device = stack.enter_context(_attached(port, export.busid))
        yield Carried(device, portal, unplug)


# --- the gadget's end ---------------------------------------------------------------------------


@contextmanager
def on_kernel_udc(
    portal: BlockingPortal, gadget: Gadget, controller: str
) -> Iterator[Callable[[], None]]:
    """The gadget bound to a UDC of the kernel; yields what unplugs it.

    Where its functions are all the kernel's, nothing of ours runs.
    """
    if not userspace_functions(gadget):
        made = ConfigfsGadget.create(gadget)
        try:
            made.bind(controller)
            yield made.unbind
        finally:
            made.remove()
        return
    udc = KernelUDC(gadget, controller)
    future, _ = portal.start_task(udc.run)
    try:
        yield lambda: portal.call(udc.unplug)
    finally:
        portal.call(udc.unplug)
        future.result(timeout=PATIENCE)


@contextmanager
def _server(portal: BlockingPortal, udc: UserspaceUDC | Exportable) -> Iterator[int]:
    """Our server with one device; yields its TCP port."""
    scope = portal.call(anyio.CancelScope)

    async def serve(*, task_status: anyio.abc.TaskStatus[tuple[str, int]]) -> None:
        with scope:
            await Server((udc,)).serve(HOST, 0, task_status=task_status)

    future, (_, port) = portal.start_task(serve)
    try:
        yield port
    finally:
        portal.call(scope.cancel)
        future.result(timeout=PATIENCE)


# --- the host's end -----------------------------------------------------------------------------


@contextmanager
def _attached(port: int, busid: str) -> Iterator[Path]:
    number = attach_remote(HOST, port, busid).port
    try:
        yield wait_device(number, PATIENCE)
    finally:
        detach(number)


def dummy_device(carrier: Carrier) -> Path:
    """The device on dummy_hcd's root hub of the carrier's speed, configured."""
    platform = Path("/sys/devices/platform") / carrier.udc.replace("dummy_udc", "dummy_hcd")

    def look() -> Path | None:
        for device in platform.glob("usb*/*-1"):
            is_super = float(read_attribute(device.parent / "speed")) >= 5000
            if is_super == (carrier.speed is Speed.SUPER) and _configured(device):
                return device
        return None

    return wait_for(look, f"a {carrier.speed.word}-speed device on {platform.name}")


def _configured(device: Path) -> bool:
    try:
        expected = read_attribute(device / "bNumInterfaces")
    except OSError:
        return False
    return bool(expected) and len(interfaces(device)) >= int(expected)


@contextmanager
def _bound_to_stub(device: Path) -> Iterator[StubExport]:
    bind(device.name)
    try:
        yield StubExport(device.name)
    finally:
        if device.exists():
            unbind(device.name)
        else:  # it was unplugged, but its bus id stays in the driver's table
            write_attribute(_STUB_TABLE, f"del {device.name}")
