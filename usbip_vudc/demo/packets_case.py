"""Every kind of packet at a maxpacket of 8 bytes, on the interrupt pair of a low-speed device."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Final

import usb.core

from usbip_vudc.demo.packets import PacketFunction, PacketHost, pattern
from usbip_vudc.demo.stage import Stage
from usbip_vudc.errors import errno_name
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.report import Row
from usbip_vudc.usb.ch9 import Speed

__all__ = ("packets_at_low_speed",)

_SOON_MS: Final = 50


def packets_at_low_speed(stage: Stage) -> Iterator[Row]:
    """Short packets, ZLPs, babble, halts, unlinks, and requests that overflow."""
    with stage.serving(_gadget()) as port, stage.device(port) as device:
        host = PacketHost(device)
        yield from _to_the_host(host)
        yield from _to_the_device(host)


def _gadget() -> Gadget:
    return Gadget(
        name="packets",
        idVendor=0x1D6B,
        idProduct=0x0104,
        product="Packets of 8 bytes",
        max_speed=Speed.LOW,
        configs=(Config(functions=(PacketFunction(),)),),
    )


def _to_the_host(host: PacketHost) -> Iterator[Row]:
    host.queue(11)
    yield Row("short packet", "IN 8 + 3, URB of 64", "11 bytes",
              _seen(lambda: host.read(64)))  # fmt: skip
    host.queue(16, zlp=True)
    yield Row("ZLP", "IN 8 + 8 + 0, URB of 64", "16 bytes",
              _seen(lambda: host.read(64)))  # fmt: skip
    host.queue(16)
    host.queue(3)
    yield Row("no ZLP", "IN 8 + 8 then 3, URB of 64", "19 bytes",
              _length(lambda: host.read(64)))  # fmt: skip
    host.queue(8)
    yield Row("babble", "IN 8, URB of 5", _name(errno.EOVERFLOW),
              _seen(lambda: host.read(5)))  # fmt: skip
    host.halt()
    yield Row("halt", "the device halts its endpoint", _name(errno.EPIPE),
              _seen(lambda: host.read(8)))  # fmt: skip
    host.queue(8)
    host.clear_halt()
    yield Row("halt cleared", "CLEAR_FEATURE(HALT), then IN 8", "8 bytes",
              _seen(lambda: host.read(8)))  # fmt: skip
    yield Row("NAK, unlink", f"nothing to send for {_SOON_MS} ms", _name(errno.ETIMEDOUT),
              _seen(lambda: host.read(8, _SOON_MS)))  # fmt: skip
    host.queue(8)
    yield Row("after the unlink", "IN 8, the next URB", "8 bytes",
              _seen(lambda: host.read(8)))  # fmt: skip


def _to_the_device(host: PacketHost) -> Iterator[Row]:
    host.room(24)
    host.write(11)
    yield Row("OUT short packet", "8 + 3, request of 24", "11 bytes", host.received())
    host.room(24)
    host.write(16)
    yield Row("OUT, no ZLP", "8 + 8, request of 24", "still waits", host.received())
    host.write(0)
    yield Row("OUT ZLP", "0 after that", "16 bytes", host.received())
    host.room(5)
    host.write(8)
    yield Row("OUT overflow", "8, request of 5", "5 bytes, overflow", host.received())


def _length(read: Callable[[], bytes]) -> str:
    try:
        return f"{len(read())} bytes"
    except usb.core.USBError as error:
        return _name(error.errno or 0)


def _seen(read: Callable[[], bytes]) -> str:
    """How a read ended; the bytes must be the right ones."""
    wrong = False

    def checked() -> bytes:
        nonlocal wrong
        data = read()
        wrong = data != pattern(len(data))
        return data

    return _length(checked) + (", wrong ones" if wrong else "")


def _name(number: int) -> str:
    return errno_name(number).split()[0]
