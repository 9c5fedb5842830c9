"""Bringing a device along: a ready-made gadget on a UDC, attached to this machine's own host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from usbip_vudc.carrier import OURS, Carried, Carrier, carried
from usbip_vudc.errors import SchemeError
from usbip_vudc.gadget import Gadget
from usbip_vudc.registry import GadgetOptions, load_gadget
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.usbtest.driver import bound, load, load_driver, parameter
from usbip_vudc.usbtest.target import Target
from usbip_vudc.vudc import UserspaceUDC

__all__ = ("GADGETS", "brought", "modules_for", "on_carrier", "read_carrier", "usual_gadget")

GADGETS: Final = ("usbtest", "usbtest-ffs", "usbtest-low")
"""Ready-made gadgets that usbtest knows."""

_HOST: Final = "linux"


def read_carrier(text: str) -> Carrier:
    """Read ``UDC[,SPEED]``, with this machine's host at its end. Raises SchemeError."""
    if "pyusb" in (word.strip() for word in text.split(",")):
        raise SchemeError(f"carrier {text!r}: usbtest is a driver of Linux: leave `pyusb` out")
    return replace(Carrier.parse(text), host=_HOST)


def usual_gadget(carrier: Carrier) -> str:
    """The gadget with the most endpoints that there can be on this carrier."""
    return "usbtest-low" if carrier.speed == Speed.LOW else "usbtest"


def modules_for(carrier: Carrier) -> Iterator[tuple[str, ...]]:
    """The modules that a carrier needs, each with its parameters."""
    if carrier.over_usbip:
        yield ("vhci-hcd",)
    if carrier.udc != OURS:
        yield from (("libcomposite",), ("usb_f_fs",))
    kind, _, number = carrier.udc.rpartition(".")
    count = f"num={int(number) + 1 if number.isdigit() else 1}"
    if kind == "usbip-vudc":
        yield "usbip-vudc", count
    elif kind == "dummy_udc":
        yield "dummy_hcd", "is_super_speed=1", count
    if carrier.stub:
        yield ("usbip-host",)


@contextmanager
def brought(
    text: str, gadget: str | None = None, *, alt: int | None = None, pattern: int | None = None
) -> Iterator[Target]:
    """A gadget on the UDC and at the speed of a text, as a device in the hands of usbtest.

    ``pattern`` is that of device and driver. Loads the modules that it needs; they stay. Raises
    UsbtestError, CarrierError, SchemeError.
    """
    # A UDC's speed is known when it is there.
    for words in modules_for(read_carrier(text)):
        load(*words)
    load_driver()
    carrier = read_carrier(text)
    made = load_gadget(gadget or usual_gadget(carrier), GadgetOptions(pattern=pattern or 0))
    with parameter("pattern", pattern), on_carrier(made, carrier, alt=alt) as target:
        yield target


@contextmanager
def on_carrier(gadget: Gadget, carrier: Carrier, *, alt: int | None = None) -> Iterator[Target]:
    """A gadget that usbtest knows, carried to this machine's host, in the hands of usbtest.

    Raises UsbtestError, CarrierError, SchemeError, SysfsError.
    """
    with carried(gadget, carrier) as device:
        try:
            with bound(device.sysfs.name, alt=alt) as target:
                yield target
        finally:
            _end_what_hangs(device)


def _end_what_hangs(device: Carried) -> None:
    """Give back the URBs that are pending at our own UDC.

    A test that hangs waits for them with the device's lock held, and a hub that has to disconnect
    the device waits for the lock: after a detach neither would ever end (usbtest.c, at
    usbtest_ioctl).
    """
    udc = device.udc
    if isinstance(udc, UserspaceUDC):
        device.portal.call(udc.bus_reset)
        device.portal.call(udc.kick)
