"""A soak: mixed traffic on a disk and on serial ports through our own hosts, for a bounded time.

Every byte is compared. Rounds go over the speeds; each begins with two devices that are plugged
in and ends with their being pulled. Memory is looked at after each round. ``make soak`` runs it
for 5 minutes, ``SOAK_SECONDS=3600 make soak`` for an hour.
"""

from __future__ import annotations

import gc
import os
import random
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import usb.core
import usb.util
from rich.console import Console
from rich.table import Table

from usbip_vudc.host.ftdi import FtdiSerial
from usbip_vudc.host.serial import UsbSerial
from usbip_vudc.host.storage import UsbStorage
from usbip_vudc.pyusb_backend import get_backend
from usbip_vudc.registry import GadgetOptions, load_gadget
from usbip_vudc.serving import serving
from usbip_vudc.usb.ch9 import Speed

__all__ = ("Round", "Soak", "main")

SPEEDS: Final = (Speed.FULL, Speed.HIGH, Speed.SUPER)
DISK_SIZE: Final = 4 << 20
MOST_BLOCKS: Final = 256
MOST_WRITTEN: Final = 20_000
"""Bytes of one write to a port."""

ROUND_SECONDS: Final = 10.0
PATIENCE_MS: Final = 60_000
SLACK: Final = 16 << 20
"""Bytes by which memory may be more than after the first time round all speeds: what allocators
and caches keep. To leak a byte of every 200 that move would be more within five minutes."""


class SerialHost(Protocol):
    """What the host classes of serial ports share."""

    def write(self, data: bytes, timeout_ms: int, /) -> None: ...
    def read(self, size: int, timeout_ms: int, /) -> bytes: ...


class Mismatch(Exception):
    """Bytes that are not those that were sent."""


@dataclass
class Round:
    """What one round moved, in bytes, by the name of what moved it, and the memory after it."""

    speed: Speed
    moved: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    resident: int = 0


class Soak:
    """Rounds of ``round_seconds`` until ``seconds`` have passed, and at least one at each speed."""

    def __init__(self, seconds: float, round_seconds: float, seed: int) -> None:
        self.seconds = seconds
        self.round_seconds = round_seconds
        self.seed = seed
        self.rounds: list[Round] = []

    def run(self) -> Iterator[Round]:
        """Each round as it ends; the first that failed is the last."""
        deadline = time.monotonic() + self.seconds
        while time.monotonic() < deadline or len(self.rounds) < len(SPEEDS):
            number = len(self.rounds)
            round_ = Round(SPEEDS[number % len(SPEEDS)])
            left = max(deadline - time.monotonic(), 1.0)
            self._round(round_, f"{self.seed}/{number}", min(self.round_seconds, left))
            gc.collect()
            round_.resident = resident_bytes()
            self.rounds.append(round_)
            yield round_
            if round_.failures:
                return

    @property
    def grown(self) -> int:
        """Bytes that memory has grown by since every speed had its first round.

        The least of the last rounds counts: what is leaked stays, what allocators keep comes and
        goes.
        """
        settled = [round_.resident for round_ in self.rounds[len(SPEEDS) - 1 :]]
        return max(min(settled[-len(SPEEDS) :]) - settled[0], 0) if settled else 0

    @property
    def good(self) -> bool:
        """Whether no byte was lost, and memory was flat."""
        return self.grown <= SLACK and not any(round_.failures for round_ in self.rounds)

    def _round(self, round_: Round, seed: str, seconds: float) -> None:
        composite = load_gadget("composite", GadgetOptions(ports=2, size=DISK_SIZE))
        ftdi = load_gadget("ftdi", GadgetOptions())
        with (
            serving(composite, ftdi, speed=round_.speed) as port,
            _found(port, composite.idVendor) as first,
            _found(port, ftdi.idVendor) as second,
        ):
            end = time.monotonic() + seconds
            jobs: dict[str, Callable[[random.Random], int]] = {
                "disk": lambda rng: _disk(UsbStorage(first), end, rng),
                "acm 0": lambda rng: _port(UsbSerial(first, 0), end, rng),
                "acm 1": lambda rng: _port(UsbSerial(first, 1), end, rng),
                "ftdi": lambda rng: _port(FtdiSerial(second), end, rng),
            }

            def work(name: str, job: Callable[[random.Random], int]) -> None:
                try:
                    round_.moved[name] = job(random.Random(f"{seed}/{name}"))
                except Exception as error:
                    round_.failures.append(f"{name}: {type(error).__name__}: {error}")

            threads = [threading.Thread(target=work, args=job, name=job[0]) for job in jobs.items()]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()


