"""The keyboard and the mouse against a host: reports, requests, protocols, LEDs, idle rate."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest
import usb.core
import usb.util

from gadgets.hid.descriptors import KEYBOARD, MOUSE
from gadgets.hid.function import HidFunction
from gadgets.hid.keyboard import KeyboardFunction
from gadgets.hid.mouse import MouseFunction, parse_path
from usbip_vudc.errors import EndpointDisabled, LocalProtocolError, RemoteProtocolError, SchemeError
from usbip_vudc.function import ControlRequest
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.injection import Plan, injected
from usbip_vudc.pyusb_backend import get_backend
from usbip_vudc.registry import GADGETS, GadgetOptions, load_gadget
from usbip_vudc.serving import serving
from usbip_vudc.usb.ch9 import SetupPacket, Speed, StandardRequest
from usbip_vudc.usb.hid import (
    Button,
    HidDescriptor,
    HidProtocol,
    HidRequest,
    KeyboardReport,
    Led,
    Modifier,
    MouseReport,
)
from usbip_vudc.usb.keys import strokes, text_of, usage

NEVER: Final = 0
"""SET_IDLE's word for: only what changes."""


@contextmanager
def attached(function: HidFunction, speed: Speed = Speed.LOW) -> Iterator[usb.core.Device]:
    """The function as a device of its own, on the userspace UDC, through pyusb."""
    gadget = Gadget(
        name="hid", idVendor=0x0525, idProduct=0xA4AC, configs=(Config(functions=(function,)),)
    )
    with serving(gadget, speed=speed) as port:
        device = usb.core.find(backend=get_backend(port=port))
        assert device is not None
        try:
            begin_anew(device)
            yield device
        finally:
            usb.util.dispose_resources(device)


def begin_anew(device: usb.core.Device) -> None:
    """Be a new host, which wants to hear of changes only."""
    device.ctrl_transfer(0x00, StandardRequest.SET_CONFIGURATION, 1, 0)
    device.ctrl_transfer(0x21, HidRequest.SET_IDLE, NEVER << 8, 0)


def report(device: usb.core.Device, timeout_ms: int = 10_000) -> bytes:
    """The next input report, in one poll."""
    return bytes(device.read(0x81, 8, timeout_ms))


def reports(device: usb.core.Device, count: int) -> list[bytes]:
    return [report(device) for _ in range(count)]


def typed(device: usb.core.Device, length: int) -> str:
    """The text of as many keys, each of which was pressed and let go of."""
    return text_of(map(KeyboardReport.parse, reports(device, 2 * length)))


# --- words ---------------------------------------------------------------------------------------


def test_the_bytes_of_a_hid_descriptor() -> None:
    # HID 1.11 6.2.1: nine bytes, type 0x21, release 1.11, country, one descriptor, its type, length
    assert HidDescriptor(63, 33).pack({}) == bytes.fromhex("09 21 1101 21 01 22 3f00")


def test_a_boot_keyboards_report_descriptor_is_that_of_appendix_e() -> None:
    assert len(KEYBOARD) == 63
    assert (KEYBOARD[:6], KEYBOARD[-1]) == (bytes.fromhex("05 01 09 06 a1 01"), 0xC0)


@pytest.mark.parametrize(
    ("made", "data"),
    [
        (KeyboardReport(), "00 00 000000000000"),
        (KeyboardReport(Modifier.LEFT_SHIFT, (4,)), "02 00 040000000000"),
        (KeyboardReport(Modifier(0), (4, 5, 6, 7, 8, 9)), "00 00 040506070809"),
        (KeyboardReport(Modifier.RIGHT_ALT, tuple(range(4, 11))), "40 00 010101010101"),
        (MouseReport(), "00 00 00 00"),
        (MouseReport(Button.LEFT | Button.MIDDLE, 127, -127, -1), "05 7f 81 ff"),
    ],
)
def test_the_bytes_of_reports(made: KeyboardReport | MouseReport, data: str) -> None:
    assert made.pack() == bytes.fromhex(data)
    if "010101" not in data:
        assert made.parse(made.pack()) == made


