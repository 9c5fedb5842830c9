"""A USB device through its node, by ioctl: for tests, where libusb would do no more than this."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from usbip_vudc.sysfs import interfaces, nodes
from usbip_vudc.usb.ch9 import Direction

__all__ = ("IsoTransfer", "Usbfs", "usbfs")

# include/uapi/linux/usbdevice_fs.h, for 64 bits
_BULK: Final = 0xC0185502
_CLAIMINTERFACE: Final = 0x8004550F
_RESET: Final = 0x5514
_SETINTERFACE: Final = 0x80085504
_SUBMITURB: Final = 0x8038550A
_DISCARDURB: Final = 0x550B
_REAPURBNDELAY: Final = 0x4008550D

_URB: Final = struct.Struct("BBiIPiiiiiIP")
"""struct usbdevfs_urb: type, endpoint, status, flags, buffer, buffer_length, actual_length,
start_frame, number_of_packets, error_count, signr, usercontext."""

_PACKET: Final = struct.Struct("IIi")
"""struct usbdevfs_iso_packet_desc: length, actual_length, status."""

_libc: Final = ctypes.CDLL(None, use_errno=True)

_TYPE_ISO: Final = 0
_ISO_ASAP: Final = 2

_TIMEOUT_MS: Final = 20_000


class IsoTransfer:
    """An isochronous URB of usbfs, packet behind packet; `Usbfs.reap` says when it has ended.

    Then ``status`` and ``error_count`` are those of the URB, and ``packets`` has actual_length and
    status of each packet.
    """

    def __init__(self, endpoint: int, lengths: Sequence[int], data: bytes = b"") -> None:
        size = sum(lengths)
        self.buffer = ctypes.create_string_buffer(data.ljust(size, b"\xee"), max(size, 1))
        self._lengths = tuple(lengths)
        head = _URB.pack(
            _TYPE_ISO, endpoint, 0, _ISO_ASAP, ctypes.addressof(self.buffer), size, 0, 0,
            len(lengths), 0, 0, 0,
        )  # fmt: skip
        tail = b"".join(_PACKET.pack(length, 0, 0) for length in lengths)
        self.memory = ctypes.create_string_buffer(head + tail, len(head) + len(tail))

    @property
    def status(self) -> int:
        """0 or a negative errno."""
        return int(_URB.unpack_from(self.memory)[2])

    @property
    def error_count(self) -> int:
        """Packets that failed, by the device's count."""
        return int(_URB.unpack_from(self.memory)[9])

    @property
    def packets(self) -> list[tuple[int, int]]:
        """actual_length and status of each."""
        return [(actual, status) for _, actual, status in _PACKET.iter_unpack(
            self.memory.raw[_URB.size :])]  # fmt: skip

    @property
    def received(self) -> list[bytes]:
        """What came of each packet."""
        pieces, offset = [], 0
        for length, (actual, _) in zip(self._lengths, self.packets, strict=True):
            pieces.append(self.buffer.raw[offset : offset + actual])
            offset += length
        return pieces


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

    def set_interface(self, interface: int, alternate: int) -> None:
        """SET_INTERFACE."""
        fcntl.ioctl(self._fd, _SETINTERFACE, struct.pack("II", interface, alternate))

    def submit(self, transfer: IsoTransfer) -> IsoTransfer:
        """Hand a URB to the kernel."""
        self._at(_SUBMITURB, transfer)
        return transfer

    def discard(self, transfer: IsoTransfer) -> None:
        """Unlink a URB; `reap` it then."""
        self._at(_DISCARDURB, transfer)

    def _at(self, request: int, transfer: IsoTransfer) -> None:
        # The kernel keeps the address, and fcntl.ioctl would give it that of a copy.
        address = ctypes.c_void_p(ctypes.addressof(transfer.memory))
        if _libc.ioctl(self._fd, ctypes.c_ulong(request), address) < 0:
            raise OSError(ctypes.get_errno(), f"ioctl {request:#x}")

    def reap(self) -> None:
        """Wait for one URB to end. Raises OSError with ETIMEDOUT where none does."""
        ready = select.poll()
        ready.register(self._fd, select.POLLOUT)
        if not ready.poll(_TIMEOUT_MS):
            raise OSError(errno.ETIMEDOUT, "no URB has ended")
        fcntl.ioctl(self._fd, _REAPURBNDELAY, bytearray(8))

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
