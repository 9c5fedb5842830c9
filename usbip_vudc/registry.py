"""Names that people type -> "module:attribute", so that this package imports no gadget itself.

A ready-made gadget is a callable that takes `GadgetOptions` and returns a Gadget. A kind of
function that schemes can name is a FunctionScheme (usbip_vudc/scheme/functions.py).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, cast

import anyio.abc

from usbip_vudc.errors import SchemeError
from usbip_vudc.gadget import Gadget

__all__ = (
    "FUNCTIONS",
    "GADGETS",
    "KERNEL_UDC",
    "OPTIONS",
    "WITH_DISK",
    "GadgetOptions",
    "RunnableUDC",
    "load_gadget",
    "load_kernel_udc",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GadgetOptions:
    """What the command line says of a ready-made gadget, each of which looks at its `OPTIONS`.

    ``image`` backs a storage gadget (None: memory), ``size`` in bytes creates it where it is
    missing; it may also name another store, such as ``overlay:FILE``. ``models`` are the bad
    habits of the disk. ``profile`` says where the bytes of a serial gadget go, and
    ``back_pressure``, ``zlp``, ``baud_paced`` and ``wait_for_dtr`` how they travel; ``ports`` is
    how many of them it has. ``pairs`` is how many bulk pairs functionfs-test has, ``text`` what a
    keyboard types and ``path`` where a mouse goes; ``pattern`` is what the usbtest gadgets send
    and want, as the kernel's module parameters.
    """

    image: Path | None = None
    size: int | None = None
    read_only: bool = False
    removable: bool = False
    models: tuple[str, ...] = ()
    profile: str = "echo"
    back_pressure: str = "nak"
    zlp: bool = True
    baud_paced: bool = False
    wait_for_dtr: bool = False
    ports: int = 1
    pairs: int = 15
    text: str = ""
    path: str = ""
    pattern: int = 0
    serial_number: str = "0001"


GADGETS: Final[Mapping[str, str]] = {
    "serial": "gadgets.presets:serial",
    "generic": "gadgets.presets:generic",
    "ftdi": "gadgets.ftdi.presets:ftdi",
    "storage": "gadgets.presets:storage",
    "composite": "gadgets.presets:composite",
    "keyboard": "gadgets.hid.presets:keyboard",
    "mouse": "gadgets.hid.presets:mouse",
    "usbtest": "gadgets.usbtest.presets:usbtest",
    "usbtest-ffs": "gadgets.usbtest.presets:usbtest_ffs",
    "usbtest-low": "gadgets.usbtest.presets:usbtest_low",
    "pyusb-test": "gadgets.pyusb_test.presets:pyusb_test",
    "functionfs-test": "gadgets.functionfs_test.presets:functionfs_test",
    "ffs-test": "gadgets.ffs_test.presets:ffs_test",
}

_DISK: Final = frozenset(("image", "size", "read_only", "removable", "models"))
_SERIAL: Final = frozenset(
    ("profile", "back_pressure", "zlp", "baud_paced", "wait_for_dtr", "ports")
)

OPTIONS: Final[Mapping[str, frozenset[str]]] = {
    "serial": _SERIAL,
    "generic": _SERIAL,
    "ftdi": _SERIAL,
    "storage": _DISK,
    "composite": _SERIAL | _DISK,
    "keyboard": frozenset(("text",)),
    "mouse": frozenset(("path",)),
    "usbtest": frozenset(("pattern",)),
    "usbtest-ffs": frozenset(("pattern",)),
    "usbtest-low": frozenset(("pattern",)),
    "pyusb-test": frozenset(),
    "functionfs-test": frozenset(("pairs",)),
    "ffs-test": frozenset(("pattern",)),
}
"""The fields of GadgetOptions that a ready-made gadget looks at, besides ``serial_number``."""

WITH_DISK: Final = frozenset(name for name, fields in OPTIONS.items() if "image" in fields)
"""Those that one ``image`` can be behind."""

FUNCTIONS: Final[Mapping[str, str]] = {
    "acm": "gadgets.acm.scheme:AcmScheme",
    "generic": "gadgets.serial.scheme:GenericSerialScheme",
    "ftdi": "gadgets.ftdi.scheme:FtdiScheme",
    "mass_storage": "gadgets.mass_storage.scheme:MassStorageScheme",
    "hid_keyboard": "gadgets.hid.scheme:KeyboardScheme",
    "hid_mouse": "gadgets.hid.scheme:MouseScheme",
    "source_sink": "gadgets.usbtest.scheme:SourceSinkScheme",
    "pyusb_test": "gadgets.pyusb_test.scheme:PyusbTestScheme",
    "functionfs_test": "gadgets.functionfs_test.scheme:FunctionFSTestScheme",
    "ffs_test": "gadgets.ffs_test.scheme:FfsTestScheme",
}
"""``type`` of a function in a scheme, which is the Function's name, too."""

KERNEL_UDC: Final = "configfs.udc:KernelUDC"
"""A gadget on a UDC of the kernel."""


class RunnableUDC(Protocol):
    """A UDC that has a life of its own, as the kernel's have."""

    name: str

    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Carry the gadget until cancelled or `unplug`; reports when it is bound."""

    def unplug(self) -> None:
        """Disconnect from the host, and let `run` end."""


def load_gadget(name: str, options: GadgetOptions) -> Gadget:
    """Make a ready-made gadget; options that are not among its `OPTIONS` change nothing.

    Raises SchemeError for an unknown name or impossible options, OSError for an image.
    """
    target = GADGETS.get(name)
    if target is None:
        raise SchemeError(f"gadget {name!r} is unknown; there are {', '.join(sorted(GADGETS))}")
    return cast("Callable[[GadgetOptions], Gadget]", _load(target))(options)


def load_kernel_udc() -> Callable[[Gadget, str], RunnableUDC]:
    """What makes a UDC of a gadget and the name of the kernel's controller.

    Raises ImportError or OSError where a package or a library that it needs is not installed.
    """
    return cast("Callable[[Gadget, str], RunnableUDC]", _load(KERNEL_UDC))


def _load(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)
