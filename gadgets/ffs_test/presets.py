"""The ready gadget, with the ids by which Linux's usbtest takes ffs-test."""

from __future__ import annotations

from gadgets.ffs_test.function import PATTERNS, FfsTestFunction
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.registry import GadgetOptions

__all__ = ("ffs_test",)


def ffs_test(options: GadgetOptions) -> Gadget:
    """A bulk source and a bulk sink, 0525:a4a4; ``pattern`` by its number."""
    words = {number: word for word, number in PATTERNS.items()}
    function = FfsTestFunction(pattern=words.get(options.pattern, str(options.pattern)))
    return Gadget(
        name="ffs-test",
        idVendor=0x0525,
        idProduct=0xA4A4,
        manufacturer="usbip-vudc",
        product="ffs-test twin",
        serial=options.serial_number,
        configs=(Config(functions=(function,)),),
    )
