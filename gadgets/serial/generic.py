"""GenericSerialFunction: a serial port without a class: two bulk endpoints, as the kernel's gser.

It has no line: no baud rate, no DTR, no break. Linux's usbserial takes it as a "generic" device
where it is told the ids (``modprobe usbserial vendor=0x0525 product=0xa4a6``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import anyio

from gadgets.serial.profiles import Echo, Profile
from usbip_vudc.function import AltSetting, Endpoint, EndpointSpec, Function, InterfaceSpec
from usbip_vudc.usb.ch9 import UsbClass

__all__ = ("GenericSerialFunction",)


class GenericSerialFunction(Function):
    """Two bulk endpoints whose bytes go where ``profile`` says (default: back)."""

    name: ClassVar[str] = "generic"
    interfaces: Sequence[InterfaceSpec] = (
        InterfaceSpec(
            role="serial",
            bInterfaceClass=UsbClass.VENDOR_SPECIFIC,
            alternates=(
                AltSetting(endpoints=(EndpointSpec.bulk_in("in"), EndpointSpec.bulk_out("out"))),
            ),
        ),
    )

    def __init__(self, profile: Profile | None = None) -> None:
        self.profile = Echo() if profile is None else profile

    async def run(self, endpoints: Mapping[str, Endpoint]) -> None:
        """One connection: the profile works in callbacks until it ends."""
        self.profile.connect(endpoints["in"], endpoints["out"])
        try:
            await anyio.sleep_forever()
        finally:
            self.profile.disconnect()
