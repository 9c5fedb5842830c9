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
    "WITH_DISK",
    "GadgetOptions",
    "RunnableUDC",
    "load_gadget",
    "load_kernel_udc",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GadgetOptions:
    """What the command line says of a ready-made gadget.

    ``image`` backs a storage gadget (None: memory), ``size`` in bytes creates it where it is
    missing. ``profile`` says where the bytes of a serial gadget go.
    """

    image: Path | None = None
    size: int | None = None
    read_only: bool = False
    removable: bool = False
    profile: str = "echo"
    serial_number: str = "0001"


GADGETS: Final[Mapping[str, str]] = {
    "serial": "gadgets.presets:serial",
    "generic": "gadgets.presets:generic",
    "storage": "gadgets.presets:storage",
    "composite": "gadgets.presets:composite",
}

WITH_DISK: Final = frozenset(("storage", "composite"))
"""Those that ``image`` and ``size`` speak of."""

FUNCTIONS: Final[Mapping[str, str]] = {
    "acm": "gadgets.schemes:AcmScheme",
    "generic": "gadgets.schemes:GenericSerialScheme",
    "mass_storage": "gadgets.schemes:MassStorageScheme",
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
    """Make a ready-made gadget. Raises SchemeError for an unknown name or impossible options."""
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
