"""The table of docs/conformance.md: every rule, and what three servers make of it.

``python -m tests.conformance_page`` prints it; with the page's path it puts it in its place. Our
column is what tests/test_usbip_conformance.py demands. The others are `KNOWN`, which the kernel
lane holds against Linux 6.1 for most rules; the rest was measured once by the command.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping

from tests import pages
from usbip_vudc.conformance.known import KNOWN
from usbip_vudc.conformance.rule import Rule
from usbip_vudc.conformance.rules import RULES

__all__ = ("filled", "tables")


def tables() -> Mapping[str, str]:
    """Each generated part of the page by its name."""
    return {
        "rules": pages.table(
            ("rule", "", "what", "ours", "usbip-vudc", "usbip-host"), (_row(rule) for rule in RULES)
        ),
        "reasons": pages.table(("server", "rule", "why it fails"), _reasons()),
    }


def _row(rule: Rule) -> tuple[str, ...]:
    name = f"`{rule.name}`{' (rough)' if rule.rough else ''}"
    return name, rule.severity, rule.what, "pass", *(_kernel(rule, driver) for driver in KNOWN)


def _kernel(rule: Rule, driver: str) -> str:
    if rule.name.startswith("iso-"):
        return "not tried"
    return "**fail**" if rule.name in KNOWN[driver] else "pass"


def _reasons() -> Iterator[tuple[str, ...]]:
    for driver, known in KNOWN.items():
        for name, why in known.items():
            yield driver, f"`{name}`", why


def filled(page: str) -> str:
    """The page with its tables as they are now."""
    return pages.filled(page, tables())


if __name__ == "__main__":
    pages.print_or_fill(tables(), sys.argv[1:])
