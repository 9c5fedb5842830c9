"""``usbip-vudc usbtest``: Linux's own tests of a USB device and its host, with real verdicts."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich import box
from rich.console import Console
from rich.table import Table

from usbip_vudc.cli.verdict_options import Telling, verdict_options
from usbip_vudc.errors import SchemeError, UsbipVudcError
from usbip_vudc.usbtest import (
    CASES,
    GADGETS,
    PROFILES,
    QUICK,
    Case,
    Overrides,
    Target,
    bound,
    brought,
    judge,
    load_driver,
    parameter,
    parse_cases,
)
from usbip_vudc.usbtest.bringing import read_carrier
from usbip_vudc.verdicts import Verdict

__all__ = ("usbtest",)

_TIMEOUTS = {QUICK: 60.0}
_LONG_TIMEOUT = 600.0
_MAX_SGLEN = 128
_MAX_U32 = (1 << 32) - 1


def _cases(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[Case, ...]:
    try:
        return CASES if value is None else parse_cases(value)
    except SchemeError as error:
        raise click.BadParameter(str(error)) from None


def _carrier(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    try:
        if value is not None:
            read_carrier(value)
    except SchemeError as error:
        raise click.BadParameter(str(error)) from None
    return value


_U32 = click.IntRange(0, _MAX_U32)


@click.command()
@click.option(
    "--device",
    metavar="DEVICE",
    help="Bus id or /dev/bus/usb/BBB/DDD. Default: the first that usbtest has, or knows.",
)
@click.option(
    "--on",
    "on",
    metavar="UDC[,SPEED]",
    callback=_carrier,
    help="Bring a device along: on vudc, usbip-vudc.N, dummy_udc.N or a board's UDC.",
)
@click.option("--gadget", type=click.Choice(GADGETS), help="Which, with --on.")
@click.option(
    "--cases",
    metavar="CASES",
    callback=_cases,
    help="Numbers, ranges and groups, such as control,out,24-26. Default: all.",
)
@click.option(
    "--profile",
    type=click.Choice(PROFILES),
    default=QUICK,
    show_default=True,
    help="How many of each: a few, as tools/usb/hcd-tests.sh, or a thousand.",
)
@click.option(
    "-c",
    "--iterations",
    metavar="N",
    type=click.IntRange(1, _MAX_U32),
    help="Rounds of each test, instead of the profile's; so are the next three.",
)
@click.option("-s", "--length", metavar="BYTES", type=_U32, help="Bytes of a URB or an SG entry.")
@click.option("-v", "--vary", metavar="BYTES", type=_U32, help="Bytes by which lengths vary.")
@click.option(
    "-g",
    "--sglen",
    metavar="N",
    type=click.IntRange(0, _MAX_SGLEN),
    help="SG entries of a list, or URBs of a queue.",
)
@click.option(
    "--alt", metavar="N", type=click.IntRange(0, 255), help="Alternate setting for usbtest to use."
)
@click.option(
    "--pattern", metavar="N", type=click.IntRange(0, 1), help="Bytes of a packet: zeros, or i % 63."
)
@click.option(
    "--timeout",
    metavar="S",
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds for each test. Default: 60, or 600 with more than a few of each.",
)
@click.option("--list", "only_list", is_flag=True, help="Run nothing: say what each test does.")
@verdict_options
@click.pass_context
def usbtest(
    ctx: click.Context,
    device: str | None,
    on: str | None,
    gadget: str | None,
    cases: tuple[Case, ...],
    profile: str,
    iterations: int | None,
    length: int | None,
    vary: int | None,
    sglen: int | None,
    alt: int | None,
    pattern: int | None,
    timeout: float | None,
    only_list: bool,
    telling: Telling,
) -> None:
    """Run the tests of Linux's driver usbtest on a device, and judge each.

    Each test gets parameters that are right for the device's speed and its host controller, unless
    you say others. One that usbtest does not do with the device is skipped, with the reason. Exit
    status 0 where all that ran has passed, 1 where one failed, 4 where none could run. It needs
    root and the module usbtest: `usbip-vudc lab -- usbip-vudc usbtest --on vudc,super` has both.
    """
    if device is not None and on is not None:
        raise click.UsageError("--device and --on both say what to test: give one")
    if gadget is not None and on is None:
        raise click.UsageError("--gadget is for a device of --on")
    if only_list:
        Console(highlight=False).print(_listed(cases))
        return
    console = telling.console()
    started = time.monotonic()
    about: dict[str, object] = {"profile": profile}
    verdicts: list[Verdict] = []
    interrupted = False

    def tell(verdict: Verdict) -> None:
        verdicts.append(verdict)
        _tell(console, verdict)

    try:
        with _target(device, on, gadget, alt, pattern) as target:
            console.print(f"usbtest: {target}", markup=False)
            about["device"] = str(target)
            judge(
                target,
                cases,
                profile=profile,
                overrides=Overrides(iterations, length, vary, sglen),
                timeout=timeout or _TIMEOUTS.get(profile, _LONG_TIMEOUT),
                replay=_replay(target, on, gadget, alt, pattern),
                tell=tell,
            )
    except KeyboardInterrupt:
        interrupted = True
    except UsbipVudcError as error:
        # A device that is lost may not go without trouble, and that is no reason to say less.
        if not verdicts:
            raise
        click.echo(f"usbip-vudc: afterwards: {error}", err=True)
    seconds = time.monotonic() - started
    status = telling.tell(
        "usbip-vudc usbtest", verdicts, seconds, about=about, interrupted=interrupted
    )
    for line in (line for v in verdicts for line in v.diagnostics if not telling.ktap):
        console.print(line, markup=False, style="bold red")
    ctx.exit(status)


@contextmanager
def _target(
    device: str | None, on: str | None, gadget: str | None, alt: int | None, pattern: int | None
) -> Iterator[Target]:
    if on is not None:
        with brought(on, gadget, alt=alt, pattern=pattern) as target:
            yield target
        return
    load_driver()
    with parameter("pattern", pattern), bound(device, alt=alt) as target:
        yield target


def _replay(
    target: Target, on: str | None, gadget: str | None, alt: int | None, pattern: int | None
) -> str:
    words = ["usbip-vudc", "usbtest"]
    words += ["--device", target.busid] if on is None else ["--on", on]
    for name, value in (("gadget", gadget), ("alt", alt), ("pattern", pattern)):
        words += [] if value is None else [f"--{name}", str(value)]
    return shlex.join(words)


def _tell(console: Console, verdict: Verdict) -> None:
    """The test that is running, for who waits at a terminal."""
    if console.is_terminal:
        console.print(f"{verdict.name}: {verdict.result} {verdict.why}", markup=False)


def _listed(cases: tuple[Case, ...]) -> Table:
    made = Table(title="usbip-vudc usbtest", title_justify="left", box=box.SIMPLE_HEAD,
                 pad_edge=False)  # fmt: skip
    for heading in ("case", "group", "what it does"):
        made.add_column(heading, overflow="fold")
    for case in cases:
        made.add_row(str(case.number), case.group, case.what)
    return made
