"""The chapter-9 responder of the userspace UDC: standard requests in, answers out. Pure.

Class and vendor requests are not its business. Whatever is not handled stalls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from usbip_vudc.gadget import Description
from usbip_vudc.usb.ch9 import (
    ConfigAttributes,
    DescriptorType,
    Feature,
    SetupPacket,
    Speed,
    StandardRequest,
)

__all__ = ("DeviceState", "StandardRequests")

_DEVICE_OUT, _INTERFACE_OUT, _ENDPOINT_OUT = 0x00, 0x01, 0x02
_DEVICE_IN, _INTERFACE_IN, _ENDPOINT_IN = 0x80, 0x81, 0x82
_EP0_ADDRESSES: Final = (0x00, 0x80)


class DeviceState(Protocol):
    """What the responder asks of the device and tells it."""

    @property
    def configuration(self) -> int:
        """bConfigurationValue, or 0 while only addressed."""

    def set_configuration(self, value: int) -> None:
        """Select a configuration that exists, or 0; again the same means a fresh start."""

    def alternate(self, interface: int) -> int | None:
        """The current alternate setting of an interface; None where there is no such one."""

    def set_interface(self, interface: int, alternate: int) -> bool:
        """Select an alternate setting; False where it does not exist."""

    def halted(self, address: int) -> bool | None:
        """Whether an endpoint is halted; None where it does not exist."""

    def set_halt(self, address: int, halted: bool) -> None:
        """Halt or release an endpoint that exists."""


class StandardRequests:
    """Answers standard requests for one description. Holds the device features only."""

    def __init__(self, description: Description, device: DeviceState) -> None:
        self._device = device
        self._description = description
        self._super = description.speed == Speed.SUPER
        self._features: set[int] = set()
        self._descriptors = _descriptor_table(description)
        self._handlers: Mapping[tuple[int, int], Callable[[SetupPacket], bytes | None]] = {
            (_DEVICE_IN, StandardRequest.GET_DESCRIPTOR): self._get_descriptor,
            (_DEVICE_IN, StandardRequest.GET_STATUS): self._get_device_status,
            (_DEVICE_IN, StandardRequest.GET_CONFIGURATION): self._get_configuration,
            (_DEVICE_OUT, StandardRequest.SET_CONFIGURATION): self._set_configuration,
            (_DEVICE_OUT, StandardRequest.SET_ADDRESS): self._set_address,
            (_DEVICE_OUT, StandardRequest.SET_FEATURE): self._set_device_feature,
            (_DEVICE_OUT, StandardRequest.CLEAR_FEATURE): self._clear_device_feature,
            (_DEVICE_OUT, StandardRequest.SET_SEL): self._super_speed_only,
            (_DEVICE_OUT, StandardRequest.SET_ISOCH_DELAY): self._super_speed_only,
            (_INTERFACE_IN, StandardRequest.GET_STATUS): self._get_interface_status,
            (_INTERFACE_IN, StandardRequest.GET_INTERFACE): self._get_interface,
            (_INTERFACE_OUT, StandardRequest.SET_INTERFACE): self._set_interface,
            (_INTERFACE_OUT, StandardRequest.SET_FEATURE): self._interface_feature,
            (_INTERFACE_OUT, StandardRequest.CLEAR_FEATURE): self._interface_feature,
            (_ENDPOINT_IN, StandardRequest.GET_STATUS): self._get_endpoint_status,
            (_ENDPOINT_OUT, StandardRequest.SET_FEATURE): self._set_endpoint_feature,
            (_ENDPOINT_OUT, StandardRequest.CLEAR_FEATURE): self._clear_endpoint_feature,
        }

    def reset(self) -> None:
        """A bus reset or a new host: every device feature is off (USB 2.0 9.1.1.3)."""
        self._features.clear()

    def answer(self, setup: SetupPacket) -> bytes | None:
        """The IN data stage before it is cut to wLength, b"" to acknowledge, None to stall."""
        handler = self._handlers.get((setup.bmRequestType, setup.bRequest))
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
        return _word(status) if not setup.wIndex else None

    def _get_configuration(self, _setup: SetupPacket) -> bytes | None:
        return bytes((self._device.configuration,))

    def _set_configuration(self, setup: SetupPacket) -> bytes | None:
        if setup.wValue > len(self._description.layouts) or setup.wLength:
            return None  # USB 2.0 9.4.7: a request error
        self._features -= {Feature.U1_ENABLE, Feature.U2_ENABLE}
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
            layout = self._description.layouts[max(value, 1) - 1]
            return bool(layout.config.bmAttributes & ConfigAttributes.REMOTE_WAKEUP)
        # USB 3.2 9.4.9: U1, U2 and LTM exist only at SuperSpeed, and once configured.
        links = (Feature.U1_ENABLE, Feature.U2_ENABLE, Feature.LTM_ENABLE)
        return self._super and bool(value) and feature in links

    def _super_speed_only(self, _setup: SetupPacket) -> bytes | None:
        return b"" if self._super else None

    # --- interfaces ----------------------------------------------------------------------------

    def _get_interface_status(self, setup: SetupPacket) -> bytes | None:
        return _word(0) if self._device.alternate(setup.wIndex & 0xFF) is not None else None

    def _get_interface(self, setup: SetupPacket) -> bytes | None:
        alternate = self._device.alternate(setup.wIndex)
        return bytes((alternate,)) if alternate is not None else None

    def _set_interface(self, setup: SetupPacket) -> bytes | None:
        return b"" if self._device.set_interface(setup.wIndex, setup.wValue) else None

    def _interface_feature(self, setup: SetupPacket) -> bytes | None:
        # USB 3.2 9.4.9: FUNCTION_SUSPEND; its options are in the high byte of wIndex.
        known = self._device.alternate(setup.wIndex & 0xFF) is not None
        return b"" if self._super and known and setup.wValue == Feature.FUNCTION_SUSPEND else None

    # --- endpoints -----------------------------------------------------------------------------

    def _get_endpoint_status(self, setup: SetupPacket) -> bytes | None:
        if setup.wIndex in _EP0_ADDRESSES:
            return _word(0)
        halted = self._device.halted(setup.wIndex)
        return _word(int(halted)) if halted is not None else None

    def _set_endpoint_feature(self, setup: SetupPacket) -> bytes | None:
        return self._endpoint_feature(setup, halted=True)

    def _clear_endpoint_feature(self, setup: SetupPacket) -> bytes | None:
        return self._endpoint_feature(setup, halted=False)

    def _endpoint_feature(self, setup: SetupPacket, *, halted: bool) -> bytes | None:
        if setup.wValue != Feature.ENDPOINT_HALT:
            return None
        if setup.wIndex in _EP0_ADDRESSES:
            return b""  # USB 2.0 9.4.5: a halt of ep0 ends with the next SETUP, which is this one
        if self._device.halted(setup.wIndex) is None:
            return None
        self._device.set_halt(setup.wIndex, halted)
        return b""


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
