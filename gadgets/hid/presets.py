"""The ready keyboard and mouse: low-speed devices with the ids of Linux's own HID gadget, g_hid.

They are told apart by their interfaces and their strings, as two of g_hid would be.
"""

from __future__ import annotations

from gadgets.hid.function import HidFunction
from gadgets.hid.keyboard import KeyboardFunction
from gadgets.hid.mouse import MouseFunction
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.registry import GadgetOptions
from usbip_vudc.usb.ch9 import Speed

__all__ = ("keyboard", "mouse")


def keyboard(options: GadgetOptions) -> Gadget:
    """A low-speed US keyboard, 0525:a4ac, that types ``options.text``."""
    return _low_speed("keyboard", KeyboardFunction(text=options.text), options)


def mouse(options: GadgetOptions) -> Gadget:
    """A low-speed mouse, 0525:a4ac, that goes along ``options.path``."""
    return _low_speed("mouse", MouseFunction(path=options.path), options)


def _low_speed(name: str, function: HidFunction, options: GadgetOptions) -> Gadget:
    return Gadget(
        name=name,
        idVendor=0x0525,
        idProduct=0xA4AC,
        manufacturer="usbip-vudc",
        product=f"{name.capitalize()} gadget",
        serial=options.serial_number,
        max_speed=Speed.LOW,
        configs=(Config(functions=(function,), name=name.capitalize(), self_powered=False),),
    )
