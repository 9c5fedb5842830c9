"""The far ends of this machine and beyond: `Pty`, `Tcp` and `Exec`.

All that they open lives as long as the host's connection, and is gone with it.
"""

from __future__ import annotations

import errno
import os
import shlex
import signal
import socket
import subprocess
import tty
from contextlib import suppress
from pathlib import Path

import anyio

from gadgets.serial.far_end import GRACE_SECONDS, FarEnd, Opened
from gadgets.serial.profile import LineOfPort, Port
from usbip_vudc.errors import SchemeError

__all__ = ("Exec", "Pty", "Tcp")

# --- pty ---------------------------------------------------------------------------------------


class Pty(FarEnd):
    """A pseudo-terminal, raw: any terminal program opens its name and is the device's firmware.

    ``link`` is a symbolic link to it, which stays the same for every connection. A link that is
    there and leads to some /dev/pts is replaced; anything else there is left alone.
    """

    def __init__(self, link: Path | None = None) -> None:
        super().__init__()
        self.link = link
        self.name: str | None = None
        """The device, such as /dev/pts/4, while a host is connected."""

    @property
    def text(self) -> str:
        """``pty`` or ``pty:LINK``."""
        return "pty" if self.link is None else f"pty:{self.link}"

    async def open(self) -> Opened:
        """Make a pair. Raises OSError, also where the link cannot be made."""
        opened = _OpenedPty(self.link)
        self.name = opened.name
        return opened

    def disconnect(self) -> None:
        """What came is kept, for `run` to hand it over."""
        self.name = None
        super().disconnect()

    async def until_again(self, line: LineOfPort, *, rises: int, was_open: bool) -> None:  # noqa: ARG002
        """It ends only with the connection; what cannot be opened is tried with the next one."""
        await anyio.sleep_forever()


class _OpenedPty(Opened):
    """We hold both sides: so it has no end, whoever opens and closes it."""

    def __init__(self, link: Path | None) -> None:
        self.reader, self._slave = os.openpty()
        self.writer = self.reader
        self._link = link
        try:
            tty.setraw(self._slave)
            os.set_blocking(self.reader, False)
            self.name = os.ttyname(self._slave)
            self.where = self.name if link is None else f"{link} -> {self.name}"
            if link is not None:
                _remove_link(link)
                link.symlink_to(self.name)
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        os.close(self.reader)
        os.close(self._slave)

    async def close(self, *, hurry: bool) -> None:  # noqa: ARG002 - a tty is hung up, not drained
        """Hang up: a program on the other side reads the end of file."""
        self._close()
        if self._link is not None:
            _remove_link(self._link, self.name)


def _remove_link(link: Path, name: str | None = None) -> None:
    """Remove a symbolic link to the pseudo-terminal of this name, or to any; and nothing else."""
    with suppress(OSError):
        leads_to = str(link.readlink())
        if leads_to == name or (name is None and leads_to.startswith("/dev/pts/")):
            link.unlink()


# --- tcp ---------------------------------------------------------------------------------------

_FIRST_DELAY, _LAST_DELAY = 0.1, 2.0
"""Seconds between attempts to connect: twice as many each time."""


