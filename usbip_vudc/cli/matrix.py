"""``usbip-vudc matrix``: gadgets x UDCs x speeds x SG or not x SG lists x plans, in one table."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click
from rich.console import Console

from usbip_vudc.cli.verdict_options import Telling, verdict_options
from usbip_vudc.matrix.axes import axes_options
from usbip_vudc.matrix.cell import Cell
from usbip_vudc.matrix.kernels import examine_on
from usbip_vudc.matrix.reports import as_json, ktap, write_junit
from usbip_vudc.matrix.results import Result, Summary, foreseen
from usbip_vudc.matrix.show import counting, show
from usbip_vudc.matrix.workers import examine_all

__all__ = ("matrix",)


@click.command()
@axes_options
@click.option(
    "--kernel",
    "kernels",
    multiple=True,
    metavar="K",
    help="Run it in the lab on this kernel, as `usbip-vudc lab` names it.",
)
@click.option("-n", "processes", type=click.IntRange(1), default=1, help="Processes (1).")
@verdict_options
@click.option("--list", "only_list", is_flag=True, help="Run nothing: say what would be expected.")
@click.pass_context
def matrix(
    ctx: click.Context,
    cells: list[Cell],
    kernels: tuple[str, ...],
    processes: int,
    telling: Telling,
    only_list: bool,
) -> None:
    """Run every cell of a matrix, and compare what is seen with what must be.

    A cell is GADGET/UDC/SPEED/sg|no-sg/LAYOUT/PLAN. What it must show is computed; a cell that
    cannot exist says by which rule, and never counts as passed. The exit status is 1 where a cell
    is red; each such cell says the line that replays it. Options may be repeated.
    """
    console = telling.console()
    if only_list:
        show(console, [foreseen(cell) for cell in cells])
        return
    results, seconds = _run(ctx, console, cells, kernels, processes)
    summary = Summary.of(results, seconds)
    if telling.junit is not None:
        write_junit(results, summary, telling.junit)
    if telling.ktap:
        click.echo(ktap(results), nl=False)
    elif telling.json:
        click.echo(as_json(results, summary))
    else:
        show(console, results)
    console.print(f"{summary} ({seconds:.1f} s)", markup=False)
    ctx.exit(summary.exit_status)


def _run(
    ctx: click.Context,
    console: Console,
    cells: Sequence[Cell],
    kernels: Sequence[str],
    processes: int,
) -> tuple[list[Result], float]:
    """Every result, in the order of the cells, and the seconds that it took."""
    started = time.monotonic()
    results: list[Result] = []
    total = len(cells) * (len(kernels) or 1)
    try:
        with counting(console, total) as count, _quiet():
            for result in _results(cells, kernels, processes):
                results.append(result)
                count(result)
    except KeyboardInterrupt:
        click.echo(f"matrix: interrupted after {len(results)} of {total} cells", err=True)
        ctx.exit(128 + signal.SIGINT)
    order = {str(cell): number for number, cell in enumerate(cells)}
    results.sort(key=lambda result: order[result.cell])
    return results, time.monotonic() - started


@contextmanager
def _quiet() -> Iterator[None]:
    """Warnings of what a plan breaks on purpose are no news, unless more was asked for."""
    root = logging.getLogger()
    before = root.level
    if not root.isEnabledFor(logging.INFO):
        root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)


def _results(cells: Sequence[Cell], kernels: Sequence[str], processes: int) -> Iterator[Result]:
    if not kernels:
        yield from examine_all(cells, processes)
    for kernel in kernels:
        yield from examine_on(kernel, cells, processes=processes)
