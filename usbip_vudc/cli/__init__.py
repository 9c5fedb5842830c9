"""The command ``usbip-vudc``. Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.

A judge that could try nothing says 4 (usbip_vudc/verdicts.py). Each command is loaded when it is
asked for: none pays for what another one imports.
"""

from __future__ import annotations

import importlib
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, cast

import click

from usbip_vudc import __version__
from usbip_vudc.cli.examples import EXAMPLES
from usbip_vudc.errors import UsbipVudcError

__all__ = ("COMMANDS", "main")

COMMANDS: Final = {
    "demo": ("usbip_vudc.cli.demo:demo", "Show the gadgets, and the bug of 2019, in one page."),
    "doctor": ("usbip_vudc.cli.doctor:doctor", "Say what works on this machine, and what mends."),
    "lab": ("usbip_vudc.cli.lab:lab", "Boot a real kernel and run a command in it."),
    "serve": ("usbip_vudc.cli.serve:serve", "Export gadgets of this process over USB/IP."),
    "check": ("configfs.cli.inspect:check", "Check a gadget's scheme, and show what it says."),
    "template": ("configfs.cli.inspect:template", "Print the scheme of a ready-made gadget."),
    "media": ("usbip_vudc.cli.media:media", "Show and change the media of gadgets that run."),
    "udc": ("configfs.cli.inspect:udc", "List the UDCs of this machine."),
    "up": ("configfs.cli.lifecycle:up", "Create a gadget in configfs and bind it to a UDC."),
    "down": ("configfs.cli.lifecycle:down", "Unbind a gadget and remove all of it."),
    "list": ("configfs.cli.lifecycle:list_", "List gadgets here, or with -r what a server has."),
    "save": ("configfs.cli.inspect:save", "Write a live configfs gadget as a TOML scheme."),
    "export": ("usbip_vudc.cli.export:export", "Export kernel vudcs and bound devices."),
    "bind": ("usbip_vudc.cli.stub:bind", "Bind a device to usbip-host, to be exported."),
    "unbind": ("usbip_vudc.cli.stub:unbind", "Give a device back to its own driver."),
    "attach": ("usbip_vudc.cli.attach:attach", "Attach a remote device to vhci_hcd."),
    "detach": ("usbip_vudc.cli.attach:detach", "Detach from vhci_hcd."),
    "port": ("usbip_vudc.cli.attach:port", "List the ports of vhci_hcd that are in use."),
    "sg": ("usbip_vudc.cli.sg:sg", "Read and write a disk with the SG list of your choice."),
    "plan": ("usbip_vudc.cli.plan:plan", "Show plans of faults, and what one would do."),
    "proxy": ("usbip_vudc.cli.proxy:proxy", "Be between hosts and a USB/IP server, by a plan."),
    "matrix": ("usbip_vudc.cli.matrix:matrix", "Run gadgets, UDCs, SG lists and plans in a table."),
    "conformance": ("usbip_vudc.cli.conformance:conformance", "Test any USB/IP server, by rule."),
    "bot-check": ("usbip_vudc.cli.bot_check:bot_check", "Test any USB disk, case by case."),
    "usbtest": ("usbip_vudc.cli.usbtest:usbtest", "Run Linux's usbtest on a device, and judge it."),
}
"""Name -> where the command is, and what it does in one line."""

_SECTIONS: Final = {
    "demo": "To begin with",
    "serve": "Gadgets",
    "udc": "Gadgets and devices of the kernel",
    "attach": "Hosts on Linux",
    "plan": "Faults",
    "conformance": "Judges",
}
"""The first of its commands -> what the help calls a section."""

_NAME_WIDTH: Final = max(map(len, COMMANDS))

_EPILOG: Final = """\
\b
Without root, a module, or a device:
  usbip-vudc demo
  usbip-vudc serve storage serial
  usbip-vudc COMMAND --help

\b
Exit status: 0 done, 1 failed, 2 wrong usage, 4 nothing could be tried (judges),
130 after Ctrl-C where it was not done. lab has that of its command.
"""


class _Group(click.Group):
    """Loads commands by name; turns our own errors and the system's into one line and status 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        try:
            command = cast("click.Command", getattr(importlib.import_module(module), attribute))
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] in ("usbip_vudc", "configfs"):
                raise
            extra = "lab" if error.name.startswith("virtme") else "kernel"
            raise click.ClickException(
                f"{cmd_name} needs the Python package {error.name}: "
                f"pip install 'usbip-vudc[{extra}]'"
            ) from None
        command.epilog = "\n".join(("\b", "For example:", *(f"  {e}" for e in EXAMPLES[cmd_name])))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, (_, line) in COMMANDS.items():
            if name in _SECTIONS:
                rows = sections.setdefault(_SECTIONS[name], [])
            rows.append((name.ljust(_NAME_WIDTH), line))
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> object:
        try:
            with _signals_unwind():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("\n" * sys.stderr.isatty() + "usbip-vudc: interrupted", err=True)
            ctx.exit(128 + signal.SIGINT)
        except click.UsageError:
            raise
        except (UsbipVudcError, OSError, click.ClickException) as error:
            click.echo(f"usbip-vudc: {_text(error)}", err=True)
            ctx.exit(1)


def _text(error: Exception) -> str:
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


@contextmanager
def _signals_unwind() -> Iterator[None]:
    """SIGTERM and SIGHUP end this process as an exception does, and a second one at once.

    What was attached, made and opened is so given back. A signal that is ignored stays so (nohup).
    """

    def unwind(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        sys.exit(128 + number)

    ours = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        ours = []  # only there can handlers be set
    for number in ours:
        signal.signal(number, unwind)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.version_option(__version__, prog_name="usbip-vudc")
@click.option("-v", "--verbose", count=True, help="Log more: once for events, twice for URBs.")
def main(verbose: int) -> None:
    """USB gadgets for testing USB drivers, USB/IP code and gadget firmware."""
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    logging.basicConfig(level=level, format="%(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
