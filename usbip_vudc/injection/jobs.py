"""Jobs: a function's Request on its way, and the requests that it becomes below. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from usbip_vudc.function import Request
from usbip_vudc.injection.actions import Action, Babble, Corrupt, Csw
from usbip_vudc.injection.csw import rewritten
from usbip_vudc.injection.placing import Laid
from usbip_vudc.injection.transfer import Transfer
from usbip_vudc.sglist import SGList

__all__ = ("Job", "Part", "other_bytes")

_BABBLE: Final = b"\xbb"


class Part:
    """One request to come at the endpoint below. ``counts`` is whether its bytes are the job's."""

    __slots__ = ("counts", "laid", "zero")

    def __init__(self, laid: Laid, *, zero: bool = False, counts: bool = True) -> None:
        self.laid = laid
        self.zero = zero
        self.counts = counts


class Job:
    """A function's request on its way.

    ``parts`` are still to come at the endpoint below, ``flying`` are there. It ``is_held`` while a
    rule holds it back, and ``is_over`` when nothing of it is to move any more, though the function
    may hear of that later: then ``may_be_told`` says that it is time.
    """

    __slots__ = (
        "before",
        "flying",
        "is_held",
        "is_over",
        "may_be_told",
        "parts",
        "received",
        "request",
        "transfer",
    )

    def __init__(self, request: Request, transfer: Transfer) -> None:
        self.request = request
        self.transfer = transfer
        self.before: tuple[Action, ...] = ()
        self.parts: deque[Part] = deque()
        self.flying: list[Request] = []
        self.received = 0
        self.is_held = False
        self.is_over = False
        self.may_be_told = False


def other_bytes(sg: SGList, ahead: bytes, actions: Sequence[Action]) -> SGList:
    """What goes out in place of these bytes, ``ahead`` first; the same list where nothing does."""
    if not ahead and not any(isinstance(action, Corrupt | Csw | Babble) for action in actions):
        return sg
    data = bytearray(ahead + sg.gather())
    for action in actions:
        if isinstance(action, Csw):
            data = rewritten(data, action)
        elif isinstance(action, Corrupt) and action.offset < len(data):
            data[action.offset] ^= action.xor
        elif isinstance(action, Babble):
            data += _BABBLE * action.length
    return SGList(data)
