"""The UDCs of this machine (/sys/class/udc), what is bound to them, and which one to take.

A virtual UDC has no cable that anyone could plug by mistake, so it is never taken silently.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from configfs.transaction import GADGETS, gadgets
from usbip_vudc.errors import UsbipVudcError
from usbip_vudc.sysfs import SysfsError, driver_of, read_attribute

__all__ = ("UDC_CLASS", "Controller", "NoController", "choose", "controllers")

UDC_CLASS: Final = Path("/sys/class/udc")

_VIRTUAL: Final = frozenset({"dummy_udc", "usbip-vudc"})

_MODULES: Final = (
    "modprobe usbip-vudc (its host is USB/IP), or modprobe dummy_hcd (its host is this machine)"
)


class NoController(UsbipVudcError):
    """There is no such UDC, or it is not plain which one is meant. The message lists them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Controller:
    """A UDC. Speeds and ``state`` are the kernel's words (Documentation/ABI, class/udc).

    ``gadget`` is the configfs gadget bound to it, or what a legacy gadget driver calls itself;
    empty for none.
    """

    name: str
    driver: str
    virtual: bool
    current_speed: str
    maximum_speed: str
    state: str
    gadget: str


def controllers(*, root: Path = UDC_CLASS, configfs: Path = GADGETS) -> tuple[Controller, ...]:
    """Every UDC, by name."""
    bound = {gadget.udc: gadget.name for gadget in gadgets(root=configfs)}
    try:
        found = sorted(root.iterdir())
    except FileNotFoundError:
        return ()
    return tuple(_read(path, bound.get(path.name)) for path in found)


def choose(
    name: str | None = None, *, root: Path = UDC_CLASS, configfs: Path = GADGETS
) -> Controller:
    """The UDC of that name, or the only real one.

    Raises NoController where there is none, or where only a name can say which is meant.
    """
    found = controllers(root=root, configfs=configfs)
    if name is not None:
        named = [controller for controller in found if controller.name == name]
        if named:
            return named[0]
        if not found:
            raise NoController(f"UDC {name}: this machine has none; {_MODULES}")
        raise NoController(f"UDC {name}: there is no such UDC; there are:{_listed(found)}")
    real = [controller for controller in found if not controller.virtual]
    if len(real) == 1:
        return real[0]
    if not found:
        raise NoController(f"this machine has no UDC; {_MODULES}")
    why = "several UDCs" if real else "only virtual UDCs, which must be named"
    raise NoController(
        f"this machine has {why}; write --udc {(real or list(found))[0].name}, or one of:"
        f"{_listed(real or found)}"
    )


def _listed(found: tuple[Controller, ...] | list[Controller]) -> str:
    return "".join(
        f"\n  {c.name} ({c.driver}{', virtual' if c.virtual else ''}"
        f"{f', bound to {c.gadget}' if c.gadget else ''})"
        for c in found
    )


def _read(path: Path, gadget: str | None) -> Controller:
    driver = driver_of(path / "device") or "unknown"
    return Controller(
        name=path.name,
        driver=driver,
        virtual=driver in _VIRTUAL,
        current_speed=_attribute(path, "current_speed"),
        maximum_speed=_attribute(path, "maximum_speed"),
        state=_attribute(path, "state"),
        gadget=gadget or _attribute(path, "function"),
    )


def _attribute(path: Path, name: str) -> str:
    try:
        return read_attribute(path / name)
    except SysfsError:  # an old kernel has no ``function``
        return ""
