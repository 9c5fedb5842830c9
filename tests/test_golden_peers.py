"""Conversations of hosts that are not Linux's, written from what their projects say of them.

usbip-win2 (Windows) and VIIPER fill in headers as vhci_hcd never does. Each file names its sources,
and says what of it is documented and what only implied. The answers were ours when it was written.
"""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.golden_devices import DEVICES
from usbip_vudc.serving import serving_udcs
from usbip_vudc.wire.pdu import OP_HEADER_SIZE

GOLDEN = Path(__file__).parent / "golden"
DEVLIST = bytes.fromhex("0111800500000000")


def lines_of(name: str) -> list[str]:
    return (GOLDEN / f"{name}.txt").read_text().splitlines()


def receive(sock: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        piece = sock.recv(length - len(data))
        if not piece:
            break
        data += piece
    return data


def replay(port: int, lines: list[str]) -> int:
    """Send each > by itself, compare each <; how many URBs were answered."""
    sock = None
    answered = 0
    try:
        for number, line in enumerate(lines, 1):
            data = bytes.fromhex(line[2:]) if line[0] in "<>" else b""
            if line[0] == ">":
                # Every operation begins with its version, a command with 00.
                if sock is None or data[:2] == DEVLIST[:2]:
                    if sock is not None:
                        sock.close()
                    sock = socket.create_connection(("127.0.0.1", port), 10)
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.sendall(data)
            elif line[0] == "<":
                assert sock is not None
                assert receive(sock, len(data)).hex() == data.hex(), f"line {number}"
                answered += len(data) > OP_HEADER_SIZE and data[:3] == b"\0\0\0"
    finally:
        if sock is not None:
            sock.close()
    return answered


@pytest.mark.parametrize(
    ("name", "urbs"), [("usbip-win2-storage", 41), ("usbip-win2-serial", 16), ("viiper-mouse", 6)]
)
def test_a_host_that_is_not_linux_gets_the_answers_that_were_written_down(
    name: str, urbs: int
) -> None:
    with serving_udcs(DEVICES[name]()) as port:
        assert replay(port, lines_of(name)) == urbs


@pytest.mark.parametrize("name", DEVICES)
def test_each_trace_names_its_source_and_what_is_only_implied(name: str) -> None:
    said = " ".join(line[2:] for line in lines_of(name) if line[0] == "#")
    assert "Written from " in said
    assert "implied" in said or "lists no sequence" in said
