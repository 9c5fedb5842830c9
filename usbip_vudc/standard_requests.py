"""The chapter-9 responder of the userspace UDC: standard requests in, answers out. Pure.

Class and vendor requests are not its business. Whatever is not handled stalls.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, Self

from usbip_vudc.gadget import Description, EndpointSlot, InterfaceSlot
from usbip_vudc.sglist import Buffer
from usbip_vudc.usb.ch9 import (
    ConfigAttributes,
    DescriptorType,
    Feature,
    SetupPacket,
    Speed,
    StandardRequest,
    TransferType,
)

__all__ = ("DeviceState", "ExitLatency", "StandardRequests")

_DEVICE_OUT, _INTERFACE_OUT, _ENDPOINT_OUT = 0x00, 0x01, 0x02
_DEVICE_IN, _INTERFACE_IN, _ENDPOINT_IN = 0x80, 0x81, 0x82
_EP0_ADDRESSES: Final = (0x00, 0x80)

_SUSPEND_OPTIONS: Final = 0x03
"""USB 3.2 table 9-9: low power suspend, and remote wake enabled, in the high byte of wIndex."""
_WAKE: Final = 0x02


@dataclass(frozen=True, slots=True)
class ExitLatency:
    """What SET_SEL brings (USB 3.2 9.4.12), in microseconds: latencies of the way to the host."""

    u1_sel: int
    u1_pel: int
    u2_sel: int
    u2_pel: int

    SIZE = 6

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview) -> Self:
        """Read the six bytes of the data stage."""
        return cls(*struct.unpack("<BBHH", data))


class DeviceState(Protocol):
    """What the responder asks of the device and tells it."""

    @property
    def configuration(self) -> int:
        """bConfigurationValue, or 0 while only addressed."""

    def set_configuration(self, value: int) -> None:
        """Select a configuration that exists, or 0; again the same means a fresh start."""

    def interface(self, number: int) -> InterfaceSlot | None:
        """An interface of the selected configuration; None where there is no such one."""

    def endpoint(self, address: int) -> EndpointSlot | None:
        """An endpoint of the current alternate settings; None where there is no such one."""

    def alternate(self, interface: int) -> int | None:
        """The current alternate setting of an interface; None where there is no such one."""

    def set_interface(self, interface: int, alternate: int) -> bool:
        """Select an alternate setting; False where it does not exist."""

    def halted(self, address: int) -> bool | None:
        """Whether an endpoint is halted; None where it does not exist."""

    def set_halt(self, address: int, halted: bool) -> bool:
        """Halt or release an endpoint that exists; False where it is of a kind without a halt."""


class StandardRequests:
    """Answers standard requests for one description. Holds what they set, and nothing else.

    ``exit_latency`` and ``isoch_delay_ns`` are what the host has told a SuperSpeed device.
    """

    def __init__(self, description: Description, device: DeviceState) -> None:
        self._device = device
        self._description = description
        self._super = description.speed == Speed.SUPER
        self._features: set[int] = set()
        self._may_wake: set[int] = set()
        self.exit_latency: ExitLatency | None = None
        self.isoch_delay_ns = 0
        self._descriptors = _descriptor_table(description)
        self._handlers: Mapping[tuple[int, int], Callable[[SetupPacket], bytes | None]] = {
            (_DEVICE_IN, StandardRequest.GET_DESCRIPTOR): self._get_descriptor,
            (_DEVICE_IN, StandardRequest.GET_STATUS): self._get_device_status,
            (_DEVICE_IN, StandardRequest.GET_CONFIGURATION): self._get_configuration,
            (_DEVICE_OUT, StandardRequest.SET_CONFIGURATION): self._set_configuration,
            (_DEVICE_OUT, StandardRequest.SET_ADDRESS): self._set_address,
            (_DEVICE_OUT, StandardRequest.SET_FEATURE): self._set_device_feature,
            (_DEVICE_OUT, StandardRequest.CLEAR_FEATURE): self._clear_device_feature,
            (_DEVICE_OUT, StandardRequest.SET_ISOCH_DELAY): self._set_isoch_delay,
            (_INTERFACE_IN, StandardRequest.GET_STATUS): self._get_interface_status,
            (_INTERFACE_IN, StandardRequest.GET_INTERFACE): self._get_interface,
            (_INTERFACE_OUT, StandardRequest.SET_INTERFACE): self._set_interface,
            (_INTERFACE_OUT, StandardRequest.SET_FEATURE): self._function_suspend,
            (_INTERFACE_OUT, StandardRequest.CLEAR_FEATURE): self._function_suspend,
            (_ENDPOINT_IN, StandardRequest.GET_STATUS): self._get_endpoint_status,
            (_ENDPOINT_OUT, StandardRequest.SET_FEATURE): self._set_endpoint_feature,
            (_ENDPOINT_OUT, StandardRequest.CLEAR_FEATURE): self._clear_endpoint_feature,
            (_ENDPOINT_IN, StandardRequest.SYNCH_FRAME): self._synch_frame,
        }

    def reset(self) -> None:
        """A bus reset or a new host: nothing that was set holds (USB 2.0 9.1.1.3)."""
        self._features.clear()
        self._may_wake.clear()
        self.exit_latency = None
        self.isoch_delay_ns = 0

    def answer(self, setup: SetupPacket, data: Buffer = b"") -> bytes | None:
        """The IN data stage before it is cut to wLength, b"" to acknowledge, None to stall.

        ``data`` is what came in an OUT data stage.
        """
        request = (setup.bmRequestType, setup.bRequest)
        if request == (_DEVICE_OUT, StandardRequest.SET_SEL):
            return self._set_sel(setup, data)
        handler = self._handlers.get(request)
        return handler(setup) if handler is not None else None

    # --- device --------------------------------------------------------------------------------

    def _get_descriptor(self, setup: SetupPacket) -> bytes | None:
        # Linux sends wIndex 0 for all but strings; some hosts leave a language there.
        is_string = setup.wValue >> 8 == DescriptorType.STRING and setup.wValue & 0xFF
        return self._descriptors.get((setup.wValue, setup.wIndex if is_string else 0))

    def _get_device_status(self, setup: SetupPacket) -> bytes | None:
        value = self._device.configuration
        layouts = self._description.layouts
        layout = layouts[value - 1] if value else layouts[0]
        status = int(layout.config.self_powered)
        if Feature.DEVICE_REMOTE_WAKEUP in self._features:
            status |= 0x02
        # USB 3.2 figure 9-5: U1 Enable, U2 Enable and LTM Enable are bits 2, 3 and 4.
        for bit, feature in (
            (2, Feature.U1_ENABLE),
            (3, Feature.U2_ENABLE),
            (4, Feature.LTM_ENABLE),
        ):
            if feature in self._features:
                status |= 1 << bit
        # USB 3.2 9.4.5: wValue 1 asks for the PTM status, which we have not.
        return _word(status) if not setup.wIndex and not setup.wValue else None

    def _get_configuration(self, _setup: SetupPacket) -> bytes | None:
        return bytes((self._device.configuration,))

    def _set_configuration(self, setup: SetupPacket) -> bytes | None:
        if setup.wValue > len(self._description.layouts) or setup.wLength:
            return None  # USB 2.0 9.4.7: a request error
        self._features -= {Feature.U1_ENABLE, Feature.U2_ENABLE}
        self._may_wake.clear()
        self._device.set_configuration(setup.wValue)
        return b""

    def _set_address(self, setup: SetupPacket) -> bytes | None:
        # The exporter's bus gives addresses; usbip-host and usbip-vudc acknowledge it too.
        return b"" if setup.wValue <= 127 else None

    def _set_device_feature(self, setup: SetupPacket) -> bytes | None:
        if not self._allows_feature(setup.wValue):
            return None
        self._features.add(setup.wValue)
        return b""

    def _clear_device_feature(self, setup: SetupPacket) -> bytes | None:
        if not self._allows_feature(setup.wValue):
            return None
        self._features.discard(setup.wValue)
        return b""

    def _allows_feature(self, feature: int) -> bool:
        value = self._device.configuration
        if feature == Feature.DEVICE_REMOTE_WAKEUP and not self._super:
            return self._offers_wakeup
        # USB 3.2 9.4.9: U1 and U2 exist only at SuperSpeed, and once configured; LTM for a device
        # whose SuperSpeed capability has it. TEST_MODE ends with a power cycle (USB 2.0 9.4.9):
        # no test equipment hangs at the end of a socket, so we never enter it.
        return self._super and bool(value) and feature in (Feature.U1_ENABLE, Feature.U2_ENABLE)

    def _set_sel(self, setup: SetupPacket, data: Buffer) -> bytes | None:
        if not self._super or setup.wLength != ExitLatency.SIZE or len(data) != ExitLatency.SIZE:
            return None
        self.exit_latency = ExitLatency.parse(data)
        return b""

    def _set_isoch_delay(self, setup: SetupPacket) -> bytes | None:
        if not self._super or setup.wIndex or setup.wLength:
            return None
        self.isoch_delay_ns = setup.wValue
        return b""

    # --- interfaces ----------------------------------------------------------------------------

    def _get_interface_status(self, setup: SetupPacket) -> bytes | None:
        number = setup.wIndex & 0xFF
        if self._device.alternate(number) is None or setup.wValue:
            return None
        # USB 3.2 figure 9-6: remote wake capable, remote wake enabled, of a whole function.
        capable = self._super and self._begins_function(number) and self._offers_wakeup
        return _word(capable | _WAKE * (number in self._may_wake))

    def _get_interface(self, setup: SetupPacket) -> bytes | None:
        alternate = self._device.alternate(setup.wIndex)
        return bytes((alternate,)) if alternate is not None else None

    def _set_interface(self, setup: SetupPacket) -> bytes | None:
        return b"" if self._device.set_interface(setup.wIndex, setup.wValue) else None

    def _function_suspend(self, setup: SetupPacket) -> bytes | None:
        number, options = setup.wIndex & 0xFF, setup.wIndex >> 8
        known = self._super and setup.wValue == Feature.FUNCTION_SUSPEND
        if not known or not self._begins_function(number) or options & ~_SUSPEND_OPTIONS:
            return None
        self._may_wake.discard(number)
        if setup.bRequest == StandardRequest.SET_FEATURE and options & _WAKE:
            if not self._offers_wakeup:
                return None
            self._may_wake.add(number)
        return b""

    def _begins_function(self, number: int) -> bool:
        """Whether an interface is the first of its function, which speaks for all (USB 3.2 9.4)."""
        own, before = self._device.interface(number), self._device.interface(number - 1)
        return own is not None and (before is None or before.function is not own.function)

    @property
    def _offers_wakeup(self) -> bool:
        layout = self._description.layouts[max(self._device.configuration, 1) - 1]
        return bool(layout.config.bmAttributes & ConfigAttributes.REMOTE_WAKEUP)

    # --- endpoints -----------------------------------------------------------------------------

    def _get_endpoint_status(self, setup: SetupPacket) -> bytes | None:
        if setup.wIndex in _EP0_ADDRESSES or self._is_isochronous(setup.wIndex):
            return _word(0)
        halted = self._device.halted(setup.wIndex)
        return _word(int(halted)) if halted is not None else None

    def _synch_frame(self, setup: SetupPacket) -> bytes | None:
        # USB 2.0 9.4.11: the frame in which a pattern of sizes begins; ours repeats in each.
        return _word(0) if self._is_isochronous(setup.wIndex) else None

    def _is_isochronous(self, address: int) -> bool:
        slot = self._device.endpoint(address)
        return slot is not None and slot.spec.transfer_type == TransferType.ISOCHRONOUS

    def _set_endpoint_feature(self, setup: SetupPacket) -> bytes | None:
        return self._endpoint_feature(setup, halted=True)

    def _clear_endpoint_feature(self, setup: SetupPacket) -> bytes | None:
        return self._endpoint_feature(setup, halted=False)

    def _endpoint_feature(self, setup: SetupPacket, *, halted: bool) -> bytes | None:
        if setup.wValue != Feature.ENDPOINT_HALT:
            return None
        if setup.wIndex in _EP0_ADDRESSES:
            return b""  # USB 2.0 9.4.5: a halt of ep0 ends with the next SETUP, which is this one
        if self._is_isochronous(setup.wIndex):
            return None  # USB 2.0 9.4.5: bulk and interrupt endpoints have a halt
        if self._device.halted(setup.wIndex) is None:
            return None
        return b"" if self._device.set_halt(setup.wIndex, halted) else None


def _word(value: int) -> bytes:
    return value.to_bytes(2, "little")


def _descriptor_table(description: Description) -> dict[tuple[int, int], bytes]:
    """Every descriptor by (wValue, wIndex); wIndex is the language of a string, else 0."""
    table = {(DescriptorType.DEVICE << 8, 0): description.device.pack()}
    for index, configuration in enumerate(description.configurations):
        table[DescriptorType.CONFIGURATION << 8 | index, 0] = configuration.pack()
    for index, packed in enumerate(description.other_speed):
        table[DescriptorType.OTHER_SPEED_CONFIGURATION << 8 | index, 0] = packed
    if description.qualifier is not None:
        table[DescriptorType.DEVICE_QUALIFIER << 8, 0] = description.qualifier
    if description.bos is not None:
        table[DescriptorType.BOS << 8, 0] = description.bos
    for (index, langid), packed in description.strings.items():
        table[DescriptorType.STRING << 8 | index, langid] = packed
    return table
