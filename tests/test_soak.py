"""The soak itself: a short one is good, and one that loses a byte or memory is not."""

from __future__ import annotations

import random
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


@pytest.mark.parametrize("drops", [True, False])
def test_a_byte_that_is_lost_or_changed_is_found(
    drops: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak, "_pieces", lambda _seed: iter((b"x" * 60, b"y" * 60)))
    with pytest.raises(Mismatch):
        soak._port(Lossy(drops=drops), time.monotonic() + 60, random.Random(1))
