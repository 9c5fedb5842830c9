"""All checks in the order in which they are tried, and how some of them are chosen."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final

from usbip_vudc.bot_check.cases import CASE_CHECKS
from usbip_vudc.bot_check.check import Check
from usbip_vudc.bot_check.requests import REQUEST_CHECKS
from usbip_vudc.bot_check.wrappers import WRAPPER_CHECKS
from usbip_vudc.errors import SchemeError
from usbip_vudc.usb.bot_cases import BOT_CASES

__all__ = ("CHECKS", "choose")

CHECKS: Final[tuple[Check, ...]] = (*CASE_CHECKS, *WRAPPER_CHECKS, *REQUEST_CHECKS)


def choose(words: Sequence[str]) -> tuple[Check, ...]:
    """The checks that words name, all where there is no word.

    A word is a check, a group (cases, cbw, class), or the number of a case or a range of them.
    Raises SchemeError for any other.
    """
    chosen: set[str] = set()
    for word in words:
        numbers = _numbers(word)
        fits = [
            check.name
            for check in CHECKS
            if word in (check.name, check.group) or check.number in numbers
        ]
        if not fits:
            raise SchemeError(f"check {word!r} is unknown{_hint(word)}")
        chosen.update(fits)
    return tuple(check for check in CHECKS if not words or check.name in chosen)


def _numbers(word: str) -> frozenset[int]:
    """The cases that a word such as ``7`` or ``7-9`` names; none where it is no such word."""
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", word)
    if match is None:
        return frozenset()
    first, last = int(match[1]), int(match[2] or match[1])
    return frozenset(BOT_CASES) & frozenset(range(first, last + 1))


def _hint(word: str) -> str:
    near = get_close_matches(word, [check.name for check in CHECKS], 3)
    return f"; do you mean {' or '.join(near)}?" if near else "; --list shows all"
