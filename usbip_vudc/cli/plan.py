"""``usbip-vudc plan``: what plans there are, and what one would do."""

from __future__ import annotations

import json
import shutil

import click
from rich import box
from rich.console import Console
from rich.table import Table

from usbip_vudc.errors import SchemeError
from usbip_vudc.injection import CATALOGUE, FAMILIES, Layout, Plan, dump_plan, find_plan
from usbip_vudc.injection.actions import ACTIONS
from usbip_vudc.injection.conditions import CONDITIONS

__all__ = ("plan",)

_LOG_WIDTH = 100


@click.group()
def plan() -> None:
    """Plans: awkward layouts, packet sizes and faults, as data.

    A plan is rules joined by ';', each WHERE [WHEN...] WHAT, and a seed.
    """


@plan.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def list_(as_json: bool) -> None:
    """List the ready-made plans, each with the bug of the real world that it stands for."""
    if as_json:
        made = {
            name: {"rules": str(ready.plan(name)), "bug": ready.bug, "reference": ready.reference}
            for name, ready in CATALOGUE.items()
        }
        click.echo(json.dumps(made))
        return
    table = Table(box=box.SIMPLE, pad_edge=False)
    for heading in ("plan", "rules", "the bug that it stands for"):
        table.add_column(heading, overflow="fold")
    for name, ready in CATALOGUE.items():
        table.add_row(name, str(ready.plan(name)), f"{ready.bug}\n[dim]{ready.reference}[/]")
    console = Console()
    if not console.is_terminal:
        console = Console(width=_LOG_WIDTH)
    console.print(table)


@plan.command()
@click.argument("what", metavar="FILE|NAME|RULES")
@click.option("--seed", type=click.IntRange(0), help="Another seed than its own.")
def explain(what: str, seed: int | None) -> None:
    """Say in English what a plan will do. FILE is TOML."""
    found = _found(what, seed)
    if found.description:
        click.echo(found.description)
    click.echo(found.explain())
    click.echo(repr(found))


@plan.command()
@click.argument("what", metavar="FILE|NAME|RULES")
@click.option("--seed", type=click.IntRange(0), help="Another seed than its own.")
def toml(what: str, seed: int | None) -> None:
    """Print a plan as TOML, to be kept beside the tests that need it."""
    click.echo(dump_plan(_found(what, seed)), nl=False)


@plan.command()
def words() -> None:
    """Show every action, condition and family of layouts, and how each is written."""
    for title, known in (
        ("WHEN", {kind.usage: kind.__doc__ for kind in CONDITIONS.values()}),
        ("WHAT", {kind.usage: kind.__doc__ for kind in ACTIONS.values()}),
        ("LAYOUT", FAMILIES),
    ):
        click.echo(f"{title}")
        for usage, meaning in known.items():
            click.echo(f"  {usage}\n      {(meaning or '').partition(chr(10))[0]}")


@plan.command()
@click.argument("text", metavar="LAYOUT")
@click.option(
    "--length",
    metavar="BYTES",
    type=click.IntRange(0, 1 << 24),
    default=32256,
    show_default=True,
    help="Bytes of the transfer.",
)
@click.option(
    "--maxp",
    metavar="BYTES",
    type=click.IntRange(1, 1024),
    default=512,
    show_default=True,
    help="The endpoint's wMaxPacketSize.",
)
def layout(text: str, length: int, maxp: int) -> None:
    """Show what a layout makes of a transfer, and whether it is benign."""
    try:
        parsed = Layout.parse(text)
    except SchemeError as error:
        raise click.UsageError(str(error)) from None
    width = shutil.get_terminal_size((_LOG_WIDTH, 24)).columns
    for number, request in enumerate(parsed.apply(length, maxp), 1):
        shown = "+".join(map(str, request)) or "ZLP"
        cut = shown if len(shown) < width - 20 else f"{shown[: width - 24]}..."
        click.echo(f"request {number}: {cut}")
    verdict = parsed.verdict(length, maxp)
    click.echo(f"{'benign' if verdict.benign else 'hostile'}: {verdict.why}")


def _found(what: str, seed: int | None) -> Plan:
    try:
        return find_plan(what, seed)
    except SchemeError as error:
        raise click.UsageError(str(error)) from None