def test_reports_of_other_lengths_are_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="7 bytes, expected 8"):
        KeyboardReport.parse(bytes(7))
    with pytest.raises(RemoteProtocolError, match="5 bytes, expected 3 or 4"):
        MouseReport.parse(bytes(5))
    with pytest.raises(SchemeError, match="x 128"):
        MouseReport(x=128).pack()


def test_every_printable_character_has_a_key_and_comes_back() -> None:
    text = "".join(map(chr, range(32, 127))) + "\n\t"
    pressed = [KeyboardReport(s.modifiers, (s.usage,)) for s in strokes(text)]
    assert text_of(r for report in pressed for r in (report, KeyboardReport())) == text


@pytest.mark.parametrize("text", ["naïve", "a\rb", "€"])
def test_what_is_on_no_key_is_refused_before_anything_is_typed(text: str) -> None:
    keyboard = KeyboardFunction()
    with pytest.raises(SchemeError, match="on no key of a US keyboard"):
        keyboard.type(text)
    keyboard.wait_taken(0)
    with pytest.raises(SchemeError):
        KeyboardFunction(text=text)


@pytest.mark.parametrize(
    ("key", "expected"),
    [("ctrl", Modifier.LEFT_CTRL), ("F12", 0x45), ("f1", 0x3A), ("a", 4), ("/", 0x38)],
)
def test_keys_have_names(key: str, expected: int) -> None:
    assert usage(key) == expected


@pytest.mark.parametrize("key", ["A", "f13", "", "ab"])
def test_a_word_that_is_no_key_is_refused(key: str) -> None:
    with pytest.raises(SchemeError, match="expected a character"):
        usage(key)


# --- the keyboard --------------------------------------------------------------------------------


@pytest.mark.parametrize("speed", [Speed.LOW, Speed.FULL, Speed.HIGH, Speed.SUPER])
def test_a_typed_text_arrives_report_by_report(speed: Speed) -> None:
    keyboard = KeyboardFunction()
    with attached(keyboard, speed) as device:
        text = "Hello, low speed! 1.5 Mbit/s\n"
        keyboard.type(text)
        assert typed(device, len(text)) == text
        keyboard.wait_taken(10)


def test_what_was_typed_before_the_host_came_waits_for_it() -> None:
    keyboard = KeyboardFunction()
    keyboard.type("early")
    with attached(keyboard) as device:  # finding it was a host, too, that read no report
        assert typed(device, 5) == "early"


def test_shift_is_down_only_for_the_key_that_needs_it() -> None:
    keyboard = KeyboardFunction()
    with attached(keyboard) as device:
        keyboard.type("aB")
        assert reports(device, 4) == [
            bytes.fromhex("00 00 04 0000000000"), bytes(8),
            bytes.fromhex("02 00 05 0000000000"), bytes(8),
        ]  # fmt: skip


def test_keys_are_held_and_let_go_of_in_the_reverse_order() -> None:
    keyboard = KeyboardFunction()
    with attached(keyboard) as device:
        keyboard.tap("ctrl", "alt", "delete")
        assert [r.hex() for r in reports(device, 6)] == [
            "0100000000000000", "0500000000000000", "05004c0000000000",
            "0500000000000000", "0100000000000000", "0000000000000000",
        ]  # fmt: skip


def test_seven_keys_at_once_are_a_roll_over() -> None:
    keyboard = KeyboardFunction()
    with attached(keyboard) as device:
        keyboard.press(*"abcdefg")
        seen = reports(device, 7)
        assert seen[5] == bytes.fromhex("00 00 040506070809")
        assert seen[6] == bytes.fromhex("00 00 010101010101")
        keyboard.release("a")
        last = report(device)
        assert last == bytes.fromhex("00 00 05060708090a")
        assert text_of(map(KeyboardReport.parse, (*seen, last))) == "abcdefg"
        keyboard.release()
        assert report(device) == bytes(8)


