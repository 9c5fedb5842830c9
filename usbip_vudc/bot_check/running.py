"""Trying checks on a device, one after the other, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import usb.core

from usbip_vudc.bot_check.check import Check
from usbip_vudc.bot_check.findings import NotApplicable, Violation
from usbip_vudc.bot_check.subject import Subject
from usbip_vudc.verdicts import FAIL, PASS, SKIP, Verdict

__all__ = ("examine",)


def examine(subject: Subject, checks: Sequence[Check]) -> Iterator[Verdict]:
    """Try each check on a subject that is prepared, and yield its verdict.

    Afterwards the device must carry out commands again: where it does not, that is the check's
    failure, and the device is brought back. Where it cannot be, all further checks are skipped.
    """
    lost_by = ""
    for check in checks:
        if lost_by:
            yield _verdict(check, SKIP, f"the device was lost after {lost_by}")
            continue
        started = time.monotonic()
        result, why = _try(check, subject)
        trouble = _afterwards(subject, in_order=result != FAIL)
        if trouble:
            left = subject.bring_back()
            lost_by = check.name if left else ""
            again = f"afterwards {trouble}" if trouble != why else ""
            told = (why if result != SKIP else "", again, left)
            result, why = FAIL, "; ".join(filter(None, told))
        yield _verdict(check, result, why, time.monotonic() - started)


def _try(check: Check, subject: Subject) -> tuple[str, str]:
    try:
        return PASS, check.try_it(subject)
    except NotApplicable as reason:
        return SKIP, str(reason)
    except (Violation, usb.core.USBError) as found:
        return FAIL, str(found)


def _afterwards(subject: Subject, *, in_order: bool) -> str:
    """What is wrong with the device now, or nothing; reset recovery comes before, if need be."""
    try:
        if not in_order:
            subject.host.reset_recovery()
        subject.settle()
    except (Violation, usb.core.USBError) as found:
        return str(found)
    return ""


def _verdict(check: Check, result: str, why: str, seconds: float = 0.0) -> Verdict:
    return Verdict(
        name=check.name,
        result=result,
        what=check.what,
        why=why,
        source=check.source,
        seconds=seconds,
    )
