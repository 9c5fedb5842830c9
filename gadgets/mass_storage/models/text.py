"""Models as people write them: ``bad(100-199)``, ``slow(0-63, 500ms)``, ``volatile_cache``."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gadgets.mass_storage.models.base import Model
from gadgets.mass_storage.models.blocks import BadBlocks, BlockLimit, SlowBlocks
from gadgets.mass_storage.models.cache import VolatileCache
from gadgets.mass_storage.models.capacity import FakeCapacity, OffByOne
from gadgets.mass_storage.models.manners import NeedsReset, ResidueLie
from gadgets.mass_storage.unit import Lun
from usbip_vudc.errors import SchemeError
from usbip_vudc.scheme.size import parse_size

__all__ = ("MODELS", "Kind", "models_of", "with_models")

_WRITTEN: Final = re.compile(r"([a-z_]+)(?:\((.*)\))?")
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s)")
_MOST: Final = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of model: how it is written, what it does, and what makes it of its arguments."""

    form: str
    does: str
    make: Callable[[Lun, Sequence[str]], Model]


def with_models(lun: Lun, texts: Iterable[str]) -> Lun:
    """The unit with these models around it, the first the innermost.

    Raises SchemeError for one that is unknown or impossible; the unit is then as it was.
    """
    for text in texts:
        lun = _parse(lun, text)
    return lun


def models_of(lun: Lun) -> tuple[Lun, list[str]]:
    """The unit inside all models, and their texts as `with_models` takes them."""
    texts: list[str] = []
    while isinstance(lun, Model):
        texts.append(lun.text)
        lun = lun.inner
    return lun, texts[::-1]


def _parse(lun: Lun, text: str) -> Model:
    found = _WRITTEN.fullmatch(text.strip())
    kind = MODELS.get(found[1]) if found is not None else None
    if found is None or kind is None:
        close = difflib.get_close_matches(text.partition("(")[0], MODELS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        forms = ", ".join(each.form for each in MODELS.values())
        raise SchemeError(f"model {text!r} is unknown{hint}; there are {forms}")
    arguments = [each.strip() for each in (found[2] or "").split(",") if each.strip()]
    try:
        return kind.make(lun, arguments)
    except (SchemeError, ValueError, IndexError) as error:
        why = f": {error}" if isinstance(error, SchemeError) else ""
        raise SchemeError(f"model {text!r}: expected {kind.form}{why}") from None


def _bad(lun: Lun, arguments: Sequence[str]) -> Model:
    return BadBlocks(lun, _blocks(arguments))


def _slow(lun: Lun, arguments: Sequence[str]) -> Model:
    duration = _DURATION.fullmatch(arguments[-1])
    if duration is None:
        raise SchemeError(f"{arguments[-1]!r} is no duration such as 500ms or 2s")
    seconds = float(duration[1]) / (1000 if duration[2] == "ms" else 1)
    return SlowBlocks(lun, _blocks(arguments[:-1]), seconds)


def _limit(lun: Lun, arguments: Sequence[str]) -> Model:
    return BlockLimit(lun, _number(arguments, 64))


def _fake(lun: Lun, arguments: Sequence[str]) -> Model:
    size, how = arguments
    if how not in ("wrap", "drop"):
        raise SchemeError(f"{how!r} is neither wrap nor drop")
    return FakeCapacity(lun, parse_size(size), wraps=how == "wrap")


def _residue(lun: Lun, arguments: Sequence[str]) -> Model:
    return ResidueLie(lun, _number(arguments, 512))


def _plain(make: Callable[[Lun], Model]) -> Callable[[Lun, Sequence[str]], Model]:
    def made(lun: Lun, arguments: Sequence[str]) -> Model:
        if arguments:
            raise SchemeError("it takes nothing")
        return make(lun)

    return made


def _number(arguments: Sequence[str], default: int) -> int:
    (text,) = arguments or (str(default),)
    number = int(text)
    if not 1 <= number <= _MOST:
        raise SchemeError(f"{number} is not from 1 to {_MOST}")
    return number


def _blocks(arguments: Sequence[str]) -> list[tuple[int, int]]:
    if not arguments:
        raise SchemeError("no blocks are named")
    pairs = []
    for each in arguments:
        first, dash, last = each.partition("-")
        pairs.append((int(first), int(last) if dash else int(first)))
    return pairs


MODELS: Final[Mapping[str, Kind]] = {
    "bad": Kind(
        "bad(LBA, FIRST-LAST, ...)",
        "Reading these blocks fails with 03/11/00 and writing them with 03/0C/00, INFORMATION "
        "being the LBA; what lies before them moves",
        _bad,
    ),
    "slow": Kind(
        "slow(LBA, FIRST-LAST, ..., DURATION)",
        "A command that reads or writes one of these blocks takes so much longer, under NAK",
        _slow,
    ),
    "limit": Kind(
        "limit or limit(BLOCKS)",
        "A command moves that many blocks (64) and fails at the next one (US_FL_MAX_SECTORS_64)",
        _limit,
    ),
    "fake": Kind(
        "fake(SIZE, wrap) or fake(SIZE, drop)",
        "It claims SIZE; behind its real end it begins again, or forgets and reads as zeroes",
        _fake,
    ),
    "off_by_one": Kind(
        "off_by_one",
        "READ CAPACITY tells of one block more than there is (US_FL_FIX_CAPACITY)",
        _plain(OffByOne),
    ),
    "volatile_cache": Kind(
        "volatile_cache",
        "What was not synchronised is lost when the configuration ends, and with the process",
        _plain(VolatileCache),
    ),
    "residue": Kind(
        "residue or residue(BYTES)",
        "The CSW of a good command has a residue (512) though all moved (US_FL_IGNORE_RESIDUE)",
        _residue,
    ),
    "needs_reset": Kind(
        "needs_reset",
        "After an error all but REQUEST SENSE ends with a phase error, until it is reset",
        _plain(NeedsReset),
    ),
}
"""Every kind of model by its name."""
