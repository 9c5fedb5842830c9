"""FunctionFs: runs one Function behind one FunctionFS mount.

Descriptors, strings and the files are python-functionfs'; data moves as aio.py's transfers. The
events of ep0 decide when the function lives (drivers/usb/gadget/function/f_fs.c).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
import functionfs

from configfs.aio import Transfers
from configfs.ffs_descriptors import FfsDescription
from configfs.ffs_endpoint import FfsEndpoint
from configfs.wedges import Wedges
from usbip_vudc.function import ControlRequest, Function
from usbip_vudc.lives import Lives
from usbip_vudc.sglist import Buffer
from usbip_vudc.usb.ch9 import Direction, Recipient, SetupPacket

__all__ = ("FunctionFs", "Mounted")

log = logging.getLogger(__name__)

_EVENT_SIZE: Final = ctypes.sizeof(functionfs.Event)
_EVENTS_AT_ONCE: Final = 4
"""All that ``ev.types`` of struct ffs_data has room for."""

_EVENT_NAMES: Final = {
    functionfs.BIND: "BIND",
    functionfs.UNBIND: "UNBIND",
    functionfs.ENABLE: "ENABLE",
    functionfs.DISABLE: "DISABLE",
    functionfs.SUSPEND: "SUSPEND",
    functionfs.RESUME: "RESUME",
}

_CONTROL_LOST: Final = frozenset(
    (errno.EIDRM, errno.ESHUTDOWN, errno.EOVERFLOW, errno.ENODEV, errno.EINTR, errno.ECONNRESET)
)
"""The host gave up a control transfer, sent another SETUP, or went away."""


@dataclass(frozen=True, slots=True)
class Mounted:
    """A function, what FunctionFS is told of it, and the mount ``where`` it is told."""

    function: Function
    description: FfsDescription
    where: Path


class FunctionFs:
    """A function on its mount, with the files of both.

    ``lives`` runs the function; ``on_crash`` hears when a completion of it raised.
    """

    def __init__(
        self, mounted: Mounted, transfers: Transfers, lives: Lives, on_crash: Callable[[], None]
    ) -> None:
        self.function = mounted.function
        self.description = mounted.description
        self._where = mounted.where
        self._transfers = transfers
        self._lives = lives
        self._on_crash = on_crash
        self._wedges = Wedges()
        self._ep0: functionfs.Endpoint0File | None = None
        self._files: list[functionfs.EndpointFile] = []
        self._endpoints: dict[str, FfsEndpoint] = {}
        self._enabled = False

    # --- files ---------------------------------------------------------------------------------

    def open(self) -> None:
        """Write descriptors and strings and open the endpoint files: the gadget can be bound.

        Raises OSError, with the file, as the kernel refused it; nothing is then left open.
        """
        try:
            self._ep0 = functionfs.Endpoint0File(str(self._where / "ep0"))
            self._write_ep0("descriptors", self.description.descriptors)
            self._write_ep0("strings", self.description.strings)
            for endpoint in self.description.endpoints:
                is_in = endpoint.spec.direction == Direction.IN
                kind = _InFile if is_in else _OutFile
                self._files.append(kind(str(self._where / f"ep{endpoint.number}")))
            for file in (self._ep0, *self._files):
                fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) | os.O_NONBLOCK)
        except BaseException:
            self.close()
            raise

    def _write_ep0(self, what: str, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise OSError(
                error.errno,
                f"{self._where}/ep0: FunctionFS refuses the {what} of function "
                f"{self.function.name}: {error.strerror}",
            ) from error

    def close(self) -> None:
        """Close every file: the last one unbinds what is still bound. Idempotent."""
        for file in (*self._files, *([self._ep0] if self._ep0 is not None else [])):
            with contextlib.suppress(OSError):
                file.close()
        self._files.clear()
        self._ep0 = None

    @property
    def _file(self) -> functionfs.Endpoint0File:
        if self._ep0 is None:
            raise OSError(errno.EBADF, f"{self._where}/ep0 is not open")
        return self._ep0

    # --- events --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow the events of ep0 until cancelled."""
        events = (functionfs.Event * _EVENTS_AT_ONCE)()
        while True:
            await anyio.wait_readable(self._file)
            try:
                length = self._file.readinto(events)
            except OSError as error:
                if error.errno not in _CONTROL_LOST:
                    raise
                continue
            for event in events[: (length or 0) // _EVENT_SIZE]:
                if event.type == functionfs.SETUP:
                    await self._setup(event.u.setup)
                else:
                    self._on_event(event.type)

    async def keep_wedged(self) -> None:
        """Halt the wedged endpoints again and again, until cancelled."""
        await self._wedges.run()

    def _on_event(self, kind: int) -> None:
        log.debug("%s: %s", self.function.name, _EVENT_NAMES.get(kind, kind))
        if kind == functionfs.ENABLE:
            self.disable()  # it may repeat without a DISABLE: a bus reset
            self._enable()
        elif kind in (functionfs.BIND, functionfs.DISABLE, functionfs.UNBIND):
            self.disable()  # a BIND soon after an UNBIND has taken its place (__ffs_event_add)

    def _enable(self) -> None:
        try:
            made = [
                FfsEndpoint(
                    spec,
                    file,
                    self._file.getRealInterfaceNumber(spec.interface),
                    self._transfers,
                    self._on_crash,
                    self._wedges,
                )
                for spec, file in zip(self.description.endpoints, self._files, strict=True)
            ]
        except OSError as error:
            # The configuration is over already; its DISABLE comes next.
            log.debug("%s: not enabled: %s", self.function.name, error)
            return
        self._endpoints = {endpoint.role: endpoint for endpoint in made}
        self._enabled = True
        self._lives.begin(self.function, self._endpoints)

    def disable(self) -> None:
        """The configuration is over: end the run, and then what it had queued."""
        if not self._enabled:
            return
        self._enabled = False
        self._lives.end(self.function)
        for endpoint in self._endpoints.values():
            endpoint.disable()
        self._endpoints = {}

    # --- endpoint 0 ----------------------------------------------------------------------------

    async def _setup(self, raw: functionfs.USBCtrlRequest) -> None:
        """Answer one class or vendor request. A host that is slow holds up only this function."""
        setup = SetupPacket(raw.bRequestType, raw.bRequest, raw.wValue, raw.wIndex, raw.wLength)
        try:
            if setup.bmRequestType & Direction.IN:
                await self._control_in(setup)
            else:
                await self._control_out(setup)
        except OSError as error:
            if error.errno not in _CONTROL_LOST:
                raise
            log.debug("%s: %s was given up: %s", self.function.name, setup, error)

    async def _control_in(self, setup: SetupPacket) -> None:
        answer = self._answer(setup, b"")
        if answer is None:
            self._file.halt(setup.bmRequestType)
        else:
            await anyio.to_thread.run_sync(self._file.write, answer[: setup.wLength])

    async def _control_out(self, setup: SetupPacket) -> None:
        if setup.wLength and self.function.refuses(setup):
            self._file.halt(setup.bmRequestType)
        elif setup.wLength:
            # FunctionFS acknowledges the data as it is read: it is too late to refuse it then.
            data = await anyio.to_thread.run_sync(self._file.read, setup.wLength)
            if self._answer(setup, data or b"") is None:
                log.warning(
                    "%s: refused %s too late: FunctionFS has acknowledged it",
                    self.function.name,
                    setup,
                )
        elif self._answer(setup, b"") is None:
            self._file.halt(setup.bmRequestType)
        else:
            # A read of no bytes is the status stage.
            await anyio.to_thread.run_sync(self._file.read, 0)

    def _answer(self, setup: SetupPacket, data: bytes) -> Buffer | None:
        request = ControlRequest(setup, data)
        index = setup.wIndex & 0xFF
        interfaces = self.description.interfaces
        if setup.recipient == Recipient.INTERFACE and index < len(interfaces):
            request.interface = interfaces[index].role
        elif setup.recipient == Recipient.ENDPOINT:
            request.endpoint = next(
                (e.spec.role for e in self.description.endpoints if e.number == index & 0x0F), None
            )
        try:
            return self.function.setup(request)
        except Exception:
            log.exception("%s failed on request %s; answered STALL", self.function.name, setup)
            return None


class _InFile(functionfs.EndpointFile):  # type: ignore[misc]  # python-functionfs has no types
    """An endpoint file whose data goes through aio.py; a read halts it."""

    def _halt(self) -> None:
        os.read(self.fileno(), 0)


class _OutFile(functionfs.EndpointFile):  # type: ignore[misc]
    """An endpoint file whose data goes through aio.py; a write halts it."""

    def _halt(self) -> None:
        os.write(self.fileno(), b"")
