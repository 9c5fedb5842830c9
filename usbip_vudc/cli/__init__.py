"""The command ``usbip-vudc``. Exit status: 0 done, 1 failed, 2 wrong usage."""

from __future__ import annotations

import logging
import sys

import click

from usbip_vudc import __version__
from usbip_vudc.cli.demo import demo
from usbip_vudc.cli.serve import serve
from usbip_vudc.errors import UsbipVudcError

__all__ = ("main",)


class _Group(click.Group):
    """Turns our own errors and the system's into one line and exit status 1."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (UsbipVudcError, OSError) as error:
            text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            if isinstance(error, OSError) and error.filename:
                text = f"{error.filename}: {text}"
            click.echo(f"usbip-vudc: {text}", err=True)
            ctx.exit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="usbip-vudc")
@click.option("-v", "--verbose", count=True, help="Log more: once for events, twice for URBs.")
def main(verbose: int) -> None:
    """USB gadgets for testing USB drivers, USB/IP code and gadget firmware."""
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    logging.basicConfig(level=level, format="%(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


main.add_command(serve)
main.add_command(demo)