@pytest.mark.parametrize("held", ["b", "cdefgh"])
def test_what_a_host_could_not_see_is_refused(held: str) -> None:
    keyboard = KeyboardFunction()
    keyboard.press(*held)
    with pytest.raises(SchemeError, match="'b' cannot be typed while its key, or 6 others"):
        keyboard.type("b")
    keyboard.release()
    keyboard.press("shift")
    keyboard.type("b")
    with attached(keyboard) as device:
        reports(device, len(held) + 2)
        assert report(device) == bytes.fromhex("02 00 05 0000000000")


def test_a_key_that_is_held_is_told_to_the_next_host() -> None:
    keyboard = KeyboardFunction()
    with attached(keyboard) as device:
        keyboard.press("x")
        pressed = report(device)
        begin_anew(device)
        assert report(device) == pressed


def test_any_thread_may_type() -> None:
    keyboard = KeyboardFunction()
    with attached(keyboard) as device:
        threads = [threading.Thread(target=keyboard.type, args=(c * 20,)) for c in "abcd"]
        for thread in threads:
            thread.start()
        text = typed(device, 80)
        for thread in threads:
            thread.join()
    assert sorted(text) == sorted("abcd" * 20)
    assert all(c * 20 in text for c in "abcd")  # each text in one piece


def test_wait_taken_says_that_nobody_polls() -> None:
    keyboard = KeyboardFunction()
    with attached(keyboard):
        keyboard.type("a")
        with pytest.raises(TimeoutError, match="2 report"):
            keyboard.wait_taken(0.01)


def test_what_a_host_did_not_take_is_lost_with_it() -> None:
    keyboard = KeyboardFunction()
    failures: list[BaseException] = []

    def wait() -> None:
        waiting.set()
        try:
            keyboard.wait_taken(20)
        except EndpointDisabled as error:
            failures.append(error)

    waiting = threading.Event()
    with attached(keyboard) as device:
        keyboard.type("ab")
        assert report(device) != bytes(8)
        waiter = threading.Thread(target=wait)
        waiter.start()
        assert waiting.wait(10)
        begin_anew(device)
        waiter.join()
        keyboard.type("c")
        assert typed(device, 1) == "c"
    assert [str(error) for error in failures] == ["the host left before 3 report(s)"]


def test_waiting_in_the_thread_that_sends_is_refused_and_a_task_has_another_way() -> None:
    seen: list[str] = []

    class Typist(KeyboardFunction):
        async def _perform(self) -> None:
            with self._reports.for_this_host():
                self.type("hi")
            with pytest.raises(LocalProtocolError, match="await taken"):
                self.wait_taken()
            await self.taken()
            seen.append("taken")
            self.type("!")

    with attached(Typist()) as device:
        assert typed(device, 3) == "hi!"
        assert seen == ["taken"]


def test_a_text_that_held_keys_are_in_the_way_of_is_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    keyboard = KeyboardFunction(text="x", delay=0)
    keyboard.press("x")
    with attached(keyboard) as device:
        pressed = report(device)
        keyboard.release()
        assert (pressed[2], report(device)) == (0x1B, bytes(8))
    assert "'x' cannot be typed while its key" in caplog.text


def test_a_keyboard_types_its_text_once_for_each_host() -> None:
    keyboard = KeyboardFunction(text="Hi\n", delay=0)
    with attached(keyboard) as device:
        assert typed(device, 3) == "Hi\n"
        begin_anew(device)
        assert typed(device, 3) == "Hi\n"  # and not what a host before did not read
        with pytest.raises(usb.core.USBTimeoutError):
            report(device, 20)


# --- its requests --------------------------------------------------------------------------------


