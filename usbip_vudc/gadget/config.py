"""What a device is made of besides functions: configurations, and the kernel's functions.

Values only; what a host sees of them is numbering.py's and device.py's work.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from usbip_vudc.errors import SchemeError
from usbip_vudc.function import Function
from usbip_vudc.usb.ch9 import ConfigAttributes

__all__ = ("MAX_POWER_MA", "Config", "KernelFunction", "Text")

Text = str | Mapping[int, str]
"""A string, or one for each language code (USB_LANGIDs: 0x0409 is English, United States)."""

MAX_POWER_MA: Final = 255 * 8
"""The most that a bMaxPower can say, at SuperSpeed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelFunction:
    """A function that the kernel implements (drivers/usb/gadget/function), by its configfs name.

    ``driver`` and ``instance`` make the directory ``functions/DRIVER.INSTANCE``. ``attributes``
    maps a path below it to what is written there, in order: ``stall``, ``lun.1/file``,
    ``os_desc/interface.rndis/compatible_id``; bytes are written as they are (``report_desc``).
    It runs on the kernel's UDCs only.
    """

    driver: str
    instance: str = "0"
    attributes: Mapping[str, str | bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in (("driver", self.driver), ("instance", self.instance)):
            if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", value):
                raise SchemeError(
                    f"kernel function {self.driver}.{self.instance}: {name} {value!r}: expected "
                    f"letters, digits, _, - and ."
                )
        for path in self.attributes:
            if not all(part and part not in (".", "..") for part in path.split("/")):
                raise SchemeError(
                    f"kernel function {self.name}: attribute {path!r}: expected a path below "
                    f"functions/{self.name}, such as lun.0/file"
                )

    @property
    def name(self) -> str:
        """The directory below ``functions/``."""
        return f"{self.driver}.{self.instance}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One configuration: its functions, in the order of their interfaces.

    ``max_power_ma`` is in mA: what it draws where the bus gives that much. At a speed where it
    gives less (500 mA at the speeds of USB 2.0, 900 mA at SuperSpeed) it asks for that.
    """

    functions: tuple[Function | KernelFunction, ...]
    name: Text = ""
    self_powered: bool = True
    remote_wakeup: bool = False
    max_power_ma: int = 100

    def __post_init__(self) -> None:
        if not 0 <= self.max_power_ma <= MAX_POWER_MA:
            raise SchemeError(f"max_power_ma {self.max_power_ma}: expected 0 to {MAX_POWER_MA} mA")

    @property
    def bmAttributes(self) -> int:
        """USB 2.0 table 9-10."""
        attributes = ConfigAttributes.ONE
        if self.self_powered:
            attributes |= ConfigAttributes.SELF_POWERED
        if self.remote_wakeup:
            attributes |= ConfigAttributes.REMOTE_WAKEUP
        return attributes
