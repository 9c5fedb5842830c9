"""Conversations that a real kernel held with our server, byte for byte.

Lines ``>`` are what Linux's vhci_hcd, usb-storage, sd and cdc-acm sent, ``<`` what our server
answered and the kernel accepted: enumeration, SCSI attach, line settings, data and unlinks.
"""

from __future__ import annotations

import socket
from itertools import groupby
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from usbip_vudc.registry import GadgetOptions, load_gadget
from usbip_vudc.server import Server
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.vudc import UserspaceUDC

pytestmark = pytest.mark.anyio

GOLDEN = Path(__file__).parent / "golden"


def turns(name: str) -> list[tuple[str, bytes]]:
    """The trace as turns of the host (>) and the device (<), each with all its bytes."""
    lines = [line for line in (GOLDEN / name).read_text().splitlines() if line[0] in "<>"]
    return [
        (who, b"".join(bytes.fromhex(line[2:]) for line in said))
        for who, said in groupby(lines, key=lambda line: line[0])
    ]


def replay(port: int, conversation: list[tuple[str, bytes]]) -> None:
    """Say what the kernel said; each answer must be the one that it got."""
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        for number, (who, data) in enumerate(conversation):
            if who == ">":
                sock.sendall(data)
                continue
            answer = bytearray()
            while len(answer) < len(data):
                piece = sock.recv(len(data) - len(answer))
                assert piece, f"turn {number}: closed after {answer.hex()}"
                answer += piece
            assert answer.hex() == data.hex(), f"turn {number}"


@pytest.mark.parametrize("name", ["storage", "serial"])
async def test_a_kernel_gets_the_same_answers_again(name: str) -> None:
    options = [GadgetOptions(size=1 << 20, serial_number=f"{n:04d}") for n in (1, 2)]
    udcs = [
        UserspaceUDC(load_gadget(gadget, option), speed=Speed.SUPER)
        for gadget, option in zip(("storage", "serial"), options, strict=True)
    ]
    async with anyio.create_task_group() as tasks:
        _, port = await tasks.start(Server(udcs).serve, "127.0.0.1", 0)
        trace = turns(f"vhci-6.1-{name}.txt")
        assert len(trace) > 50
        await anyio.to_thread.run_sync(replay, port, trace)
        tasks.cancel_scope.cancel()
