"""The ready gadget: the descriptors that PyUSB's tests compare, field for field."""

from __future__ import annotations

from gadgets.pyusb_test.function import PyusbTestFunction
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.registry import GadgetOptions
from usbip_vudc.usb.ch9 import Speed

__all__ = ("pyusb_test",)


def pyusb_test(options: GadgetOptions) -> Gadget:
    """A full-speed device, 04d8:fa2e, whose endpoint 0 has packets of 8 bytes."""
    return Gadget(
        name="pyusb-test",
        idVendor=0x04D8,
        idProduct=0xFA2E,
        bcdDevice=0x0001,
        device_class=(0, 0, 0),
        manufacturer="Travis Robinson",
        product="Benchmark Device",
        serial=options.serial_number,
        max_speed=Speed.FULL,
        bMaxPacketSize0={Speed.FULL: 8},
        configs=(Config(functions=(PyusbTestFunction(),), max_power_ma=100),),
    )
