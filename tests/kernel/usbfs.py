"""A USB device through its node, by ioctl: for tests, where libusb would do no more than this."""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from usbip_vudc.sysfs import interfaces, nodes
from usbip_vudc.usb.ch9 import Direction

__all__ = ("Usbfs", "usbfs")

# include/uapi/linux/usbdevice_fs.h, for 64 bits
_BULK: Final = 0xC0185502
_CLAIMINTERFACE: Final = 0x8004550F
_RESET: Final = 0x5514

_TIMEOUT_MS: Final = 20_000


class Usbfs:
    """An open device. Raises OSError where the kernel refuses."""

    def __init__(self, device: Path, fd: int) -> None:
        self._fd = fd
        # ep_81 and so on, in the directory of the interface that they belong to
        found = [int(path.name[3:], 16) for i in interfaces(device) for path in i.glob("ep_*")]
        self._in = next((address for address in found if address & Direction.IN), 0)
        self._out = next((address for address in found if not address & Direction.IN), 0)

    def claim(self, interface: int = 0) -> None:
        """Take an interface that has no driver."""
        fcntl.ioctl(self._fd, _CLAIMINTERFACE, struct.pack("I", interface))

    def write(self, data: bytes) -> int:
        """One transfer on the first bulk OUT endpoint; bytes moved."""
        return self._bulk(self._out, ctypes.create_string_buffer(data, len(data)))

    def read(self, length: int) -> bytes:
        """One transfer on the first bulk IN endpoint."""
        buffer = ctypes.create_string_buffer(length)
        actual = self._bulk(self._in, buffer)
        return buffer.raw[:actual]

    def _bulk(self, endpoint: int, buffer: ctypes.Array[ctypes.c_char]) -> int:
        words = struct.pack("IIIP", endpoint, len(buffer), _TIMEOUT_MS, ctypes.addressof(buffer))
        return int(fcntl.ioctl(self._fd, _BULK, bytearray(words)))

    def reset(self) -> None:
        """Reset the port; drivers keep their interfaces where the device is still the same."""
        fcntl.ioctl(self._fd, _RESET)


@contextmanager
def usbfs(device: Path) -> Iterator[Usbfs]:
    """The device of this sysfs directory."""
    fd = os.open(nodes(device)[0], os.O_RDWR | os.O_CLOEXEC)
    try:
        yield Usbfs(device, fd)
    finally:
        os.close(fd)
