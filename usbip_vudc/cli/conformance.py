"""``usbip-vudc conformance``: tries the rules of USB/IP on any server, and gives verdicts."""

from __future__ import annotations

import time

import click
from rich import box
from rich.table import Table

from usbip_vudc.cli.remote import reaching
from usbip_vudc.cli.verdict_options import Telling, gather, verdict_options
from usbip_vudc.conformance.rule import Rule
from usbip_vudc.conformance.rules import choose
from usbip_vudc.conformance.running import examine
from usbip_vudc.conformance.subject import Subject
from usbip_vudc.errors import SchemeError
from usbip_vudc.server import DEFAULT_PORT
from usbip_vudc.verdicts import Verdict

__all__ = ("conformance",)


@click.command()
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
@click.option(
    "--rules",
    "words",
    multiple=True,
    metavar="A,B",
    help="Only these rules; `must` and `should` name all that are such.",
)
@click.option("--list", "only_list", is_flag=True, help="Try nothing: show the rules.")
@click.option(
    "--timeout",
    default=5.0,
    show_default=True,
    type=click.FloatRange(0.05, 3600),
    metavar="S",
    help="Seconds that the server may take for anything.",
)
@click.option(
    "--rough",
    is_flag=True,
    help="Send what a Linux kernel that serves may warn about, too (lengths below 0, of 2 GiB).",
)
@verdict_options
@click.pass_context
def conformance(
    ctx: click.Context,
    host: str | None,
    busid: str | None,
    tcp_port: int,
    words: tuple[str, ...],
    only_list: bool,
    timeout: float,
    rough: bool,
    telling: Telling,
) -> None:
    """Test the USB/IP server at HOST with its device BUSID, which nobody else may have meanwhile.

    Each rule is tried on connections of its own, and has a verdict with the place where the rule
    is written. The device sees requests on endpoint 0, IN transfers that are unlinked, and one
    halt that is cleared. The exit status is 1 where a rule is broken, 4 where none could be tried.
    """
    names = [name for word in words for name in word.replace(",", " ").split()]
    try:
        rules = choose(names, rough=rough)
    except SchemeError as error:
        raise click.BadParameter(str(error), param_hint="--rules") from None
    if only_list:
        telling.console().print(_listing(choose(names, rough=True)))
        return
    if host is None or busid is None:
        raise click.UsageError("HOST and BUSID say what to test; `usbip-vudc list -r HOST` lists")
    ctx.exit(_run(host, tcp_port, busid, timeout, rules, telling))


def _run(
    host: str, port: int, busid: str, timeout: float, rules: tuple[Rule, ...], telling: Telling
) -> int:
    started = time.monotonic()
    subject = Subject(host, port, busid, timeout=timeout)
    with reaching(host, port):
        subject.reach()
    verdicts: list[Verdict] = []
    interrupted = gather(examine(subject, rules), verdicts)
    about: dict[str, object] = {"host": host, "port": port, "busid": busid}
    title = f"usbip-vudc conformance {host}:{port} {busid}"
    seconds = time.monotonic() - started
    return telling.tell(title, verdicts, seconds, about=about, interrupted=interrupted)


def _listing(rules: tuple[Rule, ...]) -> Table:
    """All that is to be known of rules without trying them."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("rule", "", "what", "source"):
        made.add_column(heading, overflow="fold")
    for rule in rules:
        what = f"{rule.what} (--rough)" if rule.rough else rule.what
        made.add_row(rule.name, rule.severity, what, rule.source)
    return made
