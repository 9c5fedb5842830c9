"""HidFunction: an interface of the HID class with one interrupt endpoint (HID 1.11).

Its control requests are control.py's, its reports go through reports.py; a keyboard and a mouse
add what the reports say. Methods that press or move may be called from any thread, and from any
task: they queue reports and return at once.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Final

import anyio

from gadgets.hid.control import HidControl
from gadgets.hid.reports import ReportSender
from usbip_vudc.function import (
    AltSetting,
    ControlRequest,
    Endpoint,
    EndpointSpec,
    Function,
    InterfaceSpec,
)
from usbip_vudc.sglist import Buffer
from usbip_vudc.usb.ch9 import Speed, UsbClass
from usbip_vudc.usb.hid import BOOT_SUBCLASS, BootProtocol, HidProtocol

__all__ = ("HidFunction",)

_INTERVAL_MS: Final = 10
"""What low speed allows at the least (USB 2.0 5.7.4), and g_hid's own keyboards are near."""

_MAX_PACKET: Final = 8
"""Bytes: all that low speed allows (USB 2.0 5.7.3), and room for every report here."""

_PATIENCE: Final = 30.0


class HidFunction(Function):
    """A boot device without report IDs.

    ``neutral`` is the report while nothing happens, ``boot_length`` how much of a report the boot
    protocol has; ``idle`` is the first idle rate, in steps of 4 ms.
    """

    def __init__(
        self,
        protocol: BootProtocol,
        report_descriptor: bytes,
        *,
        neutral: bytes,
        boot_length: int,
        idle: int,
        bCountryCode: int = 0,
    ) -> None:
        self._boot_length = boot_length
        self._reports = ReportSender(neutral, self._shaped)
        self._control = HidControl(
            report_descriptor,
            idle=idle,
            input_report=lambda: self._shaped(self._still(self._reports.last)),
            output_report=self._take_output,
            bCountryCode=bCountryCode,
        )
        self.interfaces: Sequence[InterfaceSpec] = (
            InterfaceSpec(
                role=protocol.name.lower(),
                bInterfaceClass=UsbClass.HID,
                bInterfaceSubClass=BOOT_SUBCLASS,
                bInterfaceProtocol=protocol,
                alternates=(
                    AltSetting(
                        endpoints=(_endpoint(),), class_descriptors=(self._control.descriptor,)
                    ),
                ),
            ),
        )

    def wait_taken(self, timeout: float = _PATIENCE) -> None:
        """Wait until the host has taken every report, at most ``timeout`` seconds.

        It blocks its thread, which must not be the UDC's. Raises TimeoutError, and
        EndpointDisabled where the host left first: the rest is then lost.
        """
        self._reports.wait_taken(timeout)

    async def taken(self) -> None:
        """The same for a task in the UDC's event loop, without a time limit."""
        await self._reports.taken()

    @property
    def protocol(self) -> HidProtocol:
        """What the host has asked for; each configuration begins with REPORT."""
        return self._control.protocol

    @property
    def idle_seconds(self) -> float | None:
        """After how long the same report is sent again, in seconds; None for never."""
        return self._control.idle_seconds

    # --- Function ------------------------------------------------------------------------------

    def setup(self, request: ControlRequest) -> Buffer | None:
        """The requests of HID 1.11 7, the standard one for its descriptors among them."""
        if request.interface is None:
            return None
        before = self.idle_seconds
        answer = self._control.handle(request.setup, request.data)
        if self.idle_seconds != before:
            self._reports.touch()  # what waits for the old idle rate waits anew, for this one
        return answer

    def selected(self) -> None:
        """Each configuration begins as the first one did, before its first request."""
        self._control.reset()

    async def run(self, endpoints: Mapping[str, Endpoint]) -> None:
        """One host: its reports, and the same again at the idle rate."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._reports.carry, endpoints["in"])
            tasks.start_soon(self._repeat_when_idle)
            tasks.start_soon(self._perform)

    async def _repeat_when_idle(self) -> None:
        while True:
            period = self._control.idle_seconds
            with anyio.move_on_after(math.inf if period is None else period) as quiet:
                await self._reports.moved()
            if quiet.cancelled_caught:
                # HID 1.11 7.2.4: no change for so long, and the host wants to hear of that too.
                self._reports.repeat(self._still(self._reports.last))

    def _shaped(self, report: bytes) -> bytes:
        return report[: self._boot_length] if self.protocol is HidProtocol.BOOT else report

    # --- what a keyboard or a mouse adds -------------------------------------------------------

    async def _perform(self) -> None:
        """Do by itself what it was made for, once for each host."""

    @abstractmethod
    def _take_output(self, data: bytes) -> bool:
        """Act on an output report; False stalls."""

    @abstractmethod
    def _still(self, report: bytes) -> bytes:
        """The report without what happens only once, such as a movement."""


def _endpoint() -> EndpointSpec:
    speeds = (Speed.LOW, Speed.FULL, Speed.HIGH, Speed.SUPER)
    return EndpointSpec.interrupt_in(
        "in", interval_ms=_INTERVAL_MS, max_packet_size=dict.fromkeys(speeds, _MAX_PACKET)
    )
