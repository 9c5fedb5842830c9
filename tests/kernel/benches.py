"""Benches of the conformance suite that need Linux: its UDCs, and vhci_hcd and libusb as hosts."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import usb.core

from tests.udc_bench import DEADLINE, OUR_HOST, Bench, UserspaceBench, claimed
from usbip_vudc.carrier import OwnBus, libusb_device
from usbip_vudc.kernel_export import VudcExport
from usbip_vudc.pyusb_backend import get_backend
from usbip_vudc.server import DEFAULT_HOST
from usbip_vudc.serving import serving_in
from usbip_vudc.sysfs import SYSFS, read_attribute, write_attribute
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.vhci import attach, attach_remote, detach, wait_device

T = TypeVar("T")

VUDC: Final = "usbip-vudc.0"
DUMMY: Final = "dummy_udc.0"


def eventually(look: Callable[[], T | None], what: str) -> T:
    """Look until there is something: sysfs and libusb tell nobody."""
    end = time.monotonic() + DEADLINE
    while (found := look()) is None:
        assert time.monotonic() < end, f"{what}: not within {DEADLINE:g} s"
        time.sleep(0.03)
    return found


@contextmanager
def opened(device: Path) -> Iterator[usb.core.Device]:
    """The device of this sysfs directory, through libusb, with its interface claimed."""

    def find() -> Any:
        return libusb_device(device)

    with claimed(eventually(find, f"{device.name} in libusb")) as host:
        yield host


# --- the userspace UDC -------------------------------------------------------------------------


class UserspaceVhciBench(UserspaceBench):
    """The userspace UDC under vhci_hcd, and libusb."""

    traits = frozenset(("userspace", "vhci"))

    @contextmanager
    def cable(self) -> Iterator[usb.core.Device]:
        """Attached to vhci_hcd."""
        port = attach_remote(DEFAULT_HOST, self.port, "1-1").port
        try:
            with opened(wait_device(port)) as host:
                yield host
        finally:
            detach(port)


# --- the kernel's UDCs -------------------------------------------------------------------------


class KernelBench(Bench):
    """A UDC of the kernel by name, with the device behind FunctionFS."""

    def __init__(self, udc: str, driver: str, speed: Speed) -> None:
        super().__init__()
        self.udc = udc
        self.speed = speed
        self.traits = frozenset((driver, "FunctionFS"))

    @contextmanager
    def controller(self) -> Iterator[None]:
        """The gadget in configfs, bound."""
        # These need libaio.so, which the lane without a kernel may do without.
        from configfs.udc import FunctionCrashed, KernelUDC

        udc = KernelUDC(self.gadget, self.udc)
        try:
            with self.task(udc.run, udc.unplug):
                yield
        except FunctionCrashed:
            if not self.device.crashing:
                raise


class DummyBench(KernelBench):
    """dummy_hcd: a UDC and a host controller with nothing between them."""

    def __init__(self, speed: Speed) -> None:
        super().__init__(DUMMY, "dummy_udc", speed)
        self._pulled = False

    def plug(self) -> None:
        """Bind it anew where it was detached: dummy_hcd enumerates nothing that reconnects."""
        if self._pulled:
            self.unbind()
        super().plug()

    def detach(self) -> None:
        """There is no cable: the gadget lets go of the bus."""
        if self._bound and self.host is not None:
            write_attribute(SYSFS / "class/udc" / self.udc / "soft_connect", "disconnect")
            self._pulled = True
        super().detach()

    def remove(self) -> None:
        """As of every bench; the next gadget connects."""
        super().remove()
        self._pulled = False

    @contextmanager
    def cable(self) -> Iterator[usb.core.Device]:
        """What appears on the root hub of this speed."""
        # A device that is about to go may still be there.
        self.wait(lambda: self.device.alive, "configured by the host")
        ids = (self.gadget.idVendor, self.gadget.idProduct)
        with opened(OwnBus(self.udc, self.speed, ids).wait(DEADLINE)) as host:
            yield host


class VudcBench(KernelBench):
    """usbip-vudc, by a pair of sockets to vhci_hcd: the whole path is the kernel's."""

    def __init__(self) -> None:
        super().__init__(VUDC, "usbip-vudc", Speed.HIGH)
        self.traits |= {"vhci"}

    @contextmanager
    def cable(self) -> Iterator[usb.core.Device]:
        """Attached to vhci_hcd."""
        device_side, host_side = socket.socketpair()
        with device_side, host_side:
            directory = SYSFS / "class/udc" / self.udc / "device"
            write_attribute(directory / "usbip_sockfd", str(device_side.fileno()))
            port = attach(host_side, devid=0x10002, speed=Speed.HIGH)
        try:
            with opened(wait_device(port)) as host:
                yield host
        finally:
            detach(port)
            eventually(
                lambda: read_attribute(directory / "usbip_status") == "1" or None,
                f"{self.udc} available again",
            )


class VudcServerBench(KernelBench):
    """usbip-vudc behind our server, and our own pyusb backend: no vhci_hcd, no libusb."""

    def __init__(self) -> None:
        super().__init__(VUDC, "usbip-vudc", Speed.HIGH)
        self.traits |= {OUR_HOST}
        self.port = 0

    @contextmanager
    def controller(self) -> Iterator[None]:
        """The gadget, bound, and a server that exports the UDC."""
        with super().controller(), serving_in(self.portal, VudcExport(self.udc)) as self.port:
            yield

    @contextmanager
    def cable(self) -> Iterator[usb.core.Device]:
        """Imported by our backend."""
        with claimed(usb.core.find(backend=get_backend(port=self.port))) as host:
            yield host
