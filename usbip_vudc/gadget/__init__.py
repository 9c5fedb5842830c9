"""Gadget: the pure description of a device, and the descriptors that follow from it.

    config.py       what a configuration is made of
    at_speed.py     an endpoint at one speed: the bytes of its descriptors
    legality.py     what USB forbids, rule by rule, with its section
    numbering.py    interfaces, endpoints and strings of a configuration get their numbers
    platforms.py    what it says to Microsoft's and the web's drivers
    device.py       Gadget, and its Description at one speed

It holds no state of a bus and carries nothing: that is a UDC's work.
"""

from __future__ import annotations

from usbip_vudc.gadget.at_speed import EndpointAtSpeed
from usbip_vudc.gadget.config import (
    MAX_POWER_MA,
    Config,
    KernelFunction,
    Text,
)
from usbip_vudc.gadget.device import Description, Gadget
from usbip_vudc.gadget.legality import RULES, Rule, Violation, legal_packet_sizes
from usbip_vudc.gadget.numbering import EndpointSlot, InterfaceSlot, Layout
from usbip_vudc.gadget.platforms import OsDescriptors, WebUsb
from usbip_vudc.usb.os_features import OsFeatures

__all__ = (
    "MAX_POWER_MA",
    "RULES",
    "Config",
    "Description",
    "EndpointAtSpeed",
    "EndpointSlot",
    "Gadget",
    "InterfaceSlot",
    "KernelFunction",
    "Layout",
    "OsDescriptors",
    "OsFeatures",
    "Rule",
    "Text",
    "Violation",
    "WebUsb",
    "legal_packet_sizes",
)
