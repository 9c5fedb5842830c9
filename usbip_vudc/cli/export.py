"""``usbip-vudc export``: serves what the kernel has, gadgets on usbip-vudc and bound devices."""

from __future__ import annotations

import os

import click

from usbip_vudc.cli.plan_options import UnderPlan, plan_options
from usbip_vudc.cli.serving import listening_options, serve_until_stopped
from usbip_vudc.errors import SchemeError
from usbip_vudc.exportable import Export, Exportable
from usbip_vudc.kernel_export import Discovery, StubExport, VudcExport, vudcs
from usbip_vudc.registry import GADGETS, GadgetOptions, load_gadget
from usbip_vudc.server import Server
from usbip_vudc.vudc import UserspaceUDC

__all__ = ("export",)


@click.command()
@click.argument("names", metavar="[UDC|BUSID]...", nargs=-1)
@click.option(
    "--gadget",
    "gadgets",
    multiple=True,
    type=click.Choice(sorted(GADGETS)),
    help="A ready-made gadget of this process beside them; may be given several times.",
)
@plan_options("function", "cable")
@listening_options
def export(
    names: tuple[str, ...],
    gadgets: tuple[str, ...],
    under_plan: UnderPlan,
    host: str,
    tcp_port: int,
    as_json: bool,
) -> None:
    """Export kernel gadgets and devices over USB/IP until Ctrl-C, in usbipd's place.

    UDC is one of usbip-vudc's (usbip-vudc.0), BUSID a device bound to usbip-host (3-1). With
    neither, all of them are exported, those too that come later.

    With --plan things go wrong as it says: on the cable of each device, and in gadgets of this
    process.
    """
    if os.geteuid():
        raise click.ClickException("the kernel's devices are root's alone: run as root")
    try:
        ours = [
            load_gadget(name, GadgetOptions(serial_number=f"{number:04d}"))
            for number, name in enumerate(gadgets, 1)
        ]
        under_plan.check(*ours)
        exports = [
            under_plan.export(Export(number, UserspaceUDC(under_plan.gadget(gadget))))
            for number, gadget in enumerate(ours, 1)
        ]
        exports += [under_plan.export(_named(name)) for name in names]
        discovery = Discovery()
        server = Server(
            exports, discover=None if names else lambda: tuple(map(under_plan.export, discovery()))
        )
    except SchemeError as error:
        raise click.UsageError(str(error)) from None
    if not server.exports:
        click.echo(
            "nothing to export yet: no usbip-vudc (modprobe usbip-vudc) and no device bound to "
            "usbip-host (usbip-vudc bind -b BUSID)",
            err=True,
        )
    serve_until_stopped(server, host, tcp_port, as_json=as_json)


def _named(name: str) -> Exportable:
    # A bus id is digits, a dash and the ports on the way: 3-1.4.
    if name in vudcs() or not name[:1].isdigit():
        return VudcExport(name)
    stub = StubExport(name)
    stub.directory()
    return stub
