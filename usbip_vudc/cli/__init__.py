"""The command ``usbip-vudc``. Exit status: 0 done, 1 failed, 2 wrong usage.

Each command is loaded when it is asked for: none pays for what another one imports.
"""

from __future__ import annotations

import importlib
import logging
import sys
from typing import Final, cast

import click

from usbip_vudc import __version__
from usbip_vudc.errors import UsbipVudcError

__all__ = ("COMMANDS", "main")

COMMANDS: Final = {
    "serve": ("usbip_vudc.cli.serve:serve", "Export gadgets of this process over USB/IP."),
    "up": ("configfs.cli.lifecycle:up", "Create a gadget in configfs and bind it to a UDC."),
    "down": ("configfs.cli.lifecycle:down", "Unbind a gadget and remove all of it."),
    "list": ("configfs.cli.lifecycle:list_", "List gadgets here, or with -r what a server has."),
    "udc": ("configfs.cli.inspect:udc", "List the UDCs of this machine."),
    "check": ("configfs.cli.inspect:check", "Check a gadget's scheme, and show what it says."),
    "template": ("configfs.cli.inspect:template", "Print the scheme of a ready-made gadget."),
    "save": ("configfs.cli.inspect:save", "Write a live configfs gadget as a TOML scheme."),
    "export": ("usbip_vudc.cli.export:export", "Export kernel vudcs and bound devices."),
    "media": ("usbip_vudc.cli.media:media", "Show and change the media of gadgets that run."),
    "proxy": ("usbip_vudc.cli.proxy:proxy", "Be between hosts and a USB/IP server, by a plan."),
    "bind": ("usbip_vudc.cli.stub:bind", "Bind a device to usbip-host, to be exported."),
    "unbind": ("usbip_vudc.cli.stub:unbind", "Give a device back to its own driver."),
    "attach": ("usbip_vudc.cli.attach:attach", "Attach a remote device to vhci_hcd."),
    "detach": ("usbip_vudc.cli.attach:detach", "Detach from vhci_hcd."),
    "port": ("usbip_vudc.cli.attach:port", "List the ports of vhci_hcd that are in use."),
    "sg": ("usbip_vudc.cli.sg:sg", "Read and write a disk with the SG list of your choice."),
    "plan": ("usbip_vudc.cli.plan:plan", "Show plans of faults, and what one would do."),
    "matrix": ("usbip_vudc.cli.matrix:matrix", "Run gadgets, UDCs, SG lists and plans in a table."),
    "conformance": ("usbip_vudc.cli.conformance:conformance", "Test any USB/IP server, by rule."),
    "bot-check": ("usbip_vudc.cli.bot_check:bot_check", "Test any USB disk, case by case."),
    "usbtest": ("usbip_vudc.cli.usbtest:usbtest", "Run Linux's usbtest on a device, and judge it."),
    "lab": ("usbip_vudc.cli.lab:lab", "Boot a real kernel and run a command in it."),
    "doctor": ("usbip_vudc.cli.doctor:doctor", "Say what works on this machine, and what mends."),
    "demo": ("usbip_vudc.cli.demo:demo", "Show the gadgets, and the bug of 2019, in one page."),
}
"""Name -> where the command is, and what it does in one line."""


class _Group(click.Group):
    """Loads commands by name; turns our own errors and the system's into one line and status 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        try:
            return cast("click.Command", getattr(importlib.import_module(module), attribute))
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] in ("usbip_vudc", "configfs"):
                raise
            extra = "lab" if error.name.startswith("virtme") else "kernel"
            raise click.ClickException(
                f"{cmd_name} needs the Python package {error.name}: "
                f"pip install 'usbip-vudc[{extra}]'"
            ) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

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
