"""Trying rules on a server, one after the other, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from usbip_vudc.conformance.peer import NotApplicable, Violation
from usbip_vudc.conformance.rule import Rule
from usbip_vudc.conformance.subject import Subject
from usbip_vudc.verdicts import FAIL, PASS, SKIP, Verdict

__all__ = ("examine",)


def examine(
    subject: Subject, rules: Sequence[Rule], *, recover: Callable[[], None] | None = None
) -> Iterator[Verdict]:
    """Try each rule and yield its verdict.

    After a rule that is hostile or failed the device must still be there: where it is not, that
    is the rule's failure, ``recover`` is called to bring it back, and without it (or where that
    does not help) all further rules are skipped.
    """
    lost_by = ""
    for rule in rules:
        if lost_by:
            yield _verdict(rule, SKIP, f"the device was lost after {lost_by}")
            continue
        started = time.monotonic()
        result, why = _try(rule, subject)
        if result == FAIL or (rule.hostile and result == PASS):
            trouble = _afterwards(subject)
            if trouble:
                told = (why, f"afterwards {trouble}" if trouble != why else "")
                result, why = FAIL, "; ".join(filter(None, told))
                lost_by = rule.name if not _recovered(subject, recover) else ""
        yield _verdict(rule, result, why, time.monotonic() - started)


def _try(rule: Rule, subject: Subject) -> tuple[str, str]:
    try:
        rule.check(subject)
    except NotApplicable as reason:
        return SKIP, str(reason)
    except Violation as violation:
        return FAIL, str(violation)
    return PASS, ""


def _afterwards(subject: Subject) -> str:
    """What is wrong with the device now, or nothing."""
    try:
        subject.recovers()
    except Violation as violation:
        return str(violation)
    return ""


def _recovered(subject: Subject, recover: Callable[[], None] | None) -> bool:
    if recover is None:
        return False
    recover()
    return not _afterwards(subject)


def _verdict(rule: Rule, result: str, why: str, seconds: float = 0.0) -> Verdict:
    return Verdict(
        name=rule.name,
        result=result,
        what=f"{rule.severity}: {rule.what}",
        why=why,
        source=rule.source,
        seconds=seconds,
    )
