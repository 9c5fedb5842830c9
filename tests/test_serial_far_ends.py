"""Profiles whose bytes leave the process: pty, tcp, exec and file; nothing lost, nothing left."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import anyio
import anyio.abc
import anyio.to_thread
import pytest
import trio
import trio.testing

from gadgets.acm.function import AcmFunction
from gadgets.serial import ends
from gadgets.serial.ends import Exec, Pty, Tcp, _connect
from gadgets.serial.events import Events
from gadgets.serial.file import File
from gadgets.serial.line import FarEndClosed, FarEndOpened
from gadgets.serial.profile import Profile
from tests.serial_bench import (
    attached,
    control_lines,
    exported,
    noise,
    plugged,
    read_all,
    write,
)
from usbip_vudc.host.client import Host
from usbip_vudc.usb.cdc import SerialState
from usbip_vudc.usb.ch9 import Speed

pytestmark = pytest.mark.anyio


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loaded machine is no far end that does not take its bytes."""
    for module in ("far_end", "ends"):
        monkeypatch.setattr(f"gadgets.serial.{module}.GRACE_SECONDS", 20.0)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """For far ends that never end by themselves."""
    for module in ("far_end", "ends"):
        monkeypatch.setattr(f"gadgets.serial.{module}.GRACE_SECONDS", 0.05)


@contextmanager
def nothing_left() -> Iterator[None]:
    """No descriptor and no child of this process is more than before."""
    fds, children = open_fds(), child_pids()
    yield
    assert open_fds() == fds
    assert child_pids() == children


def open_fds() -> set[str]:
    """What is open, but for what is the event loop's own."""
    found = set()
    for fd in Path("/proc/self/fd").iterdir():
        try:
            target = str(fd.readlink())
        except OSError:
            continue
        if target.startswith(("/dev/pt", "pipe:", "anon_inode:[pidfd]", tempfile.gettempdir())):
            found.add(f"{fd.name} {target}")
    return found


def child_pids() -> set[str]:
    tasks = Path("/proc/self/task").glob("*/children")
    return {pid for path in tasks for pid in path.read_text().split()}


async def opened(events: Events) -> str:
    async for event in events:
        if isinstance(event, FarEndOpened):
            return event.where
    raise AssertionError("events never end")


async def closed(events: Events) -> str:
    async for event in events:
        if isinstance(event, FarEndClosed):
            return event.why
    raise AssertionError("events never end")


async def write_all(host: Host, data: bytes, step: int = 4096) -> None:
    for start in range(0, len(data), step):
        await write(host, data[start : start + step], None)


# --- exec --------------------------------------------------------------------------------------


async def test_a_command_is_what_the_host_talks_to() -> None:
    data = noise(300_000)
    with nothing_left():
        function = AcmFunction(Exec("cat"))
        async with plugged(function) as host, anyio.create_task_group() as tasks:
            tasks.start_soon(write_all, host, data)
            assert await read_all(host, len(data)) == data
            assert function.serial_state == SerialState.DCD
        assert function.serial_state == SerialState(0)


@pytest.mark.usefixtures("patient")
async def test_what_the_host_sent_reaches_the_command_though_the_host_leaves(
    tmp_path: Path,
) -> None:
    data = noise(200_000)
    log = tmp_path / "log"
    with nothing_left():
        function = AcmFunction(Exec(f"sh -c 'cat >{log}'"))
        events = function.events()
        async with plugged(function) as host:
            await write_all(host, data)
        await closed(events)
        assert log.read_bytes() == data


