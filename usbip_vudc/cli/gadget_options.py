"""The options of ready-made gadgets, which several commands take, as one GadgetOptions.

A command says to `refuse_others` which gadgets it was given, so that no option is passed over.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from usbip_vudc.errors import SchemeError
from usbip_vudc.registry import OPTIONS, GadgetOptions
from usbip_vudc.scheme import parse_size
from usbip_vudc.usb.ch9 import Speed

__all__ = ("gadget_options", "refuse_others", "speed_option")

_FIELDS: Final = {"no_zlp": "zlp"}
"""Parameters that have another name than their field of GadgetOptions."""


def _size(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    try:
        return None if value is None else parse_size(value)
    except SchemeError as error:
        raise click.BadParameter(str(error)) from None


def _speed(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Speed | None:
    try:
        return None if value is None else Speed.parse(value)
    except SchemeError as error:
        raise click.BadParameter(str(error)) from None


def speed_option(default: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command ``--speed``; it receives a Speed, or None for what ``default`` says."""
    return click.option(
        "--speed",
        metavar="SPEED",
        callback=_speed,
        help=f"low, full, high or super (default: {default}).",
    )


_OPTIONS = (
    click.option(
        "--image",
        type=click.Path(dir_okay=False, path_type=Path),
        help="File or block device behind a storage gadget (default: 64 MiB of memory), or "
        "overlay:FILE, folder:DIR, pattern:SIZE, sparse:SIZE (docs/storage.md).",
    ),
    click.option(
        "--size",
        metavar="SIZE",
        callback=_size,
        help="Bytes of that memory, or of an image to be created, such as 64M (K, M, G, T: "
        "powers of 1024).",
    ),
    click.option("--read-only", is_flag=True, help="Write-protect the storage gadget."),
    click.option(
        "--removable",
        is_flag=True,
        help="A medium that `usbip-vudc media` and the host can take out of the storage gadget.",
    ),
    click.option(
        "--model",
        "models",
        metavar="MODEL",
        multiple=True,
        help="A bad habit of the disk, such as 'bad(100-199)' or volatile_cache; may be repeated.",
    ),
    click.option(
        "--profile",
        metavar="PROFILE",
        default="echo",
        show_default=True,
        help="Where the bytes of a serial gadget go: echo, sink[:SEED], source[:SEED[:LENGTH]], "
        "pty[:LINK], tcp:HOST:PORT, exec:COMMAND, file:PATH or modem.",
    ),
    click.option(
        "--back-pressure",
        type=click.Choice(("nak", "drop-oldest", "drop-new")),
        default="nak",
        show_default=True,
        help="What becomes of bytes for a serial gadget that nobody takes: the host waits, or "
        "only the newest or oldest 64 KiB are kept.",
    ),
    click.option(
        "--no-zlp", is_flag=True, help="A serial gadget ends no transfer with a zero-length packet."
    ),
    click.option(
        "--baud-paced",
        is_flag=True,
        help="A serial gadget is as slow as the baud rate that the host sets.",
    ),
    click.option(
        "--wait-for-dtr", is_flag=True, help="A serial gadget sends only while DTR is up."
    ),
    click.option(
        "--ports",
        metavar="N",
        type=click.IntRange(1, 15),
        default=1,
        show_default=True,
        help="Ports of a serial gadget: up to 7, of a generic one 15; 2 fit a kernel's UDC.",
    ),
    click.option(
        "--type",
        "text",
        metavar="TEXT",
        default="",
        help="What a keyboard types, once for each host.",
    ),
    click.option(
        "--move",
        "path",
        metavar="PATH",
        default="",
        help="Where a mouse goes for each host: '40,0 0,40 left' moves right, down, and clicks.",
    ),
    click.option(
        "--pairs",
        metavar="N",
        type=click.IntRange(1, 15),
        default=15,
        show_default=True,
        help="Bulk pairs of functionfs-test; 3 fit a kernel's UDC.",
    ),
    click.option(
        "--pattern",
        metavar="N",
        type=click.IntRange(0, 2),
        default=0,
        show_default=True,
        help="Bytes of usbtest's gadgets and ffs-test: 0 zeros, 1 byte i is i % 63, 2 takes "
        "anything.",
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
        models: tuple[str, ...],
        profile: str,
        back_pressure: str,
        no_zlp: bool,
        baud_paced: bool,
        wait_for_dtr: bool,
        ports: int,
        pairs: int,
        text: str,
        path: str,
        pattern: int,
        **others: Any,
    ) -> None:
        options = GadgetOptions(
            image=image,
            size=size,
            read_only=read_only,
            removable=removable,
            models=models,
            profile=profile,
            back_pressure=back_pressure,
            zlp=not no_zlp,
            baud_paced=baud_paced,
            wait_for_dtr=wait_for_dtr,
            ports=ports,
            pairs=pairs,
            text=text,
            path=path,
            pattern=pattern,
        )
        command(*args, options=options, **others)

    for option in reversed(_OPTIONS):
        with_options = option(with_options)
    return with_options


def refuse_others(names: Collection[str]) -> None:
    """Refuse each option on the command line that none of these gadgets looks at.

    ``names`` may hold schemes, too, which look at none. Raises UsageError.
    """
    context = click.get_current_context()
    for parameter in context.command.params:
        name = parameter.name or ""
        field = _FIELDS.get(name, name)
        having = [gadget for gadget, fields in OPTIONS.items() if field in fields]
        said = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if having and said and not any(gadget in having for gadget in names):
            raise click.UsageError(
                f"{parameter.opts[0]} is for {', '.join(having)}, and not for {', '.join(names)}"
                f"{'' if all(name in OPTIONS for name in names) else ' (a scheme has keys for it)'}"
            )
