"""The tables of docs/speeds.md: what each speed has by default, and every rule of the code.

``python -m tests.legality_page`` prints them; with the page's path it puts them in their places.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Final

from tests import pages
from usbip_vudc.function import EndpointSpec
from usbip_vudc.gadget import RULES, Config, Gadget, Rule
from usbip_vudc.gadget.at_speed import EndpointAtSpeed
from usbip_vudc.gadget.legality import SPEEDS
from usbip_vudc.usb.ch9 import Speed

__all__ = ("filled", "tables")

_KINDS: Final = {
    "bulk": EndpointSpec.bulk_in("e"),
    "interrupt": EndpointSpec.interrupt_in("e", interval_ms=10),
    "isochronous": EndpointSpec.iso_in("e", interval_ms=1),
}


def tables() -> Mapping[str, str]:
    """Each generated part of the page by its name."""
    return {
        "speeds": pages.table(("", *(s.word for s in SPEEDS)), _defaults()),
        "rules": pages.table(
            ("rule", "speeds", "USB forbids", "section"), (_row(rule) for rule in RULES)
        ),
    }


def _row(rule: Rule) -> tuple[str, ...]:
    return rule.name, ", ".join(s.word for s in rule.speeds), rule.forbids, rule.section


def _defaults() -> list[tuple[str, ...]]:
    described = [
        Gadget(name="g", idVendor=1, idProduct=1, configs=(Config(functions=()),)).describe(speed)
        for speed in SPEEDS
    ]
    rows = [
        ("bcdUSB", *(f"{d.device.bcdUSB:#06x}" for d in described)),
        ("bMaxPacketSize0", *(f"{d.device.bMaxPacketSize0}" for d in described)),
        ("device qualifier", *(_there(d.qualifier) for d in described)),
        ("BOS", *(_there(d.bos) for d in described)),
        ("unit of bMaxPower", *("8 mA" if s == Speed.SUPER else "2 mA" for s in SPEEDS)),
    ]
    for kind, spec in _KINDS.items():
        at = [EndpointAtSpeed(spec, speed) for speed in SPEEDS]
        illegal = kind != "interrupt"
        sizes = [f"{e.size} bytes" for e in at]
        rows.append((f"{kind} packet", "-" if illegal else sizes[0], *sizes[1:]))
        if spec.interval_ms:
            said = [f"{e.bInterval}" for e in at]
            label = f"bInterval of {kind}, {spec.interval_ms:g} ms"
            rows.append((label, "-" if illegal else said[0], *said[1:]))
    return rows


def _there(packed: bytes | None) -> str:
    return "stalls" if packed is None else f"{len(packed)} bytes"


def filled(page: str) -> str:
    """The page with every generated part as it is now."""
    return pages.filled(page, tables())


if __name__ == "__main__":
    pages.print_or_fill(tables(), sys.argv[1:])
