"""Hypothesis strategies for layouts, rules and plans.

    @given(layout=layouts(benign_for=(512, 4096)))
    @given(plan=plans(seams=("function",), actions=("stall", "zlp"), functions=("mass_storage",)))

What they draw shrinks to few short segments and few plain rules, and its repr, which Hypothesis
prints, pastes back into a test. Nothing is carried here: `usbip_vudc.seams` does that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from usbip_vudc.injection import Layout, Plan, Rule
from usbip_vudc.injection.actions import ACTIONS, PacketSize
from usbip_vudc.injection.conditions import Chance
from usbip_vudc.injection.layout import PAGE
from usbip_vudc.injection.transfer import PHASES, SEAMS

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise ImportError(
        "usbip_vudc.strategies needs hypothesis: pip install 'usbip-vudc[hypothesis]'"
    ) from error

__all__ = ("layouts", "plans", "rules")

_EDGES: Final = (7, 8, 9, 63, 64, 65, 511, 512, 513, 1023, 1024, 1025, 4095, 4096, 4097)
"""Lengths around packets and pages, where mistakes are."""

_PLAIN: Final = ("whole", "one-byte-head", "straddle", "odd", "maxp-1", "maxp+1")
"""Families without an argument, the plainest first."""


# --- layouts -----------------------------------------------------------------------------------


def layouts(
    *,
    max_length: int = 2 * PAGE,
    benign_for: tuple[int, int] | None = None,
    families: bool = False,
) -> st.SearchStrategy[Layout]:
    """Layouts that write out at most ``max_length`` bytes.

    With ``benign_for=(max_packet_size, length)`` those that are benign for such transfers. With
    ``families`` those too that fit themselves to a transfer, whatever its length; one of these
    does not shrink to a layout that is written out.
    """
    more = [_families()] if families else []
    if benign_for is None:
        return st.one_of(_requests(max_length), *more).map(Layout.parse)
    maxp, length = benign_for
    texts = st.one_of(st.just("whole"), _benign(max_length, maxp), *more)
    return texts.map(Layout.parse).filter(lambda layout: layout.verdict(length, maxp).benign)


@st.composite
def _lengths(draw: st.DrawFn, most: int) -> int:
    """From 1 to ``most``: any, or near a packet or a page, or short."""
    length = draw(st.integers(1, most))
    edges = [edge for edge in _EDGES if edge <= most]
    kinds = [length, 1 + length % min(most, 16), *([edges[length % len(edges)]] if edges else [])]
    return kinds[draw(st.integers(0, len(kinds) - 1))]  # any shrinks best


def _term(length: int, count: int = 1) -> st.SearchStrategy[str]:
    """Segments of this length; where in a page they begin is mostly left open."""
    run = f"{count}x{length}" if count > 1 else f"{length}"
    offset = st.integers(0, PAGE - 1).map(lambda offset: f"{run}@{offset}")
    return st.one_of(st.just(run), st.just(run), offset)


@st.composite
def _segments(draw: st.DrawFn, most: int) -> tuple[str, int]:
    """Segments of one request in at most so many bytes, and how many bytes they are."""
    terms: list[str] = []
    size = 0
    while size < most and len(terms) < 4 and draw(st.booleans()):
        length = draw(_lengths(most - size))
        counts = st.integers(1, min((most - size) // length, 16))
        count = draw(st.one_of(st.just(1), st.just(1), counts))
        terms.append(draw(_term(length, count)))
        size += count * length
    return "+".join(terms), size


@st.composite
def _requests(draw: st.DrawFn, max_length: int) -> str:
    """Requests of segments, written out; an empty one is a ZLP, or at the end the rest."""
    requests: list[str] = []
    left = max_length
    while len(requests) < 4 and (not requests or draw(st.booleans())):
        text, size = draw(_segments(left))
        requests.append(text)
        left -= size
    if len(requests) == 1:
        return requests[0] or "whole"
    return "".join(f"[{request}]" for request in requests)


@st.composite
def _benign(draw: st.DrawFn, max_length: int, maxp: int) -> str:
    """Requests that end at the end of a packet, but for the last, cut anywhere into segments."""
    requests: list[str] = []
    left = max_length
    while left > maxp and len(requests) < 3 and draw(st.booleans()):
        size = maxp * draw(st.integers(1, min((left - 1) // maxp, 8)))
        requests.append(draw(_exactly(size)))
        left -= size
    requests.append(draw(_exactly(draw(_lengths(left)))))
    return requests[0] if len(requests) == 1 else "".join(f"[{request}]" for request in requests)


@st.composite
def _exactly(draw: st.DrawFn, size: int) -> str:
    """So many bytes, in up to four segments."""
    terms: list[str] = []
    while size > 1 and len(terms) < 3 and draw(st.booleans()):
        length = draw(_lengths(size - 1))
        terms.append(draw(_term(length)))
        size -= length
    return "+".join((*terms, draw(_term(size))))


def _families() -> st.SearchStrategy[str]:
    named = st.one_of(
        st.sampled_from(_PLAIN),
        st.integers(1, 8).map(lambda count: f"packets:{count}"),
        st.integers(0, PAGE - 1).map(lambda offset: f"page-offset:{offset}"),
        st.integers(0, 0xFFFF).map(lambda seed: f"random:{seed}"),
    )
    return named | named.map(lambda family: f"each:{family}")


# --- rules -------------------------------------------------------------------------------------


def _calls(name: str, low: int, high: int) -> st.SearchStrategy[str]:
    return st.integers(low, high).map(lambda number: f"{name}({number})")


def _timed(name: str) -> st.SearchStrategy[str]:
    """Short durations: an example is to take no time."""
    return st.integers(0, 20).map(lambda count: f"{name}({count}ms)")


def _csw() -> st.SearchStrategy[str]:
    number = st.integers(0, 0xFFFF_FFFF)
    fields = st.one_of(
        number.map(lambda n: f"tag={n}"),
        number.map(lambda n: f"residue={n}"),
        st.integers(0, 0xFF).map(lambda n: f"status={n}"),
        number.map(lambda n: f"signature={n}"),
        st.integers(1, 64).map(lambda n: f"length={n}"),
        st.integers(1, 12).map(lambda n: f"split={n}"),
        st.just("merged"),
    )
    return fields.map(lambda field: f"csw({field})")


def _packet_size() -> st.SearchStrategy[str]:
    speeds = st.sampled_from(("full", "high", "super"))
    return st.tuples(speeds, st.integers(1, 1024)).map(
        lambda given: f"packet_size({given[0]}={given[1]}, illegal)"
    )


_ACTIONS: Final[dict[str, st.SearchStrategy[str]]] = {
    "stall": st.just("stall"),
    "zlp": st.just("zlp"),
    "drop": st.just("drop"),
    "bus_reset": st.just("bus_reset"),
    "tcp_reset": st.just("tcp_reset"),
    "short": _calls("short", 0, 4096),
    "babble": _calls("babble", 1, 4096),
    "actual": _calls("actual", 0, 4096),
    "reorder": _calls("reorder", 1, 4),
    "status": st.sampled_from((0, -32, -71, -75, -104, -110)).map(lambda n: f"status({n})"),
    "corrupt": st.tuples(st.integers(0, 4096), st.integers(1, 0xFF)).map(
        lambda given: f"corrupt({given[0]}, {given[1]})"
    ),
    "layout": layouts().map(lambda layout: f"layout({layout})"),
    "csw": _csw(),
    "nak": _timed("nak"),
    "delay": _timed("delay"),
    "unlink": _timed("unlink"),
    "disconnect": _timed("disconnect"),
    "tcp_stall": _timed("tcp_stall"),
    "tcp_cut": st.lists(st.integers(1, 4096), min_size=1, max_size=3).map(
        lambda sizes: f"tcp_cut({', '.join(map(str, sizes))})"
    ),
    "packet_size": _packet_size(),
}
"""Each action by its word -> its texts, the plainest first."""


def _conditions() -> st.SearchStrategy[str]:
    """Conditions but for control(...), which makes a rule one of endpoint 0."""
    return st.one_of(
        _calls("nth", 1, 8),
        _calls("every", 1, 8),
        _calls("times", 1, 8),
        st.sampled_from((0.5, 0.1, 0.01)).map(lambda p: f"p({p:g})"),
        st.sampled_from(PHASES).map(lambda phase: f"phase({phase})"),
        st.sampled_from((0x28, 0x2A, 0x12, 0x25)).map(lambda opcode: f"cbw({opcode:#04x})"),
        _calls("byte", 0, 1 << 16),
        st.binary(min_size=1, max_size=4).map(lambda data: f"bytes({data.hex()})"),
    )


def rules(
    *,
    seams: Iterable[str] = SEAMS,
    actions: Iterable[str] | None = None,
    functions: Iterable[str] = (),
) -> st.SearchStrategy[Rule]:
    """Rules at these seams that do these things; at the function's, of these functions or any.

    ``actions`` are names as rules have them, by default all but packet_size, which changes the
    descriptors. Raises ValueError for a name that is unknown, or where no rule is left.
    """
    default = (name for name in _ACTIONS if name != PacketSize.name)
    wanted = tuple(default if actions is None else actions)
    places, names = tuple(seams), tuple(functions)
    kinds = [
        _rules_of(place, name)
        for name in sorted(wanted, key=_order)
        for seam in places
        if _acts_at(name, seam)
        for place in (("function", *names) if seam == "function" else (seam,))
    ]
    if not kinds:
        raise ValueError(f"none of {', '.join(wanted)} acts at any of {', '.join(places)}")
    return st.one_of(kinds)


def _order(name: str) -> int:
    """The plainest first."""
    if name not in _ACTIONS:
        raise ValueError(f"action {name!r} is unknown; there are {', '.join(_ACTIONS)}")
    return list(_ACTIONS).index(name)


def _acts_at(name: str, seam: str) -> bool:
    if seam not in SEAMS:
        raise ValueError(f"seam {seam!r} is unknown; there are {', '.join(SEAMS)}")
    if name == PacketSize.name:
        return seam == "function"
    return any(place.startswith(f"{seam}.") for place in ACTIONS[name].moments)


def _rules_of(place: str, name: str) -> st.SearchStrategy[Rule]:
    """Rules of one place with one action, everywhere or in one direction that it acts in."""
    seam = place if place in SEAMS else "function"
    is_static = name == PacketSize.name
    moments = ("function.in", "function.out") if is_static else sorted(ACTIONS[name].moments)
    ways = ["", *(key.removeprefix(seam) for key in moments if key.startswith(f"{seam}."))]
    most = 0 if is_static else 2
    conditions = st.lists(_conditions(), max_size=most, unique_by=_word)
    return st.tuples(st.sampled_from(ways), conditions, _ACTIONS[name]).map(
        lambda drawn: Rule.parse(" ".join((place + drawn[0], *drawn[1], drawn[2])))
    )


def _word(condition: str) -> str:
    return condition.partition("(")[0]


def plans(
    *,
    seams: Iterable[str] = SEAMS,
    actions: Iterable[str] | None = None,
    functions: Iterable[str] = (),
    max_rules: int = 3,
) -> st.SearchStrategy[Plan]:
    """Plans of at most ``max_rules`` such rules (`rules`), and a seed where one throws dice.

    The smallest is the empty one: what fails with it fails without any plan.
    """
    drawn = rules(seams=tuple(seams), actions=actions, functions=functions)
    return st.lists(drawn, max_size=max_rules).flatmap(_seeded)


def _seeded(drawn: list[Rule]) -> st.SearchStrategy[Plan]:
    has_chance = any(isinstance(c, Chance) for rule in drawn for c in rule.conditions)
    seeds = st.integers(0, 0xFFFF) if has_chance else st.just(0)
    return seeds.map(lambda seed: Plan(tuple(drawn), seed))
