"""What a function says of itself to FunctionFS: descriptors at three speeds, and strings. Pure.

FunctionFS numbers interfaces, endpoints and strings of each function from its own beginning and
lets the composite framework renumber them (drivers/usb/gadget/function/f_fs.c). It takes no
class-specific descriptor of CDC (CS_INTERFACE, CS_ENDPOINT), so a function that has some must
offer a plain form; nothing is dropped in silence.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import functionfs

from configfs.ffs_os_descriptors import os_structures
from usbip_vudc.errors import SchemeError
from usbip_vudc.function import Endpoint, EndpointSpec, Function, InterfaceSpec
from usbip_vudc.gadget import Config, Description, Gadget, OsFeatures
from usbip_vudc.usb.ch9 import DescriptorType, Speed

__all__ = ("FfsDescription", "FfsEndpointSpec", "describe")

_SPEEDS: Final = (Speed.FULL, Speed.HIGH, Speed.SUPER)

_REFUSED: Final = frozenset((DescriptorType.CS_INTERFACE, DescriptorType.CS_ENDPOINT))


@dataclass(frozen=True, slots=True)
class FfsEndpointSpec:
    """An endpoint file: its number in the mount (``ep1`` is 1), spec, and interface's index."""

    number: int
    spec: EndpointSpec
    interface: int


@dataclass(frozen=True, slots=True)
class FfsDescription:
    """What is written to ep0, in two writes, and what the endpoint files then are.

    ``interfaces`` are the specs that the host will see, in order; ``plain`` says that they are
    the function's plain form.
    """

    descriptors: bytes
    strings: bytes
    endpoints: tuple[FfsEndpointSpec, ...]
    interfaces: tuple[InterfaceSpec, ...]
    plain: bool


def describe(
    function: Function,
    *,
    deliberately_illegal: bool = False,
    features: OsFeatures | None = None,
) -> FfsDescription:
    """Describe a function for FunctionFS, at the speeds where USB allows it, or at each.

    ``features`` are for Microsoft OS 1.0 descriptors. Raises SchemeError where USB allows it at
    no speed, where it has a descriptor that FunctionFS refuses and no plain form, more than one
    alternate setting, of which FunctionFS tells no function, or a property that the kernel would
    not answer with.
    """
    plain = function.plain_interfaces is not None
    interfaces = tuple(function.plain_interfaces or function.interfaces)
    for spec in interfaces:
        _check(function, spec)
    form = _gadget(_Form(function.name, interfaces), deliberately_illegal)
    # Where it is possible nowhere, describing says why.
    speeds = [speed for speed in _SPEEDS if form.possible(speed)] or [Speed.HIGH]
    described = {speed: form.describe(speed) for speed in speeds}
    lists = {
        speed: _structures(described[speed]) if speed in described else [] for speed in _SPEEDS
    }
    # Old kernels panic on the eventfd of FUNCTIONFS_EVENTFD; ep0 can be polled itself.
    flags = functionfs.ALL_CTRL_RECIP if function.device_requests else 0
    descriptors = functionfs.getDescsV2(
        flags,
        fs_list=lists[Speed.FULL],
        hs_list=lists[Speed.HIGH],
        ss_list=lists[Speed.SUPER],
        os_list=os_structures(function.name, features) if features is not None else [],
    )
    strings = functionfs.getStrings(_strings(described[speeds[0]]))
    endpoints = (
        (index, endpoint)
        for index, spec in enumerate(interfaces)
        for endpoint in spec.alternates[0].endpoints
    )
    return FfsDescription(
        bytes(functionfs.serialise(descriptors)),
        bytes(functionfs.serialise(strings)),
        tuple(FfsEndpointSpec(n, e, index) for n, (index, e) in enumerate(endpoints, 1)),
        interfaces,
        plain,
    )


class _Form(Function):
    """A function reduced to interfaces, to be described by the model."""

    def __init__(self, name: str, interfaces: tuple[InterfaceSpec, ...]) -> None:
        self.name = name  # type: ignore[misc]  # each form bears the name of its function
        self.interfaces = interfaces

    async def run(self, endpoints: Mapping[str, Endpoint]) -> None:
        raise NotImplementedError


def _check(function: Function, spec: InterfaceSpec) -> None:
    where = f"function {function.name}: interface {spec.role}"
    if len(spec.alternates) > 1:
        raise SchemeError(
            f"{where}: {len(spec.alternates)} alternate settings: FunctionFS does not tell which "
            f"one the host selects; expected 1"
        )
    numbers = {other.role: i for i, other in enumerate(function.interfaces)}
    for descriptor in spec.alternates[0].class_descriptors:
        kind = descriptor.pack(numbers)[1]
        if kind in _REFUSED:
            raise SchemeError(
                f"{where}: descriptor type {kind:#04x}: FunctionFS refuses class-specific "
                f"descriptors, and the function has no plain form (plain_interfaces)"
            )


def _gadget(form: Function, deliberately_illegal: bool) -> Gadget:
    return Gadget(
        name=form.name,
        idVendor=0,
        idProduct=0,
        deliberately_illegal=deliberately_illegal,
        configs=(Config(functions=(form,)),),
    )


def _structures(description: Description) -> list[ctypes.LittleEndianStructure]:
    """Each descriptor of the configuration but its header, as functionfs wants them."""
    data = description.configurations[0].pack()
    offset = data[0]
    made = []
    while offset < len(data):
        length = data[offset]
        fields = {
            "_pack_": 1,
            "_layout_": "ms",
            "_fields_": [("data", ctypes.c_uint8 * (length - 2))],
        }
        kind: Any = type("Descriptor", (functionfs.common.USBDescriptorHeader,), fields)
        made.append(kind.from_buffer_copy(data[offset : offset + length]))
        offset += length
    return made


def _strings(description: Description) -> dict[int, list[str]]:
    """Language code -> the strings from index 1 on; a missing translation is empty."""
    texts = {key: value[2:].decode("utf-16-le") for key, value in description.strings.items()}
    codes = sorted({code for index, code in texts if index})
    count = max((index for index, _ in texts), default=0)
    return {code: [texts.get((i, code), "") for i in range(1, count + 1)] for code in codes}
