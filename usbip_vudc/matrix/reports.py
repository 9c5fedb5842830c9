"""Results as files that other programs read: KTAP, JSON, and JUnit's XML through junitparser."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from usbip_vudc import verdicts
from usbip_vudc.errors import UsbipVudcError
from usbip_vudc.matrix.results import RED, STATUSES, Result, Summary
from usbip_vudc.verdicts import FAIL, PASS, SKIP, Verdict

__all__ = ("as_json", "from_json", "ktap", "write_junit")

_TITLE: Final = "usbip-vudc matrix"


def ktap(results: Sequence[Result]) -> str:
    """KTAP of version 1; what did not run has SKIP."""
    told = [_verdict(result) for result in results]
    # Of a red cell the diagnostics say the same, a line each.
    return verdicts.ktap("", [v if v.result == SKIP else replace(v, why="") for v in told])


def _verdict(result: Result) -> Verdict:
    expected, seen = f"expected: {result.expected}", f"seen: {result.seen}"
    if result.status == RED:
        outcome = FAIL
        why = f"expected {result.expected}; seen {result.seen}"
        diagnostics: tuple[str, ...] = (expected, seen, f"replay: {result.replay}")
    elif result.why:
        outcome, why, diagnostics = SKIP, f"{result.status}: {result.why}", ()
    else:
        outcome, why, diagnostics = PASS, "", (expected, seen)
    return Verdict(
        name=result.cell,
        result=outcome,
        why=why,
        seconds=result.seconds,
        diagnostics=diagnostics,
        where=result.kernel,
    )


def as_json(results: Sequence[Result], summary: Summary) -> str:
    """One object: ``ok``, the counts, and the cells."""
    counts = {status: summary.counts[status] for status in STATUSES}
    return json.dumps(
        {
            "ok": not summary.exit_status,
            "seconds": round(summary.seconds, 3),
            "summary": counts,
            "cells": [result.as_dict() for result in results],
        }
    )


def from_json(text: str) -> list[Result]:
    """The cells of what `as_json` wrote. Raises UsbipVudcError where it is none of that."""
    try:
        values: Any = json.loads(text)
        return [Result.from_dict(cell) for cell in values["cells"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UsbipVudcError(f"no results of a matrix: {error}") from None


def write_junit(results: Sequence[Result], summary: Summary, path: Path) -> None:
    """JUnit's XML. Raises ModuleNotFoundError without junitparser, OSError."""
    told = [_verdict(result) for result in results]
    verdicts.write_junit(_TITLE, told, path, summary.seconds)
