"""The ready gadget, with the ids of the kernel's multifunction gadget."""

from __future__ import annotations

from gadgets.functionfs_test.function import FunctionFSTestFunction
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.registry import GadgetOptions

__all__ = ("functionfs_test",)


def functionfs_test(options: GadgetOptions) -> Gadget:
    """Fifteen bulk pairs, or ``--pairs``; 1d6b:0104."""
    return Gadget(
        name="functionfs-test",
        idVendor=0x1D6B,
        idProduct=0x0104,
        manufacturer="usbip-vudc",
        product="FunctionFS test device",
        serial=options.serial_number,
        configs=(
            Config(
                functions=(FunctionFSTestFunction(pairs=options.pairs),),
                name="test",
                self_powered=False,
                max_power_ma=500,
            ),
        ),
    )
