"""gadget: numbering and descriptors that follow from a description, at each speed."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def numbered(number: int, way: Direction = Direction.IN) -> EndpointSpec:
    return replace(endpoint(f"e{number}", way, TransferType.BULK), number=number)


def addresses(*functions: Function) -> list[int]:
    configuration = gadget(*functions).describe(Speed.HIGH).configurations[0]
    return [e.descriptor.bEndpointAddress for i in configuration.interfaces for e in i.endpoints]


def test_fixed_numbers_are_kept_and_the_others_go_around_them() -> None:
    fixed = Described(interface("a", numbered(2), numbered(1), numbered(2, Direction.OUT)))
    assert addresses(serial(), fixed, serial()) == [
        0x83, 0x84, 0x01, 0x82, 0x81, 0x02, 0x85, 0x86, 0x03,
    ]  # fmt: skip


SETTINGS = st.lists(
    st.builds(
        EndpointSpec,
        role=st.just("e"),
        direction=st.sampled_from(Direction),
        transfer_type=st.sampled_from([TransferType.BULK, TransferType.INTERRUPT]),
        number=st.none() | st.integers(1, 15),
    ),
    max_size=3,
).map(lambda specs: AltSetting(endpoints=tuple(specs)))
FUNCTIONS = st.lists(
    st.lists(st.lists(SETTINGS, min_size=1, max_size=3), min_size=1, max_size=2), max_size=3
)


@given(FUNCTIONS, st.sampled_from([Speed.FULL, Speed.HIGH, Speed.SUPER]))
def test_endpoints_that_are_live_together_have_numbers_of_their_own(
    functions: list[list[list[AltSetting]]], speed: Speed
) -> None:
    made = gadget(
        *(
            Described(
                *(
                    InterfaceSpec(role=str(n), bInterfaceClass=255, alternates=tuple(settings))
                    for n, settings in enumerate(interfaces)
                )
            )
            for interfaces in functions
        )
    )
    try:
        description = made.describe(speed)
    except SchemeError as error:
        assert "is taken by" in str(error), "two that clash were drawn"
        return
    slots = description.layouts[0].interfaces.values()
    for choice in product(*(slot.alternates for slot in slots)):
        live = [endpoint.address for setting in choice for endpoint in setting]
        assert len(set(live)) == len(live)
    for slot in slots:
        for endpoint in (e for setting in slot.alternates for e in setting):
            assert endpoint.spec.number in (None, endpoint.address & 0x0F)
            assert endpoint.address & 0x80 == endpoint.spec.direction
    packed = description.configurations[0].pack()
    assert Configuration.parse(packed).pack() == packed


def test_alternate_settings_may_have_the_same_fixed_numbers() -> None:
    settings = tuple(AltSetting(endpoints=(numbered(5),)) for _ in range(2))
    function = Described(InterfaceSpec(role="a", bInterfaceClass=255, alternates=settings))
    assert addresses(function, serial()) == [0x85, 0x85, 0x81, 0x82, 0x01]


@pytest.mark.parametrize(
    "functions",
    [
        (Described(interface("a", numbered(4), numbered(4))),),
        (Described(interface("a", numbered(4)), interface("b", numbered(4))),),
        (Described(interface("a", numbered(4))), Described(interface("a", numbered(4)))),
    ],
    ids=["one setting", "two interfaces", "two functions"],
)
def test_clashing_numbers_are_refused(functions: tuple[Function, ...]) -> None:
    taken = "gadget test: function described: endpoint e4: number 4: IN endpoint 4 is taken by"
    with pytest.raises(SchemeError, match=taken):
        gadget(*functions).describe(Speed.HIGH)
    with pytest.raises(SchemeError, match=taken):
        replace(gadget(*functions), deliberately_illegal=True).describe(Speed.HIGH)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"number": 0}, "endpoint e: number 0: expected 1 to 15"),
        ({"number": 16}, "endpoint e: number 16: expected 1 to 15"),
        ({"interval_ms": -1}, "endpoint e: interval_ms -1: expected 0 or more"),
        ({"interval_ms": float("inf")}, "endpoint e: interval_ms inf: expected 0 or more"),
        ({"interval_ms": float("nan")}, "endpoint e: interval_ms nan: expected 0 or more"),
        ({"mult": 4}, "endpoint e: mult 4: expected 0 to 3"),
        ({"max_burst": 256}, "endpoint e: max_burst 256: expected 0 to 255"),
        ({"bInterval": {Speed.LOW: 256}}, "endpoint e: bInterval 256: expected 0 to 255"),
        ({"max_packet_size": {Speed.LOW: -1}}, "endpoint e: max_packet_size -1: expected 0 to"),
    ],
)
def test_what_no_descriptor_can_say_is_refused(change: dict[str, object], reason: str) -> None:
    with pytest.raises(SchemeError, match=reason):
        replace(EndpointSpec.bulk_in("e"), **change)  # type: ignore[arg-type]


INTERVALS: list[tuple[EndpointSpec, tuple[int | None, int, int, int]]] = [
    (EndpointSpec.interrupt_in("e", interval_ms=1), (10, 1, 4, 4)),
    (EndpointSpec.interrupt_out("e", interval_ms=10), (10, 10, 7, 7)),
    (EndpointSpec.interrupt_in("e", interval_ms=0.125), (10, 1, 1, 1)),
    (EndpointSpec.interrupt_in("e", interval_ms=11.9), (11, 11, 7, 7)),
    (EndpointSpec.interrupt_in("e", interval_ms=1000), (255, 255, 13, 13)),
    (EndpointSpec.interrupt_in("e", bInterval=dict.fromkeys(Speed, 12)), (12, 12, 12, 12)),
    (EndpointSpec.iso_in("e"), (None, 1, 4, 4)),
    (EndpointSpec.iso_out("e", interval_ms=4), (None, 3, 6, 6)),
    (EndpointSpec.bulk_in("e"), (None, 0, 0, 0)),
]


@pytest.mark.parametrize(("spec", "expected"), INTERVALS)
def test_intervals_are_in_the_units_of_each_speed(
    spec: EndpointSpec, expected: tuple[int | None, ...]
) -> None:
    """USB 2.0 table 9-13: frames, or powers of two of frames or of microframes."""
    settings = (AltSetting(), AltSetting(endpoints=(spec,)))
    function = Described(InterfaceSpec(role="a", bInterfaceClass=255, alternates=settings))
    made = gadget(function)
    for speed, bInterval in zip(
        (Speed.LOW, Speed.FULL, Speed.HIGH, Speed.SUPER), expected, strict=True
    ):
        if bInterval is not None:
            [end] = made.describe(speed).configurations[0].interfaces[1].endpoints
            assert end.descriptor.bInterval == bInterval


@pytest.mark.parametrize(
    ("spec", "speed", "packed", "bytes_per_interval"),
    [
        (EndpointSpec.iso_in("e", mult=2), Speed.HIGH, "07 05 81 01 00 14 04", 3072),
        (EndpointSpec.interrupt_in("e", mult=1), Speed.HIGH, "07 05 81 03 00 0c 07", 2048),
        (EndpointSpec.iso_in("e", mult=2), Speed.FULL, "07 05 81 01 ff 03 01", 1023),
        (EndpointSpec.iso_in("e", max_burst=3, mult=1), Speed.SUPER,
         "07 05 81 01 00 04 04 06 30 03 01 00 20", 8192),
        (EndpointSpec.interrupt_in("e", max_burst=1, mult=2), Speed.SUPER,
         "07 05 81 03 00 04 07 06 30 01 00 00 08", 2048),
        (EndpointSpec.interrupt_in("e"), Speed.SUPER,
         "07 05 81 03 40 00 07 06 30 00 00 40 00", 64),
        (EndpointSpec.bulk_in("e", max_burst=15), Speed.SUPER,
         "07 05 81 02 00 04 00 06 30 0f 00 00 00", 0),
    ],
)  # fmt: skip
def test_packets_of_a_service_interval(
    spec: EndpointSpec, speed: Speed, packed: str, bytes_per_interval: int
) -> None:
    settings = (AltSetting(), AltSetting(endpoints=(spec,)))
    function = Described(InterfaceSpec(role="a", bInterfaceClass=255, alternates=settings))
    description = gadget(function).describe(speed)
    assert description.configurations[0].pack()[27:].hex(" ") == packed
    slot = description.layouts[0].interfaces[0].alternates[1][0]
    assert slot.bytes_per_interval == bytes_per_interval
    assert slot.max_packet_size == (1023 if speed == Speed.FULL else slot.max_packet_size) <= 1024


def test_bulk_cannot_exist_at_low_speed() -> None:
    with pytest.raises(SchemeError, match=r"a bulk endpoint at low speed.*5\.8\.3"):
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
    ("illegal", "units"), [(False, (250, 112)), (True, (255, 125))], ids=["legal", "illegal"]
)
def test_more_power_than_the_bus_gives_is_not_asked_for(
    illegal: bool, units: tuple[int, int]
) -> None:
    config = Config(functions=(serial(),), max_power_ma=1000 if illegal else 900)
    made = replace(gadget(), configs=(config,), deliberately_illegal=illegal)
    described = tuple(
        made.describe(speed).configurations[0].descriptor.bMaxPower
        for speed in (Speed.HIGH, Speed.SUPER)
    )
    assert described == units


@pytest.mark.parametrize(
    ("speed", "size", "byte"),
    [
        (Speed.FULL, 8, 8), (Speed.SUPER, 512, 9), (Speed.SUPER, 64, 64), (Speed.SUPER, 9, 9),
        (Speed.SUPER, 1024, 10), (Speed.LOW, 64, 64), (Speed.HIGH, 255, 255),
    ],
)  # fmt: skip
def test_a_size_of_endpoint_0_is_written_as_it_is_meant(speed: Speed, size: int, byte: int) -> None:
    made = replace(gadget(serial()), bMaxPacketSize0={speed: size}, deliberately_illegal=True)
    assert made.describe(speed).device.bMaxPacketSize0 == byte


BOS = {
    (Speed.HIGH, Speed.HIGH): "05 0f 0c 00 01 07 10 02 02 00 00 00",
    (Speed.FULL, Speed.FULL): "05 0f 0c 00 01 07 10 02 02 00 00 00",
    (Speed.LOW, Speed.LOW): "05 0f 0c 00 01 07 10 02 00 00 00 00",
    (Speed.HIGH, Speed.SUPER): "05 0f 16 00 02 07 10 02 02 00 00 00 "
                               "0a 10 03 00 0f 00 00 01 f4 01",
    (Speed.SUPER, Speed.SUPER): "05 0f 16 00 02 07 10 02 02 00 00 00 "
                                "0a 10 03 00 0f 00 00 01 f4 01",
}  # fmt: skip


@pytest.mark.parametrize(("speed", "max_speed"), BOS)
def test_a_bos_says_what_else_the_device_can_do(speed: Speed, max_speed: Speed) -> None:
    function = Described(interface("a", EndpointSpec.interrupt_in("e")))
    made = gadget(function, max_speed=max_speed)
    wanted = replace(made, bcdUSB={} if speed == Speed.SUPER else {speed: 0x0201})
    bos = wanted.describe(speed).bos
    assert bos is not None
    assert bos.hex(" ") == BOS[speed, max_speed]
    if speed != Speed.SUPER:
        assert made.describe(speed).bos is None, "0x0200"


def test_a_super_speed_device_names_only_the_speeds_that_it_can_have() -> None:
    bulk = EndpointSpec.bulk_in("e")
    at_high_only_illegal = replace(bulk, max_packet_size={Speed.HIGH: 64})
    for spec, speeds in ((bulk, 0b1110), (at_high_only_illegal, 0b1010)):
        bos = gadget(Described(interface("a", spec))).describe(Speed.SUPER).bos
        assert bos is not None
        assert int.from_bytes(bos[16:18], "little") == speeds


def test_a_gadget_that_is_impossible_at_the_other_speed_has_no_qualifier() -> None:
    spec = replace(EndpointSpec.bulk_in("e"), max_packet_size={Speed.FULL: 512})
    description = gadget(Described(interface("a", spec))).describe(Speed.HIGH)
    assert description.qualifier is None
    assert description.other_speed == ()


def test_a_qualifier_has_endpoint_0_of_the_other_speed() -> None:
    made = replace(gadget(serial()), bMaxPacketSize0={Speed.FULL: 16})
    qualifier = made.describe(Speed.HIGH).qualifier
    assert qualifier is not None
    assert qualifier.hex(" ") == "0a 06 00 02 ef 02 01 10 01 00"


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


@pytest.mark.parametrize("code", [-1, 0x10000])
def test_a_language_code_that_is_none_is_named(code: int) -> None:
    made = replace(gadget(serial()), product={code: "Thing"})
    with pytest.raises(SchemeError, match=f"language code {code:#x}: expected 0 to 0xffff"):
        made.describe(Speed.HIGH)


def test_same_text_is_one_string() -> None:
    function = Described(interface("a", name="Same"), interface("b", name="Same"))
    description = gadget(function).describe(Speed.HIGH)
    numbers = [i.descriptor.iInterface for i in description.configurations[0].interfaces]
    assert len(set(numbers)) == 1
    assert numbers[0] > 3, "after manufacturer, product and serial"
