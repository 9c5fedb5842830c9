"""Use: what a host does with a gadget in a cell: OUT and IN with an SG list, and without one.

Each kind of gadget has its own (`disk`, `stream`). Every method raises what a host may meet.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from dataclasses import dataclass

from usbip_vudc.carrier import Carried
from usbip_vudc.injection import Layout, Segment

__all__ = ("Segments", "SgWish", "Use", "lengths_of", "payload")

Segments = tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class SgWish:
    """The SG list that our host is to make of a transfer, and whether as one URB."""

    layout: Layout
    scatter_gather: bool
    max_packet_size: int

    def entries(self, length: int) -> Segments:
        """The entries for ``length`` bytes, all in one list."""
        requests = self.layout.apply(length, self.max_packet_size)
        return tuple(segment for request in requests for segment in request)

    @property
    def one_urb(self) -> bool:
        """Whether the whole list goes out as one URB: ``each:`` is a host without SG."""
        return self.scatter_gather and self.layout.one_request


class Use(ABC):
    """A gadget in use by the host of a `Carried`. ``length`` is the bytes of one transfer."""

    length: int

    def __init__(self, device: Carried, wish: SgWish, timeout: float) -> None:
        self._device = device
        self._wish = wish
        self._timeout = timeout

    @abstractmethod
    def open(self) -> None:
        """Take the device, as a driver's probe does."""

    @abstractmethod
    def send(self, number: int) -> str:
        """OUT with the SG list: how what came to the gadget compares. ``number`` is the round."""

    @abstractmethod
    def fetch(self, number: int) -> str:
        """IN with the SG list: how what came to the host compares."""

    @abstractmethod
    def recover(self) -> str:
        """What a driver does after an error, then the same transfers whole: how they compare."""


def payload(what: str, number: int, length: int) -> bytes:
    """Random bytes, the same for the same round of every run."""
    return random.Random(f"{what} {number}").randbytes(length)


def lengths_of(segments: Segments) -> tuple[int, ...]:
    """Bytes of each."""
    return tuple(segment.length for segment in segments)
