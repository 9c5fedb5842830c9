"""Our server for the bench: a bulk source and sink, and a disk over the given image."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import anyio

from usbip_vudc.function import (
    AltSetting,
    ControlRequest,
    Endpoint,
    EndpointSpec,
    Function,
    InterfaceSpec,
    Request,
)
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.memory import page_aligned
from usbip_vudc.registry import GadgetOptions, load_gadget
from usbip_vudc.server import Server
from usbip_vudc.sglist import Buffer
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.vudc import UserspaceUDC

SET_REQUEST_SIZE = 1
"""Vendor request: wValue is the size of IN requests in units of 64 bytes."""


class SourceSink(Function):
    """Sends zeros without end and takes whatever comes, like the kernel's SourceSink."""

    name: ClassVar[str] = "source-sink"
    _DEPTH: ClassVar[int] = 32

    def __init__(self) -> None:
        pair = (EndpointSpec.bulk_out("out"), EndpointSpec.bulk_in("in"))
        alternates = (AltSetting(endpoints=pair),)
        self.interfaces = (InterfaceSpec(role="x", bInterfaceClass=0xFF, alternates=alternates),)
        self._source, self._sink = page_aligned(1 << 20), page_aligned(1 << 20)
        self._source[:] = bytes(1 << 20)  # touched, so that it is memory and not the zero page
        self._size = 1 << 20
        self._in: Endpoint | None = None
        self._out: Endpoint | None = None
        self._sources: list[Request] = []

    async def run(self, endpoints: Mapping[str, Endpoint]) -> None:
        """Keep both endpoints supplied; everything happens in completions."""
        self._in, self._out = endpoints["in"], endpoints["out"]
        self._fill()
        for _ in range(self._DEPTH):  # all into one buffer: nobody looks at it
            self._out.queue(Request(self._sink, on_complete=self._again))
        try:
            await anyio.sleep_forever()
        finally:
            self._in = self._out = None

    def setup(self, request: ControlRequest) -> Buffer | None:
        """Change the size of IN requests."""
        if request.setup.bRequest != SET_REQUEST_SIZE:
            return None
        self._size = request.setup.wValue * 64
        if self._in is not None:
            for old in self._sources:
                self._in.withdraw(old)
            self._fill()
        return b""

    def _fill(self) -> None:
        count = self._DEPTH if self._size < 512 else 2
        self._sources = [
            Request(self._source[: self._size], on_complete=self._again) for _ in range(count)
        ]
        if self._in is not None:
            for request in self._sources:
                self._in.queue(request)

    def _again(self, done: Request) -> None:
        endpoint = self._out if done.sg.segments[0].obj is self._sink.obj else self._in
        if endpoint is not None and done.error is None:
            endpoint.queue(done)


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--tcp-port", type=int, default=0)
    parser.add_argument("--with-injection", action="store_true")
    arguments = parser.parse_args()
    if arguments.with_injection:
        importlib.import_module("usbip_vudc.injection")
    bulk = Gadget(
        name="bulk",
        idVendor=0x0525,
        idProduct=0xA4A0,
        configs=(Config(functions=(SourceSink(),)),),
    )
    disk = load_gadget("storage", GadgetOptions(image=arguments.image))
    server = Server([UserspaceUDC(g, speed=Speed.HIGH, name=g.name) for g in (bulk, disk)])
    async with anyio.create_task_group() as tasks:
        host, port = await tasks.start(server.serve, "127.0.0.1", arguments.tcp_port)
        print(f"listening on {host}:{port}")
        for export in server.exports:
            print(export.busid, export.name, flush=True)


if __name__ == "__main__":
    anyio.run(main)
