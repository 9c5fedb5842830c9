"""The ready gadget: an FT232R with the ids that FTDI gave it."""

from __future__ import annotations

from gadgets.ftdi.eeprom import eeprom
from gadgets.ftdi.function import FtdiFunction
from gadgets.serial.presets import flow_of, profiles_of
from usbip_vudc.errors import SchemeError
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.registry import GadgetOptions

__all__ = ("ftdi",)

_MANUFACTURER, _PRODUCT = "usbip-vudc", "FT232R USB UART"


def ftdi(options: GadgetOptions) -> Gadget:
    """A serial port with FTDI's protocol, 0403:6001; bcdDevice 6.00 says FT232R."""
    if options.ports != 1:
        raise SchemeError(f"ports {options.ports}: an FT232R has 1; the gadget serial can have 7")
    [profile] = profiles_of(options)
    function = FtdiFunction(
        profile,
        flow=flow_of(options),
        eeprom=eeprom(manufacturer=_MANUFACTURER, product=_PRODUCT, serial=options.serial_number),
    )
    return Gadget(
        name="ftdi",
        idVendor=0x0403,
        idProduct=0x6001,
        bcdDevice=0x0600,
        manufacturer=_MANUFACTURER,
        product=_PRODUCT,
        serial=options.serial_number,
        configs=(Config(functions=(function,), name="UART", self_powered=False, max_power_ma=90),),
    )
