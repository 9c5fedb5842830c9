"""The rival's server for the benchmark: the PyPI package `usbip` behind the same two devices.

Run it with a Python that has `usbip` (0.7.0) installed; it needs nothing from this project::

    python bench/rival.py --tcp-port 0 --image disk.img

It prints ``listening on 127.0.0.1:PORT``, then one ``BUSID NAME`` line for each device:

`bulk`
    A vendor-class high-speed device, 0525:a4a0: bulk OUT 0x01 is a sink, bulk IN 0x81 a source
    of zeros. Both are set up in the rival's favour. The sink is its `on_out` callback, which
    gets the received bytes and drops them. The source stands in for the endpoint's
    `take_or_park`, the call its URB handler makes for IN data: its own queue cannot know how
    long the next URB is, and would cut (that is, copy) a longer blob to size for each URB.
`disk`
    The rival's mass storage class at high speed over an unbuffered image file, as its guide
    shows it, writable, without a command log.

SIGINT or SIGTERM ends it with status 0.
"""

from __future__ import annotations

import argparse
import mmap
import signal
import socket
from pathlib import Path
from typing import Any, Final

import usbip
from usbip.classes.device.msc import MSC

HOST: Final = "127.0.0.1"
BLOCK_SIZE: Final = 512
BULK_PACKET: Final = 512
SOURCE_SIZE: Final = 4 << 20
TRIES: Final = 5


class ImageStore:
    """What the rival's mass storage class asks for blocks: an image file, unbuffered."""

    block_size: Final = BLOCK_SIZE

    def __init__(self, path: Path) -> None:
        self._file = path.open("r+b", buffering=0)
        self.num_blocks = path.stat().st_size // BLOCK_SIZE

    def read(self, lba: int, count: int) -> bytes:
        """Return `count` blocks from `lba` on."""
        self._file.seek(lba * BLOCK_SIZE)
        return self._file.read(count * BLOCK_SIZE)

    def write(self, lba: int, count: int, data: bytes) -> None:  # noqa: ARG002
        """Store `data`, which is `count` blocks, at `lba`."""
        self._file.seek(lba * BLOCK_SIZE)
        self._file.write(data)


def bulk_device() -> Any:
    """Return the vendor-class device with a bulk sink and a bulk source."""
    device = usbip.USBDevice(
        0x0525, 0xA4A0, manufacturer="rival", product="bulk", serial="bulk", device_class=0xFF
    )
    device.set_speed(usbip.SPEED_HIGH)
    group = device.add_group()
    interface = usbip.InterfaceDescriptor(
        bInterfaceNumber=group.claim_interface(),
        bAlternateSetting=0,
        bNumEndpoints=2,
        bInterfaceClass=0xFF,
        bInterfaceSubClass=0,
        bInterfaceProtocol=0,
    )
    group.add(interface.pack())
    sink = group.add_endpoint(usbip.Out(0x01, "bulk", mps=BULK_PACKET))
    source = group.add_endpoint(usbip.In(0x81, "bulk", mps=BULK_PACKET))
    # On a page and touched, as our own source is: either costs a sender up to half its speed.
    zeros = memoryview(mmap.mmap(-1, SOURCE_SIZE))
    zeros[:] = bytes(SOURCE_SIZE)

    def drop(endpoint: object, data: bytes) -> None:
        """Take what the host sent and forget it."""

    def give(length: int, complete: object, seqnum: int | None = None) -> memoryview:  # noqa: ARG001
        """Answer an IN URB at once, in full and without a copy."""
        return zeros[:length] if length <= SOURCE_SIZE else memoryview(bytes(length))

    sink.on_out = drop
    source.take_or_park = give
    return device


def disk_device(image: Path) -> Any:
    """Return the mass storage device over `image`."""
    device = usbip.USBDevice(0x0525, 0xA4A5, manufacturer="rival", product="disk", serial="disk")
    device.set_speed(usbip.SPEED_HIGH)
    device.add(MSC(ImageStore(image)))
    return device


def free_port() -> int:
    """Return a TCP port nobody listens on: the rival cannot say which one it was given."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port


def serve(devices: dict[str, Any], port: int) -> int:
    """Plug `devices` onto one listener and return its port; `port` 0 picks a free one."""
    names = iter(devices.values())
    first = next(names)
    for left in reversed(range(TRIES)):
        bound = port or free_port()
        transport = usbip.USBIP(HOST, bound)
        try:
            first.plug(via=transport)
        except OSError:
            if port or not left:
                raise
        else:
            break
    for device in names:
        device.plug(via=transport)
    return bound


def main() -> None:
    """Serve both devices until a signal comes."""
    parser = argparse.ArgumentParser(description="Serve the rival's devices for the benchmark.")
    parser.add_argument("--tcp-port", type=int, default=0, help="port on 127.0.0.1, 0 = a free one")
    parser.add_argument("--image", type=Path, required=True, help="the disk's image file")
    args = parser.parse_args()

    # Blocked before the rival starts its threads, so that only sigwait below takes them.
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    devices = {"bulk": bulk_device(), "disk": disk_device(args.image)}
    port = serve(devices, args.tcp_port)
    print(f"listening on {HOST}:{port}")
    for name, device in devices.items():
        print(f"{device.busid} {name}")
    print(end="", flush=True)
    signal.sigwait(ends)
    for device in devices.values():
        device.unplug()


if __name__ == "__main__":
    main()
