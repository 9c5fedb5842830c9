"""Results for people: a bar while it runs, a table of what was run, and why the rest was not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from usbip_vudc.matrix.results import RED, Result

__all__ = ("counting", "show")


@contextmanager
def counting(console: Console, total: int) -> Iterator[Callable[[Result], None]]:
    """Yields a function that takes each result as it comes: a bar, on a terminal only."""
    if not console.is_terminal:
        yield lambda _result: None
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    red = 0
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total)

        def advance(result: Result) -> None:
            nonlocal red
            red += result.status == RED
            reds = f"[bold red]{red} red[/] " if red else ""
            bar.update(task, advance=1, description=f"{reds}{escape(result.cell)}")

        yield advance


def show(console: Console, results: Sequence[Result]) -> None:
    """The table; cells that were not run are counted by their reason below it."""
    ran = [result for result in results if not result.why]
    if ran:
        console.print(_table(ran))
    reasons = Counter((result.status, result.why) for result in results if result.why)
    for (status, why), count in sorted(reasons.items()):
        console.print(f"{status}: {count} cell(s): {why}", markup=False)
    for result in ran:
        if result.status == RED and result.seen:
            console.print(f"replay: {result.replay}", style="bold red", markup=False)


def _table(results: Sequence[Result]) -> Table:
    made = Table(title="usbip-vudc matrix", title_justify="left", box=box.SIMPLE_HEAD,
                 pad_edge=False)  # fmt: skip
    with_kernel = any(result.kernel for result in results)
    headings = (*(("kernel",) if with_kernel else ()), "cell", "expected", "seen")
    for heading in headings:
        made.add_column(heading, overflow="fold")
    for result in results:
        seen = escape(result.seen)
        made.add_row(
            *((escape(result.kernel),) if with_kernel else ()),
            escape(result.cell),
            escape(result.expected),
            f"[bold red]{seen}[/]" if result.status == RED else seen,
        )
    return made
