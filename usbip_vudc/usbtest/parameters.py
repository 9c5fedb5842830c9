"""Parameters: what each test is given, so that it fails for no reason but the device's. Pure.

A truthful device sends whole packets. So what is read are whole packets, too: any other length is
a babble (-EOVERFLOW), and rightly so. What is written may have any length, and entries of a
scatterlist, too, where the host controller takes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from usbip_vudc.usb.ch9 import Direction, Speed
from usbip_vudc.usbtest.cases import Case
from usbip_vudc.usbtest.target import Target

__all__ = ("FULL", "HCD_TESTS", "PROFILES", "QUICK", "Overrides", "Parameters", "Run", "runs_of")

QUICK: Final = "quick"
HCD_TESTS: Final = "hcd-tests"
FULL: Final = "full"

PROFILES: Final = (QUICK, HCD_TESTS, FULL)
"""A few of each; as often as tools/usb/hcd-tests.sh does it; a thousand of each, as testusb."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """The numbers of a test; ``length`` and ``vary`` are bytes, ``sglen`` entries or URBs."""

    iterations: int
    length: int
    vary: int
    sglen: int

    def __str__(self) -> str:
        """The letters are testusb's."""
        return f"-c {self.iterations} -s {self.length} -v {self.vary} -g {self.sglen}"


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the user has said of them; None is nothing."""

    iterations: int | None = None
    length: int | None = None
    vary: int | None = None
    sglen: int | None = None

    def of(self, parameters: Parameters) -> Parameters:
        """The same with what was said."""
        return Parameters(
            *(
                getattr(parameters, name) if getattr(self, name) is None else getattr(self, name)
                for name in Parameters.__slots__
            )
        )

    @property
    def of_lengths(self) -> bool:
        """Whether they say how long something is."""
        return self.length is not None or self.vary is not None


@dataclass(frozen=True, slots=True)
class Run:
    """A test with its parameters; most are run once."""

    name: str
    case: Case
    parameters: Parameters


# hcd-tests.sh, 7a to 7c: lengths and steps that are no multiple of anything.
_ODD_LISTS: Final = {"a": (2048, 579), "b": (4096, 41), "c": (64, 63)}

_BASE: Final = {
    QUICK: Parameters(20, 1024, 512, 8),
    HCD_TESTS: Parameters(5000, 2048, 512, 32),
    FULL: Parameters(1000, 1024, 512, 32),
}
_FEWER: Final = {
    QUICK: {9: 5, 10: 5, 13: 5, 15: 4, 16: 4, 22: 4, 23: 4, 24: 5, 27: 4, 28: 4},
    HCD_TESTS: {
        **dict.fromkeys((5, 6, 7, 8, 11, 12, 13, 24), 2000),
        **dict.fromkeys((15, 16), 1000),
        **dict.fromkeys((17, 18, 19, 20, 21, 22, 23, 27, 28, 29), 100),
        14: 15000,
    },
    FULL: {},
}
"""Iterations of tests that take longer than others."""

_SUBCASES: Final = 32
"""Test 10 runs only as many of its 16 subcases as it queues: twice all of them."""

_ODD_STEP: Final = 421
"""Bytes: hcd-tests.sh, test 3."""

_CONTROL_LENGTH: Final = 256
"""Bytes: hcd-tests.sh, 14 and 21; FunctionFS and gadget zero have room for 4096."""

_THROUGHPUT: Final = 16384
_ISO_LENGTH: Final = 32768
_ISO_DEPTH: Final = 8
_ISO_PACKETS: Final = 1024
"""drivers/usb/usbip/usbip_common.h, USBIP_MAX_ISO_PACKETS."""

_LOW_SPEED_LENGTH: Final = 64
"""Bytes: an interrupt endpoint of low speed moves 8 in 10 ms (USB 2.0 5.7.3, 5.7.4)."""


def runs_of(case: Case, target: Target, profile: str, overrides: Overrides) -> tuple[Run, ...]:
    """What to run for a case on this device. Test 7 is run thrice where odd entries can be."""
    odd = case.number == 7 and target.any_sg and not overrides.of_lengths
    name = f"test {case.number}"
    base = _parameters(case, target, profile)
    if not odd:
        return (Run(name, case, overrides.of(base)),)
    return tuple(
        Run(f"{name}{letter}", case, overrides.of(replace(base, length=length, vary=vary)))
        for letter, (length, vary) in _ODD_LISTS.items()
    )


def _parameters(case: Case, target: Target, profile: str) -> Parameters:
    base = _BASE[profile]
    count = _FEWER[profile].get(case.number, base.iterations)
    made = replace(base, iterations=count, **dict(_lengths(case, target, base.length)))
    if case.group == "iso":
        return replace(made, **dict(_iso(case, target, profile)))
    if case.number == 10:
        return replace(made, sglen=_SUBCASES)
    return made


def _lengths(case: Case, target: Target, usual: int) -> Iterator[tuple[str, int]]:
    low = target.speed == Speed.LOW
    if low:
        usual = _LOW_SPEED_LENGTH
    if case.vendor:
        yield from (("length", usual if low else _CONTROL_LENGTH), ("vary", 1))
        return
    maxp = target.max_packet_size(case.transfer_type, case.direction or Direction.IN)
    whole = -(-usual // maxp) * maxp
    if case.number == 3:
        yield from (("length", whole), ("vary", maxp // 2 + 1 if low else _ODD_STEP))
    elif case.number in (4, 7, 8):
        # With fewer packets than three nothing would vary at all.
        yield from (("length", max(whole, 4 * maxp)), ("vary", maxp))
    elif case.group == "throughput":
        yield from (("length", usual if low else _THROUGHPUT), ("vary", 0))
    else:
        yield from (("length", whole), ("vary", maxp))


def _iso(case: Case, target: Target, profile: str) -> Iterator[tuple[str, int]]:
    each = target.bytes_per_interval(case.direction or Direction.IN)
    packets = 8 if profile == QUICK else min(max(_ISO_LENGTH // each, 1), _ISO_PACKETS)
    yield from (("length", packets * each), ("vary", 0))
    yield "sglen", 4 if profile == QUICK else _ISO_DEPTH
