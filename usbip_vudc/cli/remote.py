"""What a USB/IP server has: the half of ``usbip-vudc list`` that asks another machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import click

from usbip_vudc.errors import UsbipVudcError
from usbip_vudc.host.handshake import Listed, list_devices

__all__ = ("print_remote", "reaching")


def print_remote(host: str, port: int, as_json: bool) -> None:
    """Print the devices that a server exports: ``BUSID VID:PID SPEED CLASS,CLASS...`` each.

    A class is bInterfaceClass/SubClass/Protocol in hex; a server of kernel gadgets knows none.
    Raises ClickException where the server cannot be reached, RemoteProtocolError for nonsense.
    """
    with reaching(host, port):
        found = list_devices(host, port)
    if as_json:
        devices = [_as_dict(listed) for listed in found]
        click.echo(json.dumps({"host": host, "port": port, "devices": devices}))
        return
    for listed in found:
        device = listed.device
        ids = f"{device.idVendor:04x}:{device.idProduct:04x}"
        classes = ",".join(_classes(listed)) or "-"
        click.echo(f"{device.busid} {ids} {device.speed.word} {classes}")
    if not found:
        click.echo(f"{host} port {port} exports nothing", err=True)


@contextmanager
def reaching(host: str, port: int) -> Iterator[None]:
    """Say which server it was that could not be reached."""
    try:
        yield
    except UsbipVudcError:
        raise
    except UnicodeError as error:  # of a name that DNS cannot have, such as one of 64 letters
        raise click.ClickException(f"{host:.100}: no name of a host ({error})") from None
    except OSError as error:
        raise click.ClickException(
            f"{host} port {port}: {error.strerror or error}; is a USB/IP server running there?"
        ) from None


def _classes(listed: Listed) -> list[str]:
    return [
        f"{i.bInterfaceClass:02x}/{i.bInterfaceSubClass:02x}/{i.bInterfaceProtocol:02x}"
        for i in listed.interfaces
    ]


def _as_dict(listed: Listed) -> dict[str, object]:
    device = listed.device
    return {
        "busid": device.busid,
        "path": device.path,
        "idVendor": f"{device.idVendor:04x}",
        "idProduct": f"{device.idProduct:04x}",
        "speed": device.speed.word,
        "devid": device.devid,
        "interfaces": _classes(listed),
    }
