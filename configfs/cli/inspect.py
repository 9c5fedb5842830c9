"""``usbip-vudc udc``, ``check``, ``template`` and ``save``."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import click

from configfs.controllers import UDC_CLASS, controllers
from configfs.live import read_gadget
from configfs.sources import find_source
from configfs.summary import summary
from configfs.transaction import GADGETS, ConfigfsGadget
from configfs.tree import check_name
from usbip_vudc.cli.gadget_options import speed_option
from usbip_vudc.errors import SchemeError
from usbip_vudc.registry import GADGETS as READY_MADE
from usbip_vudc.registry import GadgetOptions, load_gadget
from usbip_vudc.scheme import dump_scheme
from usbip_vudc.scheme import template as scheme_template
from usbip_vudc.usb.ch9 import Speed

__all__ = ("check", "save", "template", "udc")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
def udc(as_json: bool) -> None:
    """List the UDCs of this machine.

    A line has the UDC's name, its driver, virtual or real, its current and its maximum speed
    (- for none), its state, and the gadget bound to it (- for none).
    """
    found = controllers(root=UDC_CLASS, configfs=GADGETS)
    if as_json:
        click.echo(json.dumps({"udcs": [asdict(controller) for controller in found]}))
        return
    for controller in found:
        kind = "virtual" if controller.virtual else "real"
        current = controller.current_speed if controller.current_speed != "UNKNOWN" else "-"
        state = controller.state.replace(" ", "-") or "-"
        click.echo(
            f"{controller.name} {controller.driver} {kind} {current or '-'} "
            f"{controller.maximum_speed or '-'} {state} {controller.gadget or '-'}"
        )
    if not found:
        click.echo("this machine has no UDC; modprobe usbip-vudc, or modprobe dummy_hcd", err=True)


@click.command()
@click.argument("what", metavar="NAME|FILE|DIR")
@speed_option("each that it can have")
@click.option(
    "--deliberately-illegal",
    is_flag=True,
    help="Show it as `serve --deliberately-illegal` serves it, and what USB forbids of it.",
)
def check(what: str, speed: Speed | None, deliberately_illegal: bool) -> None:
    """Check a scheme, and show what a host would see of its gadget at each speed.

    It takes what `usbip-vudc up` takes. No image is opened or created. Where USB forbids the gadget
    at a speed, the rule is named with its section. The exit status is 1 where it is not right, or
    possible at no speed that was asked for; the message names the key, its value and what would
    be right.
    """
    gadget = find_source(what, GadgetOptions()).described
    if deliberately_illegal:
        gadget = replace(gadget, deliberately_illegal=True)
    for line in summary(gadget, speed):
        click.echo(line)


@click.command()
@click.argument("name", metavar="[NAME]", required=False)
def template(name: str | None) -> None:
    """Print the scheme of a ready-made gadget with comments, to start from; without NAME, names."""
    if name is None:
        for known in READY_MADE:
            click.echo(known)
        return
    if name not in READY_MADE:
        known = ", ".join(READY_MADE)
        raise click.BadParameter(f"{name!r} is unknown; there are {known}", param_hint="NAME")
    click.echo(scheme_template(load_gadget(name, GadgetOptions())), nl=False)


@click.command()
@click.argument("name")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), required=False)
@click.option("--force", is_flag=True, help="Write over FILE where it exists.")
def save(name: str, file: Path | None, force: bool) -> None:
    """Write a live configfs gadget as a TOML scheme to FILE, or to standard output.

    All that can be read and written of it is saved, whoever made it: `usbip-vudc up FILE` makes
    the same gadget. FunctionFS functions live in a program and cannot be saved.
    """
    try:
        check_name(name)
    except SchemeError as error:
        raise click.BadParameter(str(error), param_hint="NAME") from None
    text = dump_scheme(read_gadget(ConfigfsGadget(GADGETS / name)))
    if file is None:
        click.echo(text, nl=False)
        return
    if file.exists() and not force:
        raise click.ClickException(f"{file} exists; --force writes over it")
    file.write_text(text)
