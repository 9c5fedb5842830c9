"""Carrier: a way from a gadget to a host, as a value with a text form. It starts nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from usbip_vudc.carrier.lacking import lacking
from usbip_vudc.carrier.udcs import OURS, fastest, on_own_bus
from usbip_vudc.errors import SchemeError
from usbip_vudc.sysfs import SYSFS
from usbip_vudc.usb.ch9 import Speed

__all__ = ("HOSTS", "Carrier")

HOSTS: Final = ("pyusb", "linux")
"""Our own host, a backend of pyusb; or this machine's own host side, with its drivers."""

_SPEEDS: Final = (Speed.LOW, Speed.FULL, Speed.HIGH, Speed.SUPER)
_STUB: Final = "stub"


@dataclass(frozen=True, slots=True)
class Carrier:
    """A way from a gadget to a host.

    ``udc`` is ``vudc``, our own in userspace, or the name of one of the kernel's. ``host`` is
    ``pyusb``, our own USB/IP host, which needs no kernel, or ``linux``, this machine's. With
    ``stub`` a device that appears on a bus of this machine goes through usbip-host and our server.
    """

    udc: str = OURS
    speed: Speed = Speed.SUPER
    host: str = HOSTS[0]
    stub: bool = False

    def __post_init__(self) -> None:
        if not self.udc or not set(self.udc).isdisjoint(", /"):
            raise SchemeError(f"carrier: udc {self.udc!r}: expected {OURS}, or a UDC's name")
        if self.speed not in _SPEEDS:
            words = ", ".join(speed.word for speed in _SPEEDS)
            raise SchemeError(f"carrier: speed {self.speed.word!r}: expected one of {words}")
        if self.host not in HOSTS:
            raise SchemeError(f"carrier: host {self.host!r}: expected one of {', '.join(HOSTS)}")

    @classmethod
    def parse(cls, text: str, *, sysfs: Path = SYSFS) -> Self:
        """Read ``UDC[,SPEED][,HOST][,stub]``: ``vudc``, ``vudc,high,linux``, ``dummy_udc.0,stub``.

        What is left out is the fastest that the UDC can do, and the host that its cable leads to.
        Raises SchemeError for any other word.
        """
        udc, *words = (word.strip() for word in text.split(","))
        given: dict[str, Speed | str | bool] = {}
        for word in words:
            name, value = _field(word)
            if name in given:
                raise SchemeError(f"carrier {text!r}: {word!r}: its {name} is given already")
            given[name] = value
        bare = cls(udc)
        host = HOSTS[1] if bare.on_own_bus else HOSTS[0]
        speed = min(Speed.SUPER, fastest(udc, sysfs=sysfs) or Speed.SUPER)
        return cls(udc, **({"speed": speed, "host": host} | given))  # type: ignore[arg-type]

    def __str__(self) -> str:
        return ",".join((self.udc, self.speed.word, self.host, *([_STUB] if self.stub else [])))

    @property
    def on_own_bus(self) -> bool:
        """Whether the UDC's cable leads to a bus of this machine (dummy_hcd's, or a port's)."""
        return on_own_bus(self.udc)

    @property
    def over_usbip(self) -> bool:
        """Whether our server stands between the UDC and the host."""
        return self.stub or not self.on_own_bus

    def why_not(self, *, sysfs: Path = SYSFS) -> str | None:
        """What this machine lacks for it, with the command that mends it; None where it can run.

        A way that no machine has says so.
        """
        return next(lacking(self, sysfs), None)


def _field(word: str) -> tuple[str, Speed | str | bool]:
    """The field that a word of the text form is for, and its value."""
    if word == _STUB:
        return "stub", True
    if word in HOSTS:
        return "host", word
    try:
        return "speed", Speed.parse(word)
    except SchemeError:
        known = (*(speed.word for speed in _SPEEDS), *HOSTS, _STUB)
        raise SchemeError(f"carrier: {word!r} is unknown; expected {', '.join(known)}") from None
