"""Results: what came of each cell, as values that tables, files and other kernels share."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Self

from usbip_vudc.matrix.cell import Cell
from usbip_vudc.matrix.expectation import expected
from usbip_vudc.matrix.possible import CANNOT_EXIST, NOT_HERE, why_impossible
from usbip_vudc.matrix.running import run

__all__ = ("AS_EXPECTED", "RED", "STATUSES", "Result", "Summary", "examine", "foreseen")

AS_EXPECTED: Final = "as expected"
RED: Final = "red"

STATUSES: Final = (AS_EXPECTED, RED, CANNOT_EXIST, NOT_HERE)
"""Every cell has one of these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One cell. ``seen`` is empty, and ``why`` says the rule, where it was not run.

    ``kernel`` is the one of the lab that it ran on, empty for this machine; ``firings`` is how
    often a rule of the plan acted.
    """

    cell: str
    status: str
    expected: str = ""
    seen: str = ""
    why: str = ""
    seconds: float = 0.0
    firings: int = 0
    kernel: str = ""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Of what `as_dict` gave; what it does not know is left out."""
        return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {**asdict(self), "replay": self.replay}

    @property
    def replay(self) -> str:
        """The one line that runs this cell again."""
        kernel = f"--kernel {self.kernel} " if self.kernel else ""
        return f"usbip-vudc matrix {kernel}--cell '{self.cell}'"


def foreseen(cell: Cell) -> Result:
    """What is known of a cell without running it: what it must show, or why it cannot run.

    A cell that can run counts as red, as nothing has been seen.
    """
    impossible = why_impossible(cell)
    if impossible is not None:
        return Result(cell=str(cell), status=impossible.kind, why=impossible.why)
    return Result(cell=str(cell), status=RED, expected=str(expected(cell)))


def examine(cell: Cell) -> Result:
    """Run a cell, where it can be run, and judge it. Raises nothing for what goes wrong in it."""
    impossible = why_impossible(cell)
    if impossible is not None:
        return Result(cell=str(cell), status=impossible.kind, why=impossible.why)
    wanted = expected(cell)
    started = time.monotonic()
    firings, status = 0, RED
    try:
        outcome = run(cell)
        seen, firings = str(outcome), outcome.firings
        status = AS_EXPECTED if wanted.holds(outcome) else RED
    except Exception as error:  # one cell's trouble is no other's
        seen = f"trouble: {type(error).__name__}: {error}"
    return Result(
        cell=str(cell),
        status=status,
        expected=str(wanted),
        seen=seen,
        seconds=time.monotonic() - started,
        firings=firings,
    )


@dataclass(frozen=True, slots=True)
class Summary:
    """How many cells came out in which way. ``seconds`` is all of the time that it took."""

    counts: Counter[str]
    seconds: float = 0.0

    @classmethod
    def of(cls, results: Iterable[Result], seconds: float = 0.0) -> Self:
        """Count them."""
        return cls(Counter(result.status for result in results), seconds)

    @property
    def ran(self) -> int:
        """Cells that were run."""
        return self.counts[AS_EXPECTED] + self.counts[RED]

    @property
    def exit_status(self) -> int:
        """0 where all that ran was as expected."""
        return int(self.counts[RED] > 0)

    def __str__(self) -> str:
        text = ", ".join(f"{self.counts[status]} {status}" for status in STATUSES)
        return text if self.ran else f"NOTHING RAN: {text}"
