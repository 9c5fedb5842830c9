"""Profile: where the bytes of a serial port go; and what the port gives it, a small protocol.

A profile knows no endpoint and no USB: it takes bytes from a `BytesIn`, sends them by a
Transmitter, and sees a `LineOfPort`. So each works on CDC-ACM, on a port without a class, and on
whatever else serves a `Port`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Protocol

import anyio

from gadgets.serial.events import Events
from gadgets.serial.line import LineEvent
from gadgets.serial.packets import Transmitter
from usbip_vudc.usb.cdc import LineCoding, SerialState

__all__ = ("BytesIn", "LineOfPort", "Port", "Profile")


class BytesIn(Protocol):
    """Bytes from the host, as `Receiver` hands them out."""

    def start(self) -> None:
        """Let the host send."""

    def take(self) -> list[memoryview]:
        """Lend all that has come, in order; empty for nothing."""

    def release(self) -> None:
        """Give the oldest loan back."""

    def stop(self) -> bytes:
        """The configuration is over: a copy of what came and was not taken."""


class LineOfPort(Protocol):
    """The line that the bytes travel on."""

    @property
    def dtr(self) -> bool:
        """Whether the host holds DTR up."""

    @property
    def dtr_rises(self) -> int:
        """How often DTR has risen so far: how often a host has opened the port."""

    @property
    def line_coding(self) -> LineCoding:
        """What the host set last."""

    def events(self) -> Events:
        """Everything that happens on the line from now on."""

    def heard(self, event: LineEvent) -> None:
        """Tell every listener of something that happened behind the port."""

    def show(self, changes: Mapping[SerialState, bool]) -> anyio.Event:
        """Tell the host of DCD, DSR and their like, soon."""


class Port(ABC):
    """One connection of a port. ``max_packet_size`` in bytes is what an IN packet holds."""

    line: LineOfPort
    max_packet_size: int

    @abstractmethod
    def receiver(self, arrived: Callable[[], None]) -> BytesIn:
        """Where the bytes from the host come; ``arrived`` is called when some have."""

    @abstractmethod
    def transmitter(
        self, pull: Callable[[], tuple[list[memoryview], bool]], sent: Callable[[], None]
    ) -> Transmitter:
        """What takes bytes to the host: those that ``pull`` hands out (see `Transmitter`)."""


class Profile(ABC):
    """What a serial port does with its bytes. It belongs to one function.

    `connect` and `disconnect` alternate, once for every configuration that a host selects; `run`
    is a task between them, for those that have something to wait for.
    """

    @property
    def text(self) -> str:
        """How command line and schemes write it; empty for one that belongs to a program."""
        return ""

    @abstractmethod
    def connect(self, port: Port) -> None:
        """Bytes can flow: get a receiver and a transmitter. Never waits."""

    @abstractmethod
    def disconnect(self) -> None:
        """The configuration is over: what is queued has ended or is about to end."""

    async def run(self) -> None:  # noqa: B027 - most work in callbacks alone
        """Work on one connection until cancelled. Returning early ends nothing.

        It may shield a moment of its end, as to hand over what the host has sent.
        """