@contextmanager
def _found(port: int, idVendor: int) -> Iterator[usb.core.Device]:
    device = usb.core.find(backend=get_backend(port=port), idVendor=idVendor)
    assert device is not None
    try:
        device.set_configuration()
        yield device
    finally:
        usb.util.dispose_resources(device)


def _disk(disk: UsbStorage, end: float, rng: random.Random) -> int:
    """Write and read anywhere, against a copy of what must be there; bytes moved."""
    disk.wait_ready()
    block_size = disk.read_capacity().block_size
    mirror = bytearray(DISK_SIZE)
    moved = 0
    while time.monotonic() < end:
        blocks = rng.randint(1, MOST_BLOCKS)
        lba = rng.randrange(DISK_SIZE // block_size - blocks + 1)
        where = slice(lba * block_size, (lba + blocks) * block_size)
        if rng.random() < 0.5:
            mirror[where] = rng.randbytes(blocks * block_size)
            disk.write(lba, mirror[where])
        elif disk.read(lba, blocks) != mirror[where]:
            raise Mismatch(f"blocks {lba} to {lba + blocks - 1} are not what was written")
        moved += blocks * block_size
        if rng.random() < 0.01:
            disk.synchronize_cache()
    if disk.read(0, DISK_SIZE // block_size) != mirror:
        raise Mismatch("the disk is not what was written, all in all")
    return moved


def _port(host: SerialHost, end: float, rng: random.Random) -> int:
    """Write to a port that echoes, in pieces of any length, and compare; bytes moved both ways."""
    seed = rng.random()
    failures: list[Exception] = []
    sent = 0
    done = threading.Event()

    def write() -> None:
        nonlocal sent
        try:
            for piece in _pieces(seed):
                if time.monotonic() >= end or failures:
                    break
                host.write(piece, PATIENCE_MS)
                sent += len(piece)
        except Exception as error:
            failures.append(error)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    expected = bytearray()
    came = 0
    pieces = _pieces(seed)
    try:
        while not failures and not (done.is_set() and came == sent):
            was_done = done.is_set()  # what is written while a read waits is the next one's
            data = host.read(65_536, PATIENCE_MS if was_done else 200)
            if not data and was_done and came < sent:
                raise Mismatch(f"{came} of {sent} bytes came back")
            while len(expected) < len(data):
                expected += next(pieces)
            if expected[: len(data)] != data:
                raise Mismatch(f"the bytes behind the first {came} are not those that were sent")
            del expected[: len(data)]
            came += len(data)
    except Exception as error:
        failures.append(error)
    writer.join()
    if failures:
        raise failures[0]
    return sent + came


def _pieces(seed: float) -> Iterator[bytes]:
    """Without end: pieces of 1 byte to `MOST_WRITTEN`, whole packets among them."""
    rng = random.Random(seed)
    while True:
        length = rng.choice((rng.randint(1, 64), rng.randint(1, MOST_WRITTEN), 512, 1024, 4096))
        yield rng.randbytes(length)


def resident_bytes() -> int:
    """Memory of this process, device and host together."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _summary(soak: Soak) -> Table:
    table = Table("moved by", "MiB", box=None)
    totals: dict[str, int] = {}
    for round_ in soak.rounds:
        for name, count in round_.moved.items():
            totals[name] = totals.get(name, 0) + count
    for name, count in totals.items():
        table.add_row(name, f"{count / (1 << 20):.0f}")
    return table


def _number(name: str, otherwise: int) -> int:
    """A variable of the environment. Exits where it is no number."""
    text = os.environ.get(name, "")
    if text and not text.isdecimal():
        sys.exit(f"{name}={text}: expected a whole number, 0 or more")
    return int(text or otherwise)


def main() -> int:
    """Soak for ``SOAK_SECONDS``, tell of each round, and exit with 1 where it was not good."""
    seconds = _number("SOAK_SECONDS", 300)
    seed = _number("SOAK_SEED", random.randrange(1 << 32))
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"soaking for {seconds} s, seed {seed} (SOAK_SEED={seed} makes the same bytes)")
    soak = Soak(seconds, ROUND_SECONDS, seed)
    for round_ in soak.run():
        moved = sum(round_.moved.values()) >> 20
        console.print(
            f"{round_.speed.word:>5}: {moved} MiB compared, memory {round_.resident >> 20} MiB"
        )
        for failure in round_.failures:
            console.print(f"       FAILED: {failure}")
    console.print(_summary(soak))
    verdict = "good: no byte lost" if soak.good else "NOT GOOD"
    console.print(f"{verdict}; memory has grown by {soak.grown / (1 << 20):.1f} MiB")
    return 0 if soak.good else 1


if __name__ == "__main__":
    sys.exit(main())
