"""``usbip-vudc lab``: boot a real kernel, run a command in it as root, return its status."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Final

import click
from rich.console import Console

from usbip_vudc.errors import UsbipVudcError
from usbip_vudc.lab.boot import DIED, Machine, Outcome, find_qemu, run
from usbip_vudc.lab.cache import fresh_results
from usbip_vudc.lab.kvm import probe
from usbip_vudc.lab.packages import why_no_boot
from usbip_vudc.lab.selection import find
from usbip_vudc.lab.trouble import trouble_of_run
from usbip_vudc.report import progress

__all__ = ("lab",)

_LINES_SHOWN: Final = 25


def _words(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(value))
    except ValueError as error:
        raise click.BadParameter(f"{value!r}: {error}") from None


@click.command(context_settings={"allow_interspersed_args": False})
@click.option(
    "--kernel",
    metavar="K",
    help="A vmlinuz, or debian, debian:bookworm, debian:sid, debian:newest and so on: Debian's own "
    "kernel, unpacked in a cache. Default: the newest of /boot with the modules, else debian.",
)
@click.option(
    "--modules",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="The modules of a vmlinuz. Default: /lib/modules/VERSION.",
)
@click.option("--memory", metavar="SIZE", default="2G", show_default=True, help="Memory of the VM.")
@click.option(
    "--cpus",
    metavar="N",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="CPUs of the VM.",
)
@click.option(
    "--timeout",
    metavar="S",
    type=click.FloatRange(min=1),
    default=600,
    show_default=True,
    help="Seconds for boot and command together.",
)
@click.option(
    "--results",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where dmesg.txt goes, and whatever COMMAND writes to $USBIP_VUDC_LAB_RESULTS. "
    "Default: a fresh directory in the cache.",
)
@click.option(
    "--qemu",
    metavar="ARGS",
    default="",
    callback=_words,
    help="More arguments of QEMU's, such as devices, quoted as for a shell.",
)
@click.argument("command", nargs=-1, required=True, metavar="-- COMMAND...")
@click.pass_context
def lab(
    ctx: click.Context,
    kernel: str | None,
    modules: Path | None,
    memory: str,
    cpus: int,
    timeout: float,
    results: Path | None,
    qemu: tuple[str, ...],
    command: tuple[str, ...],
) -> None:
    """Boot a real kernel under virtme-ng and run COMMAND in it as root.

    The guest's root is this machine's, read-write; directory and environment are the same. Its
    /tmp, /run, /var/tmp, /var/log, /var/cache and /dev/shm are its own. The exit status is that of
    COMMAND; 124 if the VM was stopped at its time limit, 125 if it died or could not be started.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        with _signals_unwind():
            if why := why_no_boot():
                raise UsbipVudcError(why)
            found = find(kernel, modules, progress=partial(progress, console))
            machine = Machine(
                found,
                probe(find_qemu()),
                memory=memory,
                cpus=cpus,
                timeout=timeout,
                qemu=qemu,
            )
            results = results.absolute() if results else fresh_results()
            results.mkdir(parents=True, exist_ok=True)
            _announce(console, machine, results)
            outcome = run(
                machine, command, results=results, directory=Path.cwd(), environment=os.environ
            )
    except UsbipVudcError as error:
        click.echo(f"usbip-vudc: {error}", err=True)
        ctx.exit(DIED)
    except KeyboardInterrupt:
        console.print("lab: interrupted; the VM is gone")
        ctx.exit(128 + signal.SIGINT)
    _report(console, outcome, results)
    ctx.exit(outcome.status)


def _announce(console: Console, machine: Machine, results: Path) -> None:
    how = "KVM" if machine.kvm.usable else "emulation"
    kernel = machine.kernel
    console.print(f"lab: kernel {kernel.version}, {kernel.origin}", markup=False)
    console.print(
        f"lab: {how}, {machine.cpus} CPUs, {machine.memory}: {machine.kvm.reason}", markup=False
    )
    console.print(f"lab: results in {results}", markup=False)


def _report(console: Console, outcome: Outcome, results: Path) -> None:
    boot = f", {outcome.boot_seconds:.0f} s of boot" if outcome.boot_seconds else ""
    lines = _lines(results / "dmesg.txt")
    bad = trouble_of_run(results)
    console.print(
        f"lab: status {outcome.status}: {outcome.why} ({outcome.seconds:.0f} s{boot}); dmesg: "
        f"{len(lines)} lines, {f'{len(bad)} of trouble' if bad else 'clean'}",
        markup=False,
    )
    for line in bad[:_LINES_SHOWN]:
        console.print(f"lab: dmesg: {line}", markup=False)
    if not outcome.ended:
        for line in lines[-_LINES_SHOWN:]:
            console.print(f"lab: dmesg: {line}", markup=False)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []


@contextmanager
def _signals_unwind() -> Iterator[None]:
    """SIGTERM and SIGHUP end this process as an exception does: the VM goes first."""

    def unwind(number: int, _frame: FrameType | None) -> None:
        click.echo(f"lab: {signal.Signals(number).name}; the VM goes", err=True)
        sys.exit(128 + number)

    before = {number: signal.signal(number, unwind) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
