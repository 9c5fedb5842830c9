"""Our errors as pyusb's libusb backend raises them: programs look at class, errno and code."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import Final

from usb.core import USBError, USBTimeoutError

from usbip_vudc.errors import LocalProtocolError, UrbError, UsbipVudcError
from usbip_vudc.host.handshake import ImportRefused
from usbip_vudc.wire.pdu import OpStatus

__all__ = ("LIBUSB", "translated", "usb_error", "usb_errors")

LIBUSB: Final = {
    errno.EIO: (-1, "Input/Output Error"),
    errno.EINVAL: (-2, "Invalid parameter"),
    errno.ENODEV: (-4, "No such device (it may have been disconnected)"),
    errno.ENOENT: (-5, "Entity not found"),
    errno.EBUSY: (-6, "Resource busy"),
    errno.ETIMEDOUT: (-7, "Operation timed out"),
    errno.EOVERFLOW: (-8, "Overflow"),
    errno.EPIPE: (-9, "Pipe error"),
}
"""errno -> libusb's error code and libusb_strerror: programs look at all three."""

_REFUSALS: Final = {OpStatus.DEV_BUSY: errno.EBUSY, OpStatus.NODEV: errno.ENODEV}


def usb_error(number: int, detail: str = "") -> USBError:
    """The exception that the libusb backend raises for this errno; others count as EIO."""
    number = number if number in LIBUSB else errno.EIO
    code, text = LIBUSB[number]
    kind = USBTimeoutError if number == errno.ETIMEDOUT else USBError
    return kind(f"{text}: {detail}" if detail else text, code, number)


def translated(error: UsbipVudcError) -> USBError:
    """What the libusb backend would raise where we have this error."""
    if isinstance(error, UrbError):
        return usb_error(error.errno)
    if isinstance(error, ImportRefused):
        return usb_error(_REFUSALS.get(error.status, errno.EIO), str(error))
    number = errno.EINVAL if isinstance(error, LocalProtocolError) else errno.EIO
    return usb_error(number, str(error))


@contextlib.contextmanager
def usb_errors() -> Iterator[None]:
    """Errors of ours leave this context as those of the libusb backend."""
    try:
        yield
    except UsbipVudcError as error:
        raise translated(error) from error
