"""``usbip-vudc serve``: exports gadgets until Ctrl-C or SIGTERM."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from usbip_vudc.cli.gadget_options import gadget_options, refuse_others, speed_option
from usbip_vudc.cli.plan_options import UnderPlan, plan_options
from usbip_vudc.cli.serving import listening_options, serve_until_stopped
from usbip_vudc.control import Control
from usbip_vudc.errors import SchemeError
from usbip_vudc.exportable import Export
from usbip_vudc.gadget import Gadget
from usbip_vudc.registry import GADGETS, WITH_DISK, GadgetOptions, load_gadget
from usbip_vudc.scheme import is_scheme, load_scheme
from usbip_vudc.server import Server
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.vudc import UserspaceUDC

__all__ = ("serve",)


@click.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@gadget_options
@speed_option("the fastest of each gadget")
@click.option(
    "--deliberately-illegal",
    is_flag=True,
    help="Serve what USB forbids at that speed exactly as it is written, to test a host.",
)
@click.option(
    "--pace",
    is_flag=True,
    help="Bus time: endpoints keep their intervals and the bandwidth of the speed (default: as "
    "fast as possible).",
)
@click.option(
    "--control",
    "socket",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="The socket for `usbip-vudc media` (default: in the runtime directory).",
)
@plan_options("function", "cable")
@listening_options
def serve(
    names: tuple[str, ...],
    options: GadgetOptions,
    speed: Speed | None,
    deliberately_illegal: bool,
    pace: bool,
    socket: Path | None,
    under_plan: UnderPlan,
    host: str,
    tcp_port: int,
    as_json: bool,
) -> None:  # fmt: skip
    """Export gadgets over USB/IP until Ctrl-C.

    NAME is serial (CDC-ACM), generic (a serial port without a class), ftdi (a serial port with the
    protocol of an FT232R), storage (Bulk-Only disk), composite (serial and storage in one device),
    keyboard or mouse (low-speed HID), or another of the ready-made gadgets (`usbip-vudc template`
    lists them), which the options describe, or a scheme: FILE.toml. Several may be given; an option
    is for all of them that have it.

    Prints the address, then BUSID GADGET VID:PID SPEED of each. With --plan things go wrong as it
    says; each gadget counts its own transfers.
    """
    known = ", ".join(sorted(GADGETS))
    ready_made = [name for name in names if not is_scheme(name)]
    for name in ready_made:
        if name not in GADGETS:
            raise click.BadParameter(f"{name!r} is unknown; there are {known}", param_hint="NAME")
    refuse_others(names)
    disks = sum(name in WITH_DISK for name in ready_made)
    if options.image is not None and disks != 1:
        raise click.BadParameter(
            f"backs one storage gadget, but {disks} are to be served", param_hint="--image"
        )
    try:
        gadgets = [
            _gadget(name, replace(options, serial_number=f"{number:04d}"))
            for number, name in enumerate(names, 1)
        ]
        if deliberately_illegal:
            gadgets = [replace(gadget, deliberately_illegal=True) for gadget in gadgets]
        under_plan.check(*gadgets)
        exports = []
        for number, gadget in enumerate(gadgets, 1):
            udc = UserspaceUDC(
                under_plan.gadget(gadget), speed=speed, name=f"1-{number}", pace=pace
            )
            exports.append(under_plan.export(Export(number, udc)))
        server = Server(exports)
    except SchemeError as error:
        raise click.UsageError(str(error)) from None
    control = Control({f"1-{n}": gadget for n, gadget in enumerate(gadgets, 1)}, socket)
    if socket is not None and not control.slots:
        raise click.BadParameter("none of these gadgets has media", param_hint="--control")
    serve_until_stopped(server, host, tcp_port, as_json=as_json, control=control)


def _gadget(name: str, options: GadgetOptions) -> Gadget:
    if not is_scheme(name):
        return load_gadget(name, options)
    try:
        return load_scheme(Path(name))
    except SchemeError as error:  # it is the file that is wrong, not the command line
        raise click.ClickException(str(error)) from None
