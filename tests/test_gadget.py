"""gadget: numbering and descriptors that follow from a description, at each speed."""

from __future__ import annotations

import pytest

from tests.devices import Scripted, gadget
from usbip_vudc.errors import SchemeError
from usbip_vudc.function import AltSetting, EndpointSpec, Function, InterfaceSpec
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.usb.ch9 import Direction, Speed, TransferType
from usbip_vudc.usb.descriptors import Configuration, InterfaceAssociationDescriptor


class Described(Function):
    """A function that only describes itself."""

    name = "described"

    def __init__(self, *interfaces: InterfaceSpec) -> None:
        self.interfaces = interfaces

    async def run(self, endpoints: object) -> None:
        raise NotImplementedError


def endpoint(role: str, way: Direction, kind: TransferType, **more: float) -> EndpointSpec:
    return EndpointSpec(role=role, direction=way, transfer_type=kind, **more)  # type: ignore[arg-type]


def interface(role: str, *endpoints: EndpointSpec, name: str = "") -> InterfaceSpec:
    alternates = (AltSetting(endpoints=endpoints),)
    return InterfaceSpec(role=role, name=name, bInterfaceClass=2, alternates=alternates)


def serial() -> Described:
    return Described(
        interface("comm", endpoint("n", Direction.IN, TransferType.INTERRUPT, interval_ms=32)),
        interface(
            "data",
            endpoint("in", Direction.IN, TransferType.BULK),
            endpoint("out", Direction.OUT, TransferType.BULK),
        ),
    )


@pytest.mark.parametrize(
    ("speed", "bulk", "interval", "ep0", "bcdUSB"),
    [
        (Speed.FULL, 64, 32, 64, 0x0200),
        (Speed.HIGH, 512, 9, 64, 0x0200),
        (Speed.SUPER, 1024, 9, 9, 0x0320),
    ],
)
def test_descriptors_follow_the_speed(
    speed: Speed, bulk: int, interval: int, ep0: int, bcdUSB: int
) -> None:
    description = gadget(serial()).describe(speed)
    assert (description.device.bMaxPacketSize0, description.device.bcdUSB) == (ep0, bcdUSB)
    notify, bulk_in, bulk_out = (
        e for i in description.configurations[0].interfaces for e in i.endpoints
    )
    assert notify.descriptor.bInterval == interval, "32 ms, as the kernel's f_acm"
    assert bulk_in.descriptor.wMaxPacketSize == bulk_out.descriptor.wMaxPacketSize == bulk
    assert (bulk_in.companion is not None) == (speed == Speed.SUPER)


def test_endpoints_are_numbered_by_direction() -> None:
    description = gadget(serial()).describe(Speed.HIGH)
    addresses = [
        e.descriptor.bEndpointAddress
        for i in description.configurations[0].interfaces
        for e in i.endpoints
    ]
    assert addresses == [0x81, 0x82, 0x01]


def test_composite_has_associations_before_their_interfaces() -> None:
    description = gadget(Scripted(), serial(), serial()).describe(Speed.HIGH)
    device = description.device
    triple = (device.bDeviceClass, device.bDeviceSubClass, device.bDeviceProtocol)
    assert triple == (0xEF, 2, 1)
    packed = description.configurations[0].pack()
    order = []
    offset = 9
    while offset < len(packed):
        if packed[offset + 1] == 11:
            iad = InterfaceAssociationDescriptor.parse(packed[offset:])
            order.append(f"iad {iad.bFirstInterface}+{iad.bInterfaceCount}")
        elif packed[offset + 1] == 4:
            order.append(f"if {packed[offset + 2]}.{packed[offset + 3]}")
        offset += packed[offset]
    assert order == ["if 0.0", "if 0.1", "iad 1+2", "if 1.0", "if 2.0", "iad 3+2", "if 3.0",
                     "if 4.0"]  # fmt: skip
    assert Configuration.parse(packed).pack() == packed


def test_one_function_of_one_interface_needs_no_association() -> None:
    description = gadget(Scripted()).describe(Speed.HIGH)
    assert description.device.bDeviceClass == 0
    assert not description.layouts[0].has_iad


def test_alternate_settings_share_addresses() -> None:
    description = gadget(Scripted(), Scripted()).describe(Speed.HIGH)
    slots = description.layouts[0].interfaces
    assert [[e.address for e in alt] for alt in slots[0].alternates] == [[0x81, 0x01]] * 2
    assert [[e.address for e in alt] for alt in slots[1].alternates] == [[0x82, 0x02]] * 2


def test_bulk_cannot_exist_at_low_speed() -> None:
    with pytest.raises(SchemeError, match=r"bulk endpoint cannot exist at low speed.*5\.8\.3"):
        gadget(serial()).describe(Speed.LOW)


def test_interrupt_device_at_low_speed_has_ep0_of_8() -> None:
    function = Described(
        interface("hid", endpoint("in", Direction.IN, TransferType.INTERRUPT, interval_ms=10))
    )
    description = gadget(function).describe(Speed.LOW)
    assert description.device.bMaxPacketSize0 == 8
    [only] = description.configurations[0].interfaces[0].endpoints
    assert (only.descriptor.wMaxPacketSize, only.descriptor.bInterval) == (8, 10)


def test_speed_above_the_maximum_is_refused() -> None:
    with pytest.raises(SchemeError, match="speed super is not available; expected one of low"):
        gadget(serial(), max_speed=Speed.HIGH).describe(Speed.SUPER)


def test_sixteen_endpoints_of_one_direction_are_refused() -> None:
    functions = [serial() for _ in range(8)]
    with pytest.raises(SchemeError, match="endpoint number 16; a device has at most 15"):
        gadget(*functions).describe(Speed.HIGH)


def test_power_is_in_units_of_the_speed() -> None:
    config = Config(functions=(serial(),), max_power_ma=500)
    made = Gadget(name="p", idVendor=1, idProduct=1, configs=(config,))
    units = {s: made.describe(s).configurations[0].descriptor.bMaxPower
             for s in (Speed.HIGH, Speed.SUPER)}  # fmt: skip
    assert units == {Speed.HIGH: 250, Speed.SUPER: 63}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"idVendor": 0x10000}, "idVendor 0x10000: expected 0 to 0xffff"),
        ({"configs": ()}, "0 configs, expected 1 to 8"),
        ({"max_speed": Speed.WIRELESS}, "max_speed wireless, expected one of low, full"),
    ],
)
def test_impossible_gadgets_name_the_field(change: dict[str, object], reason: str) -> None:
    fields: dict[str, object] = {
        "name": "g", "idVendor": 1, "idProduct": 1, "configs": (Config(functions=(serial(),)),),
    }  # fmt: skip
    with pytest.raises(SchemeError, match=reason):
        Gadget(**{**fields, **change})  # type: ignore[arg-type]


def test_same_text_is_one_string() -> None:
    function = Described(interface("a", name="Same"), interface("b", name="Same"))
    description = gadget(function).describe(Speed.HIGH)
    numbers = [i.descriptor.iInterface for i in description.configurations[0].interfaces]
    assert len(set(numbers)) == 1
    assert numbers[0] > 3, "after manufacturer, product and serial"
