"""Ready gadgets that Linux's usbtest takes by their ids (drivers/usb/misc/usbtest.c, id_table)."""

from __future__ import annotations

from gadgets.usbtest.function import SourceSinkFunction
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.registry import GadgetOptions
from usbip_vudc.usb.ch9 import Speed

__all__ = ("usbtest", "usbtest_ffs", "usbtest_low")


def usbtest(options: GadgetOptions) -> Gadget:
    """Every endpoint that usbtest has a case for, 0525:a4a0 as g_zero."""
    return _gadget("usbtest", 0x0525, 0xA4A0, "all", options)


def usbtest_ffs(options: GadgetOptions) -> Gadget:
    """One bulk pair and nothing else, 0525:a4a4 as ffs-test."""
    return _gadget("usbtest-ffs", 0x0525, 0xA4A4, "bulk", options)


def usbtest_low(options: GadgetOptions) -> Gadget:
    """A low-speed device with an interrupt pair, fff0:fff0 as usbtest's own firmware."""
    return _gadget("usbtest-low", 0xFFF0, 0xFFF0, "interrupt", options, max_speed=Speed.LOW)


def _gadget(
    name: str,
    idVendor: int,
    idProduct: int,
    endpoints: str,
    options: GadgetOptions,
    *,
    max_speed: Speed = Speed.SUPER,
) -> Gadget:
    function = SourceSinkFunction(endpoints=endpoints, pattern=options.pattern)
    return Gadget(
        name=name,
        idVendor=idVendor,
        idProduct=idProduct,
        device_class=(0xFF, 0, 0),
        manufacturer="usbip-vudc",
        product="Source and sink gadget",
        serial=options.serial_number,
        max_speed=max_speed,
        configs=(Config(functions=(function,), name=name),),
    )
