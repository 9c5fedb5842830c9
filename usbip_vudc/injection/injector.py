"""Injector: the running state of a plan at one seam: what acts on which transfer. Pure.

The same plan over the same transfers says the same, and writes the same trace, every time.
"""

from __future__ import annotations

import logging
import random
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Final

from usbip_vudc.injection.actions import BEFORE, Action
from usbip_vudc.injection.conditions import Chance, Count
from usbip_vudc.injection.plan import Plan
from usbip_vudc.injection.rules import Rule
from usbip_vudc.injection.transfer import Commands, Transfer

__all__ = ("Injector",)

log = logging.getLogger(__name__)

_TRACE_LINES: Final = 100_000
"""Firings that are remembered; a plan that never ends must not fill the memory."""


def _dice(seed: int, rule: Rule, twins: Counter[str]) -> random.Random:
    """A rule's own dice: they fall alike whatever other rules there are, and for any chance.

    So fewer rules, or a smaller chance, leave out firings and move none.
    """
    conditions = (c for c in rule.conditions if not isinstance(c, Chance))
    name = " ".join(map(str, (rule.where, *conditions, rule.action)))
    twins[name] += 1
    return random.Random(f"{seed}/{twins[name]}/{name}")


@dataclass(slots=True)
class _RuleState:
    """A rule with its count and its dice."""

    number: int
    rule: Rule
    dice: random.Random
    seen: int = 0
    fired: int = 0

    def fires(self, transfer: Transfer) -> bool:
        if not self.rule.matches(transfer):
            return False
        self.seen += 1
        count = Count(self.seen, self.dice.random(), self.fired)
        if not all(condition.counts(count) for condition in self.rule.conditions):
            return False
        self.fired += 1
        return True


class Injector:
    """Decides for one seam of a plan; rules of other seams are passed over.

    ``trace`` has a line for every firing, without times: ``1: mass_storage.in 0x81 IN 4096 B #3:
    stall``, that is the rule, the place, the length, and which of the rule's transfers it was. The
    same lines are logged (INFO).
    """

    def __init__(self, plan: Plan, seam: str) -> None:
        self.plan = plan
        self.seam = seam
        self.trace: list[str] = []
        twins: Counter[str] = Counter()
        self._rules = [
            _RuleState(number, rule, _dice(plan.seed, rule, twins))
            for number, rule in enumerate(plan.rules, 1)
            if rule.where.seam == seam
        ]
        self._commands = Commands()
        self._moved: defaultdict[tuple[str, int], int] = defaultdict(int)
        self._ahead: defaultdict[tuple[str, int], int] = defaultdict(int)

    def __bool__(self) -> bool:
        return bool(self._rules)

    def may(self, kind: type[Action]) -> bool:
        """Whether some rule has this kind of action."""
        return any(isinstance(state.rule.action, kind) for state in self._rules)

    def actions(self, transfer: Transfer, moment: str) -> tuple[Action, ...]:
        """What acts on this transfer at this moment, in the order of the rules.

        To be asked once before and once after every transfer, even where nothing is expected:
        the commands of a disk are followed by it.
        """
        self._commands.follow(transfer)
        self._place(transfer, moment)
        acting = []
        for state in self._rules:
            if state.rule.moment(transfer.direction) == moment and state.fires(transfer):
                acting.append(state.rule.action)
                self._note(state, transfer)
        return tuple(acting)

    def begins(self, function: str) -> None:
        """A function begins a new life: no command is under way, but counting goes on."""
        self._commands.forget(function)

    def finished(self, transfer: Transfer, actual: int) -> None:
        """It is over, and so many bytes of it have moved."""
        endpoint = transfer.function, transfer.address
        self._moved[endpoint] += actual
        self._ahead[endpoint] += actual - transfer.reserved
        transfer.reserved = 0

    def _place(self, transfer: Transfer, moment: str) -> None:
        """Which bytes of its endpoint's stream it holds.

        Beforehand those behind all that is under way, as if nothing of that came to be short.
        """
        endpoint = transfer.function, transfer.address
        if moment == BEFORE:
            transfer.position = self._ahead[endpoint]
            transfer.reserved = transfer.length
            self._ahead[endpoint] += transfer.length
        else:
            transfer.position = self._moved[endpoint]
        held = transfer.length if moment == BEFORE else len(transfer.data)
        transfer.end = transfer.position + held

    def _note(self, state: _RuleState, transfer: Transfer) -> None:
        place = ".".join(filter(None, (transfer.function, transfer.role))) or self.seam
        line = (
            f"{state.number}: {place} {transfer.address:#04x} {transfer.direction.name} "
            f"{transfer.length} B #{state.seen}: {state.rule.action}"
        )
        log.info("%s", line)
        if len(self.trace) < _TRACE_LINES:
            self.trace.append(line)
