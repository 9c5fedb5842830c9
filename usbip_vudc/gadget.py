"""Gadget and Config: the pure description of a device, and the descriptors that follow from it.

A Gadget names what the host will see; `Gadget.describe` numbers its interfaces, endpoints and
strings for one speed. It holds no state of a bus and carries nothing: that is a UDC's work.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from usbip_vudc.errors import SchemeError
from usbip_vudc.function import AltSetting, EndpointSpec, Function, InterfaceSpec
from usbip_vudc.usb.ch9 import (
    ConfigAttributes,
    Direction,
    Speed,
    TransferType,
    default_max_packet_size,
    ep0_max_packet_size,
)
from usbip_vudc.usb.descriptors import (
    LANGID_ENGLISH_US,
    BosDescriptor,
    Configuration,
    ConfigurationDescriptor,
    DeviceDescriptor,
    DeviceQualifierDescriptor,
    Endpoint,
    EndpointDescriptor,
    Interface,
    InterfaceAssociationDescriptor,
    InterfaceDescriptor,
    SuperSpeedCapability,
    SuperSpeedEndpointCompanion,
    Usb20Extension,
    as_other_speed,
    langid_descriptor,
    string_descriptor,
)

__all__ = (
    "Config",
    "Description",
    "EndpointSlot",
    "Gadget",
    "InterfaceSlot",
    "KernelFunction",
    "Layout",
    "OsDescriptors",
    "Text",
)

Text = str | Mapping[int, str]
"""A string, or one for each language code (USB_LANGIDs: 0x0409 is English, United States)."""

_PHY_SPEEDS: Final = (Speed.LOW, Speed.FULL, Speed.HIGH, Speed.SUPER)
_OTHER_SPEED: Final = {Speed.FULL: Speed.HIGH, Speed.HIGH: Speed.FULL}


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
class OsDescriptors:
    """Microsoft OS descriptors 1.0 of a device: the string at index 0xEE.

    ``vendor_code`` is bMS_VendorCode; ``config`` is the number, from 1, of the configuration
    that they speak of.
    """

    vendor_code: int
    signature: str = "MSFT100"
    config: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.vendor_code <= 0xFF:
            raise SchemeError(f"os_descriptors: vendor_code {self.vendor_code}: expected 0 to 255")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One configuration: its functions, in the order of their interfaces.

    ``max_power_ma`` is in mA (0 to 510, and to 900 at SuperSpeed).
    """

    functions: tuple[Function | KernelFunction, ...]
    name: Text = ""
    self_powered: bool = True
    remote_wakeup: bool = False
    max_power_ma: int = 100

    def __post_init__(self) -> None:
        if not 0 <= self.max_power_ma <= 900:
            raise SchemeError(f"max_power_ma {self.max_power_ma}: expected 0 to 900 mA")

    @property
    def bmAttributes(self) -> int:
        """USB 2.0 table 9-10."""
        attributes = ConfigAttributes.ONE
        if self.self_powered:
            attributes |= ConfigAttributes.SELF_POWERED
        if self.remote_wakeup:
            attributes |= ConfigAttributes.REMOTE_WAKEUP
        return attributes