async def test_all_that_a_command_wrote_before_it_exited_reaches_the_host() -> None:
    length = 400_000
    command = f"head -c {length} /dev/zero"
    with nothing_left():
        function = AcmFunction(Exec(command))
        events = function.events()
        async with plugged(function) as host:
            await opened(events)
            # It has more to say than all the buffers between hold, and the host is late.
            await anyio.sleep(0.05)
            assert await read_all(host, length) == bytes(length)
            assert (await closed(events)).endswith("exited with status 0")


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("sh -c 'exit 3'", "exited with status 3"),
        ("sh -c 'kill -SEGV $$'", "killed by SIGSEGV"),
    ],
)
async def test_the_end_of_a_command_is_an_event_and_no_crash(command: str, why: str) -> None:
    function = AcmFunction(Exec(command))
    events = function.events()
    with nothing_left():
        async with plugged(function) as host:
            for _ in range(2):
                assert why in await closed(events)
                assert function.serial_state == SerialState(0), "the carrier is lost"
                # The host opens the port anew: so does the command start anew.
                await host.control(control_lines(0))
                await host.control(control_lines(1))


async def test_a_command_that_is_none_is_an_event() -> None:
    function = AcmFunction(Exec("/nowhere/command"))
    events = function.events()
    async with plugged(function) as host:
        assert await closed(events) == "exec:/nowhere/command: No such file or directory"
        await host.control(control_lines(1))
        assert "No such file" in await closed(events)


async def test_a_command_that_cannot_be_watched_is_an_event_and_does_not_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none_left(_pid: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", none_left)
    function = AcmFunction(Exec("sleep 1000"))
    events = function.events()
    with nothing_left():
        async with plugged(function):
            assert await closed(events) == "exec:sleep 1000: Too many open files"


async def test_bytes_wait_for_the_next_command_where_one_takes_none() -> None:
    """The first reads one line and exits; the host's next bytes are the second's."""
    function = AcmFunction(Exec("sh -c 'read line; echo got $line'"))
    events = function.events()
    async with plugged(function) as host:
        await write(host, b"one\n")
        assert await read_all(host, 8) == b"got one\n"
        await closed(events)
        await write(host, b"two\n")
        await host.control(control_lines(1))
        assert await read_all(host, 8) == b"got two\n"


@pytest.mark.usefixtures("hasty")
async def test_a_command_that_ignores_its_end_is_killed_with_its_children() -> None:
    script = (
        "import signal, subprocess, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(subprocess.Popen(['sleep', '1000']).pid, flush=True)\n"
        "time.sleep(1000)"
    )
    function = AcmFunction(Exec(shlex.join((sys.executable, "-S", "-c", script))))
    with nothing_left():
        async with plugged(function) as host:
            child = b""
            while not child.endswith(b"\n"):
                child += await read_all(host, 1)
        await function.wait_connected(False)
        await gone(int(child))


async def gone(pid: int) -> None:
    """A grandchild is reaped by init, or whoever is: by and by."""
    stat = Path(f"/proc/{pid}/stat")
    with anyio.fail_after(20):
        while stat.exists() and ") Z " not in stat.read_text():
            await anyio.sleep(0.01)


@pytest.mark.usefixtures("hasty")
async def test_a_command_that_does_not_read_makes_the_host_wait_and_memory_stays_bounded() -> None:
    function = AcmFunction(Exec("sleep 1000"))
    taken = 0

    async def flood(host: Host) -> None:
        nonlocal taken
        for _ in range(1000):
            taken += await write(host, bytes(16384), None)

    async with plugged(function) as host, anyio.create_task_group() as tasks:
        tasks.start_soon(flood, host)
        before = -1
        while taken != before:
            before = taken
            await anyio.sleep(0.2)
        tasks.cancel_scope.cancel()
    # A ring in the port, as much taken out of it, the pipe, and the URB that waits.
    assert taken <= (256 + 256 + 64 + 16) * 1024


async def test_a_command_that_writes_faster_than_the_host_reads_waits_and_loses_nothing(
    tmp_path: Path,
) -> None:
    data = noise(4 << 20)
    source = tmp_path / "data"
    source.write_bytes(data)
    # Not cat, whose newer ones write 256 KiB at once: wchar counts a write when all of it is gone.
    function = AcmFunction(Exec(f"dd if={source} bs=16k status=none"))
    events = function.events()
    async with plugged(function, Speed.SUPER) as host:
        process = int((await opened(events)).split()[-1])

        def written() -> int:
            fields = Path(f"/proc/{process}/io").read_text().split()
            return int(fields[fields.index("wchar:") + 1])

        before = 0
        while not written() or written() != before:
            before = written()
            await anyio.sleep(0.1)
        # What a pipe holds, what waits for the host, and the piece that waits for room there.
        assert 0 < written() <= (64 + 64 + 16 + 16) * 1024
        assert await read_all(host, len(data)) == data
        assert (await closed(events)).endswith("exited with status 0")


# --- tcp ---------------------------------------------------------------------------------------


@contextmanager
def listening(port: int = 0) -> Iterator[socket.socket]:
    with closing(socket.create_server(("127.0.0.1", port))) as listener:
        listener.settimeout(20)
        yield listener


async def accept(listener: socket.socket) -> socket.socket:
    peer, _ = await anyio.to_thread.run_sync(listener.accept)
    peer.settimeout(20)
    return peer


async def receive_all(peer: socket.socket, length: int) -> bytes:
    def receive() -> bytes:
        data = bytearray()
        while len(data) < length and (piece := peer.recv(65536)):
            data += piece
        return bytes(data)

    return await anyio.to_thread.run_sync(receive)


async def test_a_tcp_peer_may_go_and_come_and_no_byte_is_lost_between() -> None:
    rounds = [noise(100_000, seed) for seed in range(3)]
    with nothing_left(), listening() as listener:
        function = AcmFunction(Tcp(*listener.getsockname()))
        events = function.events()
        async with plugged(function) as host:
            for data in rounds:
                with closing(await accept(listener)) as peer:
                    await opened(events)
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(write_all, host, data)
                        assert await receive_all(peer, len(data)) == data
                    peer.sendall(data[:1000])
                    assert await read_all(host, 1000) == data[:1000]
                assert "closed by the far end" in await closed(events)
                assert function.serial_state == SerialState(0)


async def test_bytes_wait_for_a_peer_that_is_not_there_yet() -> None:
    with listening() as listener:
        address = listener.getsockname()
    function = AcmFunction(Tcp(*address))
    events = function.events()
    async with plugged(function) as host:
        assert "Connection refused" in await closed(events)
        await write_all(host, noise(50_000))
        with listening(address[1]) as listener, closing(await accept(listener)) as peer:
            assert await receive_all(peer, 50_000) == noise(50_000)


async def test_a_peer_that_crashes_is_an_event_and_no_crash() -> None:
    with listening() as listener:
        function = AcmFunction(Tcp(*listener.getsockname()))
        events = function.events()
        async with plugged(function) as host:
            peer = await accept(listener)
            await opened(events)
            await write(host, b"never read")
            await receive_all(peer, 1)
            # A reset, as of a process that was killed with bytes unread.
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes((1, 0, 0, 0, 0, 0, 0, 0)))
            peer.close()
            assert "reset" in (await closed(events)).lower()
            with closing(await accept(listener)) as peer:
                await write(host, b"again")
                assert await receive_all(peer, 5) == b"again"


