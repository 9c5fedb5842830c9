"""What came of one transfer, in the words that expectations and tables use. Pure.

An outcome is named where it is an errno of USB's, an error of the Bulk-Only Transport, or a
comparison of data; anything else is trouble of this program or this machine.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Final

import usb.core

from usbip_vudc.errors import errno_name
from usbip_vudc.host.storage import StorageError
from usbip_vudc.sglist import Buffer

__all__ = ("DIFFERS", "EQUAL", "compared", "joined", "named")

EQUAL: Final = "data equal"
DIFFERS: Final = "data differs"


def compared(seen: Buffer, expected: bytes) -> str:
    """Whether they are the same."""
    return EQUAL if seen == expected else DIFFERS


def named(error: BaseException) -> str | None:
    """The name of an error that a host may meet; None for one that no device can cause."""
    if isinstance(error, StorageError):
        return type(error).__name__
    if isinstance(error, usb.core.USBError):
        return errno_name(error.errno or errno.EIO).split()[0]
    if isinstance(error, OSError) and error.errno is not None:
        return errno_name(error.errno).split()[0]
    return None


def joined(outcomes: Iterable[str]) -> str:
    """Each outcome once, in the order in which they came."""
    return ", ".join(dict.fromkeys(outcomes))
