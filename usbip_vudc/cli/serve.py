"""``usbip-vudc serve``: exports gadgets until Ctrl-C or SIGTERM."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from usbip_vudc.cli.gadget_options import gadget_options
from usbip_vudc.cli.serving import serve_until_stopped
from usbip_vudc.errors import SchemeError
from usbip_vudc.gadget import Gadget
from usbip_vudc.registry import GADGETS, WITH_DISK, GadgetOptions, load_gadget
from usbip_vudc.scheme import is_scheme, load_scheme
from usbip_vudc.server import DEFAULT_HOST, DEFAULT_PORT, Server
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.vudc import UserspaceUDC

__all__ = ("serve",)


@click.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@gadget_options
@click.option("--speed", help="low, full, high or super (default: the fastest of each gadget).")
@click.option("--host", default=DEFAULT_HOST, show_default=True, help="Address to listen on.")
@click.option(
    "-t",
    "--tcp-port",
    default=DEFAULT_PORT,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 picks a free one.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
def serve(
    names: tuple[str, ...],
    options: GadgetOptions,
    speed: str | None,
    host: str,
    tcp_port: int,
    as_json: bool,
) -> None:  # fmt: skip
    """Export gadgets over USB/IP until Ctrl-C.

    NAME is serial (CDC-ACM), generic (a serial port without a class), storage (Bulk-Only disk) or
    composite (serial and storage in one device), which
    the options describe, or a scheme: FILE.toml. Several may be given.
    """
    known = ", ".join(sorted(GADGETS))
    ready_made = [name for name in names if not is_scheme(name)]
    for name in ready_made:
        if name not in GADGETS:
            raise click.BadParameter(f"{name!r} is unknown; there are {known}", param_hint="NAME")
    disks = sum(name in WITH_DISK for name in ready_made)
    if options.image is not None and disks != 1:
        raise click.BadParameter(
            f"backs one storage gadget, but {disks} are to be served", param_hint="--image"
        )
    try:
        wanted = Speed.parse(speed) if speed is not None else None
        udcs = []
        for number, name in enumerate(names, 1):
            gadget = _gadget(name, replace(options, serial_number=f"{number:04d}"))
            udcs.append(UserspaceUDC(gadget, speed=wanted, name=f"1-{number}"))
        server = Server(udcs)
    except SchemeError as error:
        raise click.UsageError(str(error)) from None
    serve_until_stopped(server, host, tcp_port, as_json=as_json)


def _gadget(name: str, options: GadgetOptions) -> Gadget:
    if is_scheme(name):
        return load_scheme(Path(name))
    return load_gadget(name, options if name in WITH_DISK else replace(options, image=None))