@dataclass(frozen=True, slots=True, kw_only=True)
class Gadget:
    """A device as its host will see it.

    ``device_class`` is (bDeviceClass, bDeviceSubClass, bDeviceProtocol); None lets the functions
    decide (EF/02/01 where there is an interface association). ``max_speed`` is the fastest speed
    it can be asked for.
    """

    name: str
    idVendor: int
    idProduct: int
    bcdDevice: int = 0x0100
    device_class: tuple[int, int, int] | None = None
    manufacturer: Text = ""
    product: Text = ""
    serial: Text = ""
    max_speed: Speed = Speed.SUPER
    os_descriptors: OsDescriptors | None = None
    configs: tuple[Config, ...]

    def __post_init__(self) -> None:
        for name in ("idVendor", "idProduct", "bcdDevice"):
            value = getattr(self, name)
            if not 0 <= value <= 0xFFFF:
                raise SchemeError(f"gadget {self.name}: {name} {value:#x}: expected 0 to 0xffff")
        if not 1 <= len(self.configs) <= 8:
            raise SchemeError(f"gadget {self.name}: {len(self.configs)} configs, expected 1 to 8")
        if self.max_speed not in _PHY_SPEEDS:
            raise SchemeError(
                f"gadget {self.name}: max_speed {self.max_speed.word}, expected one of "
                f"{', '.join(s.word for s in _PHY_SPEEDS)}"
            )
        os_descriptors = self.os_descriptors
        if os_descriptors is not None and not 1 <= os_descriptors.config <= len(self.configs):
            raise SchemeError(
                f"gadget {self.name}: os_descriptors: config {os_descriptors.config}: expected "
                f"1 to {len(self.configs)}"
            )

    def describe(self, speed: Speed) -> Description:
        """Number everything for one speed.

        Raises SchemeError where the speed is above ``max_speed``, or a function cannot exist at
        it, or endpoints, interfaces or strings run out.
        """
        if speed not in _PHY_SPEEDS or speed > self.max_speed:
            raise SchemeError(
                f"gadget {self.name}: speed {speed.word} is not available; expected one of "
                f"{', '.join(s.word for s in _PHY_SPEEDS if s <= self.max_speed)}"
            )
        strings = _Strings()
        device_strings = [strings.index(t) for t in (self.manufacturer, self.product, self.serial)]
        built = [
            _ConfigBuilder(config, value, speed, strings).build()
            for value, config in enumerate(self.configs, start=1)
        ]
        layouts = tuple(layout for layout, _ in built)
        has_iad = any(layout.has_iad for layout in layouts)
        device_class = self.device_class or ((0xEF, 2, 1) if has_iad else (0, 0, 0))
        bcdUSB = 0x0320 if speed == Speed.SUPER else 0x0200
        ep0 = ep0_max_packet_size(speed)
        device = DeviceDescriptor(
            bcdUSB=bcdUSB,
            bDeviceClass=device_class[0],
            bDeviceSubClass=device_class[1],
            bDeviceProtocol=device_class[2],
            bMaxPacketSize0=ep0.bit_length() - 1 if speed == Speed.SUPER else ep0,
            idVendor=self.idVendor,
            idProduct=self.idProduct,
            bcdDevice=self.bcdDevice,
            iManufacturer=device_strings[0],
            iProduct=device_strings[1],
            iSerialNumber=device_strings[2],
            bNumConfigurations=len(self.configs),
        )
        return Description(
            speed=speed,
            device=device,
            configurations=tuple(configuration for _, configuration in built),
            layouts=layouts,
            qualifier=self._qualifier(device, speed),
            other_speed=self._other_speed(speed),
            bos=_BOS_SUPER.pack() if speed == Speed.SUPER else None,
            strings=strings.table(),
        )

    def _other(self, speed: Speed) -> Speed | None:
        other = _OTHER_SPEED.get(speed)
        return other if other is not None and other <= self.max_speed else None

    def _qualifier(self, device: DeviceDescriptor, speed: Speed) -> bytes | None:
        other = self._other(speed)
        if other is None:
            return None  # USB 2.0 9.6.2: a device of one speed only answers with a stall
        return DeviceQualifierDescriptor(
            bcdUSB=device.bcdUSB,
            bDeviceClass=device.bDeviceClass,
            bDeviceSubClass=device.bDeviceSubClass,
            bDeviceProtocol=device.bDeviceProtocol,
            bMaxPacketSize0=ep0_max_packet_size(other),
            bNumConfigurations=len(self.configs),
        ).pack()

    def _other_speed(self, speed: Speed) -> tuple[bytes, ...]:
        other = self._other(speed)
        if other is None:
            return ()
        strings = _Strings()  # filled in the same order, so the numbers are the same
        for text in (self.manufacturer, self.product, self.serial):
            strings.index(text)
        built = (
            _ConfigBuilder(config, value, other, strings).build()[1]
            for value, config in enumerate(self.configs, start=1)
        )
        return tuple(as_other_speed(configuration.pack()) for configuration in built)


_BOS_SUPER: Final = BosDescriptor((Usb20Extension(), SuperSpeedCapability()))


