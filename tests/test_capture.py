"""capture: what Wireshark would read, byte by byte, and through a reader that is not ours."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import pytest
from pcapng import FileScanner
from pcapng.blocks import EnhancedPacket, InterfaceDescription, SectionHeader

from tests.devices import Scripted, echo, gadget
from tests.proxies import HOST, plugged, proxying, read, write
from usbip_vudc.capture import Capture
from usbip_vudc.injection import Plan
from usbip_vudc.proxy.server import Proxy
from usbip_vudc.serving import serving
from usbip_vudc.usb.ch9 import TransferType
from usbip_vudc.wire.pdu import CmdSubmit, IsoPacket, RetSubmit

DEVID = 0x00030004
NOW = 1_700_000_000_123_456_789

BULK_IN = CmdSubmit(
    seqnum=7, devid=DEVID, direction=1, ep=2, transfer_flags=0x200, transfer_buffer_length=512
)
BULK_OUT = CmdSubmit(seqnum=8, devid=DEVID, direction=0, ep=1, transfer_buffer_length=4)
CONTROL = CmdSubmit(
    seqnum=9, devid=DEVID, direction=1, ep=0, transfer_buffer_length=18,
    setup=bytes.fromhex("8006000100001200"),
)  # fmt: skip
ISO_IN = CmdSubmit(
    seqnum=10, devid=DEVID, direction=1, ep=3, transfer_buffer_length=8, number_of_packets=2,
    interval=1, start_frame=5,
)  # fmt: skip


def blocks(path: Path) -> list[Any]:
    with path.open("rb") as file:
        return list(FileScanner(file))


def packets(path: Path) -> list[bytes]:
    return [b.packet_data for b in blocks(path) if isinstance(b, EnhancedPacket)]


def one(path: Path) -> bytes:
    (packet,) = packets(path)
    return packet


def recorded(tmp_path: Path, call: str, *arguments: Any) -> bytes:
    """The one packet that a call writes, read back while the file is still open."""
    path = tmp_path / "one.pcapng"
    with Capture(path, clock=lambda: NOW) as capture:
        (side,) = capture.connection("host")
        getattr(side, call)(*arguments)
        return one(path)


def header(
    event: str, pipe: int, endpoint: int, no_setup: str, no_data: str, status: int,
    lengths: tuple[int, int], *, number: int, state: bytes = bytes(8),
    tail: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> bytes:  # fmt: skip
    """As usbmon's text: who, when, how it went, how long, and the four words at the end."""
    return b"".join(
        (
            struct.pack("<Q", 1 << 32 | number),
            event.encode() + bytes((pipe, endpoint, DEVID & 0xFF)),
            struct.pack("<H", DEVID >> 16),
            (no_setup or "\0").encode() + (no_data or "\0").encode(),
            struct.pack("<qi", 1_700_000_000, 123_456),
            struct.pack("<i", status),
            struct.pack("<II", *lengths),
            state,
            struct.pack("<iiII", *tail),
        )
    )


def test_submission_of_bulk_in_has_no_data_yet(tmp_path: Path) -> None:
    packet = recorded(tmp_path, "submit", BULK_IN, b"", b"", TransferType.BULK)
    expected = header("S", 3, 0x82, "-", "<", -115, (512, 0), number=7, tail=(0, 0, 0x200, 0))
    assert len(expected) == 64
    assert packet == expected
    assert packet.hex() == (
        "07000000010000005303820403002d3c"
        "00f153650000000040e201008dffffff0002000000000000"
        "000000000000000000000000000000000002000000000000"
    )  # fmt: skip


def test_completion_of_bulk_in_has_the_bytes_that_came(tmp_path: Path) -> None:
    reply = RetSubmit(seqnum=7, status=-75, actual_length=3)
    packet = recorded(tmp_path, "complete", BULK_IN, reply, b"abc", b"", TransferType.BULK)
    head = header("C", 3, 0x82, "-", "", -75, (3, 3), number=7, tail=(0, 0, 0x200, 0))
    assert packet == head + b"abc"


