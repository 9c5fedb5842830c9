"""The control socket: the media of a gadget that runs in another process, shown and changed.

A process that serves disks listens on a Unix socket in the runtime directory, and removes it when
it ends. A client sends one line of JSON and gets one. What a disk is its functions know: here it
is whatever has ``luns``.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

import anyio

from usbip_vudc.errors import UsbipVudcError
from usbip_vudc.gadget import Gadget

__all__ = ("Control", "ControlError", "Slot", "ask", "control_directory", "slots", "sockets")

log = logging.getLogger(__name__)

_MOST: Final = 64 << 10
"""Bytes of a line, either way."""

_PATIENCE: Final = 10.0
"""Seconds for a client to say what it wants, and for a process to answer."""

_POLL: Final = 0.005


class ControlError(UsbipVudcError):
    """A running gadget refused what was asked of it, or is not there."""


class Unit(Protocol):
    """What is asked of a logical unit (gadgets/mass_storage/unit.py has them)."""

    removable: bool
    read_only: bool
    prevented: bool
    busy: bool
    size: int
    block_size: int

    @property
    def source(self) -> str: ...
    def insert(self, path: str | None = None) -> None: ...
    def swap(self, path: str, *, force: bool = False) -> None: ...
    def eject(self, *, force: bool = False) -> None: ...
    def protect(self, on: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class Slot:
    """One unit: ``device`` is the busid or the UDC's gadget, ``lun`` counts within the device."""

    device: str
    gadget: str
    lun: int
    unit: Unit

    def shown(self) -> dict[str, object]:
        """What a client is told of it."""
        unit = self.unit
        return {
            "device": self.device,
            "gadget": self.gadget,
            "lun": self.lun,
            "medium": unit.source if unit.size else None,
            "source": unit.source,
            "size": unit.size,
            "block_size": unit.block_size,
            "removable": unit.removable,
            "protected": unit.read_only,
            "prevented": unit.prevented,
        }


def slots(gadgets: Mapping[str, Gadget]) -> tuple[Slot, ...]:
    """Every unit of every function that has some, by the names of the devices."""
    found = []
    for device, gadget in gadgets.items():
        functions = {id(f): f for config in gadget.configs for f in config.functions}
        units = [unit for function in functions.values() for unit in _units(function)]
        found += [Slot(device, gadget.name, lun, unit) for lun, unit in enumerate(units)]
    return tuple(found)


def _units(function: object) -> Iterable[Unit]:
    while hasattr(function, "inner"):  # under a plan
        function = function.inner
    return getattr(function, "luns", ())


# --- where -------------------------------------------------------------------------------------


def control_directory() -> Path:
    """Where the sockets are: /run/usbip-vudc/control for root, else below XDG_RUNTIME_DIR.

    USBIP_VUDC_RUNTIME_DIR stands for /run/usbip-vudc.
    """
    named = os.environ.get("USBIP_VUDC_RUNTIME_DIR")
    if named:
        return Path(named) / "control"
    if os.geteuid() == 0:
        return Path("/run/usbip-vudc/control")
    own = os.environ.get("XDG_RUNTIME_DIR")
    return (Path(own) / "usbip-vudc" if own else Path(f"/tmp/usbip-vudc-{os.getuid()}")) / "control"


def sockets() -> Iterator[Path]:
    """The sockets that somebody listens on. One whose process was killed is removed."""
    try:
        paths = sorted(control_directory().glob("*.sock"))
    except OSError:
        return
    for path in paths:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
                continue
            except OSError:
                continue
        yield path


# --- the process that serves -------------------------------------------------------------------


