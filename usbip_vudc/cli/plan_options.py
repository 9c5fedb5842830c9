"""``--plan`` and ``--plan-seed``, which several commands take.

Without ``--plan`` nothing of usbip_vudc.injection is imported: it would cost each command a third
of its start.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from usbip_vudc.errors import SchemeError
from usbip_vudc.exportable import Exportable
from usbip_vudc.gadget import Gadget

if TYPE_CHECKING:
    from usbip_vudc.injection import Plan
    from usbip_vudc.proxy.export import Behind

__all__ = ("UnderPlan", "plan_options")

_ELSEWHERE = {
    "function": "functions of ours: serve, up, demo, matrix, pytest --plan",
    "host": "a host of ours: demo, matrix, pytest --plan",
    "cable": "a server or a proxy of ours: serve, export, proxy, demo, matrix, pytest --plan",
}


class UnderPlan:
    """What a command does with its plan; without one, ``plan`` is None and all stays as it is."""

    def __init__(self, plan: Plan | None = None) -> None:
        self.plan = plan
        self._behind: Behind | None = None

    def __bool__(self) -> bool:
        return bool(self.plan)

    def check(self, *gadgets: Gadget) -> None:
        """Raises SchemeError for a rule about what none of the gadgets has."""
        if self.plan:
            from usbip_vudc.injection import check_plan

            check_plan(self.plan, *gadgets)

    def gadget(self, gadget: Gadget) -> Gadget:
        """The gadget with the plan's function rules. Raises SchemeError."""
        if not self.plan:
            return gadget
        from usbip_vudc.injection import injected

        return injected(gadget, self.plan)

    def export(self, export: Exportable) -> Exportable:
        """The device behind the plan's cable rules, each in one object for good."""
        if not self.plan:
            return export
        if self._behind is None:
            from usbip_vudc.proxy.export import Behind

            self._behind = Behind(self.plan)
        return self._behind(export)


def plan_options(
    *seams: str, tells: bool = True
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command these options; it receives ``under_plan``, with rules of these seams alone.

    Rules of other seams are refused: they would do nothing.
    With ``tells`` every firing is logged, asked for or not: it is what the user came for.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @click.option(
            "--plan",
            "plan_word",
            metavar="PLAN",
            help="What is to go wrong: FILE.toml, a ready-made plan (usbip-vudc plan list), or "
            "rules such as 'mass_storage.in nth(3) stall'.",
        )
        @click.option("--plan-seed", type=click.IntRange(0), help="The seed of its chances.")
        @functools.wraps(command)
        def with_plan(
            *args: Any, plan_word: str | None, plan_seed: int | None, **others: Any
        ) -> None:
            plan = _plan(plan_word, plan_seed, seams)
            if plan:
                click.echo(f"plan: {plan!r}", err=True)
                if tells:
                    logging.getLogger("usbip_vudc.injection.injector").setLevel(logging.INFO)
            command(*args, under_plan=UnderPlan(plan), **others)

        return with_plan

    return decorate


def _plan(word: str | None, seed: int | None, seams: tuple[str, ...]) -> Plan | None:
    if word is None:
        if seed is not None:
            raise click.UsageError("--plan-seed says nothing without --plan")
        return None
    from usbip_vudc.injection import find_plan

    try:
        plan = find_plan(word, seed)
    except SchemeError as error:
        raise click.BadParameter(str(error), param_hint="--plan") from None
    for rule in plan.rules:
        if rule.where.seam not in seams:
            raise click.BadParameter(
                f"rule '{rule}' acts in {_ELSEWHERE[rule.where.seam]}; not here",
                param_hint="--plan",
            )
    return plan
