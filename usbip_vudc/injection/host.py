"""The host's seam: our hosts, with a plan for how transfers become URBs.

`HostSeam` says step by step what becomes of one transfer; `InjectedBlockingHost` and
`InjectedHost` do the steps, each in its own way. The parts of a laid out transfer follow one
another, and a short one ends it, so that a benign layout changes nothing; to submit all of an SG
list's URBs at once, as Linux's usb_sg_init does without SG, is `transfer_sg`'s.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import anyio

from usbip_vudc.errors import UrbError
from usbip_vudc.host.blocking import BlockingHost
from usbip_vudc.host.client import Host
from usbip_vudc.host.outcome import result_of
from usbip_vudc.host.session import Connect
from usbip_vudc.host.sg import SgResult
from usbip_vudc.injection.actions import (
    AFTER,
    BEFORE,
    Action,
    BusReset,
    Corrupt,
    Delay,
    Disconnect,
    Nak,
    Stall,
    Unlink,
    UseLayout,
    Zlp,
)
from usbip_vudc.injection.injector import Injector
from usbip_vudc.injection.layout import Layout
from usbip_vudc.injection.placing import lay_out
from usbip_vudc.injection.plan import Plan
from usbip_vudc.injection.shaping import place_of, received, shaped_by, take_over
from usbip_vudc.injection.transfer import Transfer
from usbip_vudc.sglist import Buffer, SGList
from usbip_vudc.urb import URB_SHORT_NOT_OK, URB_ZERO_PACKET, HostUrb, IsoUrb
from usbip_vudc.usb.ch9 import DescriptorType, Direction, Feature, SetupPacket, StandardRequest

__all__ = ("HostSeam", "InjectedBlockingHost", "InjectedHost", "injected_connect")

_PORT_RESET: Final = SetupPacket(0x23, StandardRequest.SET_FEATURE, 4, 0, 0)
_CONTROL_SECONDS: Final = 5.0

_LARGEST: Final = 1024
"""Packet size of an endpoint whose descriptor was not seen: a multiple of every smaller one."""

_READS_CONFIGURATION: Final = (
    0x80, StandardRequest.GET_DESCRIPTOR, DescriptorType.CONFIGURATION,
)  # fmt: skip
_SELECTING: Final = frozenset(
    ((0x00, StandardRequest.SET_CONFIGURATION), (0x01, StandardRequest.SET_INTERFACE))
)


# --- what is done ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Submit:
    """Submit a URB and wait for its end; unlink it after so many seconds where they are given."""

    urb: HostUrb
    unlink_after: float | None = None


@dataclass(frozen=True, slots=True)
class _Sleep:
    """Do nothing for a while."""

    seconds: float


@dataclass(frozen=True, slots=True)
class _GiveUp:
    """Close the connection."""


_Steps = Generator[_Submit | _Sleep | _GiveUp, None, None]


class HostSeam:
    """What a plan makes of the transfers of one host. Methods may be called from any thread."""

    def __init__(self, plan: Plan | Injector) -> None:
        self.injector = plan if isinstance(plan, Injector) else Injector(plan, "host")
        self._deciding = threading.Lock()
        self._selected: dict[tuple[int, int], SetupPacket] = {}
        self._max_packet_sizes: dict[int, int] = {}

    def steps(self, urb: HostUrb, layout: Layout | None = None) -> _Steps:
        """Carry out one transfer; its status and actual_length are set at the end.

        ``layout`` is the one to use where the plan has none for it.
        """
        transfer = _transfer(urb)
        with self._deciding:
            before = self.injector.actions(transfer, BEFORE)
        yield from self._prepare(urb, before)
        shaped = shaped_by(urb, before)
        for action in before:
            if isinstance(action, UseLayout):
                layout = action.layout
        unlink = next((a.seconds for a in before if isinstance(a, Unlink)), None)
        if layout is not None and urb.setup is None:
            max_packet_size = self._max_packet_sizes.get(urb.endpoint, _LARGEST)
            yield from _laid_out(shaped, layout, max_packet_size, unlink)
        else:
            yield _Submit(shaped, unlink)
        yield from self._end(urb, shaped, transfer)

    def _prepare(self, urb: HostUrb, before: tuple[Action, ...]) -> _Steps:
        for action in before:
            match action:
                case Disconnect():
                    yield _GiveUp()
                case BusReset():
                    yield from self._reset()
                case Stall():
                    halt = SetupPacket(
                        0x02, StandardRequest.SET_FEATURE, Feature.ENDPOINT_HALT, urb.endpoint, 0
                    )
                    yield _Submit(HostUrb(0, b"", setup=halt))
                case Nak(seconds):
                    yield _Sleep(seconds)
                case Zlp():
                    yield _Submit(HostUrb(urb.endpoint, b""))

    def _reset(self) -> _Steps:
        """Reset the bus and select again what was selected, as a host does."""
        yield _Submit(HostUrb(0, b"", setup=_PORT_RESET))
        for setup in tuple(self._selected.values()):
            yield _Submit(HostUrb(0, b"", setup=setup))

    def _end(self, urb: HostUrb, shaped: HostUrb, transfer: Transfer) -> _Steps:
        actual = shaped.actual
        if urb is not shaped:
            take_over(urb, shaped)
        transfer.data = received(urb) if urb.is_in else transfer.data
        with self._deciding:
            after = self.injector.actions(transfer, AFTER)
            self.injector.finished(transfer, actual)
        for action in after:
            if isinstance(action, Corrupt) and action.offset < actual:
                place = place_of(urb, action.offset)
                (byte,) = urb.sg.cut(place, place + 1)
                byte[0] ^= action.xor
            elif isinstance(action, Delay):
                yield _Sleep(action.seconds)
        self._learn(urb)

    def _learn(self, urb: HostUrb) -> None:
        """Keep what the host itself would know: what it selected, and the endpoints' packets."""
        setup = urb.setup
        if setup is None or urb.status:
            return
        if (setup.bmRequestType, setup.bRequest, setup.wValue >> 8) == _READS_CONFIGURATION:
            self._max_packet_sizes.update(_packet_sizes(urb.sg.gather()[: urb.actual]))
        if (setup.bmRequestType, setup.bRequest) not in _SELECTING:
            return
        if setup.bRequest == StandardRequest.SET_CONFIGURATION:
            self._selected.clear()
        self._selected[setup.bRequest, setup.wIndex] = setup


