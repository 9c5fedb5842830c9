"""``--plan`` and ``--plan-seed``, which several commands take, as one Plan."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import click

from usbip_vudc.errors import SchemeError
from usbip_vudc.injection import Plan, find_plan, injector

__all__ = ("plan_options",)

_ELSEWHERE = {
    "function": "functions of ours: serve, up, demo, matrix, pytest --plan",
    "host": "a host of ours: demo, matrix, pytest --plan",
    "cable": "a server or a proxy of ours: serve, export, proxy, demo, matrix, pytest --plan",
}


def plan_options(
    *seams: str, tells: bool = True
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command these options; it receives ``plan``, with rules of these seams alone.

    Without ``--plan`` the plan is empty. Rules of other seams are refused: they would do nothing.
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
                    logging.getLogger(injector.__name__).setLevel(logging.INFO)
            command(*args, plan=plan, **others)

        return with_plan

    return decorate


def _plan(word: str | None, seed: int | None, seams: tuple[str, ...]) -> Plan:
    if word is None:
        if seed is not None:
            raise click.UsageError("--plan-seed says nothing without --plan")
        return Plan()
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
