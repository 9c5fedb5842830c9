"""standard_requests: chapter 9, request by request, as a table."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.devices import Scripted, gadget
from usbip_vudc.function import AltSetting, EndpointSpec, Function, InterfaceSpec
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.standard_requests import ExitLatency, StandardRequests
from usbip_vudc.usb.ch9 import SetupPacket, Speed
from usbip_vudc.vudc import UserspaceUDC


def device(speed: Speed = Speed.HIGH, *, remote_wakeup: bool = False) -> StandardRequests:
    config = Config(functions=(Scripted(),), remote_wakeup=remote_wakeup, self_powered=True)
    made = Gadget(
        name="t", idVendor=1, idProduct=2, product="Thing", max_speed=Speed.SUPER, configs=(config,)
    )
    udc = UserspaceUDC(made, speed=speed)
    return StandardRequests(udc.description, udc)


def ask(requests: StandardRequests, *fields: int, data: bytes = b"") -> bytes | None:
    return requests.answer(SetupPacket(*fields), data)


class Isochronous(Function):
    """Isochronous endpoints each way in alternate setting 1, and a second interface."""

    name = "isochronous"

    def __init__(self) -> None:
        pair = (EndpointSpec.iso_in("in"), EndpointSpec.iso_out("out"))
        settings = (AltSetting(), AltSetting(endpoints=pair))
        self.interfaces = (
            InterfaceSpec(role="data", bInterfaceClass=0xFF, alternates=settings),
            InterfaceSpec(role="more", bInterfaceClass=0xFF, alternates=(AltSetting(),)),
        )

    async def run(self, endpoints: object) -> None:
        """Nothing is asked of it."""


def isochronous(speed: Speed = Speed.HIGH, *, remote_wakeup: bool = False) -> StandardRequests:
    """A device with that function, in alternate setting 1."""
    config = Config(functions=(Isochronous(),), remote_wakeup=remote_wakeup)
    udc = UserspaceUDC(Gadget(name="i", idVendor=1, idProduct=2, configs=(config,)), speed=speed)
    requests = StandardRequests(udc.description, udc)
    assert ask(requests, 0x00, 9, 1, 0, 0) == b""
    assert ask(requests, 0x01, 11, 1, 0, 0) == b""
    return requests


def configured(speed: Speed = Speed.HIGH, **options: bool) -> StandardRequests:
    requests = device(speed, **options)
    assert ask(requests, 0x00, 9, 1, 0, 0) == b""
    return requests


STALL = None
HALT_IN, HALT_OUT = (0x02, 3, 0, 0x81, 0), (0x02, 3, 0, 0x01, 0)
TABLE: list[tuple[str, Callable[[], StandardRequests], tuple[int, ...], bytes | None]] = [
    ("GET_CONFIGURATION addressed", device, (0x80, 8, 0, 0, 1), b"\0"),
    ("GET_CONFIGURATION configured", configured, (0x80, 8, 0, 0, 1), b"\1"),
    ("SET_CONFIGURATION of none such", device, (0x00, 9, 2, 0, 0), STALL),
    ("SET_CONFIGURATION 0", configured, (0x00, 9, 0, 0, 0), b""),
    ("SET_ADDRESS", device, (0x00, 5, 7, 0, 0), b""),
    ("SET_ADDRESS above 127", device, (0x00, 5, 128, 0, 0), STALL),
    ("GET_STATUS device", device, (0x80, 0, 0, 0, 2), b"\1\0"),
    ("GET_STATUS interface addressed", device, (0x81, 0, 0, 0, 2), STALL),
    ("GET_STATUS interface", configured, (0x81, 0, 0, 0, 2), b"\0\0"),
    ("GET_STATUS interface 1", configured, (0x81, 0, 0, 1, 2), STALL),
    ("GET_STATUS ep0", device, (0x82, 0, 0, 0, 2), b"\0\0"),
    ("GET_STATUS endpoint addressed", device, (0x82, 0, 0, 0x81, 2), STALL),
    ("GET_STATUS endpoint", configured, (0x82, 0, 0, 0x81, 2), b"\0\0"),
    ("GET_STATUS endpoint of none such", configured, (0x82, 0, 0, 0x85, 2), STALL),
    ("GET_INTERFACE addressed", device, (0x81, 10, 0, 0, 1), STALL),
    ("GET_INTERFACE", configured, (0x81, 10, 0, 0, 1), b"\0"),
    ("SET_INTERFACE", configured, (0x01, 11, 1, 0, 0), b""),
    ("SET_INTERFACE of none such", configured, (0x01, 11, 2, 0, 0), STALL),
    ("SET_INTERFACE of interface 3", configured, (0x01, 11, 0, 3, 0), STALL),
    ("SET_FEATURE halt addressed", device, HALT_IN, STALL),
    ("SET_FEATURE halt", configured, HALT_IN, b""),
    ("SET_FEATURE of another selector", configured, (0x02, 3, 5, 0x81, 0), STALL),
    ("CLEAR_FEATURE halt of ep0", configured, (0x02, 1, 0, 0, 0), b""),
    ("SET_FEATURE remote wakeup not offered", configured, (0x00, 3, 1, 0, 0), STALL),
    ("SET_FEATURE U1 at high speed", configured, (0x00, 3, 48, 0, 0), STALL),
    ("SET_SEL at high speed", configured, (0x00, 48, 0, 0, 6), STALL),
    ("SET_ISOCH_DELAY at high speed", device, (0x00, 49, 40, 0, 0), STALL),
    ("SET_DESCRIPTOR", configured, (0x00, 7, 0x0100, 0, 18), STALL),
    ("SET_FEATURE TEST_MODE", configured, (0x00, 3, 2, 0x0400, 0), STALL),
    ("SET_FEATURE interface at high speed", configured, (0x01, 3, 0, 0, 0), STALL),
    ("SYNCH_FRAME of a bulk endpoint", configured, (0x82, 12, 0, 0x81, 2), STALL),
    ("SYNCH_FRAME of an isochronous endpoint", isochronous, (0x82, 12, 0, 0x81, 2), b"\0\0"),
    ("GET_STATUS of an isochronous endpoint", isochronous, (0x82, 0, 0, 0x81, 2), b"\0\0"),
    ("SET_FEATURE halt of an isochronous one", isochronous, (0x02, 3, 0, 0x81, 0), STALL),
    ("GET_STATUS PTM", configured, (0x80, 0, 1, 0, 4), STALL),
    ("GET_DESCRIPTOR interface", configured, (0x80, 6, 0x0400, 0, 9), STALL),
    ("GET_DESCRIPTOR configuration 1", device, (0x80, 6, 0x0201, 0, 9), STALL),
    ("GET_DESCRIPTOR BOS at high speed", device, (0x80, 6, 0x0F00, 0, 5), STALL),
    ("GET_DESCRIPTOR string 9", device, (0x80, 6, 0x0309, 0x0409, 255), STALL),
    ("GET_DESCRIPTOR string in no such language", device, (0x80, 6, 0x0301, 0x0411, 255), STALL),
    ("GET_DESCRIPTOR languages", device, (0x80, 6, 0x0300, 0, 255), b"\4\3\x09\4"),
    (
        "GET_DESCRIPTOR product",
        device,
        (0x80, 6, 0x0301, 0x0409, 255),
        b"\x0c\3T\0h\0i\0n\0g\0",
    ),
    (
        "GET_DESCRIPTOR qualifier",
        device,
        (0x80, 6, 0x0600, 0, 10),
        bytes.fromhex("0a 06 00 02 00 00 00 40 01 00"),
    ),
]


@pytest.mark.parametrize(("make", "fields", "answer"), [r[1:] for r in TABLE],
                         ids=[r[0] for r in TABLE])  # fmt: skip
def test_request(
    make: Callable[[], StandardRequests], fields: tuple[int, ...], answer: bytes | None
) -> None:
    assert ask(make(), *fields) == answer


def test_halt_is_reported_and_cleared() -> None:
    requests = configured()
    assert ask(requests, *HALT_OUT) == b""
    assert ask(requests, 0x82, 0, 0, 0x01, 2) == b"\1\0"
    assert ask(requests, 0x82, 0, 0, 0x81, 2) == b"\0\0"
    assert ask(requests, 0x02, 1, 0, 0x01, 0) == b""
    assert ask(requests, 0x82, 0, 0, 0x01, 2) == b"\0\0"


@pytest.mark.parametrize("again", [(0x00, 9, 1, 0, 0), (0x01, 11, 0, 0, 0)])
def test_a_new_configuration_or_alternate_clears_halts(again: tuple[int, ...]) -> None:
    requests = configured()
    ask(requests, *HALT_IN)
    assert ask(requests, *again) == b""
    assert ask(requests, 0x82, 0, 0, 0x81, 2) == b"\0\0"


def test_alternate_setting_is_remembered_and_reset() -> None:
    requests = configured()
    ask(requests, 0x01, 11, 1, 0, 0)
    assert ask(requests, 0x81, 10, 0, 0, 1) == b"\1"
    ask(requests, 0x00, 9, 1, 0, 0)
    assert ask(requests, 0x81, 10, 0, 0, 1) == b"\0"


def test_remote_wakeup_is_reported_where_offered() -> None:
    requests = configured(remote_wakeup=True)
    assert ask(requests, 0x00, 3, 1, 0, 0) == b""
    assert ask(requests, 0x80, 0, 0, 0, 2) == b"\3\0"
    requests.reset()
    assert ask(requests, 0x80, 0, 0, 0, 2) == b"\1\0"


def test_super_speed_requests() -> None:
    requests = device(Speed.SUPER)
    assert ask(requests, 0x00, 49, 40, 0, 0) == b""
    assert ask(requests, 0x00, 3, 48, 0, 0) is STALL, "U1 only once configured"
    ask(requests, 0x00, 9, 1, 0, 0)
    assert ask(requests, 0x00, 3, 48, 0, 0) == b""
    assert ask(requests, 0x80, 0, 0, 0, 2) == b"\5\0"
    assert ask(requests, 0x00, 3, 49, 0, 0) == b""
    assert ask(requests, 0x80, 0, 0, 0, 2) == b"\x0d\0"
    assert ask(requests, 0x00, 1, 48, 0, 0) == b""
    assert ask(requests, 0x80, 0, 0, 0, 2) == b"\x09\0"
    assert ask(requests, 0x00, 3, 50, 0, 0) is STALL, "LTM, which our BOS does not offer"
    assert ask(requests, 0x00, 3, 1, 0, 0) is STALL, "remote wakeup is of functions here"
    assert ask(requests, 0x01, 3, 0, 0, 0) == b"", "FUNCTION_SUSPEND"
    assert ask(requests, 0x80, 6, 0x0600, 0, 10) is STALL, "no qualifier at SuperSpeed"


def test_exit_latencies_are_kept_until_a_reset() -> None:
    requests = device(Speed.SUPER)
    latencies = bytes((10, 20, 0x2C, 1, 0x90, 1))
    assert ask(requests, 0x00, 48, 0, 0, 6, data=latencies) == b""
    assert ask(requests, 0x00, 49, 40, 0, 0) == b""
    assert (requests.exit_latency, requests.isoch_delay_ns) == (ExitLatency(10, 20, 300, 400), 40)
    assert ask(requests, 0x00, 48, 0, 0, 5, data=latencies[:5]) is STALL
    assert ask(requests, 0x00, 48, 0, 0, 0) is STALL
    assert ask(requests, 0x00, 49, 40, 1, 0) is STALL
    requests.reset()
    assert (requests.exit_latency, requests.isoch_delay_ns) == (None, 0)


def test_a_function_may_wake_a_host_of_super_speed_by_its_first_interface() -> None:
    requests = isochronous(Speed.SUPER, remote_wakeup=True)
    status = (0x81, 0, 0, 0, 2)
    assert ask(requests, *status) == b"\1\0", "it could"
    assert ask(requests, 0x01, 3, 0, 0x0300, 0) == b""
    assert ask(requests, *status) == b"\3\0", "it may"
    assert ask(requests, 0x81, 0, 0, 1, 2) == b"\0\0", "the first one speaks for all"
    assert ask(requests, 0x01, 3, 0, 0x0301, 0) is STALL
    assert ask(requests, 0x01, 3, 0, 0x0400, 0) is STALL, "a reserved option"
    assert ask(requests, 0x01, 1, 0, 0, 0) == b""
    assert ask(requests, *status) == b"\1\0"
    ask(requests, 0x01, 3, 0, 0x0200, 0)
    ask(requests, 0x00, 9, 1, 0, 0)
    assert ask(requests, *status) == b"\1\0", "a new configuration begins anew"


def test_a_function_that_cannot_wake_its_host_is_not_told_to() -> None:
    requests = isochronous(Speed.SUPER)
    assert ask(requests, 0x81, 0, 0, 0, 2) == b"\0\0"
    assert ask(requests, 0x01, 3, 0, 0x0200, 0) is STALL
    assert ask(requests, 0x01, 3, 0, 0x0100, 0) == b"", "but it may be suspended"


def test_bos_at_super_speed() -> None:
    bos = ask(device(Speed.SUPER), 0x80, 6, 0x0F00, 0, 255)
    assert bos == bytes.fromhex("05 0f 16 00 02 07 10 02 02 00 00 00 0a 10 03 00 0e 00 01 01 f4 01")


def test_other_speed_configuration_is_that_of_the_other_speed() -> None:
    high, full = device(Speed.HIGH), device(Speed.FULL)
    other = ask(high, 0x80, 6, 0x0700, 0, 255)
    own = ask(full, 0x80, 6, 0x0200, 0, 255)
    assert other is not None
    assert own is not None
    assert other == own[:1] + b"\x07" + own[2:]


def test_a_device_of_full_speed_only_has_no_qualifier() -> None:
    udc = UserspaceUDC(gadget(Scripted(), max_speed=Speed.FULL))
    requests = StandardRequests(udc.description, udc)
    assert ask(requests, 0x80, 6, 0x0600, 0, 10) is STALL
    assert ask(requests, 0x80, 6, 0x0700, 0, 9) is STALL


def test_strings_in_two_languages() -> None:
    udc = UserspaceUDC(gadget(Scripted()))
    requests = StandardRequests(udc.description, udc)
    assert ask(requests, 0x80, 6, 0x0300, 0, 255) == b"\6\3\x07\4\x09\4"
    assert ask(requests, 0x80, 6, 0x0302, 0x0407, 255) == b"\x0a\3D\0i\0n\0g\0"
    assert ask(requests, 0x80, 6, 0x0302, 0x0409, 255) == b"\x0c\3T\0h\0i\0n\0g\0"
    assert ask(requests, 0x80, 6, 0x0301, 0x0407, 255) == b"\x0a\3A\0c\0m\0e\0"