class Tcp(FarEnd):
    """A TCP connection to a server, made anew for as long as it takes whenever it is lost.

    Bytes wait meanwhile. Those that were on their way when it was lost are the network's.
    """

    def __init__(self, host: str, port: int) -> None:
        if not host or not 0 < port < 65536:
            raise SchemeError(
                f"host {host!r}, port {port}: expected some host, and a port from 1 to 65535"
            )
        super().__init__()
        self.host = host
        self.port = port
        self._delay = _FIRST_DELAY

    @property
    def text(self) -> str:
        """``tcp:HOST:PORT``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp:{host}:{self.port}"

    def connect(self, port: Port) -> None:
        """What the host sends waits for the server, which is tried at once."""
        self._delay = _FIRST_DELAY
        super().connect(port)

    async def open(self) -> Opened:
        """Connect. Raises OSError."""
        error: OSError = OSError(errno.EADDRNOTAVAIL, "no address")
        try:
            addresses = await anyio.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except UnicodeError as failure:  # anyio encodes the name itself
            raise OSError(errno.EINVAL, f"no host name: {failure}") from None
        for family, kind, protocol, _, address in addresses:
            try:
                return await _open(socket.socket(family, kind, protocol), address)
            except OSError as failure:
                error = failure
        raise error

    async def until_again(self, line: LineOfPort, *, rises: int, was_open: bool) -> None:  # noqa: ARG002
        """Wait a moment, and twice as long each time, until it was there again."""
        if was_open:
            self._delay = _FIRST_DELAY
        await anyio.sleep(self._delay)
        self._delay = min(self._delay * 2, _LAST_DELAY)


async def _open(sock: socket.socket, address: object) -> Opened:
    try:
        sock.setblocking(False)
        await _connect(sock, address)
        if sock.getsockname() == sock.getpeername():
            # Tried for long enough, a port without a server is some day the one of our own end.
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        return _OpenedTcp(sock)
    except BaseException:
        sock.close()
        raise


async def _connect(sock: socket.socket, address: object) -> None:
    status = sock.connect_ex(address)  # type: ignore[arg-type]  # as getaddrinfo gave it
    if status == errno.EINPROGRESS:
        await anyio.wait_writable(sock)
        status = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if status:
        raise OSError(status, os.strerror(status))


class _OpenedTcp(Opened):
    def __init__(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self.reader = self.writer = sock.fileno()
        host, port = sock.getpeername()[:2]
        self.where = f"{host}:{port}"

    async def close(self, *, hurry: bool) -> None:
        """Say that no more comes, and let the peer read what did: a reset would destroy it."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
            if not hurry:
                with anyio.move_on_after(GRACE_SECONDS):
                    await self.discard()
        self._sock.close()


# --- exec --------------------------------------------------------------------------------------


class Exec(FarEnd):
    """A command, whose standard input and output are the port; its errors go where ours go.

    It starts when a host connects. When it has exited it starts again as the host opens the port
    anew (DTR rises), or connects anew. It is in a process group of its own, all of which ends with
    the connection: its input ends, then it has a moment before SIGTERM, and one before SIGKILL.
    """

    def __init__(self, command: str) -> None:
        try:
            self._words = shlex.split(command)
        except ValueError as error:
            raise SchemeError(f"exec:{command}: {error}") from None
        if not self._words:
            raise SchemeError("exec: no command; expected exec:COMMAND")
        super().__init__()
        self.command = command

    @property
    def text(self) -> str:
        """``exec:COMMAND``."""
        return f"exec:{self.command}"

    async def open(self) -> Opened:
        """Start it. Raises OSError."""
        return _OpenedProcess(self._words)

    async def until_again(self, line: LineOfPort, *, rises: int, was_open: bool) -> None:  # noqa: ARG002
        """Wait until the host opens the port anew."""
        events = line.events()
        while line.dtr_rises == rises:
            await anext(events)


class _OpenedProcess(Opened):
    ends_by_itself = True

    def __init__(self, words: list[str]) -> None:
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self.writer, self.reader = self._stdin.fileno(), self._stdout.fileno()
        self.where = f"process {self._process.pid}"
        try:
            self._exited = os.pidfd_open(self._process.pid)
        except OSError:
            self._process.kill()
            self._process.communicate()
            raise
        os.set_blocking(self.writer, False)
        os.set_blocking(self.reader, False)

    async def over(self) -> str:
        """Wait until it has exited: how."""
        await anyio.wait_readable(self._exited)
        # Not reaped yet: until `close` its number is that of its group alone.
        result = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        assert result is not None
        if result.si_code == os.CLD_EXITED:
            return f"exited with status {result.si_status}"
        return f"killed by {signal.Signals(result.si_status).name}"

    async def close(self, *, hurry: bool) -> None:
        """End its input; then the whole group, by and by."""
        with suppress(OSError):
            self._stdin.close()
        if not hurry and not await self._exits():
            self._signal(signal.SIGTERM)
            await self._exits()
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._stdout.close()
        os.close(self._exited)

    async def _exits(self) -> bool:
        """Whether it exits within the time that it has; what it still says is thrown away."""
        with anyio.move_on_after(GRACE_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.discard)
                await anyio.wait_readable(self._exited)
                tasks.cancel_scope.cancel()
                return True
        return False

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
