"""What vhci_hcd really gets, by a kprobe in a trace instance of our own, and nothing left of it."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from usbip_vudc.block.btf import Btf, BtfError, Struct
from usbip_vudc.block.events import GROUP, STRUCTS, Events, TracedUrb, TraceError
from usbip_vudc.block.queue import usb_device_of
from usbip_vudc.errors import SchemeError
from usbip_vudc.sysfs import SYSFS, SysfsError, read_attribute, write_attribute

__all__ = ("VhciTrace", "kernel_structs")

_TRACEFS: Final = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
_BTF: Final = Path("/sys/kernel/btf")
_MODULES: Final = ("vhci_hcd", "usbcore")
"""Where the kernel's own BTF does not have a struct of USB, these modules' has."""


def kernel_structs(btf: Path = _BTF) -> dict[str, Struct]:
    """The `STRUCTS` of the kernel that runs. Raises BtfError where its BTF does not have them."""
    try:
        kernel = Btf((btf / "vmlinux").read_bytes())
    except FileNotFoundError:
        raise BtfError(
            f"{btf}/vmlinux: this kernel does not describe itself (CONFIG_DEBUG_INFO_BTF)"
        ) from None
    found = kernel.structs(*STRUCTS)
    for module in _MODULES:
        missing = [name for name in STRUCTS if name not in found]
        if missing and (btf / module).exists():
            found |= Btf((btf / module).read_bytes(), base=kernel).structs(*missing)
    if missing := [name for name in STRUCTS if name not in found]:
        raise BtfError(f"{btf}: no struct {', '.join(missing)}, neither there nor in a module's")
    return found


class VhciTrace:
    """The URBs of one disk behind vhci_hcd, from entering the context on. Needs root.

    It makes kprobe events and a trace instance named `GROUP`, removes them on leaving, and on
    entering what a killed one left. Entering raises SchemeError for a disk that is not behind
    vhci_hcd, BtfError and SysfsError where the kernel cannot be asked, and TraceError where
    another trace of this kind runs.
    """

    def __init__(self, node: str, *, sysfs: Path = SYSFS, tracefs: Path | None = None) -> None:
        device = usb_device_of(node, sysfs=sysfs)
        if device is None or not any(p.name.startswith("vhci_hcd.") for p in device.parents):
            raise SchemeError(f"{node} is not behind vhci_hcd: there is no URB of it to trace")
        self._device = device
        self._root = tracefs or _tracefs()
        self._instance = self._root / "instances" / GROUP
        self._stack = ExitStack()
        self._events = Events(kernel_structs())

    def __enter__(self) -> Self:
        busnum, devnum = (int(read_attribute(self._device / n)) for n in ("busnum", "devnum"))
        with ExitStack() as stack:
            stack.callback(os.close, self._locked())
            self._remove()
            stack.callback(self._remove)
            for definition in self._events.definitions().values():
                self._define(definition)
            self._instance.mkdir()
            # The clock by default is each CPU's own, and orders nothing between two.
            write_attribute(self._instance / "trace_clock", "mono")
            self._switch(on=False)
            for event, wanted in self._events.filters(busnum, devnum).items():
                write_attribute(self._instance / "events" / GROUP / event / "filter", wanted)
            write_attribute(self._instance / "events" / GROUP / "enable", "1")
            # Only now: the events of one URB are enabled one after the other.
            self._switch(on=True)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def clear(self) -> None:
        """Forget what was traced so far."""
        self._switch(on=False)
        os.close(os.open(self._instance / "trace", os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC))
        self._switch(on=True)

    def _switch(self, *, on: bool) -> None:
        write_attribute(self._instance / "tracing_on", "1" if on else "0")

    def urbs(self) -> tuple[TracedUrb, ...]:
        """All URBs of the disk so far. Raises TraceError where the kernel lost some."""
        return self._events.urbs((self._instance / "trace").read_text())

    def data_urbs(self, *, block: int = 512) -> tuple[TracedUrb, ...]:
        """Those that move whole blocks: not CBW, CSW, nor a control transfer."""
        return tuple(u for u in self.urbs() if u.endpoint & 0x0F and u.length % block == 0)

    def _locked(self) -> int:
        """A lock that ends with this process, however it ends; close it to give it back."""
        fd = os.open(self._root / "instances", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if error.errno != errno.EWOULDBLOCK:
                raise
            raise TraceError("another usbip-vudc traces vhci_hcd: wait for it") from error
        return fd

    def _remove(self) -> None:
        """Take away the instance and the events, as far as they are there."""
        if self._instance.exists():
            self._instance.rmdir()
        for event in self._events.definitions():
            if (self._root / "events" / GROUP / event).exists():
                self._define(f"-:{GROUP}/{event}")

    def _define(self, command: str) -> None:
        """One line for kprobe_events. Opened to append: to write would remove all others."""
        path = self._root / "kprobe_events"
        try:
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            try:
                os.write(fd, command.encode())
            finally:
                os.close(fd)
        except OSError as error:
            raise SysfsError(error.errno or 0, path, command) from error


def _tracefs() -> Path:
    for root in _TRACEFS:
        if (root / "kprobe_events").exists():
            return root
    raise TraceError(
        f"no {_TRACEFS[0]}/kprobe_events: mount -t tracefs none {_TRACEFS[0]} (as root), and the "
        "kernel needs CONFIG_KPROBE_EVENTS"
    )
