"""Every exception of the project, and whose fault each one is.

Two families, after h11: ``LocalProtocolError`` is our caller's mistake, ``RemoteProtocolError``
is what the peer sent. ``TransferError`` is neither: it is how USB says that a transfer ended.
Standard library only.
"""

from __future__ import annotations

import errno as _errno

__all__ = (
    "DeviceGone",
    "EndpointDisabled",
    "LocalProtocolError",
    "Overflow",
    "RemoteProtocolError",
    "RequestWithdrawn",
    "SchemeError",
    "SoftDisconnect",
    "TransferError",
    "UrbError",
    "UsbipVudcError",
    "errno_name",
)


class UsbipVudcError(Exception):
    """The root of every error that this project raises on purpose."""


class LocalProtocolError(UsbipVudcError):
    """The caller asked for something that USB or USB/IP does not allow. Nothing was done."""


class RemoteProtocolError(UsbipVudcError):
    """The peer sent bytes that USB/IP does not allow. Its connection cannot go on."""


class SchemeError(UsbipVudcError, ValueError):
    """A description (gadget, descriptor, SG list, command line) names an impossible value.

    The message names the field, the value and what would be right.
    """


class TransferError(UsbipVudcError):
    """A device-side request ended without doing what it asked for."""


class EndpointDisabled(TransferError):
    """The configuration ended (-ESHUTDOWN in the kernel): unplug, reset or SET_CONFIGURATION.

    The buffers of the request may hold partial data.
    """


class Overflow(TransferError):
    """The host sent more than the OUT request had room for (-EOVERFLOW). The rest is lost."""


class RequestWithdrawn(TransferError):
    """The function took its own request back before it was done (-ECONNRESET)."""


class SoftDisconnect(UsbipVudcError):
    """Raised out of `Function.run`: the device leaves the bus, and comes back after ``seconds``.

    No crash: it is what firmware does that enumerates anew, the kernel's usb_gadget_disconnect
    and usb_gadget_connect. Every request ends with EndpointDisabled.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__(f"the device leaves the bus for {seconds:g} s")
        self.seconds = seconds


class UrbError(UsbipVudcError):
    """A host-side URB completed with a status other than 0.

    ``errno`` is positive, as in ``OSError``; ``actual_length`` is in bytes.
    """

    def __init__(self, errno: int, what: str, *, actual_length: int = 0) -> None:
        super().__init__(f"{what}: {errno_name(errno)}")
        self.errno = errno
        self.actual_length = actual_length


class DeviceGone(UrbError):
    """The device was unplugged or its connection closed (-ENODEV or -ESHUTDOWN)."""

    def __init__(self, what: str) -> None:
        super().__init__(_errno.ENODEV, what)


_MEANINGS = {
    _errno.EPIPE: "the endpoint is halted (STALL)",
    _errno.EOVERFLOW: "the device sent more than the host asked for (babble)",
    _errno.ECONNRESET: "the URB was unlinked",
    _errno.ENOENT: "the URB was killed",
    _errno.EREMOTEIO: "a short packet where none was allowed",
    _errno.ETIMEDOUT: "the device did not answer in time",
    _errno.ENODEV: "the device is gone",
    _errno.ESHUTDOWN: "the endpoint was disabled",
    _errno.EPROTO: "the device broke the protocol",
}


def errno_name(errno: int) -> str:
    """Name an errno as kernel people write it, with what it means for a URB.

    >>> errno_name(75)
    '-EOVERFLOW (the device sent more than the host asked for (babble))'
    """
    number = abs(errno)
    name = f"-{_errno.errorcode.get(number, str(number))}"
    meaning = _MEANINGS.get(number)
    return f"{name} ({meaning})" if meaning else name