def control_in(device: usb.core.Device, request: int, wValue: int, length: int = 64) -> bytes:
    return bytes(device.ctrl_transfer(0xA1, request, wValue, 0, length))


def test_its_descriptors_are_had_from_the_interface() -> None:
    with attached(KeyboardFunction()) as device:
        assert bytes(device.ctrl_transfer(0x81, 6, 0x2200, 0, 255)) == KEYBOARD
        hid = HidDescriptor(len(KEYBOARD), 33).pack({})
        assert bytes(device.ctrl_transfer(0x81, 6, 0x2100, 0, 255)) == hid
        [interface] = device.get_active_configuration()
        assert bytes(interface.extra_descriptors) == hid
        triple = (
            interface.bInterfaceClass, interface.bInterfaceSubClass, interface.bInterfaceProtocol,
        )  # fmt: skip
        assert triple == (3, 1, 1)
        [endpoint] = interface
        assert (endpoint.bmAttributes, endpoint.wMaxPacketSize, endpoint.bInterval) == (3, 8, 10)


@pytest.mark.parametrize(
    ("bmRequestType", "bRequest", "wValue", "data"),
    [
        (0x81, 6, 0x2300, 8),  # a physical descriptor
        (0xA1, HidRequest.GET_REPORT, 0x0300, 8),  # a feature report
        (0xA1, HidRequest.GET_REPORT, 0x0101, 8),  # a report ID
        (0x21, HidRequest.SET_REPORT, 0x0100, b"\0" * 8),  # an input report
        (0x21, HidRequest.SET_REPORT, 0x0200, b""),  # no LEDs
        (0x21, HidRequest.SET_PROTOCOL, 2, b""),
        (0x21, HidRequest.SET_IDLE, 0x0001, b""),  # a report ID
        (0xA1, 0x55, 0, 8),
    ],
)
def test_what_the_device_does_not_have_stalls(
    bmRequestType: int, bRequest: int, wValue: int, data: int | bytes
) -> None:
    with attached(KeyboardFunction()) as device:
        with pytest.raises(usb.core.USBError) as caught:
            device.ctrl_transfer(bmRequestType, bRequest, wValue, 0, data)
        assert caught.value.errno == errno.EPIPE


def test_get_report_says_what_the_host_was_told_last() -> None:
    keyboard = KeyboardFunction()
    with attached(keyboard) as device:
        assert control_in(device, HidRequest.GET_REPORT, 0x0100) == bytes(8)
        keyboard.press("a", "b")
        first = report(device)
        assert control_in(device, HidRequest.GET_REPORT, 0x0100) == first
        second = report(device)
        assert control_in(device, HidRequest.GET_REPORT, 0x0100) == second != first


def test_leds_that_the_host_sets_arrive() -> None:
    heard: list[Led] = []
    keyboard = KeyboardFunction(on_leds=heard.append)
    with attached(keyboard) as device:
        for leds in (Led.CAPS_LOCK, Led.CAPS_LOCK | Led.NUM_LOCK, Led(0)):
            device.ctrl_transfer(0x21, HidRequest.SET_REPORT, 0x0200, 0, bytes((leds,)))
            keyboard.wait_leds(leds, 10)
            assert control_in(device, HidRequest.GET_REPORT, 0x0200) == bytes((leds,))
        assert heard == [Led.CAPS_LOCK, Led.CAPS_LOCK | Led.NUM_LOCK, Led(0)]
        with pytest.raises(TimeoutError, match=r"expected <Led\.KANA"):
            keyboard.wait_leds(Led.KANA, 0)


