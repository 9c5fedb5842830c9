"""``usbip-vudc sg``: commands of a disk whose SG list is the one asked for, and what vhci got."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import click

from usbip_vudc.block.events import TracedUrb
from usbip_vudc.block.queue import limits_of, usb_device_of
from usbip_vudc.block.trace import VhciTrace
from usbip_vudc.block.transfer import checked, read_sg, write_sg
from usbip_vudc.errors import SchemeError, UsbipVudcError
from usbip_vudc.injection.layout import Layout, Segment, layout_text
from usbip_vudc.scheme.size import parse_size
from usbip_vudc.sysfs import SPEEDS, read_attribute
from usbip_vudc.usb.ch9 import Speed, TransferType, default_max_packet_size

__all__ = ("sg",)

_EXPLAINED: Final = {
    "logical_block_size": "lengths, and the offset on the disk, are multiples of it",
    "dma_alignment": "bits of an offset in memory that must be 0",
    "max_segments": "segments of one command",
    "max_segment_size": "bytes of one segment",
    "max_sectors_kb": "KiB of one command",
    "max_hw_sectors_kb": "what max_sectors_kb may be raised to",
    "virt_boundary_mask": "bits that must be 0 where a segment ends and another one begins",
    "contiguous": "bytes of one segment for which there is memory",
}


@dataclass(frozen=True, slots=True)
class _Command:
    """One command of the disk: where on it, and its segments, all at an offset in a page."""

    offset: int
    segments: tuple[Segment, ...]

    @property
    def length(self) -> int:
        """Bytes."""
        return sum(segment.length for segment in self.segments)


@click.group()
def sg() -> None:
    """Read and write a disk with the SG list of your choice, through the block layer.

    The disk may be any; one behind vhci_hcd can be watched with --trace. A layout is
    3584+7x4096, or 512@3584+4096@0 with offsets in a page (without one, a segment ends with its
    page), or a family such as straddle with --length.
    """


# --- limits ------------------------------------------------------------------------------------


@sg.command()
@click.argument("device")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
def limits(device: str, as_json: bool) -> None:
    """Say what one command of DEVICE can be: NAME VALUE, and what that means."""
    found = limits_of(device)
    values = {name: getattr(found, name) for name in _EXPLAINED}
    if as_json:
        click.echo(json.dumps({"disk": found.disk, **values, "assumed": found.assumed}))
        return
    for name, meaning in _EXPLAINED.items():
        assumed = "; assumed, as this kernel does not say" if name in found.assumed else ""
        click.echo(f"{name:<18} {values[name]:>8}  {meaning}{assumed}")


# --- read and write ----------------------------------------------------------------------------


def _size(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    try:
        return None if value is None else 0 if value == "0" else parse_size(value)
    except SchemeError as error:
        raise click.BadParameter(str(error)) from None


_DEVICE = click.argument("device")
_LAYOUT = click.option("--layout", "text", required=True, metavar="L", help="The SG list.")
_OFFSET = click.option(
    "--offset", default="0", metavar="BYTES", callback=_size, help="Where on the disk (default: 0)."
)
_LENGTH = click.option(
    "--length", metavar="BYTES", callback=_size, help="How much (default: what the layout has)."
)
_TRACE = click.option(
    "--trace", is_flag=True, help="Print the SG lists that vhci_hcd got (the kernel is asked)."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@sg.command()
@_DEVICE
@_LAYOUT
@_OFFSET
@_LENGTH
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, writable=True, allow_dash=True),
    help="A file for the data; - for stdout.",
)
@_TRACE
@_JSON
def read(
    device: str, text: str, offset: int, length: int | None, output: str | None,
    trace: bool, as_json: bool,
) -> None:  # fmt: skip
    """Read from DEVICE; print the layout, the bytes and their sha256.

    A layout of several requests is as many commands, one after the other.
    """
    commands = _commands(device, _parsed(text), offset, length)
    moved: list[bytes] = []

    def run(command: _Command) -> int:
        moved.append(read_sg(device, command.offset, command.segments))
        return len(moved[-1])

    report = _run(device, commands, run, trace=trace)
    data = b"".join(moved)
    if output is not None:
        with click.open_file(output, "wb") as file:
            file.write(data)
    report.say(data, as_json=as_json, to_stderr=output == "-")


@sg.command()
@_DEVICE
@_LAYOUT
@_OFFSET
@_LENGTH
@click.option(
    "--input",
    "source",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="A file of data; - for stdin.",
)
@click.option("--pattern", "seed", type=int, metavar="SEED", help="Random data, by this seed.")
@click.option("--yes", is_flag=True, help="Do it: what is there on the disk is lost.")
@_TRACE
@_JSON
def write(
    device: str, text: str, offset: int, length: int | None, source: str | None,
    seed: int | None, yes: bool, trace: bool, as_json: bool,
) -> None:  # fmt: skip
    """Write to DEVICE; print the layout, the bytes and their sha256.

    It stops where the disk is mounted or in use otherwise, and without --yes.
    """
    layout = _parsed(text)
    if (source is None) == (seed is None):
        raise click.UsageError("give the data with --input FILE, or with --pattern SEED")
    commands = _commands(device, layout, offset, length)
    total = sum(command.length for command in commands)
    if not yes:
        raise click.UsageError(
            f"this overwrites {total} bytes of {device} from byte {offset} on: give --yes for that"
        )
    data = _data(source, seed, total)

    def run(command: _Command) -> int:
        begin = command.offset - offset
        piece = data[begin : begin + command.length]
        return write_sg(device, command.offset, command.segments, piece)

    report = _run(device, commands, run, trace=trace)
    report.say(data[: report.moved], as_json=as_json)


def _parsed(text: str) -> Layout:
    try:
        return Layout.parse(text)
    except SchemeError as error:
        raise click.UsageError(str(error)) from None


def _data(source: str | None, seed: int | None, total: int) -> bytes:
    if source is None:
        return random.Random(seed).randbytes(total)
    with click.open_file(source, "rb") as file:
        data = bytes(file.read(total))
    if len(data) < total:
        raise SchemeError(f"{source} has {len(data)} bytes, and the layout {total}")
    return data


def _commands(node: str, layout: Layout, offset: int, length: int | None) -> list[_Command]:
    """The commands that a layout is, all of them checked."""
    total = length or layout.length
    if not total:
        raise click.UsageError(f"layout {layout} fits itself to any length: give --length")
    made = []
    for request in layout.apply(total, _max_packet_size(node)):
        if not request:
            raise SchemeError(f"layout {layout} has a ZLP, and no command of a disk is one")
        made.append(_Command(offset, checked(node, offset, request)))
        offset += made[-1].length
    if len(made) > 1:
        click.echo(f"{len(made)} requests: {len(made)} commands, one after the other", err=True)
    return made


def _max_packet_size(node: str) -> int:
    """Of the bulk endpoints of a USB disk; families of layouts measure with it."""
    device = usb_device_of(node)
    said = read_attribute(device / "speed") if device is not None else ""
    speed = min(SPEEDS.get(said, Speed.HIGH), Speed.SUPER)
    return default_max_packet_size(TransferType.BULK, speed)


# --- what came of it ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Report:
    """``seen`` is None where nobody watched."""

    node: str
    commands: Sequence[_Command]
    moved: int
    seen: Sequence[TracedUrb] | None

    def say(self, data: bytes, *, as_json: bool, to_stderr: bool = False) -> None:
        """Print it. Raises UsbipVudcError where the disk's end cut it short."""
        digest = hashlib.sha256(data).hexdigest()
        if as_json:
            click.echo(json.dumps(self._as_dict(digest)), err=to_stderr)
        else:
            for name, value in self._lines(digest):
                click.echo(f"{name:<7} {value}", err=to_stderr)
        total = sum(command.length for command in self.commands)
        if self.moved < total:
            raise UsbipVudcError(f"{self.node} ended after {self.moved} of {total} bytes")

    def _lines(self, digest: str) -> list[tuple[str, str]]:
        lines = [("layout", layout_text(command.segments)) for command in self.commands]
        lines += [("bytes", str(self.moved)), ("sha256", digest)]
        for urb in self.seen or ():
            same = any(urb.entries == command.segments for command in self.commands)
            lines.append(("vhci", f"{_direction(urb)} {urb}{', as asked' if same else ''}"))
        return lines

    def _as_dict(self, digest: str) -> dict[str, object]:
        made: dict[str, object] = {
            "device": self.node,
            "offset": self.commands[0].offset,
            "layouts": [layout_text(command.segments) for command in self.commands],
            "bytes": self.moved,
            "sha256": digest,
        }
        if self.seen is not None:
            made["vhci"] = [
                {
                    "direction": _direction(urb),
                    "length": urb.length,
                    "entries": urb.count,
                    "layout": layout_text(urb.entries),
                }
                for urb in self.seen
            ]
        return made


def _direction(urb: TracedUrb) -> str:
    return "IN" if urb.endpoint & 0x80 else "OUT"


def _run(
    node: str, commands: Sequence[_Command], run: Callable[[_Command], int], *, trace: bool
) -> _Report:
    """Run the commands until one moves less than it should."""
    with ExitStack() as stack:
        watching = stack.enter_context(VhciTrace(node)) if trace else None
        moved = 0
        for command in commands:
            count = run(command)
            moved += count
            if count < command.length:
                break
        seen = None if watching is None else watching.data_urbs()
    return _Report(node, commands, moved, seen)
