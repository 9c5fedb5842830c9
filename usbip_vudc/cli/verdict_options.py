"""The options of commands that judge: in which form their verdicts are told."""

from __future__ import annotations

import functools
import importlib.util
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console

from usbip_vudc.verdicts import Verdict, as_json, exit_status, ktap, summary, table, write_junit

__all__ = ("Telling", "gather", "verdict_options")

_LOG_WIDTH: Final = 150
"""Columns where nobody says how wide the paper is."""


@dataclass(frozen=True, slots=True)
class Telling:
    """How a command tells its verdicts: one form on standard output, and JUnit's XML in a file."""

    junit: Path | None = None
    ktap: bool = False
    json: bool = False

    def console(self) -> Console:
        """Where people read: standard error, where a program reads standard output."""
        stderr = self.ktap or self.json
        console = Console(stderr=stderr, highlight=False, soft_wrap=True)
        if console.is_terminal:
            return console
        return Console(stderr=stderr, highlight=False, width=_LOG_WIDTH)

    def tell(
        self,
        title: str,
        verdicts: Sequence[Verdict],
        seconds: float,
        *,
        about: Mapping[str, object] | None = None,
        interrupted: bool = False,
    ) -> int:
        """Print the verdicts, write the XML, and return the exit status of the command.

        ``about`` is what JSON says besides; ``seconds`` is what it took. ``interrupted`` says that
        the user ended it before it was done. Raises OSError, when all is printed.
        """
        console = self.console()
        if self.ktap:
            click.echo(ktap(title, verdicts), nl=False)
        elif self.json:
            click.echo(as_json(verdicts, {**(about or {}), "seconds": round(seconds, 3)}))
        else:
            console.print(table(title, verdicts))
        console.print(f"{summary(verdicts)} ({seconds:.1f} s)", markup=False)
        if self.junit is not None:
            write_junit(title, verdicts, self.junit, seconds)
        if interrupted:
            click.echo("usbip-vudc: interrupted; the rest was not tried", err=True)
            return 128 + signal.SIGINT
        return exit_status(verdicts)


def gather(verdicts: Iterable[Verdict], into: list[Verdict]) -> bool:
    """Note verdicts as they come; whether the user has ended that by Ctrl-C."""
    try:
        for verdict in verdicts:
            into.append(verdict)
    except KeyboardInterrupt:
        return True
    return False


_OPTIONS = (
    click.option(
        "--junit",
        metavar="FILE",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Write JUnit's XML, too.",
    ),
    click.option("--ktap", "as_ktap", is_flag=True, help="Print KTAP instead of the table."),
    click.option("--json", "in_json", is_flag=True, help="Print one JSON object instead."),
)


def verdict_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command --junit, --ktap and --json; it receives them as ``telling``."""

    @functools.wraps(command)
    def with_options(
        *args: Any, junit: Path | None, as_ktap: bool, in_json: bool, **others: Any
    ) -> None:
        if as_ktap and in_json:
            raise click.UsageError("--ktap and --json both print the results: give one")
        if junit is not None and importlib.util.find_spec("junitparser") is None:
            raise click.ClickException(
                "--junit needs the Python package junitparser: pip install 'usbip-vudc[junit]'"
            )
        if junit is not None and not junit.absolute().parent.is_dir():
            raise click.BadParameter(f"there is no directory {junit.parent}", param_hint="--junit")
        command(*args, telling=Telling(junit, as_ktap, in_json), **others)

    for option in reversed(_OPTIONS):
        with_options = option(with_options)
    return with_options