def test_both_protocols_of_a_keyboard_are_the_same_bytes() -> None:
    keyboard = KeyboardFunction()
    with attached(keyboard) as device:
        assert control_in(device, HidRequest.GET_PROTOCOL, 0) == b"\1"
        device.ctrl_transfer(0x21, HidRequest.SET_PROTOCOL, HidProtocol.BOOT, 0)
        assert control_in(device, HidRequest.GET_PROTOCOL, 0) == b"\0"
        keyboard.type("boot")
        assert typed(device, 4) == "boot"
        device.ctrl_transfer(0x00, StandardRequest.SET_CONFIGURATION, 1, 0)  # HID 1.11 7.2.6
        assert control_in(device, HidRequest.GET_PROTOCOL, 0) == b"\1"


def test_the_idle_rate_is_500_ms_until_it_is_set() -> None:
    keyboard = KeyboardFunction()
    with attached(keyboard) as device:
        assert (control_in(device, HidRequest.GET_IDLE, 0), keyboard.idle_seconds) == (b"\0", None)
        device.ctrl_transfer(0x00, StandardRequest.SET_CONFIGURATION, 1, 0)
        assert (control_in(device, HidRequest.GET_IDLE, 0), keyboard.idle_seconds) == (b"\x7d", 0.5)
        device.ctrl_transfer(0x21, HidRequest.SET_IDLE, 3 << 8, 0)
        assert keyboard.idle_seconds == 0.012


def test_under_a_plan_each_configuration_begins_anew_too() -> None:
    keyboard = KeyboardFunction()
    plan = Plan.parse("hid_keyboard.in nth(1) corrupt(2, 1)")
    gadget = Gadget(name="hid", idVendor=1, idProduct=2, configs=(Config(functions=(keyboard,)),))
    with serving(injected(gadget, plan), speed=Speed.LOW) as port:
        device = usb.core.find(backend=get_backend(port=port))
        begin_anew(device)
        keyboard.type("a")
        assert report(device) == bytes.fromhex("00 00 05 0000000000")
        device.ctrl_transfer(0x00, StandardRequest.SET_CONFIGURATION, 1, 0)
        assert keyboard.idle_seconds == 0.5
        usb.util.dispose_resources(device)


def test_at_the_idle_rate_the_same_report_comes_again() -> None:
    keyboard = KeyboardFunction()
    with attached(keyboard) as device:
        keyboard.press("a")
        pressed = report(device)
        device.ctrl_transfer(0x21, HidRequest.SET_IDLE, 1 << 8, 0)
        assert reports(device, 3) == [pressed] * 3
        device.ctrl_transfer(0x21, HidRequest.SET_IDLE, NEVER << 8, 0)
        keyboard.release("a")
        while (last := report(device)) == pressed:
            continue  # one of them was under way
        assert last == bytes(8)


def test_a_host_that_asks_for_reports_still_gets_those_of_the_idle_rate() -> None:
    keyboard = KeyboardFunction()
    with attached(keyboard) as device:
        device.ctrl_transfer(0x21, HidRequest.SET_IDLE, 25 << 8, 0)  # 100 ms
        repeated = threading.Event()

        def read() -> None:
            report(device)
            repeated.set()

        reader = threading.Thread(target=read)
        reader.start()
        asked = 0
        while not repeated.is_set() and asked < 2000:  # each far sooner than 100 ms
            control_in(device, HidRequest.GET_REPORT, 0x0100)
            asked += 1
        reader.join()
        assert asked < 2000


def test_a_repeated_report_is_nothing_that_must_be_taken() -> None:
    keyboard = KeyboardFunction()
    with attached(keyboard) as device:
        keyboard.press("a")
        pressed = report(device)
        device.ctrl_transfer(0x21, HidRequest.SET_IDLE, 1 << 8, 0)
        assert report(device) == pressed  # and the next one waits for a host that polls no more
        keyboard.wait_taken(10)


# --- the mouse -----------------------------------------------------------------------------------


