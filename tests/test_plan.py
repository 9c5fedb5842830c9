"""The language of rules and plans: text, repr, TOML and English, and errors that help."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gadgets.presets import composite
from usbip_vudc.errors import SchemeError
from usbip_vudc.injection import (
    CATALOGUE,
    Plan,
    Rule,
    check_plan,
    dump_plan,
    find_plan,
    injected,
    load_plan,
    parse_plan,
)
from usbip_vudc.injection.actions import ACTIONS, PacketSize, parse_action
from usbip_vudc.injection.conditions import CONDITIONS, parse_condition
from usbip_vudc.injection.transfer import SEAMS
from usbip_vudc.registry import GadgetOptions

# What each word may be given, at its simplest and at its fullest.
ACTION_TEXTS = {
    "layout": ["layout(3584+7x4096)", "layout([1,511][3,597][][2984])", "layout(each:odd)",
               "layout(page-offset:512)"],
    "packet_size": ["packet_size(high=512)", "packet_size(full=8, high=64, super=3, illegal)"],
    "short": ["short(0)", "short(100)"],
    "zlp": ["zlp"],
    "babble": ["babble(1)"],
    "stall": ["stall"],
    "nak": ["nak(3)", "nak(0.5s)", "nak(375us)", "nak(1048576)"],
    "delay": ["delay(20ms)", "delay(0s)", "delay(3599.999s)", "delay(0.001us)"],
    "corrupt": ["corrupt(5)", "corrupt(0, 0x01)", "corrupt(16777216, 255)"],
    "csw": ["csw(tag=1)", "csw(tag=4294967295, residue=512, status=2, signature=0x55425355, "
            "length=12, split=5)", "csw(merged)"],
    "drop": ["drop"],
    "disconnect": ["disconnect", "disconnect(0.5s)"],
    "bus_reset": ["bus_reset"],
    "unlink": ["unlink(0s)", "unlink(10ms)"],
    "reorder": ["reorder(2)"],
    "actual": ["actual(0)", "actual(100)"],
    "status": ["status(-71)", "status(0)"],
    "tcp_cut": ["tcp_cut(1)", "tcp_cut(1, 47, 100)"],
    "tcp_stall": ["tcp_stall(0.5s)"],
    "tcp_reset": ["tcp_reset"],
}  # fmt: skip
CONDITION_TEXTS = {
    "nth": ["nth(1)", "nth(1, 3)"],
    "every": ["every(1)", "every(5)"],
    "times": ["times(2)"],
    "p": ["p(0.1)", "p(1)", "p(0)", "p(1e-9)", "p(0.1234567890123)"],
    "byte": ["byte(0)", "byte(4096)"],
    "cbw": ["cbw(0x28)", "cbw(0x28, lba=100-200)", "cbw(40, lba=7)"],
    "phase": ["phase(command)", "phase(data)", "phase(status)"],
    "control": ["control(0x5b)", "control(0xff, type=0x21, value=0x0102)"],
    "bytes": ["bytes(55534243)", "bytes(55 53 42 43)"],
}
ACTION_LIST = [text for texts in ACTION_TEXTS.values() for text in texts]
CONDITION_LIST = [text for texts in CONDITION_TEXTS.values() for text in texts]


def test_every_word_is_tried_here() -> None:
    assert set(ACTION_TEXTS) == set(ACTIONS)
    assert set(CONDITION_TEXTS) == set(CONDITIONS)


def places(action: str) -> list[str]:
    """Where an action may stand, such as ``host.in``."""
    kind = parse_action(action)
    return ["function"] if isinstance(kind, PacketSize) else sorted(kind.moments)


# --- there and back ----------------------------------------------------------------------------


def goes_round(plan: Plan) -> None:
    assert Plan.parse(str(plan), plan.seed) == plan
    assert eval(repr(plan), {"Plan": Plan}) == plan
    assert parse_plan(dump_plan(plan)) == plan
    for rule in plan.rules:
        assert eval(repr(rule), {"Rule": Rule}) == rule


@pytest.mark.parametrize("text", ACTION_LIST)
def test_actions_go_there_and_back(text: str) -> None:
    for place in places(text):
        plan = Plan.parse(f"{place} {text}", seed=7)
        goes_round(plan)
        assert plan.rules[0].action == parse_action(text)


@pytest.mark.parametrize("text", CONDITION_LIST)
def test_conditions_go_there_and_back(text: str) -> None:
    for place in ("function.in", "host.out", "cable"):
        plan = Plan.parse(f"{place} {text} corrupt(1)")
        goes_round(plan)
        assert plan.rules[0].conditions == (parse_condition(text),)


@pytest.mark.parametrize(
    "place",
    ["function", "mass_storage", "acm.in", "acm.notify", "f-x.out", "host", "host.in", "cable.out",
     "function.0x81", "cable.0x02"],
)  # fmt: skip
def test_places_go_there_and_back(place: str) -> None:
    plan = Plan.parse(f"{place} stall")
    goes_round(plan)
    assert str(plan.rules[0].where) == place


simple_rules = st.builds(
    lambda place_and_action, conditions: " ".join(
        (place_and_action[0], *conditions, place_and_action[1])
    ),
    st.sampled_from(
        [(p, a) for a in ACTION_LIST for p in places(a) if not a.startswith("packet_size")]
    ),
    st.lists(
        st.sampled_from([c for c in CONDITION_LIST if not c.startswith("control")]), max_size=4
    ),
)


@given(st.lists(simple_rules, max_size=8), st.integers(0, (1 << 63) - 1))
def test_plans_go_there_and_back(rules: list[str], seed: int) -> None:
    plan = Plan.parse(";".join(rules), seed)
    goes_round(plan)
    assert len(plan.rules) == len(rules) == len(plan.explain().splitlines()) - bool(rules) or (
        not rules
    )
    assert Plan.parse("\n".join(rules), seed) == plan, "line ends do for semicolons"
    parts = [plan.for_seam(seam) for seam in SEAMS]
    assert sum(len(part.rules) for part in parts) == len(rules)
    for seam, part in zip(SEAMS, parts, strict=True):
        assert len(part.rules) + len(plan.without_seam(seam).rules) == len(rules)
        assert part.seed == seed


def test_a_plan_without_rules_is_false_and_does_nothing() -> None:
    assert not Plan()
    assert Plan.parse(" ;; \n ") == Plan()
    assert Plan().explain() == "Nothing: the plan has no rules."
    assert Plan.parse("host stall")


def test_toml_has_names_and_words(tmp_path: Path) -> None:
    text = """
