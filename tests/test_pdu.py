"""wire/pdu: golden bytes both ways. Headers are those of usbip_protocol.rst's captured example."""

from __future__ import annotations

from typing import Any

import pytest

from usbip_vudc.errors import RemoteProtocolError
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.wire.pdu import (
    CmdSubmit,
    CmdUnlink,
    IsoPacket,
    OpCode,
    OpHeader,
    OpRepDevlist,
    OpRepImport,
    OpReqImport,
    OpStatus,
    RetSubmit,
    RetUnlink,
    UsbDevice,
    UsbInterface,
)

GOLDEN: list[tuple[Any, str]] = [
    (
        CmdSubmit(
            seqnum=0xD05, devid=0x0001000F, direction=1, ep=1, transfer_flags=0x200,
            transfer_buffer_length=64, start_frame=-1, interval=4,
        ),
        "00000001 00000d05 0001000f 00000001 00000001 00000200 00000040 ffffffff 00000000"
        "00000004 00000000 00000000",
    ),
    (
        CmdSubmit(
            seqnum=0xD06, devid=0x0001000F, direction=0, ep=1,
            transfer_buffer_length=64, start_frame=-1, interval=4,
        ),
        "00000001 00000d06 0001000f 00000000 00000001 00000000 00000040 ffffffff 00000000"
        "00000004 00000000 00000000",
    ),
    (
        RetSubmit(seqnum=0xD06, actual_length=64, start_frame=-1),
        "00000003 00000d06 00000000 00000000 00000000 00000000 00000040 ffffffff 00000000"
        "00000000 00000000 00000000",
    ),
    (
        RetSubmit(seqnum=7, status=-75, actual_length=3584),
        "00000003 00000007 00000000 00000000 00000000 ffffffb5 00000e00 00000000 00000000"
        "00000000 00000000 00000000",
    ),
    (
        CmdUnlink(seqnum=9, devid=0x00010002, unlink_seqnum=8),
        "00000002 00000009 00010002 00000000 00000000 00000008" + "00" * 24,
    ),
    (
        RetUnlink(seqnum=9, status=-104),
        "00000004 00000009 00000000 00000000 00000000 ffffff98" + "00" * 24,
    ),
    (
        IsoPacket(offset=192, length=192, actual_length=0, status=-18),
        "000000c0 000000c0 00000000 ffffffee",
    ),
    (OpHeader(OpCode.REQ_DEVLIST), "0111 8005 00000000"),
    (UsbInterface(8, 6, 0x50), "08 06 50 00"),
]  # fmt: skip


@pytest.mark.parametrize(("pdu", "golden"), GOLDEN, ids=lambda v: type(v).__name__)
def test_pdu_packs_to_its_golden_bytes_and_parses_back(pdu: Any, golden: str) -> None:
    data = bytes.fromhex(golden)
    assert pdu.pack() == data
    assert type(pdu).parse(data) == pdu


DEVICE = UsbDevice(
    path="/sys/devices/pci0000:00/0000:00:01.2/usb1/1-1", busid="1-1", busnum=1, devnum=2,
    speed=Speed.HIGH, idVendor=0x1D6B, idProduct=0x0104, bcdDevice=0x0100, bDeviceClass=0xEF,
    bDeviceSubClass=2, bDeviceProtocol=1, bConfigurationValue=1, bNumConfigurations=1,
    bNumInterfaces=2,
)  # fmt: skip
DEVICE_BYTES = (
    DEVICE.path.encode().ljust(256, b"\0")
    + b"1-1".ljust(32, b"\0")
    + bytes.fromhex("00000001 00000002 00000003 1d6b 0104 0100 ef 02 01 01 01 02")
)


def test_usb_device_packs_to_its_312_golden_bytes() -> None:
    assert len(DEVICE_BYTES) == UsbDevice.SIZE == 312
    assert DEVICE.pack() == DEVICE_BYTES
    assert UsbDevice.parse(DEVICE_BYTES) == DEVICE
    assert DEVICE.devid == 0x00010002


def test_devlist_reply() -> None:
    reply = OpRepDevlist(((DEVICE, (UsbInterface(2, 2, 1), UsbInterface(10, 0, 0))),))
    assert reply.pack() == (
        bytes.fromhex("0111 0005 00000000 00000001")
        + DEVICE_BYTES
        + bytes.fromhex("02020100 0a000000")
    )


def test_import_request_and_its_replies() -> None:
    request = OpReqImport("1-1").pack()
    assert request == bytes.fromhex("0111 8003 00000000") + b"1-1".ljust(32, b"\0")
    assert OpReqImport.parse_body(request[8:]) == OpReqImport("1-1")
    assert OpRepImport(OpStatus.NODEV).pack() == bytes.fromhex("0111 0003 00000004")
    assert OpRepImport(OpStatus.OK, DEVICE).pack() == (
        bytes.fromhex("0111 0003 00000000") + DEVICE_BYTES
    )


def test_another_version_is_refused_by_name() -> None:
    with pytest.raises(RemoteProtocolError, match=r"0x0106.*0x0111"):
        OpHeader.parse(bytes.fromhex("0106 8005 00000000"))


def test_a_speed_that_does_not_exist_is_refused() -> None:
    data = bytearray(DEVICE_BYTES)
    data[299] = 9
    with pytest.raises(RemoteProtocolError, match="speed 9"):
        UsbDevice.parse(bytes(data))


def test_a_list_without_end_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="4294967295 devices"):
        OpRepDevlist.parse_count(b"\xff\xff\xff\xff")


def test_a_busid_too_long_for_the_wire_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 31 bytes"):
        OpReqImport("x" * 32).pack()
