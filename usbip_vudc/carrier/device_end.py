"""The gadget's end of a carrier: on its UDC, and in our server where USB/IP leads to the host."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import TypeAlias

from anyio.from_thread import BlockingPortal, start_blocking_portal

from usbip_vudc import stub
from usbip_vudc.carrier.carrier import Carrier
from usbip_vudc.carrier.errors import PATIENCE, CarrierError
from usbip_vudc.carrier.own_bus import OwnBus
from usbip_vudc.carrier.udcs import OURS
from usbip_vudc.errors import SchemeError
from usbip_vudc.exportable import Export, Exportable
from usbip_vudc.gadget import Gadget
from usbip_vudc.kernel_export import StubExport, VudcExport
from usbip_vudc.registry import RunnableUDC, load_kernel_udc
from usbip_vudc.serving import serving_in
from usbip_vudc.sysfs import driver_of
from usbip_vudc.vudc import UserspaceUDC

__all__ = ("DeviceEnd", "ExportWrapper", "device_end")

ExportWrapper: TypeAlias = Callable[[Exportable], Exportable]
"""Puts something around what our server exports."""


class DeviceEnd(ABC):
    """A gadget on its UDC.

    The functions run in the thread of ``portal``. ``exported`` is what ``port`` of our server has
    of it; both are None where no server stands between it and its host. ``bus`` is where it
    appears on this machine without USB/IP, None where it does not.
    """

    udc: UserspaceUDC | RunnableUDC
    exported: Exportable | None = None
    port: int | None = None
    bus: OwnBus | None = None

    def __init__(self, portal: BlockingPortal) -> None:
        self.portal = portal

    @abstractmethod
    def plug(self, timeout: float = PATIENCE) -> None:
        """See to it that a host can have the device, once more where it was unplugged.

        Raises what ended its UDC, where that was no `unplug`.
        """

    @abstractmethod
    def unplug(self) -> None:
        """Take the device away from its host, as pulling the cable would."""

    @abstractmethod
    def close(self) -> None:
        """Undo all of it; the server has been stopped before."""


@contextmanager
def device_end(
    gadget: Gadget, carrier: Carrier, *, export: ExportWrapper | None = None
) -> Iterator[DeviceEnd]:
    """The gadget on the carrier's UDC, at its speed, ready for a host; nothing is left afterwards.

    ``export`` wraps what our server exports. Raises CarrierError for what this machine lacks,
    SchemeError where the gadget cannot exist so, and whatever the kernel refuses.
    """
    why = carrier.why_not()
    if why is not None:
        raise CarrierError(f"{carrier}: {why}")
    if export is not None and not carrier.over_usbip:
        raise SchemeError(f"export: {carrier} has no server; expected a UDC that USB/IP leads to")
    with ExitStack() as undo:
        portal = undo.enter_context(start_blocking_portal())
        kind = _UserspaceEnd if carrier.udc == OURS else _KernelEnd
        end = kind(portal, gadget, carrier)
        undo.callback(end.close)
        end.plug()
        if end.exported is not None:
            end.exported = export(end.exported) if export is not None else end.exported
            end.port = undo.enter_context(serving_in(portal, end.exported))
        yield end


class _UserspaceEnd(DeviceEnd):
    """Our own UDC: it is there as long as the server is."""

    udc: UserspaceUDC

    def __init__(self, portal: BlockingPortal, gadget: Gadget, carrier: Carrier) -> None:
        super().__init__(portal)
        self.udc = UserspaceUDC(gadget, speed=carrier.speed, name=gadget.name)
        self.exported = Export(1, self.udc)

    def plug(self, timeout: float = PATIENCE) -> None:
        """Nothing to do: whoever imports it plugs it in."""

    def unplug(self) -> None:
        """Close the cable."""
        self.portal.call(self.udc.unplug)

    def close(self) -> None:
        """Nothing to do: the server took it along."""


class _KernelEnd(DeviceEnd):
    """A UDC of the kernel, and usbip-host where the carrier goes through the stub."""

    udc: RunnableUDC

    def __init__(self, portal: BlockingPortal, gadget: Gadget, carrier: Carrier) -> None:
        super().__init__(portal)
        if carrier.speed > gadget.max_speed:
            raise SchemeError(
                f"gadget {gadget.name}: speed {carrier.speed.word} is not available; expected "
                f"{gadget.max_speed.word} at most"
            )
        at_speed = replace(gadget, max_speed=carrier.speed)
        self._make = partial(load_kernel_udc(), at_speed, carrier.udc)
        self._stub = carrier.stub
        self._running: Future[None] | None = None
        self._on_stub: str | None = None
        if carrier.on_own_bus:
            ids = (gadget.idVendor, gadget.idProduct)
            self.bus = OwnBus(carrier.udc, carrier.speed, ids)
        else:
            self.exported = VudcExport(carrier.udc)

    def plug(self, timeout: float = PATIENCE) -> None:
        """Bind the gadget where it is not bound, and its device to usbip-host."""
        if self._running is not None and self._running.done():
            self._end()
        if self._running is None:
            self.udc = self._make()
            self._running, _ = self.portal.start_task(self.udc.run)
        if self.bus is not None and self._stub:
            self._give_to_stub(self.bus, timeout)

    def unplug(self) -> None:
        """Unbind the gadget and remove it."""
        if self._running is not None:
            self.portal.call(self.udc.unplug)
            self._end()

    def close(self) -> None:
        """As `unplug`, and this machine has noticed it."""
        with ExitStack() as undo:
            if self.bus is not None:
                undo.callback(self.bus.wait_gone)  # the next gadget must not find this one
            undo.callback(self.unplug)
            undo.callback(self._take_from_stub)

    def _end(self) -> None:
        """Wait until the UDC has let go; raises what made it."""
        running, self._running = self._running, None
        if running is None:
            return
        try:
            running.result(PATIENCE)
        except TimeoutError:
            raise CarrierError(
                f"UDC {self.udc.name} has not let go of its gadget within {PATIENCE:g} s; see "
                f"dmesg, and `usbip-vudc list`"
            ) from None

    def _give_to_stub(self, bus: OwnBus, timeout: float) -> None:
        device = bus.wait(timeout)
        if driver_of(device) != stub.DRIVER:
            stub.bind(device.name)
        if self._on_stub != device.name:
            self._on_stub = device.name
            self.exported = StubExport(device.name)

    def _take_from_stub(self) -> None:
        busid, self._on_stub = self._on_stub, None
        if busid is None:
            return
        with contextlib.suppress(stub.StubError):  # it is not there, or was taken away
            stub.unbind(busid)
        stub.forget(busid)
