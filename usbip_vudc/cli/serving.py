"""Serving from a command: its options; announce, serve, stop on Ctrl-C or SIGTERM."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import anyio
import click

from usbip_vudc.control import Control
from usbip_vudc.exportable import Exportable, NotExportable
from usbip_vudc.server import DEFAULT_HOST, DEFAULT_PORT, Server

__all__ = ("listening_options", "serve_until_stopped")


def listening_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a command that listens: ``host``, ``tcp_port`` and ``as_json``."""
    for option in (
        click.option(
            "--json", "as_json", is_flag=True, help="Print one JSON object instead of lines."
        ),
        click.option(
            "-t",
            "--tcp-port",
            default=DEFAULT_PORT,
            show_default=True,
            type=click.IntRange(0, 65535),
            help="Port to listen on; 0 picks a free one.",
        ),
        click.option(
            "--host", default=DEFAULT_HOST, show_default=True, help="Address to listen on."
        ),
    ):
        command = option(command)
    return command


def serve_until_stopped(
    server: Server, host: str, port: int, *, as_json: bool, control: Control | None = None
) -> None:
    """Say what is served and where, and serve it until a signal. Raises OSError as Server does.

    ``control`` listens meanwhile, where there is one.
    """
    with control or nullcontext():
        anyio.run(_serve, server, host, port, as_json, control)


async def _serve(
    server: Server, host: str, port: int, as_json: bool, control: Control | None
) -> None:
    failure: OSError | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_stop_on_signal, tasks.cancel_scope)
        if control is not None:
            tasks.start_soon(control.serve)
        try:
            await server.serve(host, port, task_status=_Announcement(server, as_json))
        except OSError as error:
            failure = error
        finally:
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _stop_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()
            return


class _Announcement:
    """Says where the server listens and what it serves, once it does."""

    def __init__(self, server: Server, as_json: bool) -> None:
        self._server = server
        self._as_json = as_json

    def started(self, value: tuple[str, int] = ("", 0)) -> None:
        host, port = value
        devices = [found for export in self._server.exports if (found := _as_dict(export))]
        if self._as_json:
            click.echo(json.dumps({"host": host, "port": port, "devices": devices}))
            return
        shown = f"[{host}]" if ":" in host else host
        click.echo(f"listening on {shown}:{port}")
        for device in devices:
            ids = f"{device['idVendor']}:{device['idProduct']}"
            click.echo(f"{device['busid']} {device['gadget']} {ids} {device['speed']}")
        if sys.stderr.isatty():
            option = "" if port == DEFAULT_PORT else f" -t {port}"
            busid = devices[0]["busid"] if devices else "BUSID"
            click.echo(f"attach with: usbip-vudc attach -r {host}{option} -b {busid}", err=True)
            click.echo("stop with Ctrl-C", err=True)


def _as_dict(export: Exportable) -> dict[str, str]:
    """What is said of a device; empty where it is not to be had just now."""
    try:
        device = export.device()
    except NotExportable:
        return {}
    return {
        "busid": export.busid,
        "gadget": export.name,
        "idVendor": f"{device.idVendor:04x}",
        "idProduct": f"{device.idProduct:04x}",
        "speed": device.speed.word,
    }
