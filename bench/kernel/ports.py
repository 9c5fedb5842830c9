"""Bytes through a serial port, ours or f_acm's, to the gadget and from it, on every carrier."""

from __future__ import annotations

import os
import termios
import threading
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench.kernel.carriers import carry, gadget_of, wait_for
from bench.kernel.measure import Sample
from gadgets.acm.function import AcmFunction
from gadgets.serial.profiles import Profile, Sink, Source
from usbip_vudc.carrier import Carrier
from usbip_vudc.gadget import Gadget, KernelFunction

__all__ = ("measure_ours", "measure_theirs")

_CHUNK = 64 << 10
_PORT_ID = 0xA4A7


def measure_ours(carrier: Carrier, length: int) -> list[Sample]:
    """A sink that takes ``length`` bytes, then a source that gives as many."""
    samples = []
    for what, profile, move in (("to gadget", Sink, _write), ("from gadget", Source, _read)):
        with carry(partial(_ours, profile), carrier) as process, _port("/dev/ttyACM0") as port:
            before = process.cpu_seconds()
            seconds = move(port, length)
            samples.append(Sample(what, length, seconds, before, process.cpu_seconds()))
    return samples


def _ours(profile: type[Profile]) -> Gadget:
    return gadget_of(AcmFunction(profile()), _PORT_ID)


def measure_theirs(carrier: Carrier, length: int) -> list[Sample]:
    """f_acm, whose other end is /dev/ttyGS0 of this very machine."""
    nothing = (0.0, 0.0)
    make = partial(gadget_of, KernelFunction(driver="acm"), _PORT_ID)
    with (
        carry(make, carrier),
        _port("/dev/ttyACM0") as host,
        _port("/dev/ttyGS0") as gadget,
    ):
        return [
            Sample("to gadget", length, _both(host, gadget, length), nothing, nothing),
            Sample("from gadget", length, _both(gadget, host, length), nothing, nothing),
        ]


def _both(source: int, target: int, length: int) -> float:
    reader = threading.Thread(target=_read, args=(target, length))
    started = time.monotonic()
    reader.start()
    _write(source, length)
    reader.join()
    return time.monotonic() - started


def _write(port: int, length: int) -> float:
    data = memoryview(bytes(_CHUNK))
    started = time.monotonic()
    while length:
        length -= os.write(port, data[: min(length, _CHUNK)])
    termios.tcdrain(port)
    return time.monotonic() - started


def _read(port: int, length: int) -> float:
    started = time.monotonic()
    while length > 0:
        length -= len(os.read(port, _CHUNK))
    return time.monotonic() - started


@contextmanager
def _port(name: str) -> Iterator[int]:
    node = Path(name)
    wait_for(lambda: node if node.exists() else None, name)
    port = _opened(node)
    try:
        # At once: what a port echoed before it was raw may never drain.
        tty.setraw(port, termios.TCSANOW)
        yield port
    finally:
        os.close(port)


def _opened(node: Path) -> int:
    opened: list[int] = []

    def attempt() -> Path | None:
        try:
            opened.append(os.open(node, os.O_RDWR | os.O_NOCTTY))
        except OSError:  # it has no driver behind it yet
            return None
        return node

    wait_for(attempt, str(node))
    os.set_blocking(opened[0], True)
    return opened[0]
