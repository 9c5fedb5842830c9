"""GenericSerialFunction: a serial port without a class: two bulk endpoints, as the kernel's gser.

It has no line: no baud rate, no DTR, no break. Linux's usbserial takes it as a "generic" device
where it is told the ids (``modprobe usbserial vendor=0x0525 product=0xa4a6``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from gadgets.serial.flow import Flow
from gadgets.serial.function import SerialFunction
from gadgets.serial.line import Line
from gadgets.serial.profile import Profile
from gadgets.serial.profiles import Echo
from usbip_vudc.errors import SchemeError
from usbip_vudc.function import AltSetting, EndpointSpec, InterfaceSpec
from usbip_vudc.usb.ch9 import UsbClass

__all__ = ("GenericSerialFunction",)


class GenericSerialFunction(SerialFunction):
    """Two bulk endpoints whose bytes go where ``profile`` says (default: back).

    Raises SchemeError for a flow that needs a line: nobody could tell it a rate or a DTR.
    """

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

    def __init__(self, profile: Profile | None = None, *, flow: Flow | None = None) -> None:
        super().__init__(Echo() if profile is None else profile, line=Line(), flow=flow)
        for key in ("baud_paced", "wait_for_dtr"):
            if getattr(self.flow, key):
                raise SchemeError(
                    f"{key}: a generic serial port has no line, so no rate and no DTR; expected "
                    f"false, or a function of type acm"
                )
