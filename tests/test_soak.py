"""The soak itself: a short one is good, and one that loses a byte or memory is not."""

from __future__ import annotations

import random
import threading
import time

import pytest

from tests import soak
from tests.soak import Mismatch, Round, Soak
from usbip_vudc.usb.ch9 import Speed


def test_a_short_soak_is_good() -> None:
    run = Soak(0, 0.5, seed=6)
    rounds = list(run.run())
    assert [round_.speed for round_ in rounds] == list(soak.SPEEDS)
    assert [round_.failures for round_ in rounds] == [[], [], []]
    for round_ in rounds:
        assert set(round_.moved) == {"disk", "acm 0", "acm 1", "ftdi"}
        assert all(count > 0 for count in round_.moved.values())
    assert run.good


def test_memory_that_grew_and_stays_is_not_good() -> None:
    run = Soak(0, 0, seed=0)
    sizes = (10, 40, 50, 90, 66, 70, 67)
    run.rounds = [Round(Speed.HIGH, resident=size << 20) for size in sizes]
    assert (run.grown, run.good) == (16 << 20, True)
    run.rounds[4] = Round(Speed.HIGH, resident=68 << 20)
    assert (run.grown, run.good) == (17 << 20, False)


class Lossy:
    """A port that echoes, and spoils one byte."""

    def __init__(self, *, drops: bool) -> None:
        self.drops = drops
        self.bytes = bytearray()
        self.spoilt = False

    def write(self, data: bytes, timeout_ms: int, /) -> None:  # noqa: ARG002
        self.bytes += data
        if not self.spoilt and len(self.bytes) > 100:
            self.spoilt = True
            if self.drops:
                self.bytes.pop()
            else:
                self.bytes[50] ^= 1

    def read(self, size: int, timeout_ms: int, /) -> bytes:  # noqa: ARG002
        data = bytes(self.bytes[:100])
        del self.bytes[:100]
        return data


class Late:
    """A port that echoes only once it has been asked in vain, by when all is written."""

    def __init__(self) -> None:
        self.bytes = bytearray()
        self.asked = threading.Event()
        self.writes = threading.Event()

    def write(self, data: bytes, timeout_ms: int, /) -> None:  # noqa: ARG002
        self.writer = threading.current_thread()
        self.writes.set()
        self.asked.wait(20)
        self.bytes += data

    def read(self, size: int, timeout_ms: int, /) -> bytes:
        if not self.asked.is_set():
            self.writes.wait(20)
            self.asked.set()
            self.writer.join(20)  # all is written, and the time of this read is up
            return b""
        assert timeout_ms == soak.PATIENCE_MS
        data = bytes(self.bytes[:size])
        del self.bytes[:size]
        return data


def test_a_port_is_given_time_for_what_was_written_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "_pieces", lambda _seed: iter((b"x" * 60,)))
    assert soak._port(Late(), time.monotonic() + 60, random.Random(1)) == 120


@pytest.mark.parametrize(
    ("name", "value"),
    [("SOAK_SECONDS", "soon"), ("SOAK_SECONDS", "-1"), ("SOAK_SECONDS", "nan"), ("SOAK_SEED", "x")],
)
def test_a_number_that_is_none_is_named(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=f"{name}={value}: expected "):
        soak.main()


@pytest.mark.parametrize("drops", [True, False])
def test_a_byte_that_is_lost_or_changed_is_found(
    drops: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak, "_pieces", lambda _seed: iter((b"x" * 60, b"y" * 60)))
    with pytest.raises(Mismatch):
        soak._port(Lossy(drops=drops), time.monotonic() + 60, random.Random(1))
