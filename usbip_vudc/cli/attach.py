"""``usbip-vudc attach``, ``detach`` and ``port``: vhci_hcd, with usbip's flags and meaning."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Final, NoReturn

import click

from usbip_vudc import vhci
from usbip_vudc.cli.remote import reaching
from usbip_vudc.errors import RemoteProtocolError
from usbip_vudc.host.handshake import ImportRefused
from usbip_vudc.sysfs import SPEEDS, SysfsError, nodes, read_attribute
from usbip_vudc.vhci import Attached, NotReady, Port, PortState

__all__ = ("attach", "detach", "port")

_TCP_PORT: Final = 3240
_WAIT: Final = 30.0
"""Seconds for ``--wait`` without a number."""

_FIRST_PAUSE: Final = 0.5
_LAST_PAUSE: Final = 10.0
"""Seconds between the tries of ``--retry``: ever longer, up to this."""


@click.command()
@click.option("-r", "--remote", "host", required=True, metavar="HOST", help="The server.")
@click.option("-b", "--busid", help="The device as the server lists it.")
@click.option("-d", "--device", metavar="UDC", help="The same for a server of kernel gadgets.")
@click.option(
    "-t",
    "--tcp-port",
    default=_TCP_PORT,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="The server's port.",
)
@click.option(
    "--wait",
    is_flag=False,
    flag_value=_WAIT,
    type=click.FloatRange(min=0),
    metavar="[SECONDS]",
    help=f"Wait until its drivers are ready and print its device nodes (default: {_WAIT:g} s).",
)
@click.option("--retry", is_flag=True, help="Stay, and attach it again when it is lost.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object each time.")
def attach(
    host: str,
    busid: str | None,
    device: str | None,
    tcp_port: int,
    wait: float | None,
    retry: bool,
    as_json: bool,
) -> None:
    """Attach a remote device to this machine, through vhci_hcd.

    With --wait the nodes that appeared are printed one a line: /dev/bus/usb/..., /dev/ttyACM0,
    /dev/sda. Where they do not appear in time the device is detached again and the status is 1.
    """
    name = busid or device
    if not name or (busid and device):
        raise click.UsageError("give the device with -b BUSID, or with -d UDC")
    job = _Job(host, tcp_port, name, wait, as_json)
    if retry:
        job.keep()
    else:
        with reaching(host, tcp_port):
            job.once()


class _Job:
    """One device to be attached, once or again and again."""

    def __init__(
        self, host: str, tcp_port: int, busid: str, wait: float | None, as_json: bool
    ) -> None:
        self._where = (host, tcp_port, busid)
        self._wait = wait
        self._as_json = as_json

    def once(self) -> Attached:
        """Attach it and say so. Whatever is raised, nothing stays attached."""
        attached = vhci.attach_remote(*self._where)
        try:
            self._report(attached)
        except BaseException:
            vhci.detach(attached.port)
            raise
        return attached

    def _report(self, attached: Attached) -> None:
        appeared: tuple[str, ...] = ()
        if self._wait is not None:
            deadline = time.monotonic() + self._wait
            directory = vhci.wait_device(attached.port, self._wait)
            appeared = vhci.wait_nodes(directory, max(deadline - time.monotonic(), 0))
        if self._as_json:
            row = _as_dict(vhci.ports()[attached.port])
            click.echo(json.dumps(row | {"nodes": appeared}))
            return
        for node in appeared:
            click.echo(node)
        host, tcp_port, busid = self._where
        click.echo(f"{busid} of {host} port {tcp_port} is on port {attached.port}", err=True)

    def keep(self) -> None:
        """Attach it whenever it is not, until a signal, or until somebody detaches the port."""
        before = signal.signal(signal.SIGTERM, _interrupt)
        try:
            while self._lost(self._sooner_or_later()):
                continue
        except KeyboardInterrupt:
            return
        finally:
            signal.signal(signal.SIGTERM, before)

    def _sooner_or_later(self) -> Attached:
        """Attach it, trying again while it is the server that cannot."""
        pause = _FIRST_PAUSE
        while True:
            try:
                return self.once()
            except SysfsError:
                raise
            except (ImportRefused, RemoteProtocolError, NotReady, OSError) as error:
                reason = error.strerror if isinstance(error, OSError) else str(error)
            click.echo(f"{reason}; trying again in {pause:g} s", err=True)
            time.sleep(pause)
            pause = min(pause * 2, _LAST_PAUSE)

    def _lost(self, attached: Attached) -> bool:
        """Whether the connection was lost, and not the port detached by somebody else."""
        try:
            lost = vhci.wait_dropped(attached)
        except BaseException:
            vhci.detach(attached.port)
            raise
        what = "connection lost" if lost else "detached"
        click.echo(f"port {attached.port}: {what}", err=True)
        return lost


def _interrupt(signum: int, frame: object) -> NoReturn:  # noqa: ARG001 - signal's contract
    raise KeyboardInterrupt


@click.command()
@click.option("-p", "--port", "number", type=click.IntRange(min=0), help="The port, as in `port`.")
@click.option("--all", "every", is_flag=True, help="All that are in use, by whoever attached them.")
def detach(number: int | None, every: bool) -> None:
    """Detach a device from this machine, and wait until its port is free."""
    if (number is None) != every:
        raise click.UsageError("give one port with -p PORT, or --all")
    if number is None:
        for done in vhci.detach_all():
            click.echo(f"port {done} is detached")
    elif vhci.detach(number):
        click.echo(f"port {number} is detached")
    else:
        click.echo(f"port {number} was not in use", err=True)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
def port(as_json: bool) -> None:
    """List the ports in use: PORT BUSID VID:PID SPEED REMOTE.

    REMOTE is usbip://HOST:PORT/BUSID where whoever attached it has noted that, else a dash.
    """
    rows = [_as_dict(row) for row in vhci.ports() if row.state is not PortState.FREE]
    if as_json:
        click.echo(json.dumps({"ports": rows}))
        return
    for row in rows:
        shown = (row["port"], row["busid"] or "-", f"{row['idVendor']}:{row['idProduct']}",
                 row["speed"], row["remote"] or "-")  # fmt: skip
        click.echo(" ".join(map(str, shown)))


def _as_dict(row: Port) -> dict[str, object]:
    """A port in use. What its device does not say, or not yet, is empty."""
    device = vhci.device_directory(row)
    remote = vhci.remote_of(row.number)
    return {
        "port": row.number,
        "hub": row.hub.value,
        "busid": device.name if device.exists() else "",
        "idVendor": _said(device / "idVendor"),
        "idProduct": _said(device / "idProduct"),
        "speed": SPEEDS.get(_said(device / "speed"), row.speed).word,
        "nodes": nodes(device),
        "remote": f"usbip://{remote.host}:{remote.tcp_port}/{remote.busid}" if remote else "",
    }


def _said(attribute: Path) -> str:
    try:
        return read_attribute(attribute)
    except SysfsError:
        return ""
