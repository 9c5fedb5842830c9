"""What a host would see of a gadget, in lines for people, and what looks wrong about it. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Final

from configfs.advice import FUNCTION_MODULES
from configfs.tree import check_platforms, check_speed, overwritten, plan
from usbip_vudc.errors import SchemeError
from usbip_vudc.gadget import Description, Gadget, KernelFunction, Layout, OsDescriptors
from usbip_vudc.usb.ch9 import Direction, Speed, TransferType
from usbip_vudc.usb.descriptors import Configuration, Endpoint

__all__ = ("summary",)

_SPEEDS: Final = (Speed.SUPER, Speed.HIGH, Speed.FULL, Speed.LOW)


def summary(gadget: Gadget, speed: Speed | None = None) -> Iterator[str]:
    """A line for the device, then what it is at each speed, or at one, then warnings.

    Raises SchemeError where it can exist at no speed at all, or not in configfs.
    """
    plan(gadget)
    count = len(gadget.configs)
    yield (
        f"{gadget.name} {gadget.idVendor:04x}:{gadget.idProduct:04x}, "
        f"{count} configuration{'s' if count > 1 else ''}, at most {gadget.max_speed.word} speed"
        f"{', deliberately illegal' if gadget.deliberately_illegal else ''}"
    )
    yield from _platforms(gadget)
    kernel = [f for config in gadget.configs for f in config.functions
              if isinstance(f, KernelFunction)]  # fmt: skip
    if kernel:
        yield from _mixed(gadget)
    else:
        yield from _speeds(gadget, _SPEEDS if speed is None else (speed,))
    yield from _warnings(gadget, kernel)


def _platforms(gadget: Gadget) -> Iterator[str]:
    """What it says to Windows and to browsers, which is the same at every speed."""
    ours = gadget.os_descriptors
    if ours is not None:
        versions = " and ".join(f"{version}.0" for version in ours.versions)
        yield (
            f"Microsoft OS {versions}: vendor code {ours.vendor_code:#04x}, config {ours.config}"
        )
        yield from _features(gadget, ours)
    if gadget.webusb is not None:
        page = f", {gadget.webusb.url}" if gadget.webusb.url else ", no landing page"
        yield f"WebUSB: vendor code {gadget.webusb.vendor_code:#04x}{page}"


def _features(gadget: Gadget, ours: OsDescriptors) -> Iterator[str]:
    functions = gadget.configs[ours.config - 1].functions
    for place, features in sorted(ours.features.items()):
        ids = " ".join(filter(None, (features.compatible_id, features.sub_compatible_id)))
        yield f"  {functions[place].name}: {ids or 'no compatible ID'}"
        for name, value in features.properties.items():
            shown = value.hex(" ") if isinstance(value, bytes) else value
            shown = ", ".join(shown) if isinstance(shown, tuple) else shown
            yield f"    {name} = {shown}"


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


def _speeds(gadget: Gadget, speeds: Sequence[Speed]) -> Iterator[str]:
    failures: list[str] = []
    possible = False
    for speed in speeds:
        broken = gadget.violations(speed) if speed <= gadget.max_speed else ()
        if gadget.possible(speed):
            possible = True
            yield from _description(gadget.describe(speed))
            yield from (f"  though USB forbids it: {violation}" for violation in broken)
        elif broken:
            failures += (f"{speed.word}: not possible: {violation}" for violation in broken)
        elif len(speeds) == 1:
            gadget.describe(speed)  # which says why not
    if not possible:
        raise SchemeError("; ".join(failures))
    yield from failures


def _description(description: Description) -> Iterator[str]:
    device = description.device
    speed = description.speed
    ep0 = device.bMaxPacketSize0
    if speed == Speed.SUPER and ep0 < 16:
        ep0 = 1 << ep0
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
    for said in overwritten(gadget):
        yield f"warning: {said}"
    for check in (check_speed, check_platforms):
        try:
            check(gadget)
        except SchemeError as error:
            yield f"warning: {error}"
