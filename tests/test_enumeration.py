"""Reading descriptors, without a device: which requests go out, and what comes of the answers."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest

from tests.devices import Scripted, gadget
from usbip_vudc.errors import SchemeError
from usbip_vudc.host.enumeration import (
    DeviceDescriptors,
    Selection,
    drive,
    drive_async,
    read_descriptors,
    set_configuration,
    set_interface,
)
from usbip_vudc.usb.ch9 import SetupPacket, Speed
from usbip_vudc.usb.descriptors import Configuration

Ask = Callable[[SetupPacket], bytes | None]


def device_of(speed: Speed, asked: list[str]) -> Ask:
    """Answers descriptor requests as a device does, and notes them down."""
    description = gadget(Scripted()).describe(speed)
    table = {0x0100: description.device.pack(), 0x0200: description.configurations[0].pack()}
    if description.bos is not None:
        table[0x0F00] = description.bos

    def ask(setup: SetupPacket) -> bytes | None:
        asked.append(f"{setup.wValue:04x}/{setup.wLength}")
        assert (setup.bmRequestType, setup.bRequest) == (0x80, 6)
        whole = table.get(setup.wValue)
        return whole[: setup.wLength] if whole is not None else None

    return ask


def read(ask: Ask) -> DeviceDescriptors:
    return drive(read_descriptors(), ask)


@pytest.mark.parametrize(
    ("speed", "expected"),
    [
        (Speed.FULL, ["0100/8", "0100/18", "0200/9", "0200/55"]),
        (Speed.SUPER, ["0100/8", "0100/18", "0f00/5", "0f00/22", "0200/9", "0200/79"]),
    ],
    ids=("full", "super"),
)
def test_a_bos_is_read_from_bcdusb_0201_on(speed: Speed, expected: list[str]) -> None:
    asked: list[str] = []
    descriptors = read(device_of(speed, asked))
    assert asked == expected
    assert (descriptors.bos is not None) == (speed == Speed.SUPER)
    (configuration,) = descriptors.configurations
    assert configuration is not None
    assert configuration.pack() == descriptors.raw_configurations[0]
    assert descriptors.device.pack() == descriptors.raw_device


@pytest.mark.parametrize("stalled", [0x0F00, 0x0200])
def test_a_stalled_optional_descriptor_is_none(stalled: int) -> None:
    ask = device_of(Speed.SUPER, [])
    descriptors = read(lambda setup: None if setup.wValue == stalled else ask(setup))
    assert (descriptors.raw_bos is None) == (stalled == 0x0F00)
    assert (descriptors.configurations == (None,)) == (stalled == 0x0200)


@pytest.mark.parametrize(
    ("answer", "message"),
    [(None, "a stall, expected 8"), (bytes(7), "7 bytes, expected 8"), (bytes(8), "got 00 00")],
)
def test_without_a_device_descriptor_there_is_nothing(answer: bytes | None, message: str) -> None:
    with pytest.raises(SchemeError, match=message):
        read(lambda _: answer)


def test_a_malformed_configuration_keeps_its_bytes() -> None:
    ask = device_of(Speed.SUPER, [])

    def malformed(setup: SetupPacket) -> bytes | None:
        data = ask(setup)
        if setup.wValue == 0x0200 and data is not None and len(data) > 9:
            return data[:9] + b"\0" + data[10:]
        return data

    descriptors = read(malformed)
    assert descriptors.configurations == (None,)
    assert descriptors.raw_configurations[0] is not None


def test_a_configuration_cut_to_its_header_is_not_asked_for_again() -> None:
    ask = device_of(Speed.FULL, [])
    header = bytes.fromhex("09 02 09 00 00 01 00 80 32")
    descriptors = read(lambda setup: header if setup.wValue == 0x0200 else ask(setup))
    assert descriptors.configurations == (Configuration.parse(header),)


def test_an_asynchronous_host_reads_the_same() -> None:
    async def main() -> DeviceDescriptors:
        ask = device_of(Speed.HIGH, [])

        async def later(setup: SetupPacket) -> bytes | None:
            await anyio.lowlevel.checkpoint()
            return ask(setup)

        return await drive_async(read_descriptors(), later)

    assert anyio.run(main) == read(device_of(Speed.HIGH, []))


def test_a_selection_is_restored_as_linux_restores_it() -> None:
    selection = Selection()
    assert selection.restore() == []
    for setup in (
        set_configuration(2),
        set_interface(0, 1),
        set_interface(1, 3),
        set_interface(1, 0),
        SetupPacket(0x21, 9, 5),
    ):
        selection.note(setup)
    assert selection.restore() == [set_configuration(2), set_interface(0, 1)]
    selection.note(set_configuration(1))
    assert selection.restore() == [set_configuration(1)]
