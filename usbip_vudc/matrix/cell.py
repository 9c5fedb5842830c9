"""Cell: one square of the matrix, as a value whose text pastes back. It starts nothing.

    storage/vudc/super/no-sg/3584+7x4096/sg-2019

That is gadget, way to the host, speed, how the host makes URBs of an SG list, that list, and a
plan: the name of a ready-made one, or rules with ``#SEED`` behind them. The way is ``UDC``,
``UDC,linux`` or ``UDC,stub,pyusb``, as `usbip_vudc.carrier.Carrier` reads it without its speed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Self

from usbip_vudc.carrier import HOSTS, Carrier
from usbip_vudc.carrier.udcs import on_own_bus
from usbip_vudc.errors import SchemeError
from usbip_vudc.injection import CATALOGUE, Layout, Plan, find_plan
from usbip_vudc.scheme.table import nearest
from usbip_vudc.usb.ch9 import Speed

__all__ = ("GADGETS", "NO_PLAN", "SG_WORDS", "Cell", "read_plan", "way_of")

GADGETS: Final = ("storage", "serial", "generic")
"""The ready-made gadgets that a matrix knows how to use."""

SG_WORDS: Final = {"sg": True, "no-sg": False}

NO_PLAN: Final = "none"

_FORM: Final = "GADGET/UDC[,HOST][,stub]/SPEED/sg|no-sg/LAYOUT/PLAN[#SEED]"


@dataclass(frozen=True, slots=True)
class Cell:
    """A gadget on a UDC at a speed, an SG list at its host, and a plan.

    ``scatter_gather`` is how our own host makes URBs of an SG list: one of all of it, or one of
    each entry (usb_sg_init in drivers/usb/core/message.c).
    """

    gadget: str
    way: str
    speed: Speed
    scatter_gather: bool
    layout: Layout
    plan: Plan

    def __post_init__(self) -> None:
        if self.gadget not in GADGETS:
            raise SchemeError(
                f"gadget {self.gadget!r}: expected one of {', '.join(GADGETS)}"
                f"{nearest(self.gadget, GADGETS)}"
            )
        if self.way != way_of(self.way):
            raise SchemeError(f"UDC {self.way!r}: expected it as {way_of(self.way)!r}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form. Raises SchemeError that names the part."""
        parts = text.split("/", 5)
        if len(parts) != 6:
            raise SchemeError(f"cell {text!r}: {len(parts)} parts; expected {_FORM}")
        gadget, way, speed, sg, layout, plan = (part.strip() for part in parts)
        if sg not in SG_WORDS:
            raise SchemeError(f"cell {text!r}: {sg!r}: expected {' or '.join(SG_WORDS)}")
        return cls(
            gadget,
            way_of(way),
            Speed.parse(speed),
            SG_WORDS[sg],
            Layout.parse(layout),
            read_plan(plan),
        )

    def __str__(self) -> str:
        sg = next(word for word, value in SG_WORDS.items() if value == self.scatter_gather)
        parts = (self.gadget, self.way, self.speed.word, sg, str(self.layout), _shown(self.plan))
        return "/".join(parts)

    @property
    def carrier(self) -> Carrier:
        """The way from the gadget to its host."""
        return replace(Carrier.parse(self.way), speed=self.speed)

    @property
    def replay(self) -> str:
        """The command that runs this cell alone."""
        return f"usbip-vudc matrix --cell '{self}'"


def way_of(text: str) -> str:
    """A UDC and where its cable leads, as short as it can be said. Raises SchemeError."""
    udc, *words = (word.strip() for word in text.split(","))
    for word in words:
        if word not in (*HOSTS, "stub"):
            raise SchemeError(f"UDC {text!r}: {word!r}: expected {', '.join(HOSTS)} or stub")
    carrier = Carrier.parse(",".join((udc, *words)))
    usual = HOSTS[1] if on_own_bus(udc) else HOSTS[0]
    shown = [udc, *((carrier.host,) if carrier.host != usual else ())]
    return ",".join([*shown, *(("stub",) if carrier.stub else ())])


def read_plan(text: str, seed: int | None = None) -> Plan:
    """``none``, the name of a ready-made plan, a file, or rules; ``#SEED`` may stand behind it.

    What it is called is left out, where it is no ready-made one: the rules say it all. ``seed`` is
    used where the text says none. Raises SchemeError, or OSError for a file.
    """
    words, hash_sign, number = text.rpartition("#")
    if not hash_sign:
        words = text
    elif not number.strip().isdecimal():
        raise SchemeError(f"plan {text!r}: seed {number!r}: expected a number behind #")
    else:
        seed = int(number)
    words = words.strip()
    if words == NO_PLAN:
        return Plan()
    plan = find_plan(words, seed)
    return plan if words in CATALOGUE else replace(plan, name="", description="")


def _shown(plan: Plan) -> str:
    if not plan:
        return NO_PLAN
    ready = CATALOGUE.get(plan.name)
    text = plan.name if ready is not None and ready.plan("").rules == plan.rules else str(plan)
    return f"{text}#{plan.seed}" if plan.seed else text
