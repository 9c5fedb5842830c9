"""What pyserial's own test suite expects of a port with a loopback plug, as claims of ours.

Its test/test.py wants TX on RX, RTS on CTS and DTR on DSR. Each function here is one of its
expectations; a port is anything with pyserial's interface, so they hold over a tty as over hosts
of ours.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

__all__ = ("DATA", "LINES", "Port")

PATIENCE: Final = 20.0
"""Seconds until a line that does not follow has failed; pyserial's own tests give it 1.1."""

QUIET: Final = 0.1
"""Seconds in which nothing must come."""


class Port(Protocol):
    """What the expectations need of ``serial.Serial``."""

    timeout: float | None
    rts: bool
    dtr: bool

    @property
    def cts(self) -> bool: ...
    @property
    def dsr(self) -> bool: ...
    @property
    def ri(self) -> bool: ...
    def write(self, data: bytes, /) -> Any: ...
    def read(self, size: int, /) -> bytes: ...


def nothing_is_there_at_first(port: Port) -> None:
    port.timeout = QUIET
    assert port.read(1) == b""


def every_byte_value_comes_back(port: Port) -> None:
    """Binary: nothing is echoed by anyone else, translated, or taken for XON and XOFF."""
    values = bytes(range(256))
    for start in range(0, len(values), 16):
        block = values[start : start + 16]
        port.timeout = PATIENCE
        port.write(block)
        assert port.read(len(block)) == block
    nothing_is_there_at_first(port)


def a_read_returns_what_came_when_its_time_is_up(port: Port) -> None:
    port.timeout = PATIENCE
    port.write(b"HELLO")
    first = port.read(1)
    port.timeout = 0.5
    assert first + port.read(9) == b"HELLO"
    assert port.read(1) == b""


def a_read_without_a_timeout_ends_with_a_byte(port: Port) -> None:
    port.timeout = None
    sender = threading.Thread(target=port.write, args=(b"E",))
    sender.start()
    assert port.read(1) == b"E"
    sender.join()


def much_at_once_comes_back(port: Port) -> None:
    """One thread writes and another reads: neither stops the other, no byte is lost."""
    data = random.Random(10).randbytes(20_000)
    port.timeout = PATIENCE
    writer = threading.Thread(target=port.write, args=(data,))
    writer.start()
    came = bytearray()
    while len(came) < len(data) and (piece := port.read(min(1000, len(data) - len(came)))):
        came += piece
    writer.join()
    assert came == data


def cts_follows_rts(port: Port) -> None:
    for rts in (False, True, False):
        port.rts = rts
        _becomes(lambda: port.cts, rts)


def dsr_follows_dtr(port: Port) -> None:
    for dtr in (False, True, False):
        port.dtr = dtr
        _becomes(lambda: port.dsr, dtr)


def nobody_rings(port: Port) -> None:
    assert not port.ri


def _becomes(look: Callable[[], bool], wanted: bool) -> None:
    deadline = time.monotonic() + PATIENCE
    while look() != wanted:
        assert time.monotonic() < deadline, f"not {wanted} within {PATIENCE:g} s"
        time.sleep(0.005)


DATA: Final[tuple[Callable[[Port], None], ...]] = (
    nothing_is_there_at_first,
    every_byte_value_comes_back,
    a_read_returns_what_came_when_its_time_is_up,
    a_read_without_a_timeout_ends_with_a_byte,
    much_at_once_comes_back,
)
LINES: Final[tuple[Callable[[Port], None], ...]] = (
    dsr_follows_dtr,
    nobody_rings,
    cts_follows_rts,
)
"""The last cannot hold on a CDC-ACM port of Linux, which always shows CTS (acm_tty_tiocmget)."""
