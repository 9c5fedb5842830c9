"""What Linux's own f_mass_storage breaks, and why: facts of 6.1, held by the kernel lane."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ("KNOWN",)

_NO_STALL: Final = (
    "without the attribute stall it ends the data with a short packet or a ZLP, and neither pads "
    "nor halts; its own comment says that BOT wants one of the two (f_mass_storage.c, "
    "finish_reply())"
)
_UNWEDGED: Final = (
    "at the reset it clears the halt of bulk IN that a refused CBW left, for the sake of one "
    "controller (f_mass_storage.c, handle_exception())"
)

KNOWN: Final[Mapping[str, Mapping[str, str]]] = {
    "f_mass_storage": {"reset-stalls": _UNWEDGED},
    "f_mass_storage, stall=0": {
        **dict.fromkeys(
            ("case-4", "case-5", "case-5-short", "case-8", "case-8-more", "case-8-less"), _NO_STALL
        ),
        "reset-stalls": _UNWEDGED,
    },
}
"""Device -> check -> why it fails there. What is not named passes. configfs begins with stall=0."""
