"""The serial port: a real file through the echo profile, and line settings seen by the gadget."""

from __future__ import annotations

import hashlib
import io
import sysconfig
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol, cast

import usb.core
from rich.console import Console

from usbip_vudc.demo.stage import Stage
from usbip_vudc.host.serial import UsbSerial
from usbip_vudc.registry import GadgetOptions, load_gadget
from usbip_vudc.report import Row, Stopwatch, progress

__all__ = ("digest", "exchange", "serial_round_trip")

_FILE_SIZE: Final = 8 << 20
_PIECE: Final = 256 << 10
_PATIENCE: Final = 5.0
"""Seconds that a request may take to be seen by the gadget."""


class _Line(Protocol):
    """What the demo looks at in the serial gadget's function."""

    @property
    def line_coding(self) -> object: ...
    @property
    def dtr(self) -> bool: ...


def serial_round_trip(console: Console, stage: Stage) -> Iterator[Row]:
    """Set the line, then send a file both ways at once and compare."""
    gadget = load_gadget("serial", GadgetOptions(profile="echo"))
    line = cast("_Line", gadget.configs[0].functions[0])
    data = _archive()
    with stage.serving(gadget) as port, stage.device(port) as device:
        serial = UsbSerial(device)
        serial.set_line_coding("115200 8N1")
        serial.set_control_line_state(dtr=True, rts=True)
        yield Row("serial line", "line coding and DTR set by the host",
                  "115200 8N1, DTR", _seen(line))  # fmt: skip
        watch = Stopwatch()
        echoed = exchange(console, serial, data)
        yield Row("serial echo", f"{len(data) >> 20} MiB file sent and read back",
                  f"sha256 {digest(data)}", f"sha256 {digest(echoed)}",
                  watch.rate(len(data)))  # fmt: skip


def _archive() -> bytes:
    """A tar archive of modules of Python's library, of at least 8 MiB."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
            tar.add(path, arcname=path.name)
            if archive.tell() >= _FILE_SIZE:
                break
    return archive.getvalue()


def _seen(line: _Line) -> str:
    """What the gadget knows of the line, once it knows it or time is up."""
    deadline = time.monotonic() + _PATIENCE
    while not line.dtr and time.monotonic() < deadline:
        time.sleep(0.001)
    return f"{line.line_coding}, {'DTR' if line.dtr else 'no DTR'}"


def exchange(console: Console, serial: UsbSerial, data: bytes) -> bytes:
    """Write in one thread and read in this one, as a terminal program does."""
    failures: list[BaseException] = []

    def write() -> None:
        try:
            for offset in range(0, len(data), _PIECE):
                serial.write(data[offset : offset + _PIECE], 30_000)
        except usb.core.USBError as error:
            failures.append(error)

    echoed = bytearray()
    writer = threading.Thread(target=write, name="serial writer")
    with progress(console, "sending a file through the serial port", len(data)) as report:
        writer.start()
        while len(echoed) < len(data) and not failures:
            piece = serial.read(_PIECE, 5_000)
            if not piece:
                break
            echoed += piece
            report(len(echoed))
        writer.join()
    if failures:
        raise failures[0]
    return bytes(echoed)


def digest(data: bytes) -> str:
    """The first digits of a SHA-256, enough to tell two files apart."""
    return hashlib.sha256(data).hexdigest()[:8]
