"""What a host would see of a gadget, in lines for people, and what looks wrong about it. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from configfs.advice import FUNCTION_MODULES
from configfs.tree import plan
from usbip_vudc.errors import SchemeError
from usbip_vudc.gadget import Description, Gadget, KernelFunction, Layout
from usbip_vudc.usb.ch9 import Direction, Speed, TransferType
from usbip_vudc.usb.descriptors import Configuration, Endpoint

__all__ = ("summary",)


def summary(gadget: Gadget) -> Iterator[str]:
    """A line for the device, then what it is at each speed, then warnings.

    Raises SchemeError where it can exist at no speed at all, or not in configfs.
    """
    plan(gadget)
    count = len(gadget.configs)
    yield (
        f"{gadget.name} {gadget.idVendor:04x}:{gadget.idProduct:04x}, "
        f"{count} configuration{'s' if count > 1 else ''}, at most {gadget.max_speed.word} speed"
    )
    kernel = [f for config in gadget.configs for f in config.functions
              if isinstance(f, KernelFunction)]  # fmt: skip
    if kernel:
        yield from _mixed(gadget)
    else:
        yield from _speeds(gadget)
    yield from _warnings(gadget, kernel)


def _mixed(gadget: Gadget) -> Iterator[str]:
    """The kernel describes its functions itself; what can be said is what is asked of it."""
    for number, config in enumerate(gadget.configs, start=1):
        yield f"config {number}: {config.max_power_ma} mA"
        for function in config.functions:
            if not isinstance(function, KernelFunction):
                yield f"  {function.name} (FunctionFS)"
                continue
            yield f"  {function.name} (kernel)"
            for path, value in function.attributes.items():
                shown = value if isinstance(value, str) else value.hex(" ")
                yield f"    {path} = {shown}"


def _speeds(gadget: Gadget) -> Iterator[str]:
    failures: list[str] = []
    possible = 0
    for speed in (Speed.SUPER, Speed.HIGH, Speed.FULL, Speed.LOW):
        if speed > gadget.max_speed:
            continue
        try:
            description = gadget.describe(speed)
        except SchemeError as error:
            failures.append(f"{speed.word}: not possible: {error}")
            continue
        possible += 1
        yield from _description(description)
    if not possible:
        raise SchemeError("; ".join(failures))
    yield from failures


def _description(description: Description) -> Iterator[str]:
    device = description.device
    speed = description.speed
    ep0 = 1 << device.bMaxPacketSize0 if speed == Speed.SUPER else device.bMaxPacketSize0
    yield (
        f"{speed.word}: bcdUSB {device.bcdUSB >> 8}.{device.bcdUSB & 0xFF:02x}, class "
        f"{device.bDeviceClass:02x}/{device.bDeviceSubClass:02x}/{device.bDeviceProtocol:02x}, "
        f"ep0 {ep0}"
    )
    for layout, configuration in zip(description.layouts, description.configurations, strict=True):
        yield from _configuration(layout, configuration, unit=8 if speed == Speed.SUPER else 2)


def _configuration(layout: Layout, configuration: Configuration, *, unit: int) -> Iterator[str]:
    header = configuration.descriptor
    size = len(configuration.pack())
    yield f"  config {layout.value}: {header.bMaxPower * unit} mA, {size} bytes"
    for interface in configuration.interfaces:
        one = interface.descriptor
        function = layout.interfaces[one.bInterfaceNumber].function
        endpoints = ", ".join(map(_endpoint, interface.endpoints)) or "no endpoints"
        alternate = f" alt {one.bAlternateSetting}" if one.bAlternateSetting else ""
        yield (
            f"    interface {one.bInterfaceNumber}{alternate} {one.bInterfaceClass:02x}/"
            f"{one.bInterfaceSubClass:02x}/{one.bInterfaceProtocol:02x} {function.name}: "
            f"{endpoints}"
        )


def _endpoint(endpoint: Endpoint) -> str:
    one = endpoint.descriptor
    way = "IN" if one.bEndpointAddress & Direction.IN else "OUT"
    kind = TransferType(one.bmAttributes & 0x03).name.lower()
    return f"{one.bEndpointAddress:02x} {kind} {way} {one.wMaxPacketSize}"


def _warnings(gadget: Gadget, kernel: list[KernelFunction]) -> Iterator[str]:
    for function in kernel:
        if function.driver not in FUNCTION_MODULES:
            near = difflib.get_close_matches(function.driver, FUNCTION_MODULES, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            yield f"warning: {function.name}: no kernel function is known by that name{hint}"
    if not gadget.idVendor:
        yield "warning: idVendor 0: hosts may refuse the device"
    if not gadget.serial:
        yield "warning: no serial: a host cannot tell two such devices apart"
    for number, config in enumerate(gadget.configs, start=1):
        if not config.functions:
            yield f"warning: config {number} has no function: it cannot be bound"
        if config.max_power_ma > 500:
            yield f"warning: config {number}: more than 500 mA is for SuperSpeed only"
