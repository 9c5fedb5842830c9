"""What a device says beyond chapter 9: Microsoft OS descriptors 1.0 and 2.0, and WebUSB.

The values of a gadget, and the string, the BOS capabilities and the vendor replies that follow
from them once interfaces are numbered. The layouts are usb/os_descriptors_1.py's, 2.py's and
webusb.py's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from usbip_vudc.errors import SchemeError
from usbip_vudc.function import Function
from usbip_vudc.gadget.config import Config, KernelFunction
from usbip_vudc.gadget.numbering import Layout
from usbip_vudc.usb import os_descriptors_1 as ms10
from usbip_vudc.usb import os_descriptors_2 as ms20
from usbip_vudc.usb.descriptors import Capability, DeviceDescriptor
from usbip_vudc.usb.os_features import OsFeatures
from usbip_vudc.usb.webusb import GET_URL, WebUsbCapability, url_descriptor

__all__ = ("OsDescriptors", "Platforms", "VendorRequest", "WebUsb")

VendorRequest = tuple[int, int, int, int]
"""BmRequestType, bRequest, wValue and wIndex."""

_FROM_DEVICE: Final = 0xC0
_FROM_INTERFACE: Final = 0xC1

_OF_INTERFACES: Final = ((0x00, 0x00, 0x00), (0xEF, 0x02, 0x01))
"""Classes of a device whose functions Windows tells apart, where it has several interfaces."""

_LANDING_PAGE: Final = 1
"""The index of the one URL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OsDescriptors:
    """Microsoft OS descriptors of a device.

    ``vendor_code`` is bMS_VendorCode. ``versions`` are 1 (the string at 0xEE with ``signature``),
    2 (a capability in the BOS, for ``windows_version`` and later), or both. They speak of one
    configuration, ``config``, by its number from 1; ``features`` maps the place of a function in
    it, from 0, to what Windows should know of it.
    """

    vendor_code: int
    signature: str = "MSFT100"
    config: int = 1
    versions: tuple[int, ...] = (1,)
    windows_version: int = ms20.WINDOWS_8_1
    features: Mapping[int, OsFeatures] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.vendor_code <= 0xFF:
            raise SchemeError(f"os_descriptors: vendor_code {self.vendor_code}: expected 0 to 255")
        if self.versions not in ((1,), (2,), (1, 2)):
            raise SchemeError(
                f"os_descriptors: versions {list(self.versions)}: expected [1], [2] or [1, 2]"
            )
        if not 0 <= self.windows_version <= 0xFFFFFFFF:
            raise SchemeError(
                f"os_descriptors: windows_version {self.windows_version:#x}: expected 0 to "
                f"0xffffffff"
            )
        self.string()

    def string(self) -> ms10.OsString:
        """The string of version 1. Raises SchemeError where the signature is too long."""
        return ms10.OsString(vendor_code=self.vendor_code, signature=self.signature)

    def check(self, configs: Sequence[Config]) -> None:
        """Raises SchemeError where it speaks of what the configurations have not."""
        if not 1 <= self.config <= len(configs):
            raise SchemeError(f"config {self.config}: expected 1 to {len(configs)}")
        functions = configs[self.config - 1].functions
        for place in self.features:
            if not 0 <= place < len(functions):
                has = f"0 to {len(functions) - 1}" if functions else "a function in it"
                raise SchemeError(
                    f"function {place} of configuration {self.config}: expected {has}"
                )
            if isinstance(functions[place], KernelFunction):
                raise SchemeError(
                    f"function {place} of configuration {self.config} is the kernel's own: "
                    f"expected its attributes os_desc/interface.NAME/compatible_id there"
                )

    def features_of(self, function: Function, configs: Sequence[Config]) -> OsFeatures | None:
        """What it says of a function in its configuration; None where it says nothing."""
        functions = configs[self.config - 1].functions
        return next((f for n, f in self.features.items() if functions[n] is function), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class WebUsb:
    """WebUSB: a page that a browser offers when the device is plugged in, where there is a URL."""

    vendor_code: int
    url: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.vendor_code <= 0xFF:
            raise SchemeError(f"webusb: vendor_code {self.vendor_code}: expected 0 to 255")
        url_descriptor(self.url)


@dataclass(frozen=True, slots=True)
class Platforms:
    """Both, as far as a gadget has them, and what follows for its descriptors."""

    os_descriptors: OsDescriptors | None
    webusb: WebUsb | None

    @property
    def in_bos(self) -> bool:
        """Whether a BOS is needed."""
        ours = self.os_descriptors
        return self.webusb is not None or (ours is not None and 2 in ours.versions)

    def strings(self) -> Mapping[tuple[int, int], bytes]:
        """The string descriptor at 0xEE, in language 0."""
        ours = self.os_descriptors
        if ours is None or 1 not in ours.versions:
            return {}
        return {(ms10.OS_STRING_INDEX, 0): ours.string().pack()}

    def capabilities(
        self, device: DeviceDescriptor, layouts: Sequence[Layout]
    ) -> tuple[Capability, ...]:
        """What stands in the BOS. Raises SchemeError for a descriptor set that is too long."""
        found: list[Capability] = []
        if self.webusb is not None:
            page = _LANDING_PAGE if self.webusb.url else 0
            webusb = WebUsbCapability(bVendorCode=self.webusb.vendor_code, iLandingPage=page)
            found.append(webusb.capability().capability())
        ours = self.os_descriptors
        if ours is not None and 2 in ours.versions:
            microsoft = ms20.OsCapability(
                vendor_code=ours.vendor_code,
                total_length=len(_descriptor_set(ours, device, layouts)),
                windows_version=ours.windows_version,
            )
            found.append(microsoft.capability().capability())
        return tuple(found)

    def replies(
        self, device: DeviceDescriptor, layouts: Sequence[Layout]
    ) -> Mapping[VendorRequest, bytes]:
        """What vendor requests bring."""
        found: dict[VendorRequest, bytes] = {}
        if self.webusb is not None and self.webusb.url:
            request = (_FROM_DEVICE, self.webusb.vendor_code, _LANDING_PAGE, GET_URL)
            found[request] = url_descriptor(self.webusb.url)
        ours = self.os_descriptors
        if ours is not None and 1 in ours.versions:
            found |= _version_1(ours, layouts)
        if ours is not None and 2 in ours.versions:
            request = (_FROM_DEVICE, ours.vendor_code, 0, ms20.DESCRIPTOR_SET)
            found[request] = _descriptor_set(ours, device, layouts)
        return found


def _by_interface(ours: OsDescriptors, layout: Layout) -> dict[int, OsFeatures]:
    """First interface of a function -> its features."""
    firsts: dict[int, int] = {}
    for number, slot in layout.interfaces.items():
        place = next(n for n, f in enumerate(layout.functions) if f is slot.function)
        firsts.setdefault(place, number)
    return {firsts[place]: f for place, f in ours.features.items() if place in firsts}


def _version_1(ours: OsDescriptors, layouts: Sequence[Layout]) -> dict[VendorRequest, bytes]:
    """As the kernel answers: properties of every interface, though there be none."""
    layout = layouts[ours.config - 1]
    features = _by_interface(ours, layout)
    code = ours.vendor_code
    found = {(_FROM_DEVICE, code, 0, ms10.COMPATIBLE_ID): ms10.compatible_ids(features)}
    for number in layout.interfaces:
        reply = ms10.properties(features.get(number, OsFeatures()).properties)
        # Accounts differ on which byte of wValue is the interface (composite.c: the low one); the
        # other is the page, always 0 here. WinUSB writes the interface into the wIndex of a
        # request to one, so programs over it ask the device.
        for wValue in (number, number << 8):
            for bmRequestType in (_FROM_INTERFACE, _FROM_DEVICE):
                found[bmRequestType, code, wValue, ms10.PROPERTIES] = reply
    return found


def _descriptor_set(
    ours: OsDescriptors, device: DeviceDescriptor, layouts: Sequence[Layout]
) -> bytes:
    """The set of version 2: subsets only for what Windows takes apart into functions."""
    layout = layouts[ours.config - 1]
    features = _by_interface(ours, layout)
    device_class = (device.bDeviceClass, device.bDeviceSubClass, device.bDeviceProtocol)
    if len(layout.interfaces) > 1 and device_class in _OF_INTERFACES:
        made = ms20.OsDescriptorSet(
            windows_version=ours.windows_version,
            functions=features,
            configuration=ours.config - 1,
        )
    else:
        whole = next(iter(features.values()), OsFeatures())
        made = ms20.OsDescriptorSet(windows_version=ours.windows_version, device=whole)
    return made.pack()