async def test_a_peer_that_stops_reading_stops_the_host_and_then_gets_every_byte() -> None:
    data = noise(8 << 20)
    written = 0
    with listening() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        function = AcmFunction(Tcp(*listener.getsockname()))
        async with plugged(function, Speed.SUPER) as host, anyio.create_task_group() as tasks:

            async def flood() -> None:
                nonlocal written
                for start in range(0, len(data), 16384):
                    written += await write(host, data[start : start + 16384], None)

            with closing(await accept(listener)) as peer:
                tasks.start_soon(flood)
                before = -1
                while written != before:
                    before = written
                    await anyio.sleep(0.2)
                assert written < len(data), "the host waits"
                assert await receive_all(peer, len(data)) == data


async def test_a_peer_that_is_gone_before_it_is_looked_at_leaves_no_socket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def connect_and_be_reset(sock: socket.socket, address: object) -> None:
        await _connect(sock, address)
        peer, _ = listener.accept()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes((1, 0, 0, 0, 0, 0, 0, 0)))
        peer.close()
        await anyio.wait_readable(sock)
        made.append(sock)

    made: list[socket.socket] = []
    monkeypatch.setattr(ends, "_connect", connect_and_be_reset)
    with listening() as listener, pytest.raises(OSError, match="not connected"):
        await Tcp(*listener.getsockname()).open()
    assert [sock.fileno() for sock in made] == [-1]