def _packet_sizes(configuration: bytes) -> Iterator[tuple[int, int]]:
    """Address and packet size of each endpoint descriptor, as far as they are whole."""
    while len(configuration) >= 7 and configuration[0] >= 2:
        if configuration[1] == DescriptorType.ENDPOINT:
            yield configuration[2], int.from_bytes(configuration[4:6], "little") & 0x7FF
        configuration = configuration[configuration[0] :]


def _transfer(urb: HostUrb) -> Transfer:
    return Transfer(
        seam="host",
        address=0 if urb.setup is not None else urb.endpoint,
        direction=Direction.IN if urb.is_in else Direction.OUT,
        length=urb.length,
        data=b"" if urb.is_in else urb.sg.gather(),
        setup=urb.setup,
        is_iso=urb.is_iso,
    )


def _laid_out(urb: HostUrb, layout: Layout, max_packet_size: int, unlink: float | None) -> _Steps:
    """A URB for each request of the layout, one after the other."""
    requests = list(lay_out(layout, urb.sg, max_packet_size, copy_in=not urb.is_in))
    urb.actual = 0
    status = 0
    for laid in requests:
        # Only the end of it all may be followed by a ZLP.
        flags = urb.flags if laid is requests[-1] else urb.flags & ~URB_ZERO_PACKET
        part = HostUrb(urb.endpoint, laid.sg, flags=flags)
        yield _Submit(part, unlink)
        if urb.is_in:
            laid.bring_back(part.actual)
        urb.actual += part.actual
        status = part.status or 0
        if status or part.actual < part.length:
            break
    if not status and urb.flags & URB_SHORT_NOT_OK and urb.actual < urb.length:
        status = -errno.EREMOTEIO
    urb.status = status


# --- who does it -------------------------------------------------------------------------------


