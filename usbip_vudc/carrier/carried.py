"""carried: the whole way from a gadget to its host, as a context."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import usb.core
from anyio.from_thread import BlockingPortal

from usbip_vudc.carrier.carrier import Carrier
from usbip_vudc.carrier.device_end import DeviceEnd, ExportWrapper, device_end
from usbip_vudc.carrier.errors import PATIENCE
from usbip_vudc.carrier.host_end import HostEnd, host_end
from usbip_vudc.gadget import Gadget
from usbip_vudc.host.session import Connect
from usbip_vudc.registry import RunnableUDC
from usbip_vudc.vudc import UserspaceUDC

__all__ = ("Carried", "carried")


class Carried:
    """A gadget that a host can have, and that this process carries."""

    def __init__(self, carrier: Carrier, end: DeviceEnd, host: HostEnd) -> None:
        self.carrier = carrier
        self._end = end
        self._host = host
        self._unplugged = False

    @property
    def portal(self) -> BlockingPortal:
        """The way into the thread in which the gadget's functions run."""
        return self._end.portal

    @property
    def udc(self) -> UserspaceUDC | RunnableUDC:
        """The controller; after an `unplug` a kernel's is another object."""
        return self._end.udc

    @property
    def port(self) -> int | None:
        """The TCP port of our server on 127.0.0.1, None where there is none."""
        return self._end.port

    @property
    def busid(self) -> str:
        """What our server calls the device, or this machine, where there is no server."""
        exported = self._end.exported
        return self.sysfs.name if exported is None else exported.busid

    @property
    def sysfs(self) -> Path:
        """The directory of the device in this machine's sysfs, or where it last was.

        It is another one after each enumeration. Raises CarrierError where the host is our own.
        """
        return self._host.sysfs

    def device(self, timeout: float = PATIENCE) -> usb.core.Device:
        """The device as pyusb has it: the same one until the host sees it leave, then a new one.

        Where it has left it is plugged in again. Raises NotReady after ``timeout`` seconds,
        USBError where it cannot be enumerated, and what ended its UDC.
        """
        self._plug(timeout)
        return self._host.device(timeout)

    def node(self, prefix: str, timeout: float = PATIENCE) -> str:
        """The device node whose name begins so, such as sd or ttyACM, as soon as it is there.

        Raises NotReady after ``timeout`` seconds, CarrierError where the host is our own.
        """
        self._plug(timeout)
        return self._host.node(prefix, timeout)

    def _plug(self, timeout: float) -> None:
        if self._unplugged:
            # Until the host has noticed that, it would still have the device of before.
            self._host.wait_gone(timeout)
            self._unplugged = False
        self._end.plug(timeout)

    def unplug(self) -> None:
        """Take the device away at the gadget's end, as pulling its cable would.

        `device` and `node` plug it in again.
        """
        self._unplugged = True
        self._end.unplug()

    def wait_gone(self, timeout: float = PATIENCE) -> None:
        """Wait until the host has noticed that the device left. Raises NotReady."""
        self._host.wait_gone(timeout)


@contextmanager
def carried(
    gadget: Gadget,
    carrier: Carrier,
    *,
    export: ExportWrapper | None = None,
    connect: Connect | None = None,
) -> Iterator[Carried]:
    """The gadget on its UDC at the carrier's speed, and its host; nothing is left afterwards.

    Linux as the host has enumerated it; our own imports it when `Carried.device` is asked for it.
    ``export`` wraps what our server exports, ``connect`` makes the hosts of our own backend.
    Raises CarrierError for what this machine lacks, SchemeError for what cannot be, NotReady for
    what does not appear, and whatever the kernel refuses.
    """
    with (
        device_end(gadget, carrier, export=export) as end,
        host_end(carrier, end, connect=connect) as host,
    ):
        host.plug()
        yield Carried(carrier, end, host)