def test_out_has_its_bytes_in_the_submission(tmp_path: Path) -> None:
    packet = recorded(tmp_path, "submit", BULK_OUT, b"data", b"", TransferType.INTERRUPT)
    assert packet == header("S", 1, 0x01, "-", "", -115, (4, 4), number=8) + b"data"
    reply = RetSubmit(seqnum=8, actual_length=4)
    packet = recorded(tmp_path, "complete", BULK_OUT, reply, b"", b"", TransferType.BULK)
    assert packet == header("C", 3, 0x01, "-", ">", 0, (4, 0), number=8)


def test_control_has_its_setup_packet(tmp_path: Path) -> None:
    packet = recorded(tmp_path, "submit", CONTROL, b"", b"", TransferType.CONTROL)
    assert packet == header(
        "S", 2, 0x80, "", "<", -115, (18, 0), number=9, state=CONTROL.setup
    )  # fmt: skip


def test_iso_data_are_where_the_descriptors_say(tmp_path: Path) -> None:
    iso = b"".join(
        IsoPacket(offset=o, length=4, actual_length=a, status=s).pack()
        for o, a, s in ((0, 1, 0), (4, 2, -71), (8, 0, 0))
    )
    reply = RetSubmit(
        seqnum=10, actual_length=3, number_of_packets=3, error_count=1, start_frame=77
    )
    packet = recorded(tmp_path, "complete", ISO_IN, reply, b"abc", iso, TransferType.ISOCHRONOUS)
    assert packet == b"".join(
        (
            header(
                "C", 0, 0x83, "-", "", 0, (3, 48 + 6), number=10, state=struct.pack("<ii", 1, 3),
                tail=(1, 77, 0, 3),
            ),
            struct.pack("<iIII", 0, 0, 1, 0),
            struct.pack("<iIII", -71, 4, 2, 0),
            struct.pack("<iIII", 0, 8, 0, 0),
            b"a\0\0\0bc",
        )
    )  # fmt: skip


def test_iso_submission_has_the_lengths_that_are_asked_for(tmp_path: Path) -> None:
    iso = IsoPacket(offset=0, length=4, status=-18).pack()
    head = CmdSubmit(
        seqnum=11, devid=DEVID, direction=0, ep=3, transfer_flags=2, transfer_buffer_length=4,
        number_of_packets=1, interval=8, start_frame=5,
    )  # fmt: skip
    packet = recorded(tmp_path, "submit", head, b"data", iso, TransferType.ISOCHRONOUS)
    expected = header(
        "S", 0, 0x03, "-", "", -115, (4, 20), number=11, state=struct.pack("<ii", 0, 1),
        tail=(8, 5, 2, 1),
    )  # fmt: skip
    assert packet == expected + struct.pack("<iIII", -18, 0, 4, 0) + b"data"


def test_iso_descriptors_that_a_record_has_no_room_for_are_left_out(tmp_path: Path) -> None:
    iso = b"".join(IsoPacket(offset=i, length=1, actual_length=1).pack() for i in range(200))
    reply = RetSubmit(seqnum=10, actual_length=200, number_of_packets=200)
    payload = bytes(range(200))
    packet = recorded(tmp_path, "complete", ISO_IN, reply, payload, iso, TransferType.ISOCHRONOUS)
    assert packet[48 - 8 : 48] == struct.pack("<ii", 0, 200)
    assert packet[60:64] == struct.pack("<I", 128)
    assert packet[64 + 128 * 16 :] == payload[:128]


def test_a_urb_that_is_lost_with_its_connection_is_an_error(tmp_path: Path) -> None:
    packet = recorded(tmp_path, "lost", BULK_IN, TransferType.BULK)
    expected = header("E", 3, 0x82, "-", "<", -19, (0, 0), number=7, tail=(0, 0, 0x200, 0))
    assert packet == expected


