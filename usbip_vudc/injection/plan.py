"""Plan: rules and a seed, as one value: printed, pasted back, written to a file. Pure.

Plan.parse("mass_storage.in nth(3) stall; cable p(0.01) delay(20ms)", seed=7)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Self

from usbip_vudc.errors import SchemeError
from usbip_vudc.injection.arguments import split_words
from usbip_vudc.injection.rules import Rule
from usbip_vudc.scheme.table import Table

__all__ = ("Plan",)

_MOST_RULES: Final = 1000
_MAX_SEED: Final = (1 << 63) - 1
"""TOML's numbers have 64 bits with a sign."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to go wrong, and in which order the dice fall. No rules: nothing is touched.

    ``name`` and ``description`` are for people. Equal plans do the same to the same traffic.
    """

    rules: tuple[Rule, ...] = ()
    seed: int = 0
    name: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        if len(self.rules) > _MOST_RULES:
            raise SchemeError(f"{len(self.rules)} rules: expected at most {_MOST_RULES}")
        if not 0 <= self.seed <= _MAX_SEED:
            raise SchemeError(f"seed {self.seed}: expected 0 to {_MAX_SEED}")

    @classmethod
    def parse(cls, text: str, seed: int = 0) -> Self:
        """Read rules with ``;`` or line ends between them. Raises SchemeError."""
        return cls(tuple(Rule.parse(line) for line in split_words(text, ";\n")), seed)

    @classmethod
    def from_table(cls, table: Table) -> Self:
        """Read the TOML form. Raises SchemeError that names the key."""
        table.expect("name", "seed", "description", "rules")
        rules = []
        for entry in table.tables("rules"):
            entry.expect("where", "when", "what")
            words = (entry.text("where"), entry.text("when", ""), entry.text("what"))
            with entry.blamed():
                rules.append(Rule.parse(" ".join(filter(None, words))))
        return cls(
            tuple(rules),
            table.integer("seed", 0, 0, _MAX_SEED),
            table.text("name", ""),
            table.text("description", ""),
        )

    def as_dict(self) -> dict[str, object]:
        """The TOML form, as values."""
        rules = []
        for rule in self.rules:
            entry = {"where": str(rule.where)}
            if rule.conditions:
                entry["when"] = " ".join(map(str, rule.conditions))
            rules.append({**entry, "what": str(rule.action)})
        named = {"name": self.name, "description": self.description}
        return {**{k: v for k, v in named.items() if v}, "seed": self.seed, "rules": rules}

    def __str__(self) -> str:
        return "; ".join(map(str, self.rules))

    def __repr__(self) -> str:
        seed = f", seed={self.seed}" if self.seed else ""
        return f"Plan.parse({str(self)!r}{seed})"

    def __bool__(self) -> bool:
        return bool(self.rules)

    def for_seam(self, seam: str) -> Self:
        """The plan with the rules of one seam alone."""
        return self._kept(lambda rule: rule.where.seam == seam)

    def without_seam(self, seam: str) -> Self:
        """The plan without the rules of one seam."""
        return self._kept(lambda rule: rule.where.seam != seam)

    def _kept(self, wanted: Callable[[Rule], bool]) -> Self:
        return replace(self, rules=tuple(filter(wanted, self.rules)))

    def explain(self) -> str:
        """What will happen, in English: a line for each rule, and the seed."""
        if not self.rules:
            return "Nothing: the plan has no rules."
        lines = [f"{number}. {rule.explain()}" for number, rule in enumerate(self.rules, 1)]
        return "\n".join((*lines, f"Seed {self.seed}."))
