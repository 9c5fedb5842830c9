"""What a rule is: a claim about USB/IP servers, where it is written, and the check of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from usbip_vudc.conformance.subject import Subject

__all__ = ("MUST", "SHOULD", "Rule")

MUST: Final = "must"
"""Hosts lose data, the device or their kernel where a server does otherwise."""

SHOULD: Final = "should"
"""The protocol says so, or a server should survive it; hosts that behave never notice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule. ``check`` returns where the server keeps it.

    It raises Violation where the server breaks it, NotApplicable where it cannot be tried.
    ``source`` is the section of usbip_protocol.rst, or the kernel's file and function.
    ``hostile``: it sends what no host sends, so the device is looked after when it is over.
    ``rough``: a Linux kernel that serves may warn about it or crash; not run unless asked for.
    """

    name: str
    what: str
    source: str
    severity: str
    check: Callable[[Subject], None]
    hostile: bool = False
    rough: bool = False