async def test_a_port_that_nobody_listens_on_is_not_answered_by_ourselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Linux may choose it for our own end, and a socket can be connected to itself."""

    async def connect_from_there(sock: socket.socket, address: tuple[str, int]) -> None:
        sock.bind(address)
        await _connect(sock, address)

    monkeypatch.setattr(ends, "_connect", connect_from_there)
    with listening() as listener:
        address = listener.getsockname()
    with nothing_left(), pytest.raises(ConnectionRefusedError):
        await Tcp(*address).open()


async def test_an_address_of_a_family_that_is_not_here_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def resolve(host: str, port: int, **_options: int) -> list[tuple[object, ...]]:
        families = 99, socket.AF_INET
        return [(family, socket.SOCK_STREAM, 0, "", (host, port)) for family in families]

    monkeypatch.setattr(anyio, "getaddrinfo", resolve)
    with listening() as listener:
        opened = await Tcp(*listener.getsockname()).open()
        await opened.close(hurry=True)


async def test_a_host_name_that_is_none_is_an_event_and_no_crash() -> None:
    function = AcmFunction(Tcp("\u2603..example", 80))
    events = function.events()
    async with plugged(function):
        assert (await closed(events)).startswith("tcp:\u2603..example:80: no host name")
        assert function.connected


def test_a_peer_that_is_not_there_is_tried_less_and_less_often() -> None:
    function = AcmFunction()
    waits: list[float] = []

    async def try_again() -> None:
        for was_open in (False, False, False, False, False, False, True, False):
            start = trio.current_time()
            await peer.until_again(function, rises=0, was_open=was_open)
            waits.append(trio.current_time() - start)

    peer = Tcp("127.0.0.1", 9)
    trio.run(try_again, clock=trio.testing.MockClock(autojump_threshold=0))
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 0.1, 0.2])


@pytest.mark.usefixtures("patient")
async def test_what_the_host_sent_reaches_the_peer_though_the_host_leaves() -> None:
    data = noise(200_000)
    with nothing_left(), listening() as listener:
        function = AcmFunction(Tcp(*listener.getsockname()))
        async with exported(function) as port, anyio.create_task_group() as tasks:
            async with attached(port) as host:
                peer = await accept(listener)
                peer.sendall(b"never read by the host")
                await write_all(host, data)

            async def read_late() -> None:
                with closing(peer):
                    assert await receive_all(peer, len(data) + 1) == data

            tasks.start_soon(read_late)
            await function.wait_connected(False)


# --- pty ---------------------------------------------------------------------------------------


async def in_thread(call: Callable[[], bytes]) -> bytes:
    return await anyio.to_thread.run_sync(call)


async def test_a_pty_is_the_other_side_of_the_port(tmp_path: Path) -> None:
    link = tmp_path / "tty"
    data = noise(100_000)
    with nothing_left():
        function = AcmFunction(Pty(link))
        events = function.events()
        async with plugged(function) as host:
            name = (await opened(events)).partition(" -> ")[2]
            assert str(link.readlink()) == name
            terminal = os.open(link, os.O_RDWR | os.O_NOCTTY)
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(write_all, host, data)
                    assert await in_thread(lambda: read_exactly(terminal, len(data))) == data
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(anyio.to_thread.run_sync, write_whole, terminal, data)
                    assert await read_all(host, len(data)) == data
            finally:
                os.close(terminal)
            await write(host, b"nobody has it open")
            terminal = os.open(link, os.O_RDWR | os.O_NOCTTY)
            try:
                assert await in_thread(lambda: read_exactly(terminal, 18)) == b"nobody has it open"
            finally:
                os.close(terminal)
        await function.wait_connected(False)
        assert not link.is_symlink()


def read_exactly(fd: int, length: int) -> bytes:
    data = b""
    while len(data) < length:
        data += os.read(fd, 65536)
    return data


def write_whole(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


async def test_a_link_of_a_process_that_was_killed_is_replaced(tmp_path: Path) -> None:
    link = tmp_path / "tty"
    link.symlink_to("/dev/pts/99999")
    function = AcmFunction(Pty(link))
    events = function.events()
    async with plugged(function):
        assert "/dev/pts/99999" not in await opened(events)


async def test_a_link_that_another_port_has_taken_stays_its_own(tmp_path: Path) -> None:
    link = tmp_path / "tty"
    function = AcmFunction(Pty(link))
    events = function.events()
    async with plugged(function):
        name = (await opened(events)).partition(" -> ")[2]
        link.unlink()
        link.symlink_to(f"{name}0")  # as /dev/pts/10 is to /dev/pts/1
    assert link.is_symlink()


async def test_what_is_no_link_to_a_pty_is_left_alone(tmp_path: Path) -> None:
    there = tmp_path / "precious"
    there.write_text("precious")
    with nothing_left():
        function = AcmFunction(Pty(there))
        events = function.events()
        async with plugged(function):
            assert "File exists" in await closed(events)
    assert there.read_text() == "precious"


# --- file --------------------------------------------------------------------------------------


async def test_a_file_has_every_byte_that_the_host_sent_of_every_connection(
    tmp_path: Path,
) -> None:
    path = tmp_path / "log"
    parts = [noise(300_000, 1), noise(77, 2)]
    with nothing_left():
        function = AcmFunction(File(path))
        async with exported(function) as port:
            for part in parts:
                async with attached(port) as host:
                    await write_all(host, part)
                await function.wait_connected(False)
                assert path.read_bytes().endswith(part)
        assert path.read_bytes() == b"".join(parts)


async def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        function = AcmFunction(File(fifo))
        events = function.events()
        async with plugged(function):
            assert "not a regular file" in await closed(events)
    finally:
        os.close(reader)


async def test_a_full_disk_is_an_event_and_the_host_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    function = AcmFunction(File(tmp_path / "log"))
    events = function.events()

    def full(_fd: int, _data: memoryview) -> int:
        raise OSError(28, "No space left on device")

    async with plugged(function) as host:
        await opened(events)
        await write(host, b"there is room")
        monkeypatch.setattr("gadgets.serial.file.os.write", full)
        await write(host, b"there is none")
        assert "No space left" in await closed(events)
        monkeypatch.undo()
        await write(host, b"and now nobody looks")
    assert (tmp_path / "log").read_bytes() == b"there is room"
    assert "did not take the last 33 bytes of a host that left" in caplog.text


# --- one after the other -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["exec", "tcp", "pty", "file"])
async def test_configuring_again_and_again_leaves_nothing(kind: str, tmp_path: Path) -> None:
    make: dict[str, Callable[[], Profile]] = {
        "exec": lambda: Exec("cat"),
        "tcp": lambda: Tcp("127.0.0.1", 9),
        "pty": lambda: Pty(tmp_path / "tty"),
        "file": lambda: File(tmp_path / "log"),
    }
    with nothing_left():
        function = AcmFunction(make[kind]())
        async with exported(function) as port:
            for _ in range(3):
                async with attached(port):
                    await function.wait_connected()
                await function.wait_connected(False)


async def test_a_far_end_that_is_killed_while_the_host_writes_is_an_event() -> None:
    function = AcmFunction(Exec("cat"))
    events = function.events()
    async with plugged(function) as host, anyio.create_task_group() as tasks:
        process = int((await opened(events)).split()[-1])
        tasks.start_soon(write_all, host, noise(600_000))
        await read_all(host, 1)
        os.kill(process, signal.SIGKILL)
        tasks.start_soon(read_all, host, 600_000)
        assert "killed by SIGKILL" in await closed(events)
        tasks.cancel_scope.cancel()
