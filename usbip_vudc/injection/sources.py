"""Where plans come from: the word behind ``--plan``, and files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import tomli_w

from usbip_vudc.errors import SchemeError
from usbip_vudc.injection.catalogue import CATALOGUE
from usbip_vudc.injection.plan import Plan
from usbip_vudc.scheme.table import Table, nearest
from usbip_vudc.scheme.toml import parse_toml, read_toml

__all__ = ("dump_plan", "find_plan", "load_plan", "parse_plan")


def parse_plan(text: str, where: str = "plan") -> Plan:
    """Read a plan's TOML form. Raises SchemeError that names ``where`` and the key."""
    return Plan.from_table(Table(parse_toml(text, where=where), where=where))


def dump_plan(plan: Plan) -> str:
    """Write it in TOML, which `parse_plan` reads."""
    return tomli_w.dumps(plan.as_dict())


def load_plan(path: Path) -> Plan:
    """Read a file. Raises SchemeError or OSError."""
    return parse_plan(read_toml(path), str(path))


def find_plan(word: str, seed: int | None = None) -> Plan:
    """What ``--plan`` means: FILE.toml, the name of a ready-made plan, or rules.

    ``seed`` replaces the plan's own. Raises SchemeError, or OSError for a file.
    """
    text = word.strip()
    if text.endswith(".toml"):
        plan = load_plan(Path(text))
    elif text in CATALOGUE:
        plan = CATALOGUE[text].plan(text)
    elif not text or len(text.split()) == 1:
        raise SchemeError(
            f"plan {word!r}: expected FILE.toml, rules such as 'mass_storage.in nth(3) stall', or "
            f"one of {', '.join(CATALOGUE)}{nearest(text, CATALOGUE)}"
        )
    else:
        plan = Plan.parse(text)
    return plan if seed is None else replace(plan, seed=seed)
