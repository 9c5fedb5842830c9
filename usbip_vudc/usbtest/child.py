"""A test in a process of its own, so that one which never ends is not the end of everything.

The driver waits for URBs in a state that no signal ends. A thread in that state would keep its
whole process from exiting, and the sockets of a device that the process carries from closing.
"""

from __future__ import annotations

import os
import select
import signal
import struct
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from usbip_vudc.errors import UsbipVudcError
from usbip_vudc.usbtest.ioctl import issue
from usbip_vudc.usbtest.parameters import Parameters

__all__ = ("GRACE", "Ending", "hanging", "run_in_child")

GRACE: Final = 15.0
"""Seconds that a killed test has to come back: usbtest waits up to 10 for a URB."""

_OPEN_FILES: Final = Path("/proc/self/fd")

_ANSWER: Final = struct.Struct("=id")

_killed: Final[set[int]] = set()
"""Processes of tests that were killed and had not come back when they were last looked for."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a test ended. ``errno`` is 0 where it passed, None where it did not end in time.

    ``hung`` is whether it goes on nevertheless, and keeps the device to itself.
    """

    errno: int | None
    seconds: float
    hung: bool = False


def run_in_child(
    fd: int, interface: int, number: int, parameters: Parameters, timeout: float
) -> Ending:
    """Run one test on an open device node, at most ``timeout`` seconds and `GRACE`.

    Raises UsbipVudcError where the child died of something else.
    """
    reader, writer = os.pipe()
    try:
        try:
            pid = _fork()
            if not pid:
                _be_the_child(writer, fd, interface, number, parameters)
        finally:
            os.close(writer)  # so that the end of the child is the end of the pipe
        return _wait(pid, reader, timeout)
    finally:
        os.close(reader)


def hanging() -> bool:
    """Whether a test that was killed goes on: whoever wants its device's lock waits for it."""
    for pid in tuple(_killed):
        if os.waitpid(pid, os.WNOHANG)[0]:
            _killed.discard(pid)
    return bool(_killed)


def _fork() -> int:
    with warnings.catch_warnings():
        # Python fears for locks that other threads hold: the child takes none, and runs no more
        # than an ioctl before it is gone.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _be_the_child(
    writer: int, fd: int, interface: int, number: int, parameters: Parameters
) -> NoReturn:
    try:
        for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(kind, signal.SIG_DFL)
        # Copies of our server's sockets and of FunctionFS's endpoints would keep them open. One by
        # one: where a process may have 2^30 files, a range up to there can take minutes.
        for copy in [int(path.name) for path in _OPEN_FILES.iterdir()]:
            if copy > 2 and copy not in (writer, fd):
                with suppress(OSError):  # the one of the list itself
                    os.close(copy)
        try:
            answer = 0, issue(fd, interface, number, parameters)
        except OSError as error:
            answer = error.errno or 0, 0.0
        os.write(writer, _ANSWER.pack(*answer))
    finally:
        os._exit(0)


def _wait(pid: int, reader: int, timeout: float) -> Ending:
    started = time.monotonic()
    try:
        done, _, _ = select.select([reader], [], [], timeout)
    except BaseException:
        _kill(pid, reader)
        raise
    if done:
        return _ended(pid, os.read(reader, _ANSWER.size))
    back = _kill(pid, reader)
    return Ending(None, time.monotonic() - started, hung=not back)


def _kill(pid: int, reader: int) -> bool:
    """End a test; whether it has come back within `GRACE`."""
    os.kill(pid, signal.SIGKILL)
    _killed.add(pid)
    back, _, _ = select.select([reader], [], [], GRACE)
    if back:
        os.waitpid(pid, 0)
        _killed.discard(pid)
    return bool(back)


def _ended(pid: int, answer: bytes) -> Ending:
    _, status = os.waitpid(pid, 0)
    if len(answer) < _ANSWER.size:
        raise UsbipVudcError(
            f"the process of a test ended without a result (status {status:#x}); see dmesg"
        )
    return Ending(*_ANSWER.unpack(answer))
