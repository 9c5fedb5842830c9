"""What a completed URB means to whoever waited for it. Pure."""

from __future__ import annotations

import errno

from usbip_vudc.errors import DeviceGone, UrbError
from usbip_vudc.urb import HostUrb

__all__ = ("result_of",)


def result_of(urb: HostUrb) -> int:
    """Bytes moved by a completed URB.

    Raises DeviceGone where the connection ended, UrbError for any other status but 0.
    """
    status = urb.status or 0
    if status in (-errno.ESHUTDOWN, -errno.ENODEV):
        raise DeviceGone(repr(urb))
    if status < 0:
        raise UrbError(-status, repr(urb), actual_length=urb.actual)
    return urb.actual
