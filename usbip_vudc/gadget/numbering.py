"""Numbering: interfaces, endpoints and strings of a configuration, and its descriptors.

Interfaces are numbered in the order of the functions. Endpoint numbers are given by direction from
1, around those that a function has fixed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from usbip_vudc.errors import SchemeError
from usbip_vudc.function import AltSetting, EndpointSpec, Function, InterfaceSpec
from usbip_vudc.gadget.at_speed import EndpointAtSpeed
from usbip_vudc.gadget.config import Config, KernelFunction, Text
from usbip_vudc.usb.ch9 import Direction, Speed
from usbip_vudc.usb.descriptors import (
    LANGID_ENGLISH_US,
    Configuration,
    ConfigurationDescriptor,
    Endpoint,
    Interface,
    InterfaceAssociationDescriptor,
    InterfaceDescriptor,
    langid_descriptor,
    string_descriptor,
)
from usbip_vudc.usb.os_descriptors_1 import OS_STRING_INDEX

__all__ = ("EndpointSlot", "InterfaceSlot", "Layout", "Strings", "number_config")

_NUMBERS: Final = range(1, 16)
"""Endpoint numbers besides 0 (USB 2.0 9.6.6)."""

_PACKET_SIZE_MASK: Final = 0x07FF


@dataclass(frozen=True, slots=True)
class EndpointSlot:
    """Where an endpoint of a function came to lie.

    ``max_packet_size`` is in bytes of one packet, and ``bytes_per_interval`` in bytes of one
    service interval of a periodic endpoint, 0 for a bulk one.
    """

    function: Function
    spec: EndpointSpec
    address: int
    max_packet_size: int
    bytes_per_interval: int = 0


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


@dataclass(slots=True)
class Strings:
    """Gives each distinct string an index, from 1; the empty string is index 0.

    Index 0xEE is nobody's: Windows asks every device for Microsoft's string there.
    """

    texts: list[Text] = field(default_factory=list)

    def index(self, text: Text) -> int:
        """The index of a string, new or not. Raises SchemeError for the 256th."""
        if not text:
            return 0
        if text not in self.texts:
            if len(self.texts) + 1 == OS_STRING_INDEX:
                self.texts.append("")
            self.texts.append(text)
        if len(self.texts) > 255:
            raise SchemeError(f"string {text!r} is number 256; a device has at most 255 strings")
        return self.texts.index(text) + 1

    def table(self) -> dict[tuple[int, int], bytes]:
        """Every string descriptor by (index, language code); the languages are at (0, 0)."""
        if not self.texts:
            return {}
        langids = sorted({code for t in self.texts if not isinstance(t, str) for code in t})
        langids = langids or [LANGID_ENGLISH_US]
        table = {(0, 0): langid_descriptor(langids)}
        for index, text in enumerate(self.texts, start=1):
            for code in langids:
                words = text if isinstance(text, str) else text.get(code)
                if words is not None and text:
                    table[index, code] = string_descriptor(words)
        return table


def number_config(
    config: Config, value: int, speed: Speed, strings: Strings, *, at_most_units: int
) -> tuple[Layout, Configuration]:
    """Number configuration ``value`` at one speed; its strings are added to ``strings``.

    ``at_most_units`` is where its bMaxPower ends. Raises SchemeError for a function of the
    kernel, and where endpoints or strings run out or endpoint numbers clash.
    """
    builder = _ConfigBuilder(config, value, speed, strings, _fixed(config))
    return builder.build(at_most_units)


_Number = tuple[Direction, int]


def _fixed(config: Config) -> dict[_Number, tuple[Function, InterfaceSpec]]:
    """The endpoint numbers that functions ask for, each with whose it is.

    Raises SchemeError where two that can be live together ask for the same.
    """
    fixed: dict[_Number, tuple[Function, InterfaceSpec]] = {}
    for function in config.functions:
        if isinstance(function, KernelFunction):
            continue
        for interface in function.interfaces:
            for alternate in interface.alternates:
                own: set[_Number] = set()
                for spec in alternate.endpoints:
                    if spec.number is None:
                        continue
                    number = (spec.direction, spec.number)
                    other = fixed.setdefault(number, (function, interface))
                    # Alternate settings of one interface are never live together.
                    if number in own or other != (function, interface):
                        raise SchemeError(
                            f"function {function.name}: endpoint {spec.role}: number "
                            f"{spec.number}: {spec.direction.name} endpoint {spec.number} is "
                            f"taken by function {other[0].name}, interface {other[1].role}; "
                            f"expected a free one of 1 to 15"
                        )
                    own.add(number)
    return fixed


@dataclass(slots=True)
class _ConfigBuilder:
    """Numbers one configuration at one speed and writes its descriptors."""

    config: Config
    value: int
    speed: Speed
    strings: Strings
    fixed: Mapping[_Number, object]
    slots: dict[int, InterfaceSlot] = field(default_factory=dict)
    interfaces: list[Interface] = field(default_factory=list)
    taken: set[_Number] = field(default_factory=set)

    def build(self, at_most_units: int) -> tuple[Layout, Configuration]:
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
            bMaxPower=min(math.ceil(self.config.max_power_ma / unit), at_most_units),
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
            # Alternate settings of one interface are never live together, so they share numbers.
            before, after = frozenset(self.taken), set(self.taken)
            alternates = []
            for number, alternate in enumerate(spec.alternates):
                self.taken = set(before)
                slots = tuple(self._slot(function, e) for e in alternate.endpoints)
                alternates.append(slots)
                after |= self.taken
                self._add_alternate(spec, alternate, number, numbers, slots)
            self.taken = after
            self.slots[numbers[spec.role]] = InterfaceSlot(function, spec, tuple(alternates))

    def _slot(self, function: Function, spec: EndpointSpec) -> EndpointSlot:
        number = spec.number or self._free_number(function, spec)
        self.taken.add((spec.direction, number))
        endpoint = EndpointAtSpeed(spec, self.speed)
        return EndpointSlot(
            function,
            spec,
            spec.direction | number,
            endpoint.size & _PACKET_SIZE_MASK,
            endpoint.bytes_per_interval,
        )

    def _free_number(self, function: Function, spec: EndpointSpec) -> int:
        for number in _NUMBERS:
            place = (spec.direction, number)
            if place not in self.taken and place not in self.fixed:
                return number
        raise SchemeError(
            f"function {function.name}: endpoint {spec.role} is {spec.direction.name} endpoint "
            f"number 16; a device has at most 15 (USB 2.0 5.3.1.2)"
        )

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
            endpoint = EndpointAtSpeed(slot.spec, self.speed)
            yield Endpoint(endpoint.descriptor(slot.address), endpoint.companion())
