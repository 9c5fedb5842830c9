"""``usbip-vudc bot-check``: tries the bulk-only transport on any USB disk, and gives verdicts."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager

import click
import usb.core
from rich import box
from rich.table import Table

from usbip_vudc.bot_check.check import Check
from usbip_vudc.bot_check.checks import choose
from usbip_vudc.bot_check.initiator import Initiator
from usbip_vudc.bot_check.running import examine
from usbip_vudc.bot_check.subject import Subject
from usbip_vudc.bot_check.target import attached, local, remote
from usbip_vudc.cli.remote import reaching
from usbip_vudc.cli.verdict_options import Telling, gather, verdict_options
from usbip_vudc.errors import SchemeError, UsbipVudcError
from usbip_vudc.host.handshake import list_devices
from usbip_vudc.server import DEFAULT_PORT
from usbip_vudc.verdicts import Verdict

__all__ = ("bot_check",)


def _checks(_ctx: click.Context, _param: click.Parameter, value: tuple[str, ...]) -> object:
    try:
        return choose([name for word in value for name in word.replace(",", " ").split()])
    except SchemeError as error:
        raise click.BadParameter(str(error)) from None


@click.command("bot-check")
@click.argument("host", required=False)
@click.argument("busid", required=False)
@click.option(
    "-t",
    "--tcp-port",
    default=DEFAULT_PORT,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="The server's port.",
)
@click.option("--vhci", is_flag=True, help="Attach it to vhci_hcd, and go through libusb.")
@click.option(
    "--device",
    metavar="DEVICE",
    help="A device of this machine, by bus id or VID:PID; needs libusb.",
)
@click.option("--lun", default=0, show_default=True, type=click.IntRange(0, 15), help="Which unit.")
@click.option(
    "--checks",
    multiple=True,
    metavar="A,B",
    callback=_checks,
    help="Only these: cases by number (5,7-9), names, and the groups cases, cbw, class.",
)
@click.option("--no-write", is_flag=True, help="Leave out what sends WRITE.")
@click.option(
    "--lba",
    metavar="N",
    type=click.IntRange(min=0),
    help="Where to read and write. Default: the middle of the medium.",
)
@click.option(
    "--timeout",
    default=5.0,
    show_default=True,
    type=click.FloatRange(0.05, 3600),
    metavar="S",
    help="Seconds that the device may take for anything.",
)
@click.option("--list", "only_list", is_flag=True, help="Try nothing: show the checks.")
@verdict_options
@click.pass_context
def bot_check(
    ctx: click.Context,
    host: str | None,
    busid: str | None,
    tcp_port: int,
    vhci: bool,
    device: str | None,
    lun: int,
    checks: tuple[Check, ...],
    no_write: bool,
    lba: int | None,
    timeout: float,
    only_list: bool,
    telling: Telling,
) -> None:
    """Test the bulk-only transport of a USB disk: BUSID at the USB/IP server HOST, or --device.

    It sends the thirteen cases in which host and device disagree about the data of a command, and
    CBWs that are not valid or not meaningful; each check has a verdict with its section. What it
    writes is what it has read from there before. Nothing of the disk may be mounted. The exit
    status is 1 where the device breaks a rule, 4 where nothing could be tried.
    """
    if only_list:
        telling.console().print(_listing(checks))
        return
    where = _where(host, busid, device)
    if vhci and device is not None:
        raise click.UsageError("--vhci is for a device of a USB/IP server")
    opened = _opened(host, tcp_port, busid, device, vhci=vhci)
    started = time.monotonic()
    verdicts: list[Verdict] = []
    interrupted = _run(opened, checks, verdicts, timeout, lun, lba, not no_write)
    title = f"usbip-vudc bot-check {where}"
    about: dict[str, object] = {"device": where, "lun": lun}
    seconds = time.monotonic() - started
    ctx.exit(telling.tell(title, verdicts, seconds, about=about, interrupted=interrupted))


def _where(host: str | None, busid: str | None, device: str | None) -> str:
    if (device is None) == (host is None or busid is None):
        raise click.UsageError(
            "name one device: HOST and BUSID of a USB/IP server (`usbip-vudc list -r HOST` "
            "lists), or --device"
        )
    return device if device is not None else f"{host} {busid}"


def _opened(
    host: str | None, port: int, busid: str | None, device: str | None, *, vhci: bool
) -> AbstractContextManager[usb.core.Device]:
    if device is not None:
        return local(device)
    assert host is not None
    assert busid is not None
    with reaching(host, port):
        list_devices(host, port)
    return attached(host, port, busid) if vhci else remote(host, port, busid)


def _run(
    opened: AbstractContextManager[usb.core.Device],
    checks: tuple[Check, ...],
    verdicts: list[Verdict],
    timeout: float,
    lun: int,
    lba: int | None,
    may_write: bool,
) -> bool:
    """Fill in the verdicts; whether the user has interrupted that."""
    interrupted = False
    try:
        with opened as device:
            subject = Subject(
                Initiator(device, timeout=timeout), lun=lun, lba=lba, may_write=may_write
            )
            subject.prepare()
            interrupted = gather(examine(subject, checks), verdicts)
    except (UsbipVudcError, usb.core.USBError, ValueError) as error:
        # A device that is lost may not go without trouble, and that is no reason to say less.
        if not verdicts:
            raise click.ClickException(str(error)) from None
        click.echo(f"usbip-vudc: afterwards: {error}", err=True)
    return interrupted


def _listing(checks: tuple[Check, ...]) -> Table:
    """All that is to be known of checks without trying them."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("check", "group", "what", "source"):
        made.add_column(heading, overflow="fold")
    for check in checks:
        made.add_row(check.name, check.group, check.what, check.source)
    return made
