"""``usbip-vudc proxy``: stands between hosts and a USB/IP server until Ctrl-C or SIGTERM."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import click

from usbip_vudc.cli.plan_options import UnderPlan, plan_options
from usbip_vudc.cli.serving import listening_options, serve_until_stopped
from usbip_vudc.proxy.relay import Recorder
from usbip_vudc.proxy.server import Proxy
from usbip_vudc.server import DEFAULT_PORT

__all__ = ("proxy",)


@click.command()
@click.option("-r", "--remote", required=True, metavar="HOST", help="The server to stand before.")
@click.option(
    "--remote-port",
    default=DEFAULT_PORT,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="Its port.",
)
@plan_options("cable")
@click.option(
    "--record",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.pcapng",
    help="Write all URBs into a file for Wireshark.",
)
@listening_options
def proxy(
    remote: str,
    remote_port: int,
    under_plan: UnderPlan,
    record: Path | None,
    host: str,
    tcp_port: int,
    as_json: bool,
) -> None:
    """Export what another USB/IP server exports, and be on the cable in between.

    Without --plan nothing is changed. With it every device's cable is as the rules say, such as
    "cable.in nth(3) stall" or "cable tcp_cut(1,47,100)"; what they do is said as they do it, and
    summed up in the end: with --json in a second object.
    """
    with ExitStack() as stack:
        recording = _recording(stack, record, with_device=bool(under_plan))
        server = Proxy(remote, remote_port, under_plan.plan, record=recording)
        serve_until_stopped(server, host, tcp_port, as_json=as_json)
        _summarize(server, as_json=as_json)


def _recording(
    stack: ExitStack, path: Path | None, *, with_device: bool
) -> Callable[[str], Sequence[Recorder]] | None:
    """What makes the recorders of each connection, or None."""
    if path is None:
        return None
    try:
        from usbip_vudc.capture import Capture
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"--record needs the Python package {error.name}: pip install 'usbip-vudc[capture]'"
        ) from None
    capture = stack.enter_context(Capture(path))
    # Without a plan both sides are the same.
    sides = ("host", "device") if with_device else ("host",)
    return lambda _busid: capture.connection(*sides)


def _summarize(server: Proxy, *, as_json: bool) -> None:
    firings = {busid: len(trace) for busid, trace in server.traces.items()}
    if as_json:
        said = {"imports": server.imports, "urbs": server.urbs, "firings": firings}
        click.echo(json.dumps(said))
        return
    click.echo(
        f"{server.imports} import(s), {server.urbs} URBs, the plan acted "
        f"{sum(firings.values())} time(s)",
        err=True,
    )
