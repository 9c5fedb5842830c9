"""Endpoint 0 of the userspace UDC: a control URB comes in, and completes at once with its answer.

Standard requests are answered by standard_requests.py, class and vendor requests by the function
that they name, as are descriptors that belong to an interface (HID 7.1.1); but for the vendor
requests of the gadget itself, whose replies stand in its description. What is configured, and what
runs, the device knows.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from usbip_vudc.function import ControlRequest, Function
from usbip_vudc.standard_requests import DeviceState, StandardRequests
from usbip_vudc.urb import Urb
from usbip_vudc.usb.ch9 import Direction, Recipient, RequestType, SetupPacket, StandardRequest

if TYPE_CHECKING:
    from usbip_vudc.gadget import Description
    from usbip_vudc.sglist import Buffer

__all__ = ("Device", "Endpoint0")

log = logging.getLogger(__name__)

_MAX_REMEMBERED: Final = 256
"""Descriptor requests whose replies are kept; a hostile host could ask for 65536 lengths."""

_INTERFACE_DESCRIPTOR: Final = (0x81, StandardRequest.GET_DESCRIPTOR)
"""The one standard request that the framework leaves to a class: a HID report descriptor, say."""

_PORT_RESET: Final = (0x23, 3, 4)
"""SetPortFeature(PORT_RESET): a USB/IP host asks for a bus reset (drivers/usb/usbip/stub_rx.c)."""


class Device(DeviceState, Protocol):
    """What endpoint 0 asks of its device besides."""

    name: str
    description: Description

    @property
    def functions(self) -> tuple[Function, ...]:
        """Those of the selected configuration, none without one."""

    def bus_reset(self) -> None:
        """Back to the default state."""


class Endpoint0:
    """Answers the control URBs of one device; ``on_urb`` gets each one when it is complete."""

    def __init__(
        self, device: Device, standard: StandardRequests, on_urb: Callable[[Urb], None]
    ) -> None:
        self._device = device
        self._standard = standard
        self._on_urb = on_urb
        self._replies = device.description.vendor_replies
        self._descriptors: dict[bytes, memoryview] = {}

    def submit(self, urb: Urb) -> None:
        """Answer a control URB. Descriptors never change, so their replies are looked up whole."""
        answer = self._descriptors.get(urb.setup)
        if answer is None or not urb.endpoint:
            setup = SetupPacket.parse(urb.setup)
            given = self._answer(setup, urb)
            if given is None:
                self._finish(urb, -errno.EPIPE)
                return
            if not urb.endpoint & Direction.IN:
                urb.actual = urb.length
                self._finish(urb, 0)
                return
            answer = memoryview(given)[: setup.wLength]
            if setup.bmRequestType == 0x80 and setup.bRequest == StandardRequest.GET_DESCRIPTOR:
                self._remember(urb.setup, answer)
        length = urb.actual = len(answer)
        if length > urb.length:
            # More than the URB has room for is babble, as on any endpoint.
            urb.actual = urb.length
            answer = answer[: urb.length]
        urb.data = (answer,)
        self._finish(urb, -errno.EOVERFLOW if length > urb.length else 0)

    def _finish(self, urb: Urb, status: int) -> None:
        urb.status = status
        self._on_urb(urb)

    def _remember(self, setup: bytes, answer: memoryview) -> None:
        if len(self._descriptors) < _MAX_REMEMBERED:
            self._descriptors[setup] = answer

    def _answer(self, setup: SetupPacket, urb: Urb) -> Buffer | None:
        is_in = bool(urb.endpoint & Direction.IN)
        if setup.wLength and is_in != bool(setup.bmRequestType & Direction.IN):
            return None
        if setup.type == RequestType.STANDARD:
            if (setup.bmRequestType, setup.bRequest) != _INTERFACE_DESCRIPTOR:
                return self._standard.answer(setup, urb.payload)
        elif (setup.bmRequestType, setup.bRequest, setup.wValue) == _PORT_RESET:
            self._device.bus_reset()
            return b""
        request = (setup.bmRequestType, setup.bRequest, setup.wValue, setup.wIndex)
        if request in self._replies:
            return self._replies[request]
        try:
            answer = self._class_request(ControlRequest(setup, bytes(urb.payload)))
            # A copy: the function may change what it gave before the reply has left.
            return None if answer is None else bytes(memoryview(answer))
        except Exception:
            name = self._device.name
            log.exception("%s: a function failed on request %s; answered STALL", name, setup)
            return None

    def _class_request(self, request: ControlRequest) -> Buffer | None:
        """Offer a class or vendor request to the function that wIndex names, or to each."""
        number = request.setup.wIndex & 0xFF
        if request.setup.recipient == Recipient.INTERFACE:
            interface = self._device.interface(number)
            if interface is None:
                return None
            request.interface = interface.spec.role
            return interface.function.setup(request)
        if request.setup.recipient == Recipient.ENDPOINT:
            endpoint = self._device.endpoint(number)
            if endpoint is None:
                return None
            request.endpoint = endpoint.spec.role
            return endpoint.function.setup(request)
        for function in self._device.functions:
            answer = function.setup(request)
            if answer is not None:
                return answer
        return None