def test_a_mouse_moves_by_steps_that_add_up() -> None:
    mouse = MouseFunction()
    with attached(mouse) as device:
        mouse.move(300, -7)
        seen = [MouseReport.parse(data) for data in reports(device, 3)]
        assert [(r.x, r.y) for r in seen] == [(100, -3), (100, -2), (100, -2)]
        mouse.move(-253, 1)
        assert sum(MouseReport.parse(report(device)).x for _ in range(2)) == -253
        mouse.scroll(-130)
        assert [MouseReport.parse(report(device)).wheel for _ in range(2)] == [-65, -65]


def test_buttons_stay_down_while_a_mouse_moves() -> None:
    mouse = MouseFunction()
    with attached(mouse) as device:
        mouse.press("left")
        mouse.move(5, 6)
        mouse.release("left")
        mouse.click("right")
        assert [r.hex() for r in reports(device, 5)] == [
            "01000000", "01050600", "00000000", "02000000", "00000000",
        ]  # fmt: skip
        with pytest.raises(SchemeError, match="button 'fourth'"):
            mouse.press("fourth")


def test_the_boot_protocol_of_a_mouse_has_no_wheel() -> None:
    mouse = MouseFunction()
    with attached(mouse) as device:
        assert bytes(device.ctrl_transfer(0x81, 6, 0x2200, 0, 255)) == MOUSE
        device.ctrl_transfer(0x21, HidRequest.SET_PROTOCOL, HidProtocol.BOOT, 0)
        mouse.move(1, 2)
        assert report(device) == bytes((0, 1, 2))
        assert control_in(device, HidRequest.GET_REPORT, 0x0100) == bytes(3)


def test_get_report_of_a_mouse_does_not_move_it_again() -> None:
    mouse = MouseFunction()
    with attached(mouse) as device:
        mouse.press("middle")
        mouse.move(9, 9)
        reports(device, 2)
        assert control_in(device, HidRequest.GET_REPORT, 0x0100) == bytes((4, 0, 0, 0))


def test_at_the_idle_rate_a_mouse_says_that_it_rests() -> None:
    mouse = MouseFunction()
    with attached(mouse) as device:
        mouse.press("left")
        mouse.move(9, 9)
        assert reports(device, 2)[1] == bytes((1, 9, 9, 0))
        device.ctrl_transfer(0x21, HidRequest.SET_IDLE, 1 << 8, 0)
        assert reports(device, 2) == [bytes((1, 0, 0, 0))] * 2


def test_a_mouse_goes_along_its_path() -> None:
    mouse = MouseFunction(path="3,0 left 0,-4", repeat=True, delay=0, step=0)
    with attached(mouse) as device:
        one = ["00030000", "01000000", "00000000", "0000fc00"]
        assert [r.hex() for r in reports(device, 8)] == one * 2


@pytest.mark.parametrize("path", ["1", "1,2,3", "1,x", "wheel", "1, 2"])
def test_a_path_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(SchemeError, match="expected DX,DY"):
        parse_path(path)


# --- as they are had -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["keyboard", "mouse"])
def test_the_ready_made_ones_are_low_speed_devices(name: str) -> None:
    gadget = load_gadget(name, GadgetOptions())
    assert name in GADGETS
    described = gadget.describe(gadget.max_speed)
    assert gadget.max_speed is Speed.LOW
    assert (described.device.bMaxPacketSize0, described.qualifier, described.bos) == (8, None, None)


def test_options_say_what_they_do() -> None:
    [keyboard] = load_gadget("keyboard", GadgetOptions(text="abc")).configs[0].functions
    [mouse] = load_gadget("mouse", GadgetOptions(path="1,2")).configs[0].functions
    assert isinstance(keyboard, KeyboardFunction)
    assert isinstance(mouse, MouseFunction)
    assert (keyboard.text, mouse.path) == ("abc", "1,2")


def test_a_request_to_the_device_is_not_the_interfaces() -> None:
    request = ControlRequest(SetupPacket(0xA1, HidRequest.GET_PROTOCOL, 0, 0, 1))
    assert KeyboardFunction().setup(request) is None
