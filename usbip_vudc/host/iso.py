"""How a host makes isochronous URBs of one buffer: packets of a service interval each. Pure.

It is what libusb does between a program and Linux: every packet but the last is as large as the
endpoint's service interval, and a URB has no more packets than usbfs takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from usbip_vudc.errors import LocalProtocolError
from usbip_vudc.host.enumeration import DeviceDescriptors, Selection
from usbip_vudc.urb import IsoUrb
from usbip_vudc.usb.ch9 import TransferType
from usbip_vudc.usb.descriptors import Endpoint

__all__ = ("bytes_per_interval", "find_endpoint", "split")

_URB_PACKETS: Final = 128
"""Packets of one URB: usbfs takes no more (drivers/usb/core/devio.c, proc_do_submiturb)."""


def find_endpoint(
    descriptors: DeviceDescriptors, selection: Selection, interface: int, address: int
) -> Endpoint | None:
    """The endpoint with this address in what is selected now; None where there is none."""
    alternate = selection.alternates.get(interface, 0)
    for configuration in descriptors.configurations:
        if (
            configuration is None
            or configuration.descriptor.bConfigurationValue != selection.configuration
        ):
            continue
        for setting in configuration.interfaces:
            head = setting.descriptor
            if (head.bInterfaceNumber, head.bAlternateSetting) == (interface, alternate):
                return next(
                    (e for e in setting.endpoints if e.descriptor.bEndpointAddress == address), None
                )
    return None


def bytes_per_interval(endpoint: Endpoint) -> int:
    """What an isochronous endpoint may move in one service interval, in bytes.

    That of the SuperSpeed companion (USB 3.2 table 9-27) where there is one, else packets times
    their size (USB 2.0 table 9-13). Raises LocalProtocolError for another type of endpoint.
    """
    descriptor = endpoint.descriptor
    if descriptor.transfer_type != TransferType.ISOCHRONOUS:
        raise LocalProtocolError(
            f"endpoint {descriptor.bEndpointAddress:#04x} is "
            f"{descriptor.transfer_type.name.lower()}, not isochronous"
        )
    companion = endpoint.companion
    if companion is not None:
        return companion.wBytesPerInterval
    return descriptor.max_packet_size * (1 + (descriptor.wMaxPacketSize >> 11 & 3))


def split(endpoint: Endpoint, buffer: memoryview) -> Sequence[IsoUrb]:
    """The URBs for all of this buffer, to be submitted in order and at once.

    Raises LocalProtocolError for an endpoint that can move nothing, or an empty buffer.
    """
    size = bytes_per_interval(endpoint)
    address = endpoint.descriptor.bEndpointAddress
    view = buffer.cast("B")
    if not size or not view.nbytes:
        raise LocalProtocolError(
            f"endpoint {address:#04x}: {view.nbytes} bytes in packets of at most {size}: there is "
            f"nothing to move"
        )
    # 2^(bInterval - 1) frames or microframes (USB 2.0 table 9-13).
    interval = 1 << min(max(endpoint.descriptor.bInterval, 1), 16) - 1
    urbs = []
    for start in range(0, view.nbytes, size * _URB_PACKETS):
        part = view[start : start + size * _URB_PACKETS]
        whole, rest = divmod(part.nbytes, size)
        lengths = [size] * whole + ([rest] if rest else [])
        urbs.append(IsoUrb(address, part, lengths, interval=interval))
    return urbs
