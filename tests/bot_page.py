"""The tables of docs/bot.md: the thirteen cases, every check, and what others make of them.

``python -m tests.bot_page`` prints them; with the page's path it puts them in their place. Our
columns are what tests/test_bot_check.py and tests/kernel/test_bot_check.py demand.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping

from tests import pages
from usbip_vudc.bot_check.check import Check
from usbip_vudc.bot_check.checks import CHECKS
from usbip_vudc.bot_check.known import KNOWN
from usbip_vudc.usb.bot_cases import BOT_CASES, BotCase

__all__ = ("filled", "tables")

_STATUS = {False: "passed or failed", True: "phase error"}


def tables() -> Mapping[str, str]:
    """Each generated part of the page by its name."""
    return {
        "cases": pages.table(
            ("", "case", "BOT", "bCSWStatus", "the device", "the host"),
            map(_case, BOT_CASES.values()),
        ),
        "checks": pages.table(
            ("check", "what", "source", "ours", *KNOWN), (_check(check) for check in CHECKS)
        ),
        "reasons": pages.table(("device", "check", "why it fails"), _reasons()),
    }


def _case(case: BotCase) -> tuple[str, ...]:
    return (
        str(case.number),
        case.name,
        case.section.removeprefix("BOT "),
        _STATUS[case.is_phase_error],
        case.device_shows,
        case.host_does,
    )


def _check(check: Check) -> tuple[str, ...]:
    others = ("**fail**" if check.name in known else "pass" for known in KNOWN.values())
    return f"`{check.name}`", check.what, check.source, "pass", *others


def _reasons() -> Iterator[tuple[str, ...]]:
    for device, known in KNOWN.items():
        for why in dict.fromkeys(known.values()):
            names = ", ".join(f"`{name}`" for name, each in known.items() if each == why)
            yield device, names, why


def filled(page: str) -> str:
    """The page with its tables as they are now."""
    return pages.filled(page, tables())


if __name__ == "__main__":
    pages.print_or_fill(tables(), sys.argv[1:])
