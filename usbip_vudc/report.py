"""Rows of expected and seen, the table they make, and progress for people and for logs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from rich import box
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

__all__ = ("Row", "Stopwatch", "progress", "table")


@dataclass(frozen=True, slots=True)
class Row:
    """One claim: what was done, what should be seen, and what was. ``rate`` is in MB/s."""

    case: str
    done: str
    expected: str
    seen: str
    rate: float | None = None

    @property
    def as_expected(self) -> bool:
        """Whether the claim holds."""
        return self.expected == self.seen

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {**asdict(self), "as_expected": self.as_expected}


def table(title: str, rows: Sequence[Row]) -> Table:
    """One line a row; what is not as expected is red."""
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("case", "what was done", "expected", "seen"):
        made.add_column(heading, overflow="fold")
    with_rates = any(row.rate is not None for row in rows)
    if with_rates:
        made.add_column("MB/s", justify="right")
    for row in rows:
        # As Text: what was seen may look like markup.
        made.add_row(
            Text(row.case),
            Text(row.done),
            Text(row.expected),
            Text(row.seen, style="" if row.as_expected else "bold red"),
            *([("" if row.rate is None else f"{row.rate:.0f}")] if with_rates else []),
        )
    return made


class Stopwatch:
    """Bytes over time: ``rate`` is in MB/s (10^6 bytes)."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    def rate(self, length: int) -> float:
        """MB/s of ``length`` bytes since the start."""
        return length / max(time.perf_counter() - self._started, 1e-9) / 1e6


@contextmanager
def progress(console: Console, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yields a function that takes bytes done so far: a bar on a terminal, a line elsewhere."""
    if not console.is_terminal:
        console.print(f"{what}...")
        yield lambda _done: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)
    console.print(f"{what}: done")
