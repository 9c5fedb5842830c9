"""``usbip-vudc demo``: what the gadgets can do, shown with real data, in one table.

By itself: both gadgets, and the case of 2019. ``demo lowspeed``: low-speed devices.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from usb.core import USBError

from usbip_vudc.cli.plan_options import UnderPlan, plan_options
from usbip_vudc.demo.disk_image import best_file_system
from usbip_vudc.demo.linux_case import HOW, linux_cases, why_not
from usbip_vudc.demo.low_speed import low_speed_cases
from usbip_vudc.demo.serial_case import serial_round_trip
from usbip_vudc.demo.stage import Stage
from usbip_vudc.demo.storage_case import case_of_2019, disk_round_trip
from usbip_vudc.errors import UsbipVudcError
from usbip_vudc.injection import Plan
from usbip_vudc.report import Row, table
from usbip_vudc.usb.ch9 import Speed

__all__ = ("demo",)

_LOG_WIDTH: Final = 100
"""Columns where nobody says how wide the paper is."""


@click.command()
@click.argument("what", required=False, type=click.Choice(["lowspeed"]), metavar="[lowspeed]")
@plan_options("function", "host", "cable", tells=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.pass_context
def demo(ctx: click.Context, what: str | None, under_plan: UnderPlan, as_json: bool) -> None:
    """Read and write a disk, echo a file through a serial port, replay the case of 2019.

    All of it runs on the userspace UDC, over TCP on loopback, through pyusb. With lowspeed it is
    low-speed devices: a keyboard, a mouse, a serial port, and every kind of packet; as root with
    vhci_hcd, as `usbip-vudc lab` has it, the same on Linux itself.

    The exit status is 0 only if every row is as expected. With --plan it shows what becomes of
    that.
    """
    console = Console(stderr=as_json)
    if not console.is_terminal:
        console = Console(stderr=as_json, width=_LOG_WIDTH)
    started = time.monotonic()
    plan = under_plan.plan or Plan()
    note = ""
    if what is None:
        rows = _both_gadgets(console, Stage(plan))
    else:
        rows, note = _low_speed(console, Stage(plan, Speed.LOW))
    good = all(row.as_expected for row in rows)
    if as_json:
        noted = {"note": note} if note else {}
        click.echo(json.dumps({"ok": good, "rows": [row.as_dict() for row in rows], **noted}))
    else:
        console.print(table(f"usbip-vudc {ctx.info_name}{f' {what}' if what else ''}", rows))
        wrong = sum(not row.as_expected for row in rows)
        verdict = "every row is as expected" if good else f"{wrong} row(s) are not as expected"
        console.print(f"{verdict} ({time.monotonic() - started:.1f} s)")
        if note:
            console.print(note, soft_wrap=True, markup=False)
    ctx.exit(0 if good else 1)


def _both_gadgets(console: Console, stage: Stage) -> list[Row]:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="usbip-vudc-demo-") as work:
        disk = disk_round_trip(console, stage, best_file_system(), Path(work))
        rows += _until_it_fails("disk", disk)
    rows += _until_it_fails("serial port", serial_round_trip(console, stage))
    rows += _until_it_fails("2019", case_of_2019(console, stage))
    return rows


def _low_speed(console: Console, stage: Stage) -> tuple[list[Row], str]:
    """The rows, and a line on those that could not run."""
    cases = list(low_speed_cases(console, stage))
    why = why_not()
    if why is None:
        cases += linux_cases(stage)
    rows = [row for case, made in cases for row in _until_it_fails(case, made)]
    note = "" if why is None else f"not shown on Linux itself ({why}); to see it: {HOW}"
    return rows, note


def _until_it_fails(case: str, rows: Iterator[Row]) -> Iterator[Row]:
    """The rows of a case; one that breaks off ends with a row that says why."""
    try:
        yield from rows
    except (OSError, USBError, UsbipVudcError) as error:
        yield Row(case, "the rest of this case", "no error", str(error))
