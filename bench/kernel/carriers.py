"""The carriers that are measured, each ending at this machine's own host side (usbip_vudc/carrier).

The gadget's end is in a process of its own, as its users run it, whose processor time counts.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.kernel.gadget_process import GadgetProcess, gadget_process
from usbip_vudc import vhci
from usbip_vudc.carrier import OURS, Carrier, device_end
from usbip_vudc.function import Function
from usbip_vudc.gadget import Config, Gadget, KernelFunction
from usbip_vudc.registry import load_kernel_udc
from usbip_vudc.server import DEFAULT_HOST
from usbip_vudc.usb.ch9 import Speed

__all__ = ("CARRIERS", "carry", "gadget_of", "load_modules", "wait_for")

_MODULES: Final = (
    ("vhci-hcd",), ("usbip-vudc",), ("dummy_hcd", "is_super_speed=1"), ("libcomposite",),
    ("usb-storage",), ("sd_mod",), ("cdc-acm",),
)  # fmt: skip

CARRIERS: Final[Mapping[str, Carrier]] = {
    "usbip-vudc, high": Carrier("usbip-vudc.0", Speed.HIGH, "linux"),
    "dummy_hcd, high": Carrier("dummy_udc.0", Speed.HIGH, "linux"),
    "dummy_hcd, super": Carrier("dummy_udc.0", Speed.SUPER, "linux"),
    "userspace, high": Carrier(OURS, Speed.HIGH, "linux"),
    "userspace, super": Carrier(OURS, Speed.SUPER, "linux"),
}


def gadget_of(function: Function | KernelFunction, idProduct: int) -> Gadget:
    """A device of one function."""
    return Gadget(
        name="bench",
        idVendor=0x0525,
        idProduct=idProduct,
        serial="0123456789AB",  # BOT 4.1.1 wants twelve digits of a disk
        configs=(Config(functions=(function,)),),
    )


@contextmanager
def carry(make: Callable[[], Gadget], carrier: Carrier) -> Iterator[GadgetProcess]:
    """The device is attached while this lasts; yields the process of its functions.

    ``make`` is called in that process.
    """

    @contextmanager
    def serve() -> Iterator[str]:
        with device_end(make(), carrier) as end:
            yield f"{end.port} {end.exported.busid}" if end.exported is not None else "bound"

    with gadget_process(serve) as process:
        if not carrier.over_usbip:
            yield process
            return
        tcp_port, busid = process.said.split()
        port = vhci.attach_remote(DEFAULT_HOST, int(tcp_port), busid).port
        try:
            yield process
        finally:
            vhci.detach(port)


def load_modules() -> None:
    """Raises CalledProcessError where this kernel lacks one."""
    for module in _MODULES:
        subprocess.run(("modprobe", *module), check=True)
    load_kernel_udc()  # once, and not in each process of a gadget


def wait_for(found: Callable[[], Path | None], what: str, seconds: float = 60) -> Path:
    """Look again and again. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        path = found()
        if path is not None:
            return path
        time.sleep(0.05)
    raise TimeoutError(f"no {what} within {seconds:g} s")