@dataclass(frozen=True, slots=True)
class EndpointSlot:
    """Where an endpoint of a function came to lie. ``max_packet_size`` is in bytes."""

    function: Function
    spec: EndpointSpec
    address: int
    max_packet_size: int


@dataclass(frozen=True, slots=True)
class InterfaceSlot:
    """An interface number, whose it is, and its endpoints for each alternate setting."""

    function: Function
    spec: InterfaceSpec
    alternates: tuple[tuple[EndpointSlot, ...], ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """The numbering of one configuration: interface number -> slot."""

    config: Config
    value: int
    functions: tuple[Function, ...]
    interfaces: Mapping[int, InterfaceSlot]
    has_iad: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A gadget at one speed: every descriptor it can be asked for, and the numbering.

    ``strings`` maps (index, language code) to a string descriptor; index 0 has code 0.
    """

    speed: Speed
    device: DeviceDescriptor
    configurations: tuple[Configuration, ...]
    layouts: tuple[Layout, ...]
    qualifier: bytes | None
    other_speed: tuple[bytes, ...]
    bos: bytes | None
    strings: Mapping[tuple[int, int], bytes]


@dataclass(slots=True)
class _Strings:
    """Gives each distinct string an index, from 1; the empty string is index 0."""

    texts: list[Text] = field(default_factory=list)

    def index(self, text: Text) -> int:
        if not text:
            return 0
        if text not in self.texts:
            self.texts.append(text)
        if len(self.texts) > 255:
            raise SchemeError(f"string {text!r} is number 256; a device has at most 255 strings")
        return self.texts.index(text) + 1

    def table(self) -> dict[tuple[int, int], bytes]:
        if not self.texts:
            return {}
        langids = sorted({code for t in self.texts if not isinstance(t, str) for code in t})
        langids = langids or [LANGID_ENGLISH_US]
        table = {(0, 0): langid_descriptor(langids)}
        for index, text in enumerate(self.texts, start=1):
            for code in langids:
                words = text if isinstance(text, str) else text.get(code)
                if words is not None:
                    table[index, code] = string_descriptor(words)
        return table


@dataclass(slots=True)
class _ConfigBuilder:
    """Numbers one configuration at one speed and writes its descriptors."""

    config: Config
    value: int
    speed: Speed
    strings: _Strings
    slots: dict[int, InterfaceSlot] = field(default_factory=dict)
    interfaces: list[Interface] = field(default_factory=list)
    used: dict[Direction, int] = field(default_factory=lambda: {Direction.IN: 0, Direction.OUT: 0})

    def build(self) -> tuple[Layout, Configuration]:
        iConfiguration = self.strings.index(self.config.name)
        has_iad = False
        head = b""
        functions: list[Function] = []
        for function in self.config.functions:
            if isinstance(function, KernelFunction):
                raise SchemeError(
                    f"function {function.name} is the kernel's own: it runs on a kernel UDC only "
                    f"(usbip-vudc up)"
                )
            functions.append(function)
            iad = self._associate(function)
            has_iad = has_iad or bool(iad)
            head = self._place(iad, head)
            self._add_function(function)
        unit = 8 if self.speed == Speed.SUPER else 2
        header = ConfigurationDescriptor(
            bConfigurationValue=self.value,
            iConfiguration=iConfiguration,
            bmAttributes=self.config.bmAttributes,
            bMaxPower=min(math.ceil(self.config.max_power_ma / unit), 250),
        )
        configuration = Configuration(header, tuple(self.interfaces), head).with_counts()
        layout = Layout(self.config, self.value, tuple(functions), self.slots, has_iad)
        return layout, configuration

    def _associate(self, function: Function) -> bytes:
        """An association where a function has several interfaces (USB 2.0 ECN, IAD)."""
        if len(function.interfaces) < 2:
            return b""
        first = function.interfaces[0]
        return InterfaceAssociationDescriptor(
            bFirstInterface=len(self.slots),
            bInterfaceCount=len(function.interfaces),
            bFunctionClass=first.bInterfaceClass,
            bFunctionSubClass=first.bInterfaceSubClass,
            bFunctionProtocol=first.bInterfaceProtocol,
            iFunction=self.strings.index(first.name),
        ).pack()

    def _place(self, iad: bytes, head: bytes) -> bytes:
        """Put an association before the interface to come: after whatever stands last so far."""
        if not iad or not self.interfaces:
            return head + iad
        last = self.interfaces[-1]
        if last.endpoints:
            end = Endpoint(last.endpoints[-1].descriptor, last.endpoints[-1].extra + iad)
            last = Interface(last.descriptor, (*last.endpoints[:-1], end), last.extra)
        else:
            last = Interface(last.descriptor, (), last.extra + iad)
        self.interfaces[-1] = last
        return head

    def _add_function(self, function: Function) -> None:
        first = len(self.slots)
        numbers = {spec.role: first + i for i, spec in enumerate(function.interfaces)}
        for spec in function.interfaces:
            # Alternate settings of one interface are never live together, so they share addresses.
            start, furthest = dict(self.used), dict(self.used)
            alternates = []
            for number, alternate in enumerate(spec.alternates):
                self.used = dict(start)
                slots = tuple(self._slot(function, e) for e in alternate.endpoints)
                alternates.append(slots)
                furthest = {d: max(furthest[d], self.used[d]) for d in furthest}
                self._add_alternate(spec, alternate, number, numbers, slots)
            self.used = furthest
            self.slots[numbers[spec.role]] = InterfaceSlot(function, spec, tuple(alternates))

    def _slot(self, function: Function, spec: EndpointSpec) -> EndpointSlot:
        self.used[spec.direction] += 1
        if self.used[spec.direction] > 15:
            raise SchemeError(
                f"function {function.name}: endpoint {spec.role} is {spec.direction.name} endpoint "
                f"number 16; a device has at most 15 (USB 2.0 5.3.1.2)"
            )
        default = default_max_packet_size(spec.transfer_type, self.speed)
        size = spec.max_packet_size.get(self.speed, default)
        return EndpointSlot(function, spec, spec.direction | self.used[spec.direction], size)

    def _add_alternate(
        self,
        spec: InterfaceSpec,
        alternate: AltSetting,
        number: int,
        numbers: Mapping[str, int],
        slots: tuple[EndpointSlot, ...],
    ) -> None:
        descriptor = InterfaceDescriptor(
            bInterfaceNumber=numbers[spec.role],
            bAlternateSetting=number,
            bInterfaceClass=spec.bInterfaceClass,
            bInterfaceSubClass=spec.bInterfaceSubClass,
            bInterfaceProtocol=spec.bInterfaceProtocol,
            iInterface=self.strings.index(spec.name),
        )
        extra = b"".join(item.pack(numbers) for item in alternate.class_descriptors)
        self.interfaces.append(Interface(descriptor, tuple(self._endpoints(slots)), extra))

    def _endpoints(self, slots: tuple[EndpointSlot, ...]) -> Iterator[Endpoint]:
        for slot in slots:
            kind = slot.spec.transfer_type
            descriptor = EndpointDescriptor(
                bEndpointAddress=slot.address,
                bmAttributes=kind,
                wMaxPacketSize=slot.max_packet_size,
                bInterval=_bInterval(slot.spec, self.speed),
            )
            companion = b""
            if self.speed == Speed.SUPER:
                periodic = kind in (TransferType.INTERRUPT, TransferType.ISOCHRONOUS)
                companion = SuperSpeedEndpointCompanion(
                    bMaxBurst=slot.spec.max_burst,
                    wBytesPerInterval=slot.max_packet_size if periodic else 0,
                ).pack()
            yield Endpoint(descriptor, companion)


def _bInterval(spec: EndpointSpec, speed: Speed) -> int:
    """USB 2.0 table 9-13: frames of 1 ms, or 2^(bInterval-1) microframes of 125 us."""
    if spec.transfer_type not in (TransferType.INTERRUPT, TransferType.ISOCHRONOUS):
        return 0
    exponential = speed >= Speed.HIGH or spec.transfer_type == TransferType.ISOCHRONOUS
    if not exponential:
        return min(max(round(spec.interval_ms), 1), 255)
    periods = spec.interval_ms * (8 if speed >= Speed.HIGH else 1)
    return min(int(math.log2(max(periods, 1))) + 1, 16)
