"""The options of ready-made gadgets, which several commands take, as one GadgetOptions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from usbip_vudc.errors import SchemeError
from usbip_vudc.registry import GadgetOptions
from usbip_vudc.scheme import parse_size

__all__ = ("gadget_options",)


def _size(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    try:
        return None if value is None else parse_size(value)
    except SchemeError as error:
        raise click.BadParameter(str(error)) from None


_OPTIONS = (
    click.option(
        "--image",
        type=click.Path(dir_okay=False, path_type=Path),
        help="File or block device behind a storage gadget (default: 64 MiB of memory).",
    ),
    click.option(
        "--size",
        metavar="SIZE",
        callback=_size,
        help="Size of that memory, or of an image to be created.",
    ),
    click.option("--read-only", is_flag=True, help="Write-protect the storage gadget."),
    click.option("--removable", is_flag=True, help="Removable medium."),
    click.option(
        "--profile",
        default="echo",
        show_default=True,
        help="Where the bytes of a serial gadget go: echo, sink or source.",
    ),
)


def gadget_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command these options; it receives them as ``options``."""

    @functools.wraps(command)
    def with_options(
        *args: Any,
        image: Path | None,
        size: int | None,
        read_only: bool,
        removable: bool,
        profile: str,
        **others: Any,
    ) -> None:
        options = GadgetOptions(
            image=image, size=size, read_only=read_only, removable=removable, profile=profile
        )
        command(*args, options=options, **others)

    for option in reversed(_OPTIONS):
        with_options = option(with_options)
    return with_options
