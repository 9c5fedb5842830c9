"""One test of usbtest as an ioctl: the structures of the kernel, and the call itself.

It blocks until the driver is done, in a state that no signal ends: see `child`.
"""

from __future__ import annotations

import ctypes
import fcntl
from typing import Final

from usbip_vudc.usbtest.parameters import Parameters

__all__ = ("TEST_REQUEST", "USBDEVFS_IOCTL", "issue")


class _Parameters32(ctypes.Structure):
    """struct usbtest_param_32 (drivers/usb/misc/usbtest.c)."""

    _fields_ = (
        ("test_num", ctypes.c_uint32),
        ("iterations", ctypes.c_uint32),
        ("length", ctypes.c_uint32),
        ("vary", ctypes.c_uint32),
        ("sglen", ctypes.c_uint32),
        ("duration_sec", ctypes.c_int32),
        ("duration_usec", ctypes.c_int32),
    )


class _Parameters64(ctypes.Structure):
    """struct usbtest_param_64: the durations are 64 bits wide."""

    _fields_ = (
        *_Parameters32._fields_[:5],
        ("duration_sec", ctypes.c_int64),
        ("duration_usec", ctypes.c_int64),
    )


class _UsbdevfsIoctl(ctypes.Structure):
    """struct usbdevfs_ioctl (include/uapi/linux/usbdevice_fs.h)."""

    _fields_ = (
        ("ifno", ctypes.c_int),
        ("ioctl_code", ctypes.c_uint),
        ("data", ctypes.c_void_p),
    )


def _iowr(number: int, structure: type[ctypes.Structure]) -> int:
    """_IOWR('U', number, structure), as include/uapi/asm-generic/ioctl.h lays it out."""
    return 3 << 30 | ctypes.sizeof(structure) << 16 | ord("U") << 8 | number


# A 64-bit kernel has always had the wide form, a 32-bit one the narrow.
_Native: Final = _Parameters64 if ctypes.sizeof(ctypes.c_void_p) == 8 else _Parameters32

USBDEVFS_IOCTL: Final = _iowr(18, _UsbdevfsIoctl)
"""What hands a request to the driver of an interface."""

TEST_REQUEST: Final = _iowr(100, _Native)
"""USBTEST_REQUEST_64, or USBTEST_REQUEST_32 where pointers have 32 bits."""


def issue(fd: int, interface: int, number: int, parameters: Parameters) -> float:
    """Run one test on an interface of an open device node; seconds, as the driver measured them.

    Raises OSError with what the driver returned, which is no errno for tests 11 and 12 (see
    `meaning`).
    """
    values = _Native(
        number, parameters.iterations, parameters.length, parameters.vary, parameters.sglen
    )
    wrapper = _UsbdevfsIoctl(interface, TEST_REQUEST, ctypes.addressof(values))
    fcntl.ioctl(fd, USBDEVFS_IOCTL, wrapper)
    return float(values.duration_sec + values.duration_usec / 1e6)