name = "mine"
seed = 7
description = "why"

[[rules]]
where = "mass_storage.in"
when = "cbw(0x28) nth(3)"
what = "stall"

[[rules]]
where = "cable"
what = "delay(20ms)"
"""
    path = tmp_path / "plan.toml"
    path.write_text(text)
    plan = load_plan(path)
    rules = "mass_storage.in cbw(0x28) nth(3) stall; cable delay(20ms)"
    assert plan == Plan(Plan.parse(rules).rules, 7, "mine", "why")
    assert parse_plan(dump_plan(plan)) == plan
    assert find_plan(str(path), seed=9) == Plan(plan.rules, 9, "mine", "why")


# --- English -----------------------------------------------------------------------------------


def test_each_action_is_explained_at_each_seam_as_it_acts_there() -> None:
    """Something different for each action, and where seams differ for each seam."""
    said: dict[str, str] = {}
    for name, texts in ACTION_TEXTS.items():
        for place in places(texts[0]):
            seam = place.partition(".")[0]
            sentence = parse_action(texts[0]).explain(seam)
            assert not sentence[0].isupper() and not sentence.endswith("."), sentence
            said[f"{seam} {name}"] = sentence
    for seam in SEAMS:
        own = [sentence for key, sentence in said.items() if key.startswith(f"{seam} ")]
        assert len(set(own)) == len(own) > 0
    for name in ("stall", "delay", "layout", "drop"):
        seams = [said[f"{seam} {name}"] for seam in SEAMS if f"{seam} {name}" in said]
        assert all(a != b for a, b in combinations(seams, 2)), name


GOLDEN = """\
1. At IN endpoints of function mass_storage, on transfers that belong to a SCSI command 0x28 that \
touches blocks 100 to 200 and that are a command's status, of these number 1 and 3 and at most 2 \
time(s): a CSW goes out as csw(tag=1) says.
2. At the cable, on every transfer, of these each with probability 0.01: the host hears of its \
end 20ms late.
3. At OUT endpoints of the host, on transfers that contain the bytes 55 53, of these every 3rd: \
it is cut into URBs as each:odd says.
4. At endpoint notify of function acm, on transfers that hold byte 4096 of the endpoint's stream: \
the device answers NAK for 500ms before it.
5. Of every function: its descriptor says wMaxPacketSize 64 at high speed, and packets have that \
size.
6. At endpoint 0x81 of the cable, on every transfer: its URB ends with -EPIPE, and the device \
never hears of it.
7. At every function, on transfers that are control request (0x5b): it ends after 3 bytes.
Seed 7."""


def test_a_plan_in_english() -> None:
    plan = Plan.parse(
        """mass_storage.in cbw(0x28, lba=100-200) phase(status) nth(1,3) times(2) csw(tag=1)
        cable p(0.01) delay(20ms)
        host.out bytes(5553) every(3) layout(each:odd)
        acm.notify byte(4096) nak(0.5s)
        function packet_size(high=64, illegal)
        cable.0x81 stall
        function control(0x5b) short(3)""",
        seed=7,
    )
    assert plan.explain() == GOLDEN


@pytest.mark.parametrize(
    ("step", "said"), [(1, "every one"), (2, "every 2nd"), (3, "every 3rd"), (11, "every 11th"),
                       (21, "every 21st"), (112, "every 112th")],
)  # fmt: skip
def test_ordinals(step: int, said: str) -> None:
    assert parse_condition(f"every({step})").explain() == said


# --- ready-made plans --------------------------------------------------------------------------


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_ready_made_plan_loads_explains_and_fits_our_gadgets(name: str) -> None:
    plan = find_plan(name, seed=3)
    assert (plan.name, plan.seed) == (name, 3)
    assert plan == CATALOGUE[name].plan(name, 3)
    assert parse_plan(dump_plan(plan)) == plan
    assert plan.explain().startswith("1. ")
    assert plan.description == CATALOGUE[name].bug
    assert CATALOGUE[name].reference
    gadget = composite(GadgetOptions(size=1 << 20))
    check_plan(plan, gadget)
    assert (injected(gadget, plan) is gadget) == (not plan.for_seam("function"))


# --- errors ------------------------------------------------------------------------------------

# text -> what the message must name
ERRORS = [
    ("stall", "expected WHERE [WHEN...] WHAT, such as mass_storage.in stall"),
    ("mass_storage.in", "expected WHERE [WHEN...] WHAT"),
    ("9x stall", "'9x' is no place; expected function, a function's name, host or cable"),
    ("mass.in.out stall", "'mass.in.out' is no place"),
    ("function.0x1ff stall", "an address such as 0x81"),
    ("host.data stall", "the host knows no role 'data' of a function; expected in, out"),
    ("function stal", "'stal' is no action; there are layout"),
    ("function stal", "did you mean stall?"),
    ("function nht(1) stall", "'nht(1)' is no condition; there are nth"),
    ("function nht(1) stall", "did you mean nth?"),
    ("function nth(2)", "'nth(2)' is a condition; the action comes last"),
    ("function stall stall", "'stall' is an action; only the last word is one"),
    ("function stall nth(2)", "'stall' is an action; only the last word is one"),
    ("function Stall!", "expected NAME or NAME(ARGUMENTS)"),
    ("function.in stall(3)", "stall(3): 3 means nothing here; expected stall"),
    ("function.in nth(1, n=2) stall", "n=2 means nothing here; expected nth(N, ...)"),
    ("function.in nth() stall", "N is missing; expected nth(N, ...), from 1"),
    ("function.in nth(0) stall", "N 0 is not from 1 to"),
    ("function.in nth(1,x) stall", "N 'x' is no number"),
    ("function every(0) stall", "expected every(N), from 1"),
    ("function times(0) stall", "expected times(N), from 1"),
    ("function p(2) stall", "2 is not from 0 to 1"),
    ("function p(nan) stall", "nan is not from 0 to 1"),
    ("function p(x) stall", "'x' is no number"),
    ("function p() stall", "p: "),
    ("function byte(-1) stall", "-1 is not from 0"),
    ("function cbw(0x12, lba=9-5) stall", "lba 9-5 does not begin before it ends"),
    ("function cbw(0x12, lba=a-5) stall", "lba 'a-5' is no range"),
    ("function cbw(0x12, lba=1, lba=2) stall", "lba is given twice"),
    ("function phase(x) stall", "'x' is no phase; expected phase(command)"),
    ("function phase stall", "expected phase(command), phase(data) or phase(status)"),
    ("function control(256) stall", "bRequest 256 is not from 0 to 255"),
    ("function control(1) layout(odd)", "layout does not act on control transfers at the function"),
    ("function bytes(zz) stall", "'zz' is not hexadecimal"),
    ("function bytes() stall", "no bytes are given"),
    ("function.out zlp", "zlp acts at function.in, host.out"),
    ("host drop", "drop acts at cable, function"),
    ("cable csw(tag=1)", "csw acts at function.in"),
    ("function.in csw()", "nothing is to be changed"),
    ("function.in csw(merged, tag=1)", "merged goes alone"),
    ("function.in csw(split=13)", "split 13 is not from 1 to 12"),
    ("host packet_size(high=512)", "packet sizes are a function's for its life: no condition"),
    ("function nth(1) packet_size(high=512)", "no condition"),
    ("function.0x81 packet_size(high=512)", "name a role or a direction, such as function.in"),
    ("host control(1) zlp", "zlp does not act on control transfers at the host"),
    ("host control(1) stall", "stall does not act on control transfers at the host"),
    ("function packet_size()", "no size is given"),
    ("function packet_size(hihg=512)", "expected packet_size(full=8"),
    ("function nak(0)", "expected nak(DURATION) such as nak(0.5s), or nak(N)"),
    ("function delay(3)", "'3' is no duration such as 20ms or 0.5s"),
    ("function delay(20 ms)", "'20 ms' is no duration"),
    ("function delay(3601s)", "at most an hour"),
    ("host unlink", "a duration is missing such as 20ms"),
    ("function corrupt()", "OFFSET is missing; expected corrupt(OFFSET)"),
    ("function corrupt(1, 0)", "XOR 0 is not from 1 to 255"),
    ("function short(-1)", "BYTES -1 is not from 0"),
    ("function babble(0)", "BYTES 0 is not from 1"),
    ("function layout(fo)", "column 1: 'fo' is no family"),
    ("function layout()", "column 1: '' is no family"),
    ("cable status(71)", "ERRNO 71 is not from -4095 to 0; expected status(NEGATIVE ERRNO)"),
    ("cable tcp_cut(0)", "BYTES 0 is not from 1"),
    ("cable reorder(0)", "expected reorder(N)"),
]


@pytest.mark.parametrize(("text", "message"), ERRORS)
def test_an_error_names_the_rule_the_word_and_what_is_right(text: str, message: str) -> None:
    with pytest.raises(SchemeError) as caught:
        Plan.parse(f"host.in stall; {text}")
    assert message in str(caught.value)
    rule = str(caught.value).partition(":")[0]
    assert rule.startswith("rule ") and text.split()[0] in rule


@pytest.mark.parametrize(
    ("text", "column", "what"),
    [("function csw(tag=1", 13, "'(' is not closed"), ("host stall)", 11, "')' closes nothing"),
     ("host layout([1,2)", 17, "')' closes nothing")],
)  # fmt: skip
def test_brackets_that_do_not_match_are_pointed_at(text: str, column: int, what: str) -> None:
    for whole in (text, f"{text}; host stall"):
        with pytest.raises(SchemeError, match=f"column {column}: ") as caught:
            Plan.parse(whole)
        assert what in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules = 3", "rules"),
        ("sed = 3", "sed"),
        ("seed = -1", "seed"),
        ("seed = 'x'", "seed"),
        ("[[rules]]\nwhere = 'host'", "what"),
        ("[[rules]]\nwhere = 'host'\nwhat = 'stal'", "'stal' is no action"),
        ("[[rules]]\nwhere = 'host'\nwhen = 3\nwhat = 'stall'", "when"),
        ("[[rules]]\nwhere = 'host'\nwaht = 'stall'", "waht"),
        ("[[rules", "not TOML"),
    ],
)
def test_toml_that_is_wrong_names_the_file_and_the_key(text: str, message: str) -> None:
    with pytest.raises(SchemeError) as caught:
        parse_plan(text, "lab.toml")
    assert "lab.toml" in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("word", ["", "sg2019", "nothing"])
def test_a_plan_that_is_not_there(word: str) -> None:
    with pytest.raises(SchemeError) as caught:
        find_plan(word)
    assert "expected FILE.toml, rules such as" in str(caught.value)
    assert "sg-2019" in str(caught.value)
    if word == "sg2019":
        assert "did you mean sg-2019?" in str(caught.value)


def test_limits_of_a_plan() -> None:
    with pytest.raises(SchemeError, match="1001 rules: expected at most 1000"):
        Plan.parse("host stall;" * 1001)
    with pytest.raises(SchemeError, match="seed -1: expected 0 to"):
        Plan.parse("host stall", seed=-1)


# --- a plan and its gadget ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("nothing.in stall", "function nothing is not there; functions that are: acm, mass_stor"),
        ("acm.bulk stall", "acm has no endpoint 'bulk'; there are "),
        ("mass_storage.notify stall", "mass_storage has no endpoint 'notify'; there are in, out"),
    ],
)
def test_a_rule_about_what_no_gadget_has(rule: str, message: str) -> None:
    with pytest.raises(SchemeError) as caught:
        check_plan(Plan.parse(rule), composite(GadgetOptions(size=1 << 20)))
    assert rule in str(caught.value)
    assert message in str(caught.value)


def test_packet_sizes_are_checked_against_usb_unless_meant() -> None:
    gadget = composite(GadgetOptions(size=1 << 20))
    for size in (8, 64):
        injected(gadget, Plan.parse(f"mass_storage packet_size(full={size})"))
    injected(gadget, Plan.parse("mass_storage packet_size(high=64, illegal)"))
    with pytest.raises(SchemeError) as caught:
        injected(gadget, Plan.parse("mass_storage packet_size(high=64)"))
    assert "wMaxPacketSize 64 of bulk endpoint in at high speed: expected 512" in str(caught.value)
    assert "write packet_size(..., illegal) to mean it" in str(caught.value)
    with pytest.raises(SchemeError, match="do not exist at low speed"):
        injected(gadget, Plan.parse("mass_storage packet_size(low=8)"))


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "lab.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SchemeError, match=r"lab\.toml: not a text file in UTF-8"):
        load_plan(path)
