"""``usbip-vudc bind`` and ``unbind``: devices of this machine to usbip-host, and back."""

from __future__ import annotations

import click

from usbip_vudc.stub import bind as bind_to_stub
from usbip_vudc.stub import unbind as unbind_from_stub

__all__ = ("bind", "unbind")


@click.command()
@click.option("-b", "--busid", required=True, help="The device, such as 3-1.")
def bind(busid: str) -> None:
    """Take a device from its driver, so that `export` can serve it."""
    bind_to_stub(busid)
    click.echo(f"{busid} is bound to usbip-host")


@click.command()
@click.option("-b", "--busid", required=True, help="The device, such as 3-1.")
def unbind(busid: str) -> None:
    """Give a device back to its own driver. A host that has imported it loses it."""
    unbind_from_stub(busid)
    click.echo(f"{busid} has its own driver again")
