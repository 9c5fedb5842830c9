"""records and lifecycle: whatever ends a process, the next one knows what it left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from configfs import lifecycle, mount, records
from configfs.advice import ConfigfsError
from configfs.lifecycle import bring_down, clean_stale, install, stopping_on_sigterm
from configfs.records import Record, alive, annotate, claim, clean, find, keep, release, save, stale
from configfs.transaction import ConfigfsGadget
from tests.devices import Scripted
from tests.fake_configfs import FakeConfigfs, configfs
from usbip_vudc.errors import SchemeError
from usbip_vudc.gadget import Config, Gadget, KernelFunction

__all__ = ("configfs",)

ACM = KernelFunction(driver="acm")


def gadget(function: Scripted | KernelFunction = ACM, name: str = "g") -> Gadget:
    return Gadget(name=name, idVendor=1, idProduct=2, configs=(Config(functions=(function,)),))


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits until it is told to end."""
    with subprocess.Popen((sys.executable, "-c", "input()"), stdin=subprocess.PIPE) as child:
        yield child
        child.kill()


def held_by(record: Record, pid: int) -> Record:
    """The record as if another process had written it."""
    start = records._start_time(pid)
    assert start is not None
    theirs = replace(record, pid=pid, start_time=start)
    save(theirs)
    return theirs


def test_a_claim_is_written_before_anything_is_made(configfs: FakeConfigfs, tmp_path: Path) -> None:
    record = claim(gadget(Scripted()), root=configfs.root)
    assert configfs.calls == []
    written = json.loads((tmp_path / "run/gadgets/g.json").read_text())
    assert written["path"] == str(configfs.root / "g")
    assert written["mounts"] == [str(tmp_path / "run/functionfs/g/g-0")]
    assert (written["pid"], written["held"]) == (os.getpid(), True)
    assert find("g") == record
    assert alive(record)
    assert stale() == ()
    release(record)
    assert find("g") is None
    assert not list((tmp_path / "run/gadgets").iterdir())


def test_one_gadget_of_a_name(configfs: FakeConfigfs) -> None:
    record = claim(gadget(), root=configfs.root)
    with pytest.raises(ConfigfsError, match=rf"g is up already, process {os.getpid()}: .*down g"):
        claim(gadget(), root=configfs.root)
    release(record)
    ConfigfsGadget.create(gadget(), root=configfs.root)
    with pytest.raises(ConfigfsError, match="gadget g is up already: usbip-vudc down g"):
        claim(gadget(), root=configfs.root)
    assert find("g") is None


def test_a_held_gadget_is_stale_when_its_process_is_gone(
    configfs: FakeConfigfs, process: subprocess.Popen[bytes]
) -> None:
    record = held_by(claim(gadget(), root=configfs.root), process.pid)
    tree = ConfigfsGadget.create(gadget(), root=configfs.root)
    tree.bind("dummy_udc.0")
    assert stale() == ()
    process.kill()
    process.wait()
    assert stale() == (record,)
    assert [(r.name, e) for r, e in clean_stale()] == [("g", None)]
    assert not tree.exists
    assert find("g") is None
    clean(record)


