"""``usbip-vudc media``: the media of gadgets that run, shown and changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from usbip_vudc.control import ControlError, ask, control_directory, sockets

__all__ = ("media",)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--control",
    "path",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="The control socket of one process (default: all of this user's).",
)
@click.pass_context
def media(ctx: click.Context, path: Path | None) -> None:
    """Show and change the media of gadgets that are served or up, while hosts use them."""
    ctx.obj = path


def _one_unit(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--lun",
            metavar="N",
            default=0,
            show_default=True,
            type=click.IntRange(0, 15),
            help="Which unit of the device.",
        ),
        click.option("--device", metavar="NAME", help="Busid or gadget, where there are several."),
    ):
        command = option(command)
    return click.pass_obj(command)


@media.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
@click.pass_obj
def list_(path: Path | None, as_json: bool) -> None:
    """List every unit.

    A line has its device, gadget, LUN, size in bytes (0 with no medium), its state (removable,
    protected, held where the host prevents removal) and its medium.
    """
    units = _units(path)
    if as_json:
        rows = [{**unit, "control": str(where)} for where, unit in units]
        click.echo(json.dumps({"media": rows}))
        return
    if not units:
        click.echo(f"no gadget with media runs here ({control_directory()})", err=True)
        return
    for _, unit in units:
        click.echo(_line(unit))


@media.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@_one_unit
def insert(path: Path | None, file: Path | None, device: str | None, lun: int) -> None:
    """Put FILE in, or without FILE the last medium again. The host hears that it changed."""
    absolute = str(file.absolute()) if file is not None else None
    _change(path, device, lun, "insert", path=absolute)


@media.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Although the host prevents removal.")
@_one_unit
def swap(path: Path | None, file: Path, force: bool, device: str | None, lun: int) -> None:
    """Take the medium out and put FILE in, before the host can ask."""
    _change(path, device, lun, "swap", path=str(file.absolute()), force=force)


@media.command()
@click.option("--force", is_flag=True, help="Although the host prevents removal.")
@_one_unit
def eject(path: Path | None, force: bool, device: str | None, lun: int) -> None:
    """Take the medium out. Refused where the host prevents it, unless by force."""
    _change(path, device, lun, "eject", force=force)


@media.command()
@click.option("--off", is_flag=True, help="Let it be written again.")
@_one_unit
def protect(path: Path | None, off: bool, device: str | None, lun: int) -> None:
    """Write-protect the medium, or no longer."""
    _change(path, device, lun, "protect", on=not off)


def _change(among: Path | None, device: str | None, lun: int, command: str, **how: object) -> None:
    where, unit = _find(among, device, lun)
    (now,) = _asked(where, command=command, device=unit["device"], lun=lun, **how)
    click.echo(_line(now))


def _units(path: Path | None) -> list[tuple[Path, dict[str, Any]]]:
    """Every unit, each with the socket that it is behind."""
    paths = [path] if path is not None else list(sockets())
    return [(each, unit) for each in paths for unit in _asked(each, command="list")]


def _asked(path: Path, /, **request: object) -> list[dict[str, Any]]:
    try:
        return ask(path, **request)
    except OSError as error:  # connect() does not say where
        raise ControlError(f"{path}: {error.strerror or error}") from None


def _find(path: Path | None, device: str | None, lun: int) -> tuple[Path, dict[str, Any]]:
    units = _units(path)
    named = [u for u in units if device is None or device in (u[1]["device"], u[1]["gadget"])]
    meant = [u for u in named if u[1]["lun"] == lun]
    if len(meant) == 1:
        return meant[0]
    # Two processes may each have a 1-1: then only their sockets tell them apart.
    there = ", ".join(
        f"{u['device']} ({u['gadget']}) lun {u['lun']} of {where}" for where, u in units
    )
    how = "name one by --device or --lun, or its process by `media --control PATH`"
    why = f"several units fit; {how}" if meant else "no such unit runs"
    raise ControlError(f"{why}; there are {there or 'none'}")


def _line(unit: dict[str, Any]) -> str:
    states = {
        "removable": unit["removable"],
        "protected": unit["protected"],
        "held": unit["prevented"],
    }
    state = ",".join(word for word, holds in states.items() if holds) or "-"
    words = (unit["device"], unit["gadget"], unit["lun"], unit["size"], state)
    return f"{' '.join(map(str, words))} {unit['medium'] or '-'}"
