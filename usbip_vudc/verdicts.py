"""Verdicts of judges: what was judged, how it came out, and why; as table, KTAP, JUnit and JSON.

It judges nothing itself and prints nothing.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from usbip_vudc.errors import SchemeError

if TYPE_CHECKING:
    from rich.table import Table

__all__ = (
    "FAIL",
    "PASS",
    "RESULTS",
    "SKIP",
    "Verdict",
    "as_json",
    "exit_status",
    "ktap",
    "summary",
    "table",
    "write_junit",
)

PASS: Final = "pass"
FAIL: Final = "fail"
SKIP: Final = "skip"

RESULTS: Final = (PASS, FAIL, SKIP)
"""Every verdict has one of these."""

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How one case came out. Raises SchemeError for a result that is none.

    ``what`` is one phrase on what the case does. ``why`` is what went wrong, why it was not run,
    or a remark on how it passed; ``source`` is the section or the kernel's file that has the
    rule. ``where`` is the place, such as a kernel, where it was one of several. ``diagnostics``
    are further lines: parameters, the command that runs it again.

    ``why`` and ``diagnostics`` may quote what is judged: control characters in them are escaped,
    since a terminal would obey them, and XML has none.
    """

    name: str
    result: str
    what: str = ""
    why: str = ""
    source: str = ""
    seconds: float = 0.0
    diagnostics: tuple[str, ...] = ()
    where: str = ""

    def __post_init__(self) -> None:
        if self.result not in RESULTS:
            raise SchemeError(
                f"verdict {self.name}: result {self.result!r}: expected {', '.join(RESULTS)}"
            )
        object.__setattr__(self, "why", _escaped(self.why))
        object.__setattr__(self, "diagnostics", tuple(map(_escaped, self.diagnostics)))

    @property
    def details(self) -> tuple[str, ...]:
        """All that explains it behind ``why``: the source, then the diagnostics."""
        return (*((f"source: {self.source}",) if self.source else ()), *self.diagnostics)


def _escaped(text: str) -> str:
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def exit_status(verdicts: Sequence[Verdict]) -> int:
    """0 where all that ran has passed, 1 where something failed, 4 where nothing could run."""
    counts = Counter(verdict.result for verdict in verdicts)
    if counts[FAIL]:
        return 1
    return 0 if counts[PASS] else 4


def summary(verdicts: Sequence[Verdict]) -> str:
    """How many came out in which way: ``3 pass, 0 fail, 1 skip``."""
    counts = Counter(verdict.result for verdict in verdicts)
    text = ", ".join(f"{counts[result]} {result}" for result in RESULTS)
    return text if counts[PASS] + counts[FAIL] else f"NOTHING RAN: {text}"


def ktap(title: str, verdicts: Sequence[Verdict]) -> str:
    """KTAP of version 1 (Documentation/dev-tools/ktap.rst); what did not run has SKIP.

    ``title`` is a line of its own, where it is not empty.
    """
    return "\n".join(_ktap_lines(title, verdicts)) + "\n"


def _ktap_lines(title: str, verdicts: Sequence[Verdict]) -> Iterator[str]:
    yield "KTAP version 1"
    if title:
        yield f"# {title}"
    yield f"1..{len(verdicts)}"
    for number, verdict in enumerate(verdicts, 1):
        if verdict.result == FAIL:
            told = (verdict.why, *verdict.details)
            yield from (f"# {line}" for text in told for line in text.splitlines())
        # A # begins a directive, so that of a name is escaped, as TAP 14 does.
        name = _full_name(verdict).replace("#", "\\#")
        skip = f" # SKIP {_one_line(verdict.why)}" if verdict.result == SKIP else ""
        yield f"{'not ok' if verdict.result == FAIL else 'ok'} {number} {name}{skip}"


def _full_name(verdict: Verdict) -> str:
    return f"{verdict.name} on {verdict.where}" if verdict.where else verdict.name


def _one_line(text: str) -> str:
    return " ".join(text.split())


def as_json(verdicts: Sequence[Verdict], about: Mapping[str, object] | None = None) -> str:
    """One object: what ``about`` has, ``ok``, the counts, and the verdicts."""
    counts = Counter(verdict.result for verdict in verdicts)
    return json.dumps(
        {
            **(about or {}),
            "ok": not exit_status(verdicts),
            "summary": {result: counts[result] for result in RESULTS},
            "verdicts": [
                {**asdict(verdict), "seconds": round(verdict.seconds, 3)} for verdict in verdicts
            ],
        }
    )


def write_junit(title: str, verdicts: Sequence[Verdict], path: Path, seconds: float = 0.0) -> None:
    """JUnit's XML; ``seconds`` is all of the time that it took.

    Raises ModuleNotFoundError without junitparser, OSError.
    """
    import junitparser  # an extra: whoever wants no XML does without

    suite = junitparser.TestSuite(title)
    for verdict in verdicts:
        suite.add_testcase(_junit_case(title, verdict))
    suite.time = seconds
    xml = junitparser.JUnitXml()
    xml.add_testsuite(suite)
    xml.write(str(path))


def _junit_case(title: str, verdict: Verdict) -> Any:
    import junitparser

    room = title.replace("-", "_").replace(" ", ".")  # JUnit's classes have dotted names
    classname = f"{room}.{verdict.where}" if verdict.where else room
    case = junitparser.TestCase(verdict.name, classname, verdict.seconds)
    told = "\n".join(verdict.details)
    if verdict.result == FAIL:
        failure = junitparser.Failure(verdict.why)
        failure.text = told
        case.result = [failure]
    elif verdict.result == SKIP:
        case.result = [junitparser.Skipped(verdict.why)]
    elif verdict.why or told:
        case.system_out = "\n".join(filter(None, (verdict.why, told)))
    return case


_STYLES: Final = {PASS: "green", FAIL: "bold red", SKIP: "dim"}


def table(title: str, verdicts: Sequence[Verdict]) -> Table:
    """One line a verdict, for people; what failed is red."""
    # rich takes longer to import than all the rest, and a judge may not want a table.
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    shown = [
        heading
        for heading in ("where", "what", "why", "source")
        if any(getattr(verdict, heading) for verdict in verdicts)
    ]
    headings = ("name", "result", *shown)
    for heading in headings:
        # A name in two pieces is none that could be given to the command again.
        made.add_column(heading, overflow="fold", no_wrap=heading == "name")
    made.add_column("s", justify="right")
    for verdict in verdicts:
        cells = {heading: escape(getattr(verdict, heading)) for heading in headings}
        cells["result"] = f"[{_STYLES[verdict.result]}]{verdict.result}[/]"
        seconds = f"{verdict.seconds:.2f}" if verdict.result != SKIP else ""
        made.add_row(*cells.values(), seconds)
    return made
