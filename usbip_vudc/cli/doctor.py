"""``usbip-vudc doctor``: what works on this machine, and what mends the rest."""

from __future__ import annotations

import json
from typing import Final

import click
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from usbip_vudc.lab.checks import Check, State, System, all_checks, userspace_works
from usbip_vudc.lab.packages import NEEDS, can_install, install, install_command

__all__ = ("doctor",)

_LOG_WIDTH: Final = 160
_STYLES: Final = {State.OK: "green", State.MISSING: "bold red", State.NOT_APPLICABLE: "dim"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.option(
    "--install", "do_install", is_flag=True,
    help="First install the Debian packages that are missing, as root, by apt-get.",
)  # fmt: skip
@click.pass_context
def doctor(ctx: click.Context, as_json: bool, do_install: bool) -> None:
    """Say what works here, what each thing is for, and which command mends what is missing.

    Nothing is changed without --install. Exit status 0 if gadgets can be served in userspace.
    """
    if do_install:
        if not can_install():
            raise click.ClickException(f"not root, or no apt-get here: {install_command(NEEDS)}")
        install(NEEDS)
    checks = all_checks(System())
    works = userspace_works(checks)
    if as_json:
        rows = [check.as_dict() for check in checks]
        click.echo(json.dumps({"userspace": works, "checks": rows}, indent=2))
    else:
        console = Console()
        if not console.is_terminal:
            console = Console(width=_LOG_WIDTH)
        console.print(_table(checks))
    ctx.exit(0 if works else 1)


def _table(checks: list[Check]) -> Table:
    made = Table(
        title="usbip-vudc doctor", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for heading in ("check", "state", "seen", "what it is for", "what mends it"):
        made.add_column(heading, overflow="fold")
    for check in checks:
        state = f"[{_STYLES[check.state]}]{check.state.value}[/]"
        # pip's extras are in brackets, as rich's markup is.
        made.add_row(check.what, state, *map(escape, (check.seen, check.why, check.mend)))
    return made
