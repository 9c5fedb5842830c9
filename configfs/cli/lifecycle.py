"""``usbip-vudc up``, ``down`` and ``list``."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import anyio
import click

from configfs.controllers import UDC_CLASS, Controller, choose, controllers
from configfs.lifecycle import bring_down, clean_stale, install, stopping_on_sigterm
from configfs.records import Record, alive, annotate, find, records
from configfs.sources import Source, find_source
from configfs.transaction import GADGETS, ConfigfsGadget, gadgets
from configfs.tree import check_name
from usbip_vudc.cli.gadget_options import gadget_options, refuse_others
from usbip_vudc.cli.plan_options import UnderPlan, plan_options
from usbip_vudc.control import Control
from usbip_vudc.errors import SchemeError, UsbipVudcError
from usbip_vudc.registry import GadgetOptions

__all__ = ("down", "list_", "up")


# --- up ----------------------------------------------------------------------------------------


@click.command()
@click.argument("what", metavar="NAME|FILE|DIR")
@click.option("--udc", metavar="UDC", help="The UDC to bind it to (default: the only real one).")
@click.option(
    "--user", metavar="USER", help="Run the functions as USER; root is kept for the kernel only."
)
@gadget_options
@plan_options("function")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a line.")
def up(
    what: str,
    udc: str | None,
    user: str | None,
    options: GadgetOptions,
    under_plan: UnderPlan,
    as_json: bool,
) -> None:
    """Create a gadget in configfs and bind it to a UDC.

    NAME is a ready-made gadget (`usbip-vudc template` lists them), which the options from --image
    to --pattern describe. FILE is a scheme (FILE.toml) or a scheme of gt (FILE.scheme); DIR has
    its scheme in DIR/scheme.toml.

    With functions of userspace it serves until Ctrl-C, SIGTERM or `usbip-vudc down`, and leaves
    nothing behind. A gadget of kernel functions alone stays. Prints the gadget and its UDC.
    """
    source = _source(what, options, under_plan)
    refuse_others((what,))
    _clean()

    def say(controller: str, *, changed: bool) -> None:
        pid = os.getpid() if source.needs_process and changed else None
        _say_up(source.name, controller, changed=changed, pid=pid, as_json=as_json)

    with stopping_on_sigterm():
        standing = _standing(source, what, udc)
        if standing is not None:
            changed = not standing.udc
            if changed:
                standing.bind(_free(udc).name)
            say(standing.udc, changed=changed)
            return
        controller = _free(udc)
        if source.needs_process:
            _hold(source, controller.name, user, lambda: say(controller.name, changed=True))
        else:
            install(source.build(), controller.name, source=source.digest, root=GADGETS)
            say(controller.name, changed=True)


def _source(what: str, options: GadgetOptions, under_plan: UnderPlan) -> Source:
    try:
        source = find_source(what, options)
        under_plan.check(source.described)
        under_plan.gadget(source.described)  # what cannot be is refused before anything is made
    except SchemeError as error:
        if Path(what).exists():
            raise
        raise click.UsageError(str(error)) from None
    return source.under(repr(under_plan.plan), under_plan.gadget) if under_plan else source


def _standing(source: Source, what: str, udc: str | None) -> ConfigfsGadget | None:
    """The gadget itself where it is up already. Raises UsbipVudcError where another one is."""
    tree = ConfigfsGadget(GADGETS / source.name)
    record = find(source.name)
    if not tree.exists:
        return None
    first = f"first: usbip-vudc down {source.name}"
    if record is None:
        raise UsbipVudcError(f"gadget {source.name} is in configfs, and not ours; {first}")
    if record.source != source.digest:
        raise UsbipVudcError(f"gadget {source.name} is up, and not as {what} says now; {first}")
    if tree.udc and udc not in (None, tree.udc):
        raise UsbipVudcError(f"gadget {source.name} is up on {tree.udc}, not {udc}; {first}")
    return tree


def _free(name: str | None) -> Controller:
    controller = choose(name, root=UDC_CLASS, configfs=GADGETS)
    if controller.gadget:
        raise UsbipVudcError(
            f"{controller.name} is taken by gadget {controller.gadget}; `usbip-vudc down "
            f"{controller.gadget}` frees it where it is in configfs"
        )
    return controller


def _say_up(name: str, udc: str, *, changed: bool, pid: int | None, as_json: bool) -> None:
    if as_json:
        said: dict[str, object] = {"gadget": name, "udc": udc, "changed": changed, "pid": pid}
        click.echo(json.dumps(said))
    else:
        click.echo(f"{name} {udc}")
    if not changed:
        click.echo(f"{name} was up already; nothing was done", err=True)
    elif pid is not None and sys.stderr.isatty():
        click.echo("stop with Ctrl-C", err=True)


def _hold(source: Source, udc: str, user: str | None, say: Callable[[], None]) -> None:
    try:
        from configfs.udc import KernelUDC
    except ModuleNotFoundError as error:  # what needs no process needs no FunctionFS either
        raise click.ClickException(
            f"functions of userspace need the Python package {error.name}: "
            f"pip install 'usbip-vudc[kernel]'"
        ) from None
    gadget = source.build()
    control = Control({source.name: gadget})
    held = KernelUDC(gadget, udc, user=user, beside=control.serve)

    def started() -> None:
        annotate(source.name, source=source.digest)
        say()

    with control:
        anyio.run(_serve, held.run, started)


async def _serve(run: Callable[..., Awaitable[None]], started: Callable[[], None]) -> None:
    failure: UsbipVudcError | OSError | None = None
    # Caught from here on: a signal in the middle of making the gadget waits until that is done.
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_stop_on_signal, signals, tasks.cancel_scope)
            try:
                await run(task_status=_Started(started))
            except (UsbipVudcError, OSError) as error:
                failure = error
            finally:
                tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _stop_on_signal(signals: AsyncIterator[int], scope: anyio.CancelScope) -> None:
    async for _ in signals:
        scope.cancel()
        return


class _Started:
    """A task status that calls back."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback

    def started(self, _value: None = None) -> None:
        self._callback()


