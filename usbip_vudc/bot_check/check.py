"""What a check is: a claim about mass-storage devices, where it is written, and how it is tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from usbip_vudc.bot_check.subject import Subject

__all__ = ("Check",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check. ``try_it`` returns a remark, which may be empty, where the device keeps the rule.

    It raises Violation where the device breaks it, NotApplicable where it cannot be tried; the
    host recovers the device afterwards in any case. ``group`` names all of a kind; ``number`` is
    that of the case (BOT 6.7), where it is one.
    """

    name: str
    group: str
    what: str
    source: str
    try_it: Callable[[Subject], str]
    number: int | None = None
