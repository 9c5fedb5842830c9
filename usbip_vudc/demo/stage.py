"""Stage: where the demo's gadgets meet their host, with a plan at all three seams."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import usb.core
import usb.util

from usbip_vudc.errors import UsbipVudcError
from usbip_vudc.exportable import Export
from usbip_vudc.gadget import Gadget
from usbip_vudc.host.blocking import BlockingHost
from usbip_vudc.injection import Plan, injected, injected_connect
from usbip_vudc.proxy.export import Behind
from usbip_vudc.pyusb_backend import get_backend
from usbip_vudc.server import DEFAULT_HOST
from usbip_vudc.serving import serving_udcs
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.vudc import UserspaceUDC

__all__ = ("Stage",)


class Stage:
    """Serves gadgets at one speed, and finds them again through pyusb, under one plan."""

    def __init__(self, plan: Plan, speed: Speed = Speed.SUPER) -> None:
        self.plan = plan
        self.speed = speed
        self._connect = injected_connect(plan) if plan.for_seam("host") else BlockingHost

    @contextmanager
    def serving(self, gadget: Gadget) -> Iterator[int]:
        """Export a gadget; yields the TCP port."""
        udc = UserspaceUDC(injected(gadget, self.plan), speed=self.speed, name=gadget.name)
        with serving_udcs(Behind(self.plan)(Export(1, udc))) as port:
            yield port

    @contextmanager
    def device(self, port: int, *, scatter_gather: bool = True) -> Iterator[usb.core.Device]:
        """The exported device; given back at the end. Raises UsbipVudcError where it is not."""
        backend = get_backend(
            DEFAULT_HOST, port, scatter_gather=scatter_gather, connect=self._connect
        )
        device = usb.core.find(backend=backend)
        if device is None:
            raise UsbipVudcError(f"no device on port {port}")
        try:
            yield device
        finally:
            usb.util.dispose_resources(device)
