"""``usbip-vudc serve``: exports gadgets until Ctrl-C or SIGTERM."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import anyio
import click

from usbip_vudc.errors import SchemeError
from usbip_vudc.registry import GADGETS, GadgetOptions, load_gadget
from usbip_vudc.server import DEFAULT_HOST, DEFAULT_PORT, Export, Server
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.vudc import UserspaceUDC

__all__ = ("parse_size", "serve")

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(text: str) -> int:
    """Bytes of ``4096``, ``64M``, ``1GiB``... Raises SchemeError for anything else.

    >>> parse_size("64M")
    67108864
    """
    word = text.strip().upper().removesuffix("B").removesuffix("I")
    unit = word[-1:] if word[-1:].isalpha() else ""
    digits = word.removesuffix(unit) if unit else word
    if not digits.isdecimal() or unit not in _UNITS or not int(digits):
        raise SchemeError(f"size {text!r}: expected bytes with K, M, G or T, such as 64M")
    return int(digits) * _UNITS[unit]


def _size(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    try:
        return None if value is None else parse_size(value)
    except SchemeError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option(
    "--image",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File or block device behind a storage gadget (default: 64 MiB of memory).",
)
@click.option(
    "--size",
    metavar="SIZE",
    callback=_size,
    help="Size of that memory, or of an image to be created.",
)
@click.option("--read-only", is_flag=True, help="Write-protect the storage gadget.")
@click.option("--removable", is_flag=True, help="Removable medium.")
@click.option(
    "--profile",
    default="echo",
    show_default=True,
    help="Where the bytes of a serial gadget go: echo, sink or source.",
)
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
    image: Path | None,
    size: int | None,
    read_only: bool,
    removable: bool,
    profile: str,
    speed: str | None,
    host: str,
    tcp_port: int,
    as_json: bool,
) -> None:  # fmt: skip
    """Export ready-made gadgets over USB/IP until Ctrl-C.

    NAME is serial (CDC-ACM), storage (Bulk-Only disk) or composite (both in one device); it may
    be given several times.
    """
    known = ", ".join(sorted(GADGETS))
    for name in names:
        if name not in GADGETS:
            raise click.BadParameter(f"{name!r} is unknown; there are {known}", param_hint="NAME")
    disks = sum(name != "serial" for name in names)
    if image is not None and disks != 1:
        raise click.BadParameter(
            f"backs one storage gadget, but {disks} are to be served", param_hint="--image"
        )
    try:
        wanted = Speed.parse(speed) if speed is not None else None
        udcs = []
        for number, name in enumerate(names, 1):
            options = GadgetOptions(
                image=image if name != "serial" else None,
                size=size,
                read_only=read_only,
                removable=removable,
                profile=profile,
                serial_number=f"{number:04d}",
            )
            udcs.append(UserspaceUDC(load_gadget(name, options), speed=wanted, name=f"1-{number}"))
        server = Server(udcs)
    except SchemeError as error:
        raise click.UsageError(str(error)) from None
    anyio.run(_serve, server, host, tcp_port, as_json)


async def _serve(server: Server, host: str, port: int, as_json: bool) -> None:
    failure: OSError | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_stop_on_signal, tasks.cancel_scope)
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
        exports = self._server.exports
        if self._as_json:
            devices = [_as_dict(export) for export in exports]
            click.echo(json.dumps({"host": host, "port": port, "devices": devices}))
            return
        shown = f"[{host}]" if ":" in host else host
        click.echo(f"listening on {shown}:{port}")
        for export in exports:
            device = export.device()
            ids = f"{device.idVendor:04x}:{device.idProduct:04x}"
            click.echo(f"{export.busid} {export.udc.gadget.name} {ids} {device.speed.word}")
        if sys.stderr.isatty():
            option = "" if port == DEFAULT_PORT else f"--tcp-port {port} "
            click.echo(f"attach with: usbip {option}attach -r {host} -b 1-1", err=True)
            click.echo("stop with Ctrl-C", err=True)


def _as_dict(export: Export) -> dict[str, object]:
    device = export.device()
    return {
        "busid": export.busid,
        "gadget": export.udc.gadget.name,
        "idVendor": f"{device.idVendor:04x}",
        "idProduct": f"{device.idProduct:04x}",
        "speed": device.speed.word,
    }