def test_the_file_says_what_it_is_and_keeps_sides_apart(tmp_path: Path) -> None:
    path = tmp_path / "two.pcapng"
    with Capture(path, clock=lambda: NOW) as capture:
        for _ in range(2):
            host, device = capture.connection("host", "device")
            host.submit(BULK_IN, b"", b"", TransferType.BULK)
            device.submit(BULK_IN, b"", b"", TransferType.BULK)
    section, *rest = blocks(path)
    assert isinstance(section, SectionHeader)
    assert section.options["shb_userappl"].startswith("usbip-vudc ")
    sides = [b for b in rest if isinstance(b, InterfaceDescription)]
    assert [(s.link_type, s.options["if_name"]) for s in sides] == [(220, "host"), (220, "device")]
    written = [b for b in rest if isinstance(b, EnhancedPacket)]
    assert [b.interface_id for b in written] == [0, 1, 0, 1]
    assert [b.timestamp for b in written] == [pytest.approx(NOW / 1e9, abs=1e-5)] * 4
    numbers = [struct.unpack_from("<Q", b.packet_data)[0] for b in written]
    assert numbers == [1 << 32 | 7, 1 << 32 | 7, 2 << 32 | 7, 2 << 32 | 7]


def test_the_container_is_little_endian_pcapng(tmp_path: Path) -> None:
    path = tmp_path / "raw.pcapng"
    with Capture(path, clock=lambda: NOW) as capture:
        capture.connection("host")
    data = path.read_bytes()
    assert data[:4].hex() == "0a0d0d0a", "section header block"
    length = int.from_bytes(data[4:8], "little")
    assert data[8:12].hex() == "4d3c2b1a", "byte-order magic, little endian"
    assert data[length : length + 4].hex() == "01000000", "interface description block"
    assert int.from_bytes(data[length + 8 : length + 10], "little") == 220


def test_a_disk_that_is_full_ends_the_capture_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "full.pcapng"
    with Capture(path) as capture, open("/dev/full", "wb") as full:  # noqa: PTH123
        (side,) = capture.connection("host")
        os.dup2(full.fileno(), capture.fileno())
        for _ in range(3):
            side.submit(BULK_IN, b"", b"", TransferType.BULK)
    assert caplog.messages == [f"{path}: the capture ends here: [Errno 28] No space left on device"]


# --- through the proxy -------------------------------------------------------------------------


def events(path: Path, interface: int) -> list[str]:
    """Each record of a side in words: event, transfer type, endpoint, status, bytes."""
    lines = []
    for block in blocks(path):
        if isinstance(block, EnhancedPacket) and block.interface_id == interface:
            data = block.packet_data
            kind, pipe, endpoint = chr(data[8]), "ZICB"[data[9]], data[10]
            status, length = struct.unpack_from("<iI", data, 28)
            lines.append(f"{kind} {pipe} {endpoint:02x} {status} {length} {data[64:].decode()}")
    return [line.rstrip() for line in lines]


def test_a_proxy_records_what_the_host_and_what_the_device_saw(tmp_path: Path) -> None:
    path = tmp_path / "proxy.pcapng"
    plan = Plan.parse("cable.out nth(1) short(2); cable.in nth(1) status(-71)")
    with serving(gadget(Scripted(echo))) as server, Capture(path) as capture:
        proxy = Proxy(HOST, server, plan, record=lambda _: capture.connection("host", "device"))
        with proxying(proxy) as port, plugged(port) as host:
            write(host, b"hello")
            with pytest.raises(Exception, match="EPROTO"):
                read(host, 64)
    assert events(path, 0) == [
        "S C 00 -115 0", "C C 00 0 0",
        "S B 01 -115 5 hello", "C B 01 0 2",
        "S B 81 -115 64", "C B 81 -71 2 he",
    ]  # fmt: skip
    assert events(path, 1) == [
        "S C 00 -115 0", "C C 00 0 0",
        "S B 01 -115 2 he", "C B 01 0 2",
        "S B 81 -115 64", "C B 81 0 2 he",
    ]  # fmt: skip


def test_what_was_pending_when_the_host_left_is_there_too(tmp_path: Path) -> None:
    path = tmp_path / "left.pcapng"
    with serving(gadget(Scripted(echo))) as server, Capture(path) as capture:
        proxy = Proxy(HOST, server, record=lambda _: capture.connection("host"))
        with proxying(proxy) as port, plugged(port) as host:
            with pytest.raises(Exception, match="ETIMEDOUT"):
                read(host, 64, 0.05)
            write(host, b"hello")
    assert events(path, 0)[2:] == [
        "S B 81 -115 64", "C B 81 -104 0", "S B 01 -115 5 hello", "C B 01 0 5",
    ]  # fmt: skip
