"""ConfigfsGadget: a gadget that is in configfs. Created as a whole or not at all, and removed.

A description is a Gadget; this is the kernel's object. What to do comes from tree.py; here it
is done, and what the kernel refuses is said with the path, the value and advice (advice.py).
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Self

from configfs.advice import ConfigfsError
from configfs.tree import (
    Link,
    MakeDir,
    Step,
    Undo,
    Unlink,
    Write,
    check_platforms,
    check_speed,
    dismantle,
    overwritten,
    plan,
    undo,
)
from usbip_vudc.gadget import Gadget
from usbip_vudc.kernel_log import KernelLog
from usbip_vudc.sysfs import SysfsError, read_attribute, write_attribute

__all__ = ("GADGETS", "ConfigfsError", "ConfigfsGadget", "gadgets")

log = logging.getLogger(__name__)

GADGETS: Final = Path("/sys/kernel/config/usb_gadget")


class ConfigfsGadget:
    """A gadget in configfs, whoever made it. ``path`` is its directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, gadget: Gadget, *, root: Path = GADGETS) -> Self:
        """Make all of a gadget, unbound.

        Raises SchemeError for what no UDC of the kernel can carry, and ConfigfsError; nothing of
        it is then left.
        """
        check_speed(gadget)
        check_platforms(gadget)
        for said in overwritten(gadget):
            log.warning("gadget %s: %s", gadget.name, said)
        steps = plan(gadget)
        made = cls(root / gadget.name)
        done: list[Step] = [MakeDir("")]
        with KernelLog(required=False) as kernel:
            made._apply(done[0], kernel)
            try:
                for step in steps:
                    made._apply(step, kernel)
                    done.append(step)
            except BaseException:
                made._take_back(undo(done))
                raise
        log.info("%s: created", made.path)
        return made

    @property
    def name(self) -> str:
        """The gadget's name."""
        return self.path.name

    @property
    def exists(self) -> bool:
        """Whether it is in configfs."""
        return self.path.is_dir()

    @property
    def udc(self) -> str:
        """The UDC that it is bound to; empty for none, or where the gadget is gone."""
        try:
            return read_attribute(self.path / "UDC")
        except SysfsError as error:
            if error.errno == errno.ENOENT:
                return ""
            raise ConfigfsError.of(error, "reading", self.path / "UDC") from None

    def functions(self) -> list[str]:
        """Its functions by their names in configfs."""
        try:
            return sorted(path.name for path in (self.path / "functions").iterdir())
        except FileNotFoundError:
            return []

    def bind(self, udc: str) -> None:
        """Bind it to a UDC by name. Raises ConfigfsError; nothing has then changed."""
        with KernelLog(required=False) as kernel:
            try:
                write_attribute(self.path / "UDC", udc)
            except SysfsError as error:
                raise ConfigfsError.of(
                    error, "writing", self.path / "UDC", udc.encode(), kernel.read(),
                    advice=self._taken(udc) if error.errno == errno.EBUSY else "",
                ) from None  # fmt: skip
        log.info("%s: bound to %s", self.path, udc)

    def unbind(self) -> None:
        """Take it off its UDC. Nothing happens where it is on none, or gone already."""
        udc = self.udc
        if not udc:
            return
        try:
            write_attribute(self.path / "UDC", "\n")
        except SysfsError as error:
            if error.errno not in (errno.ENODEV, errno.ENOENT):  # it unbound itself meanwhile
                raise ConfigfsError.of(error, "writing", self.path / "UDC", b"\n") from None
        log.info("%s: unbound from %s", self.path, udc)

    def remove(self) -> None:
        """Unbind it and remove everything below it, then itself; nothing where it is gone.

        It looks at the live directory, so it removes any gadget. Raises ConfigfsError for what
        cannot be removed; the rest of it is then still there, unbound.
        """
        if not self.exists:
            return
        self.unbind()
        directories, links = self._below()
        for step in dismantle(directories, links):
            self._remove(step)
        self._remove_directory(self.path)
        log.info("%s: removed", self.path)

    def _taken(self, udc: str) -> str:
        """Who has what a bind asked for, where that is in configfs."""
        if self.udc:
            return f"the gadget is bound to {self.udc} already"
        others = [other.name for other in gadgets(root=self.path.parent) if other.udc == udc]
        return f"{udc} is taken: usbip-vudc down {others[0]}" if others else ""

    # --- one step ------------------------------------------------------------------------------

    def _apply(self, step: Step, kernel: KernelLog) -> None:
        path = self.path / step.path
        kernel.mark()
        try:
            match step:
                case MakeDir(shared=shared):
                    _make(path, shared=shared)
                case Write(data=data, optional=optional):
                    if not optional or path.exists():
                        write_attribute(path, data)
                case Link(target=target):
                    path.symlink_to(self.path / target)
        except OSError as error:
            verb = {MakeDir: "mkdir", Write: "writing", Link: "linking"}[type(step)]
            written = step.data if isinstance(step, Write) else None
            raise ConfigfsError.of(error, verb, path, written, kernel.read()) from None

    def _take_back(self, steps: Iterable[Undo]) -> None:
        """Undo what was done, as far as it goes: the error under way says why."""
        for step in steps:
            try:
                self._remove(step)
            except ConfigfsError as error:
                log.warning("%s", error)

    def _remove(self, step: Undo) -> None:
        path = self.path / step.path
        if not isinstance(step, Unlink):
            self._remove_directory(path)
            return
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigfsError.of(error, "unlinking", path) from None

    @staticmethod
    def _remove_directory(path: Path) -> None:
        try:
            path.rmdir()
        except FileNotFoundError:
            pass
        except OSError as error:
            # EPERM: the kernel made it (a default group); it goes with its parent.
            if error.errno != errno.EPERM or os.geteuid():
                raise ConfigfsError.of(error, "rmdir", path) from None

    def _below(self) -> tuple[list[str], list[str]]:
        """Every directory and every link below the gadget, relative to it."""
        directories: list[str] = []
        links: list[str] = []
        for parent, names, _ in os.walk(self.path, onerror=_raise):
            for name in names:
                path = Path(parent, name)
                (links if path.is_symlink() else directories).append(
                    str(path.relative_to(self.path))
                )
        return directories, links


def gadgets(*, root: Path = GADGETS) -> tuple[ConfigfsGadget, ...]:
    """Every gadget in configfs, by name; none where configfs has no gadgets at all."""
    try:
        return tuple(ConfigfsGadget(path) for path in sorted(root.iterdir()))
    except FileNotFoundError:
        return ()


def _make(path: Path, *, shared: bool) -> None:
    if not (shared and path.is_dir()):
        path.mkdir()


def _raise(error: OSError) -> None:
    raise ConfigfsError.of(error, "listing", Path(error.filename)) from None
