"""Isochronous URBs of Linux through vhci_hcd to the userspace UDC, packet by packet."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.iso_device import IN, OUT, PACKET, Iso, Loopback, iso_gadget
from tests.kernel.usbfs import IsoTransfer, Usbfs, usbfs
from usbip_vudc.serving import serving
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.vhci import attach_remote, detach, wait_device

pytestmark = pytest.mark.kernel

HOST = "127.0.0.1"


@pytest.fixture(scope="module", autouse=True)
def modules(need_modules: Callable[..., None]) -> None:
    need_modules("vhci-hcd")


@contextmanager
def attached(function: Iso, speed: Speed) -> Iterator[Usbfs]:
    """The device in alternate setting 1, through its node."""
    with serving(iso_gadget(function), speed=speed) as port:
        number = attach_remote(HOST, port, "1-1").port
        try:
            device: Path = wait_device(number)
            with usbfs(device) as node:
                node.claim()
                node.set_interface(0, 1)
                yield node
        finally:
            detach(number)


@pytest.mark.parametrize("speed", [Speed.FULL, Speed.HIGH, Speed.SUPER], ids=lambda s: s.word)
def test_every_packet_comes_back_with_its_length(speed: Speed) -> None:
    lengths = (3, 0, PACKET, 7)
    data = bytes(i % 251 for i in range(sum(lengths)))
    with attached(Loopback(), speed) as node:
        back = node.submit(IsoTransfer(IN, (PACKET,) * 4))
        out = node.submit(IsoTransfer(OUT, lengths, data))
        node.reap()
        node.reap()
        assert (out.status, out.packets) == (0, [(length, 0) for length in lengths])
        assert (back.status, back.error_count) == (0, 0)
        assert back.packets == [(length, 0) for length in lengths]
        assert b"".join(back.received) == data


def test_babble_is_a_packets_affair_and_a_pending_urb_is_unlinked() -> None:
    with attached(Iso(b"abcdef", b"gh", b"ijkl"), Speed.HIGH) as node:
        urb = node.submit(IsoTransfer(IN, (4, 4, 4)))
        node.reap()
        assert (urb.status, urb.error_count) == (0, 1)
        assert urb.packets == [(4, -errno.EOVERFLOW), (2, 0), (4, 0)]
        assert urb.received == [b"abcd", b"gh", b"ijkl"]
        waiting = node.submit(IsoTransfer(IN, (4,)))
        node.discard(waiting)
        node.reap()
        assert (waiting.status, waiting.packets) == (-errno.ENOENT, [(0, -errno.EXDEV)])