def test_a_zombie_holds_nothing(configfs: FakeConfigfs, process: subprocess.Popen[bytes]) -> None:
    record = held_by(claim(gadget(), root=configfs.root), process.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not alive(record)
    assert configfs.calls == []


def test_a_pid_used_again_is_another_process(configfs: FakeConfigfs) -> None:
    record = claim(gadget(), root=configfs.root)
    assert not alive(replace(record, start_time=record.start_time + 1))
    assert not alive(replace(record, boot_id="of another boot"))
    assert configfs.calls == []


def test_a_new_claim_cleans_what_is_stale(
    configfs: FakeConfigfs, process: subprocess.Popen[bytes]
) -> None:
    held_by(claim(gadget(), root=configfs.root), process.pid)
    ConfigfsGadget.create(gadget(), root=configfs.root)
    process.kill()
    process.wait()
    record = claim(gadget(), root=configfs.root)
    assert record.pid == os.getpid()
    assert not (configfs.root / "g").exists()


def test_a_gadget_of_kernel_functions_stays_without_its_process(configfs: FakeConfigfs) -> None:
    tree = install(gadget(), "dummy_udc.0", source="abc", root=configfs.root)
    record = find("g")
    assert record is not None
    assert (record.held, record.source, tree.udc) == (False, "abc", "dummy_udc.0")
    save(replace(record, start_time=0))
    assert stale() == (), "nobody needs to hold it"
    tree.remove()
    assert len(stale()) == 1, "but it is gone"


def test_install_leaves_nothing_where_the_bind_fails(configfs: FakeConfigfs) -> None:
    configfs.refuse = {"write g/UDC": 16}
    with pytest.raises(ConfigfsError, match="EBUSY"):
        install(gadget(), "dummy_udc.0", root=configfs.root)
    assert not list(configfs.root.iterdir())
    assert find("g") is None


def test_install_is_not_for_functions_that_need_a_process(configfs: FakeConfigfs) -> None:
    with pytest.raises(SchemeError, match="has functions of userspace: KernelUDC"):
        install(gadget(Scripted()), "dummy_udc.0", root=configfs.root)
    assert configfs.calls == []


def test_down_removes_ours_and_others_and_nothing(configfs: FakeConfigfs) -> None:
    install(gadget(), "dummy_udc.0", root=configfs.root)
    assert bring_down("g", root=configfs.root)
    assert not bring_down("g", root=configfs.root)
    ConfigfsGadget.create(gadget(name="foreign"), root=configfs.root)
    assert bring_down("foreign", root=configfs.root)
    assert not list(configfs.root.iterdir())
    with pytest.raises(SchemeError, match="gadget name"):
        bring_down("../etc", root=configfs.root)


def test_down_ends_the_process_that_holds_it(
    configfs: FakeConfigfs, process: subprocess.Popen[bytes]
) -> None:
    held_by(claim(gadget(), root=configfs.root), process.pid)
    ConfigfsGadget.create(gadget(), root=configfs.root)
    assert bring_down("g", root=configfs.root)
    assert process.wait(10) == -signal.SIGTERM
    assert not list(configfs.root.iterdir())
    assert find("g") is None


def test_down_leaves_a_gadget_that_another_process_made_meanwhile(
    configfs: FakeConfigfs, process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = claim(gadget(), root=configfs.root)
    tree = ConfigfsGadget.create(gadget(), root=configfs.root)

    def stop(record: Record) -> None:
        assert record == old
        tree.remove()
        release(record)
        held_by(claim(gadget(), root=configfs.root), process.pid)
        ConfigfsGadget.create(gadget(), root=configfs.root).bind("dummy_udc.0")

    monkeypatch.setattr(lifecycle, "_stop", stop)
    assert bring_down("g", root=configfs.root)
    assert tree.udc == "dummy_udc.0"
    left = find("g")
    assert left is not None
    assert left.pid == process.pid


def test_down_kills_a_process_that_will_not_end(
    configfs: FakeConfigfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "_PATIENCE", 0.2)
    code = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); input()"
    )
    with subprocess.Popen(
        (sys.executable, "-c", code), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as stubborn:
        assert stubborn.stdout is not None
        stubborn.stdout.readline()
        held_by(claim(gadget(), root=configfs.root), stubborn.pid)
        assert bring_down("g", root=configfs.root)
        assert stubborn.wait(10) == -signal.SIGKILL
    assert configfs.calls == []


def test_what_cannot_be_cleaned_stays_on_record(
    configfs: FakeConfigfs, process: subprocess.Popen[bytes]
) -> None:
    held_by(claim(gadget(), root=configfs.root), process.pid)
    ConfigfsGadget.create(gadget(), root=configfs.root)
    process.kill()
    process.wait()
    configfs.refuse = {"rmdir g/functions/acm.0": 16}
    [(record, error)] = clean_stale()
    assert isinstance(error, ConfigfsError)
    assert find("g") == record
    configfs.refuse = {}
    assert [e for _, e in clean_stale()] == [None]


def test_the_lock_makes_the_second_wait(configfs: FakeConfigfs) -> None:
    order: list[str] = []

    def second() -> None:
        with records.locked():
            order.append("second")

    thread = threading.Thread(target=second)
    with records.locked():
        thread.start()
        thread.join(0.1)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert configfs.calls == []


def test_another_user_reaches_the_files_of_its_functions_whatever_roots_umask_is(
    configfs: FakeConfigfs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Libc:
        def mount(self, *_arguments: object) -> int:
            return 0

    monkeypatch.setattr(mount, "_libc", Libc)
    before = os.umask(0o077)
    try:
        claim(gadget(Scripted()), root=configfs.root)
        where = records.mount_directory("g") / "g-0"
        mount.mount_functionfs("g-0", where, uid=1, gid=1)
    finally:
        os.umask(before)
    below = [path for path in (where, *where.parents) if path.is_relative_to(tmp_path / "run")]
    assert [path.stat().st_mode & 0o111 for path in below] == [0o111] * 4


def test_annotations_and_damage(configfs: FakeConfigfs, tmp_path: Path) -> None:
    record = claim(gadget(), root=configfs.root)
    annotate("g", source="abc")
    assert find("g") == replace(record, source="abc")
    assert keep(record, source="def").held is False
    annotate("nobody", source="abc")
    (tmp_path / "run/gadgets/g.json").write_text("{")
    with pytest.raises(SchemeError, match=r"gadgets/g\.json: damaged"):
        find("g")
    assert configfs.calls == []


def test_sigterm_unwinds() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, stopping_on_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before
