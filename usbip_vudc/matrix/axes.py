"""Axes: what a matrix is made of, and the options of a command line that say it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from usbip_vudc.errors import SchemeError
from usbip_vudc.injection import CATALOGUE, Layout, Plan
from usbip_vudc.matrix.cell import GADGETS, NO_PLAN, Cell, read_plan, way_of
from usbip_vudc.usb.ch9 import Speed

__all__ = ("Axes", "axes_options", "cells_of_file", "parse_axes")

_SPEEDS: Final = (Speed.LOW, Speed.FULL, Speed.HIGH, Speed.SUPER)
_ALL: Final = "all"
_LAYOUTS: Final = ("whole", "3584+7x4096", "odd")
_PLANS: Final = (NO_PLAN, "sg-2019", "odd-segments", "wrong-tag")


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """The values along each axis; their product is the matrix."""

    gadgets: tuple[str, ...] = GADGETS
    ways: tuple[str, ...] = ("vudc",)
    speeds: tuple[Speed, ...] = (Speed.HIGH, Speed.SUPER)
    scatter_gather: tuple[bool, ...] = (True, False)
    layouts: tuple[Layout, ...] = tuple(map(Layout.parse, _LAYOUTS))
    plans: tuple[Plan, ...] = tuple(map(read_plan, _PLANS))

    def cells(self) -> Iterator[Cell]:
        """Every cell, each once; those of one UDC follow one another."""
        product = itertools.product(
            self.ways, self.gadgets, self.speeds, self.scatter_gather, self.layouts, self.plans
        )
        cells = (Cell(gadget, way, *others) for way, gadget, *others in product)  # type: ignore[arg-type]
        return iter(dict.fromkeys(cells))


_OPTIONS: Final = (
    click.option("--gadget", multiple=True, metavar="G", help=f"{', '.join(GADGETS)} (each)."),
    click.option(
        "--udc",
        multiple=True,
        metavar="U",
        help="vudc, usbip-vudc.0, dummy_udc.0, ... and the host behind it where it is another one: "
        "vudc,linux or dummy_udc.0,stub,pyusb (vudc).",
    ),
    click.option(
        "--speed", multiple=True, metavar="S", help="low, full, high, super, all (high, super)."
    ),
    click.option(
        "--sg/--no-sg",
        "scatter_gather",
        default=None,
        help="The host makes one URB of an SG list, or one of each entry (both).",
    ),
    click.option("--layout", multiple=True, metavar="L", help=f"SG lists ({', '.join(_LAYOUTS)})."),
    click.option(
        "--plan",
        multiple=True,
        metavar="P",
        help=f"none, a ready-made plan, FILE.toml, rules, or all ({', '.join(_PLANS)}).",
    ),
    click.option("--plan-seed", type=int, metavar="N", help="The seed of plans that name none."),
    click.option(
        "--cell", "cell_texts", multiple=True, metavar="CELL", help="This cell, and no axes."
    ),
    click.option(
        "--cells",
        "cell_files",
        multiple=True,
        metavar="FILE",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="The cells of a file, one a line, and no axes.",
    ),
)


def axes_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command these options; it receives the cells as ``cells``."""

    @functools.wraps(command)
    def with_cells(
        *args: Any,
        gadget: tuple[str, ...],
        udc: tuple[str, ...],
        speed: tuple[str, ...],
        scatter_gather: bool | None,
        layout: tuple[str, ...],
        plan: tuple[str, ...],
        plan_seed: int | None,
        cell_texts: tuple[str, ...],
        cell_files: tuple[Path, ...],
        **others: Any,
    ) -> Any:
        try:
            given = [Cell.parse(text) for text in cell_texts]
            given += (cell for path in cell_files for cell in cells_of_file(path))
            axes = _axes(gadget, udc, speed, scatter_gather, layout, plan, plan_seed)
            if given and axes != Axes():
                raise SchemeError("--cell and --cells name all of a cell: leave the axes out")
            cells = list(given or axes.cells())
        except SchemeError as error:
            raise click.UsageError(str(error)) from None
        return command(*args, cells=cells, **others)

    for option in reversed(_OPTIONS):
        with_cells = option(with_cells)
    return with_cells


def _axes(
    gadgets: Iterable[str],
    udcs: Iterable[str],
    speeds: Iterable[str],
    scatter_gather: bool | None,
    layouts: Iterable[str],
    plans: Iterable[str],
    seed: int | None,
) -> Axes:
    """Of words; an axis without any has its default. Raises SchemeError."""
    usual = Axes()
    words = [NO_PLAN, *CATALOGUE] if _ALL in plans else list(plans) or list(_PLANS)
    return Axes(
        gadgets=tuple(gadgets) or usual.gadgets,
        ways=tuple(map(way_of, udcs)) or usual.ways,
        speeds=_SPEEDS if _ALL in speeds else tuple(map(Speed.parse, speeds)) or usual.speeds,
        scatter_gather=usual.scatter_gather if scatter_gather is None else (scatter_gather,),
        layouts=tuple(map(Layout.parse, layouts)) or usual.layouts,
        plans=tuple(read_plan(word, seed) for word in words),
    )


def cells_of_file(path: Path) -> list[Cell]:
    """A cell a line; empty lines and those that begin with # are passed over.

    Raises SchemeError that names the line, OSError where it cannot be read.
    """
    cells = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            try:
                cells.append(Cell.parse(line.strip()))
            except SchemeError as error:
                raise SchemeError(f"{path}, line {number}: {error}") from None
    return cells


def parse_axes(words: list[str]) -> list[Cell]:
    """The cells that these words of a command line mean. Raises SchemeError."""

    @click.command(add_help_option=False)
    @axes_options
    def collect(cells: list[Cell]) -> list[Cell]:
        return cells

    try:
        made: list[Cell] = collect.main(args=words, prog_name="matrix", standalone_mode=False)
    except click.ClickException as error:
        raise SchemeError(error.format_message()) from None
    return made