class InjectedBlockingHost(BlockingHost):
    """A BlockingHost whose transfers go through a plan. Takes and raises what that one does."""

    def __init__(
        self, host: str, port: int, busid: str, *, plan: Plan | Injector | HostSeam
    ) -> None:
        super().__init__(host, port, busid)
        self.seam = plan if isinstance(plan, HostSeam) else HostSeam(plan)

    def transfer(self, urb: HostUrb, timeout: float | None = None) -> int:
        """As of every BlockingHost; ``timeout`` in seconds is for all of the transfer's URBs."""
        self._carry_out(self.seam.steps(urb), timeout)
        return result_of(urb)

    def transfer_sg(
        self,
        endpoint: int,
        sg: SGList,
        *,
        scatter_gather: bool = True,
        timeout: float | None = None,
    ) -> SgResult:
        """As of every BlockingHost where no rule acts on it; else as the plan lays it out."""
        if not self.seam.injector:
            return super().transfer_sg(endpoint, sg, scatter_gather=scatter_gather, timeout=timeout)
        urb = HostUrb(endpoint, sg, flags=URB_SHORT_NOT_OK if endpoint & Direction.IN else 0)
        self._carry_out(self.seam.steps(urb, _split(sg, scatter_gather)), timeout)
        return SgResult(urb.actual, urb.status or 0, (urb,))

    def transfer_each(self, urbs: Sequence[HostUrb], timeout: float | None = None) -> int:
        """As of every BlockingHost where there are no rules; else one after the other."""
        if not self.seam.injector:
            return super().transfer_each(urbs, timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        moved = 0
        for urb in urbs:
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            moved += self.transfer(urb, left)
        return moved

    def _carry_out(self, steps: _Steps, timeout: float | None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        for step in steps:
            match step:
                case _Sleep(seconds):
                    time.sleep(seconds)
                case _GiveUp():
                    self.close()
                case _Submit(urb, None):
                    left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
                    with suppress(UrbError):  # its status tells
                        super().transfer(urb, _CONTROL_SECONDS if urb.setup else left)
                case _Submit(urb, seconds):
                    self.submit(urb)
                    if not self.wait(urb, seconds):
                        self.unlink(urb)
                        self.wait(urb, _CONTROL_SECONDS)


class InjectedHost:
    """A Host whose transfers go through a plan; ``host`` is the one below."""

    def __init__(self, host: Host, plan: Plan | Injector | HostSeam) -> None:
        self.host = host
        self.seam = plan if isinstance(plan, HostSeam) else HostSeam(plan)

    async def transfer(self, urb: HostUrb, timeout: float | None = None) -> int:
        """As `Host.transfer`; ``timeout`` in seconds is for all of the transfer's URBs."""
        await self._carry_out(self.seam.steps(urb), timeout)
        return result_of(urb)

    async def transfer_iso(
        self,
        endpoint: int,
        lengths: Sequence[int],
        data: Buffer | None = None,
        timeout: float | None = None,
    ) -> IsoUrb:
        """As `Host.transfer_iso`."""
        urb = IsoUrb(endpoint, bytearray(sum(lengths)) if data is None else data, lengths)
        await self.transfer(urb, timeout)
        return urb

    async def transfer_sg(
        self, endpoint: int, sg: SGList, *, scatter_gather: bool = True
    ) -> SgResult:
        """As `Host.transfer_sg`, laid out by the plan."""
        urb = HostUrb(endpoint, sg, flags=URB_SHORT_NOT_OK if endpoint & Direction.IN else 0)
        await self._carry_out(self.seam.steps(urb, _split(sg, scatter_gather)), None)
        return SgResult(urb.actual, urb.status or 0, (urb,))

    async def control(
        self, setup: SetupPacket, data: Buffer = b"", timeout: float | None = 5.0
    ) -> bytes:
        """As `Host.control`."""
        if setup.direction == Direction.IN:
            buffer = bytearray(setup.wLength)
            actual = await self.transfer(HostUrb(0, buffer, setup=setup), timeout)
            return bytes(buffer[:actual])
        await self.transfer(HostUrb(0, data, setup=setup), timeout)
        return b""

    async def _carry_out(self, steps: _Steps, timeout: float | None) -> None:
        deadline = None if timeout is None else anyio.current_time() + timeout
        for step in steps:
            match step:
                case _Sleep(seconds):
                    await anyio.sleep(seconds)
                case _GiveUp():
                    self.host.close()
                case _Submit(urb, None):
                    left = None if deadline is None else max(deadline - anyio.current_time(), 0.0)
                    with suppress(UrbError):  # its status tells
                        await self.host.transfer(urb, _CONTROL_SECONDS if urb.setup else left)
                case _Submit(urb, seconds):
                    with suppress(UrbError):
                        await self._unlinked(urb, seconds)

    async def _unlinked(self, urb: HostUrb, seconds: float | None) -> None:
        # A cancelled transfer is unlinked, and has its answer when it returns.
        with anyio.move_on_after(seconds):
            await self.host.transfer(urb)


def _split(sg: SGList, scatter_gather: bool) -> Layout | None:
    if scatter_gather or len(sg.segments) < 2:
        return None
    return Layout.parse("each:" + "+".join(str(len(segment)) for segment in sg))


def injected_connect(plan: Plan | Injector) -> Connect:
    """What makes our pyusb backend's hosts: ``get_backend(connect=injected_connect(plan))``.

    All connections of one such backend share the plan's state.
    """
    return partial(InjectedBlockingHost, plan=HostSeam(plan))
