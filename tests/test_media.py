"""Media of a running gadget: what a host sees of each change, and the socket that makes them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import anyio.from_thread
import pytest
from click.testing import CliRunner

from gadgets.mass_storage import FileLun, Lun, MassStorageFunction, MediumEvent, RamLun
from gadgets.mass_storage.models import NeedsReset
from gadgets.mass_storage.stores import PatternLun
from tests.test_cli import listening_port, serving
from tests.test_mass_storage import IN, MIB, OUT, Disk, plugged, read10, write10
from usbip_vudc.cli import main
from usbip_vudc.control import Control, ControlError, ask, sockets
from usbip_vudc.errors import LocalProtocolError, UrbError
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.injection import Plan, injected
from usbip_vudc.registry import GadgetOptions, load_gadget

PREVENT, ALLOW = bytes.fromhex("1e0000000100"), bytes.fromhex("1e0000000000")


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "a.img", tmp_path / "b.img"
    for path, letter, size in zip(paths, b"ab", (1, 2), strict=True):
        path.write_bytes(bytes([letter]) * (size * MIB))
    return paths


def seen(disk: Disk) -> dict[str, object]:
    """What four commands say of the medium, each as its data or as its sense."""
    said: dict[str, object] = {}
    for name, cdb, length in (
        ("TEST UNIT READY", bytes(6), 0),
        ("READ CAPACITY", bytes.fromhex("25") + bytes(9), 8),
        ("MODE SENSE", bytes.fromhex("1a003f00c000"), 192),
        ("READ", read10(0, 1), 512),
    ):
        data, _, status = disk.read(cdb, length) if length else (b"", 0, disk.none(cdb))
        if status:
            said[name] = disk.sense()
        elif name == "READ CAPACITY":
            said[name] = struct.unpack(">II", data)[0] + 1
        elif name == "MODE SENSE":
            said[name] = "protected" if data[2] & 0x80 else "writable"
        else:
            said[name] = data[:1]
    return said


NONE = {"TEST UNIT READY": (2, 0x3A, 0), "READ CAPACITY": (2, 0x3A, 0), "READ": (2, 0x3A, 0)}
A = {"TEST UNIT READY": b"", "READ CAPACITY": 2048, "READ": b"a"}
B = {"TEST UNIT READY": b"", "READ CAPACITY": 4096, "READ": b"b"}
WRITABLE, PROTECTED = {"MODE SENSE": "writable"}, {"MODE SENSE": "protected"}


def hear(disk: Disk, asc: int, ascq: int = 0) -> None:
    """One UNIT ATTENTION, once."""
    assert disk.none(bytes(6)) == 1
    assert disk.sense() == (6, asc, ascq)


# --- what the host sees ------------------------------------------------------------------------


def test_every_command_agrees_about_the_medium(images: tuple[Path, Path]) -> None:
    with FileLun(images[0], removable=True) as lun, plugged(lun) as disk:
        disk.attend()
        assert seen(disk) == A | WRITABLE
        lun.eject()
        assert seen(disk) == NONE | WRITABLE
        lun.insert(images[1])
        hear(disk, 0x28)
        assert seen(disk) == B | WRITABLE
        lun.swap(images[0])
        hear(disk, 0x28)
        assert seen(disk) == A | WRITABLE
        lun.protect(True)
        hear(disk, 0x2A, 1)
        assert seen(disk) == A | PROTECTED
        assert disk.write(write10(0, 1), b"x" * 512) == (512, 1)
        assert disk.sense() == (7, 0x27, 0)
        lun.eject()
        assert seen(disk) == NONE | PROTECTED
        lun.insert()
        hear(disk, 0x28)
        assert seen(disk) == A | PROTECTED


@pytest.mark.parametrize("first", ["TUR", "READ CAPACITY", "MODE SENSE", "READ"])
def test_change_is_heard_by_whichever_command_comes_first(first: str) -> None:
    cdb, length = {
        "TUR": (bytes(6), 0),
        "READ CAPACITY": (bytes.fromhex("25") + bytes(9), 8),
        "MODE SENSE": (bytes.fromhex("1a003f00c000"), 192),
        "READ": (read10(0, 1), 512),
    }[first]
    lun = RamLun(MIB, removable=True)
    with plugged(lun) as disk:
        disk.attend()
        lun.eject()
        lun.insert()
        status = disk.read(cdb, length)[2] if length else disk.none(cdb)
        assert status == 1
        assert disk.sense() == (6, 0x28, 0)
        assert disk.none(bytes(6)) == 0


def test_removal_is_prevented_but_not_by_force(images: tuple[Path, Path]) -> None:
    with FileLun(images[0], removable=True) as lun, plugged(lun) as disk:
        disk.attend()
        assert disk.none(PREVENT) == 0
        with pytest.raises(LocalProtocolError, match="the host prevents removal"):
            lun.eject()
        with pytest.raises(LocalProtocolError, match="the host prevents removal"):
            lun.swap(images[1])
        assert seen(disk) == A | WRITABLE, "what was refused changed nothing"
        lun.swap(images[1], force=True)
        hear(disk, 0x28)
        assert seen(disk) == B | WRITABLE
        lun.eject()  # the new medium is not held
        lun.insert()
        hear(disk, 0x28)
        assert disk.none(PREVENT) == 0
        assert disk.none(ALLOW) == 0
        lun.eject()


def test_written_data_is_on_the_medium_that_was_ejected(images: tuple[Path, Path]) -> None:
    with FileLun(images[0], removable=True) as lun, plugged(lun) as disk:
        disk.attend()
        assert disk.write(write10(1, 1), b"w" * 512) == (0, 0)
        lun.swap(images[1])
    assert images[0].read_bytes()[:1025] == b"a" * 512 + b"w" * 512 + b"a"
    assert images[1].read_bytes() == b"b" * (2 * MIB)


def test_what_was_written_is_synchronised_after_the_switch_was_slid(
    images: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    synchronised: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synchronised.append)
    with FileLun(images[0]) as lun, plugged(lun) as disk:
        disk.attend()
        disk.write(write10(0, 1), b"w" * 512)
        lun.protect(True)
        hear(disk, 0x2A, 1)
        assert disk.none(bytes.fromhex("35") + bytes(9)) == 0
        assert len(synchronised) == 1


def test_file_that_was_opened_read_only_stays_protected(images: tuple[Path, Path]) -> None:
    with FileLun(images[0], read_only=True, removable=True) as lun:
        with pytest.raises(LocalProtocolError, match="open for reading only"):
            lun.protect(False)
        assert lun.read_only
        lun.eject()
        lun.protect(False)
        lun.insert()
        assert lun.write(0, memoryview(bytes(512))) == 512


@pytest.mark.parametrize(("swaps", "asc"), [(True, (6, 0x28, 0)), (False, (2, 0x3A, 0))])
def test_read_under_way_does_not_go_on_with_another_medium(
    tmp_path: Path, swaps: bool, asc: tuple[int, int, int]
) -> None:
    old, new = tmp_path / "old.img", tmp_path / "new.img"
    old.write_bytes(b"o" * (6 * MIB))
    new.write_bytes(b"n" * (6 * MIB))
    with FileLun(old, removable=True) as lun, plugged(lun) as disk:
        disk.attend()
        disk.cbw(read10(0, 12288), 6 * MIB)
        data = disk.receive(64 << 10)
        lun.eject()
        if swaps:
            lun.insert(new)
        with pytest.raises(UrbError, match="halted"):
            while True:
                data += disk.receive(64 << 10)
        disk.clear_halt(IN)
        assert disk.csw() == (6 * MIB - len(data), 1)
        assert disk.sense() == asc
        assert data == b"o" * len(data)


@pytest.mark.parametrize(("swaps", "asc"), [(True, (6, 0x28, 0)), (False, (2, 0x3A, 0))])
def test_write_under_way_does_not_go_on_with_another_medium(
    tmp_path: Path, swaps: bool, asc: tuple[int, int, int]
) -> None:
    old, new = tmp_path / "old.img", tmp_path / "new.img"
    for path in (old, new):
        path.write_bytes(bytes(4 * MIB))
    with FileLun(old, removable=True) as lun, plugged(lun) as disk:
        disk.attend()
        disk.cbw(write10(0, 4096), 2 * MIB, is_in=False)
        disk.send(b"w" * MIB)
        disk.send(b"w" * 512)
        lun.eject()
        if swaps:
            lun.insert(new)
        with contextlib.suppress(UrbError):
            disk.send(b"w" * (MIB - 512))
        with contextlib.suppress(UrbError):
            disk.clear_halt(OUT)
        assert disk.csw() == (MIB, 1)
        assert disk.sense() == asc
    assert old.read_bytes() == b"w" * MIB + bytes(3 * MIB)
    assert new.read_bytes() == bytes(4 * MIB)


def test_write_into_memory_does_not_go_on_after_an_eject() -> None:
    lun = RamLun(4 * MIB, removable=True)
    with plugged(lun) as disk:
        disk.attend()
        disk.cbw(write10(0, 2048), MIB, is_in=False)
        disk.send(b"w" * 512)
        lun.eject()
        disk.send(b"w" * (MIB - 512))
        assert disk.csw() == (MIB, 1)
        assert disk.sense() == (2, 0x3A, 0)


def test_host_that_left_holds_no_medium(images: tuple[Path, Path]) -> None:
    lun = NeedsReset(FileLun(images[0], removable=True))
    with plugged(lun) as disk:
        disk.attend()
        assert disk.none(PREVENT) == 0
        assert lun.prevented
    lun.swap(images[1])
    assert lun.size == 2 * MIB
    lun.close()


def test_failed_swap_leaves_no_medium(images: tuple[Path, Path]) -> None:
    with FileLun(images[0], removable=True) as lun, plugged(lun) as disk:
        disk.attend()
        with pytest.raises(FileNotFoundError):
            lun.swap(images[0].with_name("none"))
        assert seen(disk) == NONE | WRITABLE
        lun.insert(images[0])
        hear(disk, 0x28)


def test_protection_is_an_event_once() -> None:
    events: list[MediumEvent] = []
    lun = RamLun(MIB)
    lun.on_event = lambda _lun, event: events.append(event)
    for on in (True, True, False, False):
        lun.protect(on)
    assert events == [MediumEvent.PROTECTED, MediumEvent.UNPROTECTED]


def test_unit_of_one_medium_takes_no_other() -> None:
    lun = PatternLun(MIB, removable=True)
    lun.eject()
    with pytest.raises(LocalProtocolError, match=r"one medium only \(pattern:1048576:0\)"):
        lun.insert("/dev/null")
    assert not lun.medium_present


# --- the control socket ------------------------------------------------------------------------


@contextlib.contextmanager
def controlled(path: Path, *luns: Lun, plan: str = "") -> Iterator[Path]:
    """A gadget named disk, as device 1-1, behind a control socket in another thread."""
    function = MassStorageFunction(luns)
    gadget = Gadget(name="disk", idVendor=1, idProduct=2, configs=(Config(functions=(function,)),))
    with (
        anyio.from_thread.start_blocking_portal() as portal,
        Control({"1-1": injected(gadget, Plan.parse(plan)) if plan else gadget}, path) as control,
    ):
        scope = portal.call(anyio.CancelScope)

        async def serve() -> None:
            with scope:
                await control.serve()

        served = portal.start_task_soon(serve)
        try:
            assert control.path is not None
            yield control.path
        finally:
            portal.call(scope.cancel)
            served.result(10)


@pytest.mark.parametrize("plan", ["", "mass_storage.in nth(9) stall"])
def test_media_are_changed_through_the_socket(
    images: tuple[Path, Path], tmp_path: Path, plan: str
) -> None:
    lun = FileLun(images[0], removable=True)
    with lun, controlled(tmp_path / "s", RamLun(MIB), lun, plan=plan) as path:
        fixed, file = ask(path, command="list")
        assert (fixed["medium"], fixed["removable"]) == ("memory", False)
        assert file == {
            "device": "1-1", "gadget": "disk", "lun": 1, "medium": str(images[0]),
            "source": str(images[0]), "size": MIB, "block_size": 512, "removable": True,
            "protected": False, "prevented": False,
        }  # fmt: skip
        one = {"device": "1-1", "lun": 1}
        assert ask(path, command="eject", **one) == [file | {"medium": None, "size": 0}]
        assert ask(path, command="insert", path=str(images[1]), **one)[0]["size"] == 2 * MIB
        assert ask(path, command="protect", on=True, **one)[0]["protected"]
        assert ask(path, command="swap", path=str(images[0]), **one)[0]["size"] == MIB
        lun.prevented = True
        with pytest.raises(ControlError, match="the host prevents removal"):
            ask(path, command="eject", **one)
        assert ask(path, command="eject", force=True, **one)[0]["medium"] is None
        assert not lun.medium_present
    assert not path.exists()


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        ({"command": "eject", "device": "1-1", "lun": 0}, "not removable"),
        ({"command": "eject", "device": "1-1", "lun": 5}, "1-1 has no LUN 5"),
        ({"command": "eject", "device": "2-1", "lun": 0}, "2-1 has no LUN 0"),
        ({"command": "explode", "device": "1-1", "lun": 0}, "no request of usbip-vudc's"),
        ({"command": "eject", "lun": 0}, "no request of usbip-vudc's"),
        ({"command": "eject", "device": "1-1", "lun": 0, "hard": 1}, "no request of usbip-vudc's"),
        ({"command": "protect", "device": "1-1", "lun": 0, "on": "no"}, "on = 'no': expected true"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, request_: dict[str, object], why: str) -> None:
    with controlled(tmp_path / "s", RamLun(MIB)) as path:
        with pytest.raises(ControlError, match=why):
            ask(path, **request_)
        assert ask(path, command="list")[0]["medium"] == "memory"


def test_request_that_nests_too_deep_ends_nothing(tmp_path: Path) -> None:
    with controlled(tmp_path / "s", RamLun(MIB)) as path:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(path))
            client.sendall(b"[" * 60000 + b"\n")
            assert b"no request of usbip-vudc's" in client.makefile("rb").readline()
        assert ask(path, command="list")[0]["medium"] == "memory"


def test_socket_may_be_in_a_directory_of_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: user)
    with controlled(tmp_path / "s", RamLun(MIB)) as path:  # as /tmp is root's
        assert ask(path, command="list")[0]["medium"] == "memory"
    monkeypatch.setenv("USBIP_VUDC_RUNTIME_DIR", str(tmp_path))
    with (
        pytest.raises(PermissionError, match="another user"),
        controlled(tmp_path / "control" / "s", RamLun(MIB)),
    ):
        pass


def test_change_waits_for_the_thread_that_works_on_the_unit(tmp_path: Path) -> None:
    lun = RamLun(MIB, removable=True)
    lun.busy = True
    with controlled(tmp_path / "s", lun) as path, ThreadPoolExecutor() as pool:
        eject = pool.submit(ask, path, command="eject", device="1-1", lun=0)
        assert ask(path, command="list")[0]["medium"] == "memory"
        with pytest.raises(TimeoutError):
            eject.result(0.05)
        assert lun.medium_present
        lun.busy = False
        assert eject.result(10)[0]["medium"] is None


def test_unit_is_busy_while_it_flushes() -> None:
    seen_busy: list[bool] = []

    class Watched(RamLun):
        has_write_cache = True

        def flush(self) -> None:
            seen_busy.append(self.busy)

    lun = Watched(MIB)
    with plugged(lun) as disk:
        disk.attend()
        assert disk.none(bytes.fromhex("35") + bytes(9)) == 0
    assert (seen_busy, lun.busy) == ([True], False)


@pytest.mark.parametrize("sent", [b"\n", b"{}\n", b"[]\n", b"\xff\n", b"7\n"])
def test_noise_is_answered_and_survived(tmp_path: Path, sent: bytes) -> None:
    with controlled(tmp_path / "s", RamLun(MIB)) as path:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(path))
            client.sendall(sent)
            assert "error" in json.loads(client.makefile("rb").readline())
        assert len(ask(path, command="list")) == 1


def test_socket_is_for_its_owner_and_gone_afterwards(tmp_path: Path) -> None:
    with controlled(tmp_path / "deep" / "s", RamLun(MIB)) as path:
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
    assert not path.exists()


def test_gadget_without_media_has_no_socket(tmp_path: Path) -> None:
    gadget = load_gadget("serial", GadgetOptions())
    with Control({"g": gadget}, tmp_path / "s") as control:
        assert control.path is None
    assert not (tmp_path / "s").exists()


def test_gadget_does_without_a_socket_that_cannot_be(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("USBIP_VUDC_RUNTIME_DIR", "/proc/nowhere")
    gadget = load_gadget("storage", GadgetOptions())
    with Control({"1-1": gadget}) as control:
        assert control.path is None
    assert "no control socket" in caplog.text
    with pytest.raises(OSError), Control({"1-1": gadget}, Path("/proc/nowhere/s")):
        pass


def test_socket_of_a_killed_process_is_swept_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USBIP_VUDC_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "control").mkdir()
    dead, live = tmp_path / "control" / "1.sock", tmp_path / "control" / "2.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(dead))
    with controlled(live, RamLun(MIB)):
        assert list(sockets()) == [live]
    assert not dead.exists()


def test_socket_of_a_process_that_begins_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USBIP_VUDC_RUNTIME_DIR", str(tmp_path))
    chmod = Path.chmod

    def looked_at(path: Path, mode: int) -> None:
        assert list(sockets()) == []  # bound by now, but nobody listens yet
        chmod(path, mode)

    monkeypatch.setattr(Path, "chmod", looked_at)
    with controlled(tmp_path / "control" / "2.sock", RamLun(MIB)) as path:
        assert list(sockets()) == [path]
    assert list((tmp_path / "control").iterdir()) == []


# --- the command -------------------------------------------------------------------------------


def media(*arguments: str) -> tuple[int, str]:
    """``usbip-vudc media`` in this process: exit status and all output."""
    done = CliRunner().invoke(main, ["media", *arguments])
    return done.exit_code, done.output


def test_command_changes_the_media_of_a_served_gadget(
    images: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USBIP_VUDC_RUNTIME_DIR", str(tmp_path / "rt"))
    assert media("list") == (0, f"no gadget with media runs here ({tmp_path}/rt/control)\n")
    with serving("storage", "serial", "--image", str(images[0]), "--removable") as process:
        listening_port(process)
        status, said = media("list", "--json")
        (unit,) = json.loads(said)["media"]
        assert (status, unit["gadget"], unit["medium"]) == (0, "storage", str(images[0]))
        assert media("eject") == (0, "1-1 storage 0 0 removable -\n")
        monkeypatch.chdir(tmp_path)
        assert media("insert", "b.img") == (0, f"1-1 storage 0 {2 * MIB} removable {images[1]}\n")
        assert media("insert") == (
            1, "usbip-vudc: there is a medium already; eject it first\n",
        )  # fmt: skip
        assert media("swap", "a.img", "--device", "storage")[0] == 0
        assert " removable,protected " in media("protect")[1]
        assert " removable " in media("protect", "--off")[1]
        status, said = media("eject", "--lun", "3")
        assert (status, "no such unit runs; there are 1-1 (storage) lun 0" in said) == (1, True)
        assert media("list") == (0, f"1-1 storage 0 {MIB} removable {images[0]}\n")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)
        assert process.returncode == 0
    assert list((tmp_path / "rt" / "control").iterdir()) == []
