"""ConfigfsError: what configfs refused, what the kernel said, and what mends it.

The advice is a table of what is well known; an errno that it does not have stands for itself.
"""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from usbip_vudc.errors import UsbipVudcError

__all__ = ("FUNCTION_MODULES", "ConfigfsError")

FUNCTION_MODULES: Final = {
    "acm": "usb_f_acm",
    "ecm": "usb_f_ecm",
    "eem": "usb_f_eem",
    "ffs": "usb_f_fs",
    "geth": "usb_f_ecm_subset",
    "gser": "usb_f_serial",
    "hid": "usb_f_hid",
    "Loopback": "usb_f_ss_lb",
    "mass_storage": "usb_f_mass_storage",
    "midi": "usb_f_midi",
    "midi2": "usb_f_midi2",
    "ncm": "usb_f_ncm",
    "obex": "usb_f_obex",
    "phonet": "usb_f_phonet",
    "printer": "usb_f_printer",
    "rndis": "usb_f_rndis",
    "SourceSink": "usb_f_ss_lb",
    "tcm": "usb_f_tcm",
    "uac1": "usb_f_uac1",
    "uac1_legacy": "usb_f_uac1_legacy",
    "uac2": "usb_f_uac2",
    "uvc": "usb_f_uvc",
}
"""The name of a function in configfs -> the module that has it (drivers/usb/gadget/function)."""

_PERMISSION: Final = (errno.EACCES, errno.EPERM)


_LOG_LINES: Final = 3


class ConfigfsError(UsbipVudcError):
    """The kernel refused a step in configfs.

    ``errno`` is positive, as in OSError; ``path`` is where, ``written`` what was written, None
    for another step; ``kernel`` holds what its log said at that moment.
    """

    def __init__(
        self,
        message: str,
        *,
        errno: int,
        path: Path,
        written: bytes | None = None,
        kernel: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.errno = errno
        self.path = path
        self.written = written
        self.kernel = kernel

    @classmethod
    def of(
        cls,
        error: OSError,
        verb: str,
        path: Path,
        written: bytes | None = None,
        log: Sequence[str] = (),
        advice: str = "",
    ) -> Self:
        """What the system said of one step: ``verb`` is mkdir, writing, linking...

        ``log`` is what the kernel's log said meanwhile; the end of it is kept.
        """
        kernel = tuple(log[-_LOG_LINES:])
        number = error.errno or 0
        parts = [f"{path}: {verb}{_shown(written)}: {os.strerror(number)} "
                 f"({errno.errorcode.get(number, number)})"]  # fmt: skip
        parts += [f"kernel: {line}" for line in kernel]
        advice = advice or _advice(number, verb, path)
        if advice:
            parts.append(advice)
        return cls("; ".join(parts), errno=number, path=path, written=written, kernel=kernel)


def _shown(written: bytes | None) -> str:
    if written is None:
        return ""
    text = written.decode("ascii", errors="backslashreplace").removesuffix("\n")
    if not text.isprintable() or "\\x" in text:
        text = written.hex(" ")
    return f" {text[:60]!r}" + (f"... ({len(written)} bytes)" if len(text) > 60 else "")


def _advice(number: int, verb: str, path: Path) -> str:
    """What is known of an errno at a place of the tree."""
    if verb == "mkdir" and path.parent.name == "functions":
        return _function_advice(number, path)
    if path.name == "UDC":
        return _bind_advice(number)
    if verb == "mkdir" and path.parent.name == "usb_gadget":
        return _gadget_advice(number, path)
    if verb == "writing":
        return _attribute_advice(number, path)
    if number in _PERMISSION and os.geteuid():
        return "run as root"
    return ""


def _gadget_advice(number: int, path: Path) -> str:
    if number == errno.EEXIST:
        return f"there is a gadget of that name: usbip-vudc down {path.name}"
    if number == errno.ENOENT:
        mounted = path.parent.parent.is_dir() and any(path.parent.parent.iterdir())
        mount = "" if mounted else "mount -t configfs none /sys/kernel/config, and "
        return f"configfs has no gadgets; {mount}modprobe libcomposite"
    return "run as root" if number in _PERMISSION else ""


def _function_advice(number: int, path: Path) -> str:
    driver = path.name.partition(".")[0]
    if number == errno.ENOENT:
        module = FUNCTION_MODULES.get(driver)
        if module is None:
            near = difflib.get_close_matches(driver, FUNCTION_MODULES, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            return f"the kernel has no function {driver!r}{hint}"
        return f"the kernel has no function {driver}; modprobe {module}"
    if number == errno.ENAMETOOLONG:
        return "DRIVER.INSTANCE has at most 39 characters"
    if number == errno.EBUSY:
        return "the instance is in use; give it another one"
    return "run as root" if number in _PERMISSION else ""


def _bind_advice(number: int) -> str:
    return {
        errno.ENODEV: "there is no such UDC: usbip-vudc udc lists them",
        errno.EBUSY: (
            "there is no such UDC, or it is bound already, or a function could not start, as a "
            "FunctionFS one without descriptors cannot (the kernel says EBUSY for all of them)"
        ),
        errno.EINVAL: "the gadget needs a configuration, with a function in it",
        errno.EACCES: "run as root",
    }.get(number, "")


def _attribute_advice(number: int, path: Path) -> str:
    if number == errno.ENOENT and path.parent.name == "webusb" and not path.parent.exists():
        return (
            "this kernel has no WebUSB in configfs (drivers/usb/gadget/configfs.c has it since "
            "6.3); usbip-vudc serve has"
        )
    if number == errno.ENOENT and not path.exists():  # otherwise it is of what the value names
        there = _attributes(path.parent)
        near = difflib.get_close_matches(path.name, there, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"there are {', '.join(there)}{hint}" if there else ""
    if number in _PERMISSION:
        return "run as root" if os.geteuid() else "the attribute is read-only"
    return {
        errno.EBUSY: "it can be changed only before the function is linked or, for lun.N, before "
        "lun.N/file is written",
        errno.EINVAL: "the kernel refuses this value",
        errno.EOVERFLOW: "a string has at most 126 bytes",
    }.get(number, "")


def _attributes(directory: Path) -> list[str]:
    try:
        return sorted(path.name for path in directory.iterdir() if path.is_file())
    except OSError:
        return []
