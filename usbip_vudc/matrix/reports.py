"""Results as files that other programs read: KTAP, JSON, and JUnit's XML through junitparser."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from usbip_vudc.errors import UsbipVudcError
from usbip_vudc.matrix.results import RED, STATUSES, Result, Summary

__all__ = ("as_json", "from_json", "ktap", "write_junit")


def ktap(results: Sequence[Result]) -> str:
    """KTAP of version 1 (Documentation/dev-tools/ktap.rst); what did not run has SKIP."""
    return "\n".join(_ktap_lines(results)) + "\n"


def _ktap_lines(results: Sequence[Result]) -> Iterator[str]:
    yield "KTAP version 1"
    yield f"1..{len(results)}"
    for number, result in enumerate(results, 1):
        if result.status == RED:
            yield f"# expected: {result.expected}"
            yield f"# seen: {result.seen}"
            yield f"# replay: {result.replay}"
        # A # begins a directive, so that of a seed is escaped, as TAP 14 does.
        name = _name(result).replace("#", "\\#")
        skip = f" # SKIP {result.status}: {result.why}" if result.why else ""
        yield f"{'not ok' if result.status == RED else 'ok'} {number} {name}{skip}"


def _name(result: Result) -> str:
    return f"{result.cell} on {result.kernel}" if result.kernel else result.cell


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


_CLASS: Final = "usbip_vudc.matrix"


def write_junit(results: Sequence[Result], summary: Summary, path: Path) -> None:
    """JUnit's XML. Raises ModuleNotFoundError without junitparser, OSError."""
    import junitparser  # an extra: whoever wants no XML does without

    suite = junitparser.TestSuite("usbip-vudc matrix")
    for result in results:
        kernel = f".{result.kernel}" if result.kernel else ""
        case = junitparser.TestCase(result.cell, f"{_CLASS}{kernel}", result.seconds)
        if result.status == RED:
            told = f"expected: {result.expected}\nseen: {result.seen}\nreplay: {result.replay}"
            failure = junitparser.Failure(f"expected {result.expected}; seen {result.seen}")
            failure.text = told
            case.result = [failure]
        elif result.why:
            case.result = [junitparser.Skipped(f"{result.status}: {result.why}")]
        else:
            case.system_out = f"expected: {result.expected}\nseen: {result.seen}"
        suite.add_testcase(case)
    suite.time = summary.seconds
    xml = junitparser.JUnitXml()
    xml.add_testsuite(suite)
    xml.write(str(path))