class Control:
    """Listens for as long as its context lasts; `serve` answers, on the event loop of the gadgets.

    ``path`` defaults to one in `control_directory`. With no unit there is no socket, and ``path``
    is None. Raises OSError where it cannot listen on a path that it was given; where it cannot on
    its own the gadgets do without, and the log says so.
    """

    def __init__(self, gadgets: Mapping[str, Gadget], path: Path | None = None) -> None:
        self.slots = slots(gadgets)
        default = control_directory() / f"{os.getpid()}.sock"
        self.path = (path or default) if self.slots else None
        self._is_wanted = path is not None
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        if self.path is not None:
            try:
                self._socket = _listen(self.path)
            except OSError as error:
                if self._is_wanted:  # bind() does not say where
                    why = error.strerror or str(error)  # a path too long has no errno
                    raise OSError(error.errno or errno.EINVAL, why, str(self.path)) from None
                log.warning("no control socket, so no `usbip-vudc media`: %s", error)
                self.path = None
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._socket is not None and self.path is not None:
            self._socket.close()
            self.path.unlink(missing_ok=True)

    async def serve(self) -> None:
        """Answer clients until cancelled."""
        if self._socket is None:
            return
        async with anyio.create_task_group() as tasks:
            while True:
                await anyio.wait_readable(self._socket)
                with suppress(OSError):
                    client, _ = self._socket.accept()
                    tasks.start_soon(self._talk, client)

    async def _talk(self, client: socket.socket) -> None:
        client.setblocking(False)
        with client, anyio.move_on_after(_PATIENCE), suppress(OSError):
            line = await _line(client)
            answer = await self._answer(line)
            await anyio.wait_writable(client)
            client.send(json.dumps(answer).encode() + b"\n")

    async def _answer(self, line: bytes) -> dict[str, object]:
        try:
            request = json.loads(line)
            command = request.pop("command")
            if command == "list":
                return {"media": [slot.shown() for slot in self.slots]}
            slot = self._slot(request.pop("device"), request.pop("lun"))
            log.info("%s lun %d: %s %s", slot.device, slot.lun, command, request)
            change = _COMMANDS[command]
            await _idle(slot.unit)
            change(slot.unit, **request)
            return {"media": [slot.shown()]}
        except (UsbipVudcError, OSError) as error:
            return {"error": str(error)}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            return {"error": f"no request of usbip-vudc's: {error!r}"}

    def _slot(self, device: str, lun: int) -> Slot:
        for slot in self.slots:
            if (slot.device, slot.lun) == (device, lun):
                return slot
        raise ControlError(f"{device} has no LUN {lun}")


def _listen(path: Path) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # In a directory of its own nobody else may have been first; any other is the user's choice.
    if path.parent == control_directory() and path.parent.stat().st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "belongs to another user", str(path.parent))
    if path.exists() and not stat.S_ISSOCK(path.lstat().st_mode):
        raise FileExistsError(errno.EEXIST, "there already, and no socket", str(path))
    # It appears once it listens: `sockets` takes one that refuses for that of a killed process.
    # So does what a process that had this number and was killed has left, which goes now.
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX)
    try:
        listening.bind(str(new))
        new.chmod(0o600)
        listening.listen()
        listening.setblocking(False)
        new.replace(path)
    except BaseException:
        listening.close()
        new.unlink(missing_ok=True)
        raise
    return listening


async def _line(client: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n") and len(data) < _MOST:
        await anyio.wait_readable(client)
        more = client.recv(_MOST)
        if not more:
            break
        data += more
    return data


# --- what can be asked -------------------------------------------------------------------------


def _insert(unit: Unit, path: str | None = None) -> None:
    unit.insert(path)


def _swap(unit: Unit, path: str, force: bool = False) -> None:
    unit.swap(path, force=force)


def _eject(unit: Unit, force: bool = False) -> None:
    unit.eject(force=force)


def _protect(unit: Unit, on: bool) -> None:
    if not isinstance(on, bool):
        raise ControlError(f"on = {on!r}: expected true or false")
    unit.protect(on)


_COMMANDS: Final[Mapping[str, Callable[..., None]]] = {
    "insert": _insert,
    "swap": _swap,
    "eject": _eject,
    "protect": _protect,
}


async def _idle(unit: Unit) -> None:
    """Wait until no thread works on the unit. Raises ControlError where that takes too long."""
    with anyio.move_on_after(_PATIENCE / 2):
        while unit.busy:
            await anyio.sleep(_POLL)
        return
    raise ControlError("the unit is busy with a command of the host's")


# --- the client --------------------------------------------------------------------------------


def ask(path: Path, /, **request: object) -> list[dict[str, Any]]:
    """Send a request and wait for the answer: the units it is about, as `Slot.shown` has them.

    Raises ControlError where it was refused, OSError where nobody answers.
    """
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(_PATIENCE)
        client.connect(str(path))
        client.sendall(json.dumps(request).encode() + b"\n")
        with client.makefile("rb") as stream:
            line = stream.readline(_MOST)
    if not line:
        raise ControlError(f"{path}: its process ended, or did not answer")
    answer = json.loads(line)
    if "error" in answer:
        raise ControlError(str(answer["error"]))
    return list(answer["media"])
