"""The strategies: what they draw round-trips, is what was asked for, and shrinks to the least."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from usbip_vudc.injection import Layout, Plan, Rule, dump_plan, parse_plan
from usbip_vudc.injection.actions import ACTIONS
from usbip_vudc.strategies import layouts, plans, rules

_T = TypeVar("_T")

FEW = settings(max_examples=30, deadline=None)


def least(strategy: SearchStrategy[_T], wanted: Callable[[_T], bool]) -> _T:
    quick = settings(max_examples=100, database=None, deadline=None, report_multiple_bugs=False)
    return find(strategy, wanted, settings=quick, random=random.Random(7))


def hostile(layout: Layout) -> bool:
    return not layout.verdict(1024, 512).benign


def cut_short(layout: Layout) -> bool:
    return "no multiple" in layout.verdict(1024, 512).why


# --- layouts -----------------------------------------------------------------------------------


@given(layout=layouts(families=True))
@FEW
def test_a_layout_round_trips_through_text_and_repr(layout: Layout) -> None:
    assert Layout.parse(str(layout)) == layout
    assert eval(repr(layout), {"Layout": Layout}) == layout


@given(layout=layouts(max_length=100))
@FEW
def test_a_layout_writes_out_no_more_than_was_asked_for(layout: Layout) -> None:
    assert layout.length <= 100
    assert sum(s.length for request in layout.apply(5000, 64) for s in request) == 5000


@given(layout=layouts(benign_for=(512, 4096), families=True))
@FEW
def test_a_benign_layout_is_benign(layout: Layout) -> None:
    verdict = layout.verdict(4096, 512)
    assert verdict.benign, verdict.why


@pytest.mark.parametrize(
    ("wanted", "smallest"),
    [
        (hostile, "[][]"),  # a ZLP, then the rest
        (cut_short, "[1][]"),  # one byte, then the rest
        (lambda layout: len(layout.apply(1024, 512)[0]) > 1, "1"),
        (lambda layout: layout.placed, "1@0"),
        (lambda layout: layout.length > 600, "601"),
    ],
)
def test_the_smallest_failing_layout_is_found(
    wanted: Callable[[Layout], bool], smallest: str
) -> None:
    assert str(least(layouts(), wanted)) == smallest


def test_the_smallest_benign_layout_of_two_requests() -> None:
    found = least(layouts(benign_for=(512, 4096)), lambda layout: len(layout.apply(4096, 512)) > 1)
    assert str(found) == "[512][1]"


# --- rules and plans ---------------------------------------------------------------------------


@given(plan=plans(actions=ACTIONS, functions=("mass_storage", "acm")))
@FEW
def test_a_plan_round_trips_through_text_repr_and_toml(plan: Plan) -> None:
    assert Plan.parse(str(plan), plan.seed) == plan
    assert eval(repr(plan), {"Plan": Plan}) == plan
    assert parse_plan(dump_plan(plan)) == plan


@given(rule=rules(seams=("function",), actions=("stall", "csw"), functions=("mass_storage",)))
@FEW
def test_a_rule_is_of_the_seams_actions_and_functions_asked_for(rule: Rule) -> None:
    assert rule.where.seam == "function"
    assert rule.where.function in ("", "mass_storage")
    assert rule.action.name in ("stall", "csw")


@given(data=st.data())
@settings(max_examples=3, deadline=None)
def test_every_action_is_drawn(data: st.DataObject) -> None:
    for name in ACTIONS:
        assert data.draw(rules(actions=(name,))).action.name == name


@pytest.mark.parametrize(
    ("wanted", "smallest"),
    [
        (bool, "Plan.parse('function stall')"),
        (lambda plan: " p(" in str(plan), "Plan.parse('function p(0.5) stall')"),
        (
            lambda plan: any(rule.where.function for rule in plan.rules),
            "Plan.parse('mass_storage stall')",
        ),
    ],
)
def test_the_smallest_failing_plan_is_found(wanted: Callable[[Plan], bool], smallest: str) -> None:
    drawn = plans(actions=("stall", "short"), functions=("mass_storage",))
    assert repr(least(drawn, wanted)) == smallest


def test_a_plan_that_fails_by_its_layout_shrinks_in_the_layout_too() -> None:
    found = least(
        plans(seams=("host",), actions=("layout",)),
        lambda plan: "[" in str(plan) and "[]" not in str(plan),
    )
    assert repr(found) == "Plan.parse('host layout([1][1])')"


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"actions": ("stal",)}, "action 'stal' is unknown; there are stall"),
        ({"seams": ("wire",)}, "seam 'wire' is unknown; there are function, host, cable"),
        ({"seams": ("host",), "actions": ("csw",)}, "none of csw acts at any of host"),
    ],
)
def test_an_impossible_wish_is_refused(wrong: dict[str, tuple[str, ...]], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        rules(**wrong)


def test_without_hypothesis_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['hypothesis'] = None; import usbip_vudc.strategies"
    done = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == (
        "ImportError: usbip_vudc.strategies needs hypothesis: pip install 'usbip-vudc[hypothesis]'"
    )
