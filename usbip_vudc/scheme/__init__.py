"""The TOML form of a Gadget: read, written, and documented by its own templates.

    name = "disk"
    idVendor = 0x0525
    idProduct = 0xa4a5
    [[configs]]
    [[configs.functions]]
    type = "mass_storage"                      # one of this project's, by registry.FUNCTIONS
    luns = [{ image = "disk.img", size = "64M" }]
    [[configs.functions]]
    kernel = "acm"                             # one of the kernel's (drivers/usb/gadget/function)

The same scheme serves every UDC. Functions read and write their own keys (FunctionScheme).
"""

from __future__ import annotations

from usbip_vudc.scheme.functions import FunctionScheme
from usbip_vudc.scheme.reading import is_scheme, load_scheme, parse_scheme
from usbip_vudc.scheme.size import parse_size
from usbip_vudc.scheme.table import Table
from usbip_vudc.scheme.writing import dump_scheme, template

__all__ = (
    "FunctionScheme",
    "Table",
    "dump_scheme",
    "is_scheme",
    "load_scheme",
    "parse_scheme",
    "parse_size",
    "template",
)