# --- down --------------------------------------------------------------------------------------


@click.command()
@click.argument("name", metavar="[NAME]", required=False)
@click.option("--all", "everything", is_flag=True, help="Every gadget of usbip-vudc's.")
def down(name: str | None, everything: bool) -> None:
    """Unbind a gadget and remove all of it, also from a process that holds it.

    NAME may be anybody's gadget; --all leaves those of others alone. A gadget that is not there
    is no error.
    """
    if (name is None) != everything:
        raise click.UsageError("give the NAME of a gadget, or --all")
    _clean()
    if name is not None:
        try:
            check_name(name)
        except SchemeError as error:
            raise click.BadParameter(str(error), param_hint="NAME") from None
        if bring_down(name, root=GADGETS):
            click.echo(f"{name} removed")
        else:
            click.echo(f"{name} is not up; nothing was done", err=True)
        return
    for record in records():
        if bring_down(record.name, root=GADGETS):
            click.echo(f"{record.name} removed")
    for other in gadgets(root=GADGETS):
        click.echo(f"{other.name} is not ours and stays: usbip-vudc down {other.name}", err=True)


# --- list --------------------------------------------------------------------------------------


@click.command(name="list")
@click.option("-r", "--remote", metavar="HOST", help="List what the USB/IP server at HOST has.")
@click.option(
    "-t",
    "--tcp-port",
    default=3240,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="Port of that server.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
def list_(remote: str | None, tcp_port: int, as_json: bool) -> None:
    """List the gadgets of this machine, or with -r the devices of a USB/IP server.

    A gadget's line has its name, UDC (- for none), state, whose it is (ours, ours:PID for one
    that a process holds, or foreign), and its functions as configfs calls them.
    """
    if remote is not None:
        from usbip_vudc.cli.remote import print_remote

        print_remote(remote, tcp_port, as_json)
        return
    _clean()
    states = {
        controller.name: controller.state
        for controller in controllers(root=UDC_CLASS, configfs=GADGETS)
    }
    rows = [_row(gadget, states) for gadget in gadgets(root=GADGETS)]
    if as_json:
        click.echo(json.dumps({"gadgets": rows}))
        return
    for row in rows:
        owner = f"ours:{row['pid']}" if row["pid"] else row["owner"]
        functions = row["functions"]
        assert isinstance(functions, list)
        udc, state = row["udc"] or "-", row["state"] or "-"
        click.echo(f"{row['gadget']} {udc} {state} {owner} {','.join(functions) or '-'}")
    if not rows:
        click.echo("there is no gadget in configfs", err=True)


def _row(gadget: ConfigfsGadget, states: dict[str, str]) -> dict[str, object]:
    record = find(gadget.name)
    return {
        "gadget": gadget.name,
        "udc": gadget.udc,
        "state": states.get(gadget.udc, "").replace(" ", "-"),
        "owner": "foreign" if record is None else "ours",
        "pid": _holder(record),
        "functions": gadget.functions(),
    }


def _holder(record: Record | None) -> int | None:
    return record.pid if record is not None and record.held and alive(record) else None


def _clean() -> None:
    for record, error in clean_stale():
        outcome = "removed" if error is None else f"it stays: {error}"
        click.echo(f"{record.name}: stale, its process {record.pid} is gone; {outcome}", err=True)
