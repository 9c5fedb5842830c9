"""All rules in the order in which they are tried, and how some of them are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final

from usbip_vudc.conformance import hostile, iso, operations, submits, unlinks
from usbip_vudc.conformance.rule import MUST, SHOULD, Rule
from usbip_vudc.errors import SchemeError

__all__ = ("RULES", "choose")

RULES: Final[tuple[Rule, ...]] = (
    *operations.RULES,
    *submits.RULES,
    *unlinks.RULES,
    *iso.RULES,
    *hostile.RULES,
)
"""Those that may take a device from its server come last."""


def choose(words: Sequence[str], *, rough: bool = False) -> tuple[Rule, ...]:
    """The rules that words name: rules, ``must``, ``should``; all where there is no word.

    Rough ones are among them where ``rough``, or where their own name is given. Raises
    SchemeError for a word that is neither.
    """
    names = {rule.name for rule in RULES}
    for word in words:
        if word not in names and word not in (MUST, SHOULD):
            near = get_close_matches(word, names, 3)
            hint = f"; do you mean {' or '.join(near)}?" if near else "; --list shows all"
            raise SchemeError(f"rule {word!r} is unknown{hint}")
    return tuple(
        rule
        for rule in RULES
        if rule.name in words
        or ((not words or rule.severity in words) and (rough or not rule.rough))
    )
