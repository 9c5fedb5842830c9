"""Where a gadget is carried to this machine's own host side: UDCs, and our server under vhci."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

from bench.kernel.gadget_process import GadgetProcess, Serve, gadget_process
from configfs.transaction import ConfigfsGadget
from configfs.udc import KernelUDC
from usbip_vudc import vhci
from usbip_vudc.function import Function
from usbip_vudc.gadget import Config, Gadget, KernelFunction
from usbip_vudc.server import Server
from usbip_vudc.settle import NotReady
from usbip_vudc.sysfs import write_attribute
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.vudc import UserspaceUDC

__all__ = ("CARRIERS", "Carrier", "load_modules")

_MODULES = (
    ("vhci-hcd",), ("usbip-vudc",), ("dummy_hcd", "is_super_speed=1"), ("libcomposite",),
    ("usb-storage",), ("sd_mod",), ("cdc-acm",),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Carrier:
    """A way from a gadget to the host side of this kernel. ``udc`` is None for our own UDC."""

    name: str
    udc: str | None
    speed: Speed

    def gadget(self, function: Function | KernelFunction, idProduct: int) -> Gadget:
        """A device of one function, as fast as this carries it."""
        return Gadget(
            name="bench",
            idVendor=0x0525,
            idProduct=idProduct,
            serial="0123456789AB",  # BOT 4.1.1 wants twelve digits of a disk
            max_speed=self.speed,
            configs=(Config(functions=(function,)),),
        )

    @contextmanager
    def carry(
        self, make: Callable[[], Gadget], *, in_kernel: bool = False
    ) -> Iterator[GadgetProcess | None]:
        """The device is attached while this lasts; yields the process of its functions, if any.

        ``make`` is called where the functions shall run; ``in_kernel`` says that it is there.
        """
        with ExitStack() as undo:
            process = None
            if self.udc is None:
                process = undo.enter_context(gadget_process(self._serve(make)))
                port = vhci.attach_remote("127.0.0.1", int(process.hear()), "1-1").port
                undo.callback(vhci.detach, port)
            elif in_kernel:
                tree = ConfigfsGadget.create(make())
                undo.callback(tree.remove)
                tree.bind(self.udc)
                self._plug(undo)
            else:
                process = undo.enter_context(gadget_process(self._up(make, self.udc)))
                self._plug(undo)
            yield process

    def _plug(self, undo: ExitStack) -> None:
        """A vudc has a cable of its own; a dummy is plugged in for good."""
        if self.udc is None or not self.udc.startswith("usbip"):
            return
        try:
            port = self._connect(self.udc)
        except NotReady:
            # usbip-vudc may begin with a reply of the connection before, and vhci hangs up.
            port = self._connect(self.udc)
        undo.callback(vhci.detach, port)

    def _connect(self, udc: str) -> int:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            write_attribute(
                Path("/sys/class/udc") / udc / "device/usbip_sockfd", str(ours.fileno())
            )
            return vhci.attach(theirs, devid=1 << 16 | 2, speed=self.speed)

    def _serve(self, make: Callable[[], Gadget]) -> Serve:
        async def serve(say: Callable[[str], None]) -> None:
            server = Server([UserspaceUDC(make(), speed=self.speed)])
            async with anyio.create_task_group() as tasks:
                _, port = await tasks.start(server.serve, "127.0.0.1", 0)
                say("ready")
                say(str(port))

        return serve

    def _up(self, make: Callable[[], Gadget], udc: str) -> Serve:
        async def up(say: Callable[[str], None]) -> None:
            async with anyio.create_task_group() as tasks:
                await tasks.start(KernelUDC(make(), udc).run)
                say("ready")

        return up


CARRIERS = (
    Carrier("usbip-vudc, high", "usbip-vudc.0", Speed.HIGH),
    Carrier("dummy_hcd, high", "dummy_udc.0", Speed.HIGH),
    Carrier("dummy_hcd, super", "dummy_udc.0", Speed.SUPER),
    Carrier("userspace, high", None, Speed.HIGH),
    Carrier("userspace, super", None, Speed.SUPER),
)


def load_modules() -> None:
    """Raises CalledProcessError where this kernel lacks one."""
    for module in _MODULES:
        subprocess.run(("modprobe", *module), check=True)


def wait_for(found: Callable[[], Path | None], what: str, seconds: float = 60) -> Path:
    """Look again and again. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        path = found()
        if path is not None:
            return path
        time.sleep(0.05)
    raise TimeoutError(f"no {what} within {seconds:g} s")
