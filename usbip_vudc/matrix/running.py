"""Runs a cell: carries its gadget, moves data with its SG list, and sees whether it recovers.

An outcome is what a host sees; anything that no device can cause is raised.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from usbip_vudc.injection import Plan
from usbip_vudc.matrix.bench import make_gadget, make_use
from usbip_vudc.matrix.cell import Cell
from usbip_vudc.matrix.outcome import EQUAL, joined, named
from usbip_vudc.matrix.switch import PlanSwitch
from usbip_vudc.matrix.use import Use
from usbip_vudc.seams import Seams
from usbip_vudc.settle import NotReady

__all__ = ("RECOVERED", "Seen", "run")

RECOVERED: Final = "recovered"

_ROUNDS: Final = 4
"""Transfers each way."""

_PATIENCE: Final = 30.0
"""Seconds that a gadget may take to work again, and a device to come back."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of a cell: the outcomes of each step, each once, in the order they came in.

    ``setup`` is empty where the device could be opened at once, ``recovery`` where nothing failed.
    ``firings`` is how often a rule of the plan acted.
    """

    setup: tuple[str, ...] = ()
    out: tuple[str, ...] = ()
    in_: tuple[str, ...] = ()
    recovery: str = ""
    firings: int = 0

    def __str__(self) -> str:
        steps = (("setup", self.setup), ("OUT", self.out), ("IN", self.in_))
        parts = [f"{name} {joined(outcomes)}" for name, outcomes in steps if outcomes]
        return ", ".join([*parts, *([self.recovery] if self.recovery else [])])


def run(cell: Cell) -> Seen:
    """Run it on this machine, and leave nothing behind.

    Raises what is no outcome: CarrierError where this machine cannot carry it, SchemeError where
    it cannot be, NotReady for a device that does not appear, OSError and UsbipVudcError.
    """
    gadget = make_gadget(cell)
    switches: list[PlanSwitch] = []

    def switch(plan: Plan, seam: str) -> PlanSwitch:
        switches.append(PlanSwitch(plan, seam))
        # What Linux does with a device before we have it is no transfer of ours.
        switches[-1].resting = cell.carrier.host != "pyusb"
        return switches[-1]

    with Seams(cell.plan, injector=switch).carried(gadget, cell.carrier) as device:
        work = _Work(make_use(cell, gadget, device), switches)
        work.do()
    firings = sum(len(switch.trace) for switch in switches)
    setup, out, in_ = (tuple(dict.fromkeys(work.seen[step])) for step in ("setup", "OUT", "IN"))
    return Seen(setup, out, in_, work.recovery, firings)


class _Work:
    """The steps of one cell. ``seen`` has the outcomes of each, ``recovery`` what came after."""

    def __init__(self, use: Use, switches: Sequence[PlanSwitch]) -> None:
        self._use = use
        self._switches = switches
        self.seen: dict[str, list[str]] = {"setup": [], "OUT": [], "IN": []}
        self.recovery = ""

    def do(self) -> None:
        """All of it; a gadget that does not recover ends it."""
        self._rest(False)
        if not self._step("setup", lambda: EQUAL):
            return
        for number in range(_ROUNDS):
            for name, move in (("OUT", self._use.send), ("IN", self._use.fetch)):
                if not self._step(name, lambda move=move, number=number: move(number)):  # type: ignore[misc]
                    return

    def _step(self, name: str, move: Callable[[], str]) -> bool:
        """One step, and recovery where it failed; False where that failed, too."""
        is_setup = name == "setup"
        try:
            if is_setup:
                self._use.open()
            outcome = move()
        except Exception as error:
            outcome = _name(error)
        if not is_setup or outcome != EQUAL:
            self.seen[name].append(outcome)
        return outcome == EQUAL or self._recovers()

    def _recovers(self) -> bool:
        """Without the plan, the same gadget has to work again."""
        self._rest(True)
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                outcome = self._use.recover()
            except Exception as error:
                outcome = _name(error)
            if outcome == EQUAL:
                self.recovery = RECOVERED
                self._rest(False)
                return True
            if time.monotonic() > deadline:
                self.recovery = f"does not recover: {outcome}"
                return False

    def _rest(self, resting: bool) -> None:
        for switch in self._switches:
            switch.resting = resting


def _name(error: Exception) -> str:
    """Its name as an outcome; it is raised where it is none."""
    name = "NotReady" if isinstance(error, NotReady) else named(error)
    if name is None:
        raise error
    return name
