"""The devices that the golden traces of other hosts were written for, by the name of the trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gadgets.hid.mouse import MouseFunction
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.registry import GadgetOptions, load_gadget
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.vudc import UserspaceUDC


def _ready(name: str, speed: Speed) -> UserspaceUDC:
    return UserspaceUDC(load_gadget(name, GadgetOptions(size=1 << 20)), speed=speed)


def _mouse() -> UserspaceUDC:
    """A mouse that has moved twice by the time that a host asks."""
    function = MouseFunction()
    function.move(5, -3)
    function.move(-100, 0)
    gadget = Gadget(
        name="mouse",
        idVendor=0x0525,
        idProduct=0xA4AC,
        max_speed=Speed.FULL,
        configs=(Config(functions=(function,)),),
    )
    return UserspaceUDC(gadget)


DEVICES: Mapping[str, Callable[[], UserspaceUDC]] = {
    "usbip-win2-storage": lambda: _ready("storage", Speed.HIGH),
    "usbip-win2-serial": lambda: _ready("serial", Speed.SUPER),
    "viiper-mouse": _mouse,
}
