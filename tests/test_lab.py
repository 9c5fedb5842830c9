"""lab: kernels, probe, the guest's script, and a VM that is played by a shell script."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import pytest
from click.testing import CliRunner

from usbip_vudc.cli import lab as cli
from usbip_vudc.cli import main
from usbip_vudc.errors import SchemeError, UsbipVudcError
from usbip_vudc.kernel_log import KernelLog
from usbip_vudc.lab import boot, packages, selection
from usbip_vudc.lab.boot import DIED, TIMED_OUT, Machine, Outcome, launch_command, run
from usbip_vudc.lab.cache import fresh_results
from usbip_vudc.lab.guest import END_OF_LOG, HOST_ROOT, Task, carried, entry, script
from usbip_vudc.lab.kernels import NEEDED_MODULES, Kernel, from_path, image_version, installed
from usbip_vudc.lab.kvm import Kvm, boot_sector, probe
from usbip_vudc.lab.packages import Need
from usbip_vudc.lab.selection import find
from usbip_vudc.lab.trouble import EXPECTED, trouble, trouble_of_run

EMULATION = Kvm(usable=False, reason="a test")
PATIENCE = 20.0


def no_progress(what: str, _total: int) -> NoReturn:
    pytest.fail(f"nothing was to be downloaded: {what}")


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


# the kernel's log


@pytest.mark.parametrize(
    "line",
    [
        "BUG: unable to handle page fault for address: 0",
        "Oops: 0002 [#1] PREEMPT SMP",
        "WARNING: CPU: 1 PID: 9 at mm/page_alloc.c:5534",
        "INFO: task bash:12 blocked for more than 120 seconds.",
        "general protection fault, probably for non-canonical address",
        "usb 17-1: unable to enumerate USB device",
        "BUG: KASAN: use-after-free in vhci_rx_loop",
    ],
)
def test_trouble_is_seen_and_can_be_expected(line: str) -> None:
    assert trouble(["usb 1-1: new device", line]) == [line]
    assert trouble([line], expected=[re.escape(line[:9])]) == []


@pytest.mark.parametrize(
    "line",
    [
        "PCI: Using host bridge windows from ACPI; if necessary, use pci=nocrs and report a bug",
        "AMD-Vi: AMD IOMMUv2 functionality not available on this system - This is not a bug.",
        "usb usb16: We don't know the algorithms for LPM for this host, disabling LPM.",
    ],
)
def test_what_every_boot_says_is_no_trouble(line: str) -> None:
    assert trouble([line]) == []


def test_the_log_is_read_from_where_one_stands(tmp_path: Path) -> None:
    kmsg = tmp_path / "kmsg"
    kmsg.write_text("6,1,1,-;before\n")
    with KernelLog(str(kmsg)) as log:
        assert log.read() == []
        with kmsg.open("a") as file:
            file.write("6,2,2,-;now; really\n SUBSYSTEM=usb\n")
        assert log.read() == ["now; really"]
        assert log.read() == []


def test_expected_trouble_of_a_run_is_not_held_against_it(tmp_path: Path) -> None:
    (tmp_path / "dmesg.txt").write_text("[    1.5] WARNING: one\n[  12.25] WARNING: two\n")
    assert len(trouble_of_run(tmp_path)) == 2
    (tmp_path / EXPECTED).write_text("WARNING: two\n")
    assert trouble_of_run(tmp_path) == ["[    1.5] WARNING: one"]


# kernels


def bzimage(version: str) -> bytes:
    """The start of a bzImage: magic, and the pointer to the version, less 0x200."""
    image = bytearray(0x400)
    image[0x202:0x206] = b"HdrS"
    image[0x20E:0x210] = (0x100).to_bytes(2, "little")
    text = f"{version} (builder@host) #1 SMP\0".encode()
    image[0x300 : 0x300 + len(text)] = text
    return bytes(image)


def install_kernel(root: Path, version: str, modules: Sequence[str] = NEEDED_MODULES) -> Path:
    image = root / "boot" / f"vmlinuz-{version}"
    image.parent.mkdir(exist_ok=True)
    image.write_bytes(bzimage(version))
    directory = root / "lib/modules" / version
    directory.mkdir(parents=True)
    (directory / "modules.dep").write_text("".join(f"kernel/x/{m}.ko.xz:\n" for m in modules))
    return image


def test_version_is_that_in_the_image_whatever_its_name(tmp_path: Path) -> None:
    image = tmp_path / "vmlinuz-9.9"
    image.write_bytes(bzimage("6.1.0-7-amd64"))
    assert image_version(image) == "6.1.0-7-amd64"
    image.write_bytes(b"compressed in another way")
    assert image_version(image) == "9.9"


def test_what_is_no_kernel_is_refused(tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    odd.write_bytes(b"")
    with pytest.raises(SchemeError, match="not a bzImage, and not named vmlinuz-VERSION"):
        image_version(odd)
    with pytest.raises(UsbipVudcError, match="No such file"):
        image_version(tmp_path / "none")


def test_newest_kernel_with_modules_is_taken(tmp_path: Path) -> None:
    install_kernel(tmp_path, "6.1.9-1-amd64")
    install_kernel(tmp_path, "6.1.10-1-amd64")
    install_kernel(tmp_path, "6.12.0-cloud-amd64", ("libcomposite",))
    (tmp_path / "boot/vmlinuz-6.13.0").write_bytes(bzimage("6.13.0"))
    found = installed(tmp_path)
    assert found is not None
    assert found.version == "6.1.10-1-amd64"
    assert found.modules == tmp_path / "lib/modules/6.1.10-1-amd64"


def test_a_machine_without_a_kernel_has_none(tmp_path: Path) -> None:
    assert installed(tmp_path) is None


def test_modules_of_a_named_kernel_have_to_be_there(tmp_path: Path) -> None:
    image = install_kernel(tmp_path, "6.1.9")
    modules = tmp_path / "lib/modules/6.1.9"
    assert from_path(image, modules) == Kernel("6.1.9", image, modules, str(image))
    (modules / "modules.dep").unlink()
    with pytest.raises(SchemeError, match=r"--modules .*/6\.1\.9: no modules\.dep in it"):
        from_path(image, modules)


def test_no_name_is_the_kernel_of_boot_and_else_debian(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    own = Kernel("1", tmp_path, tmp_path, "here")

    def from_debian(suite: str, *, progress: object) -> Kernel:  # noqa: ARG001
        asked.append(suite)
        return own

    monkeypatch.setattr(selection, "from_debian", from_debian)
    monkeypatch.setattr(selection, "installed", lambda: own)
    assert find(None, progress=no_progress) is own
    assert asked == []
    monkeypatch.setattr(selection, "installed", lambda: None)
    assert find(None, progress=no_progress) is own
    assert find("debian", progress=no_progress) is own
    assert find("debian:trixie", progress=no_progress) is own
    assert asked == ["", "", "trixie"]


@pytest.mark.parametrize(
    ("text", "modules", "words"),
    [
        ("/nowhere/vmlinuz", None, "no such file; it has to be a vmlinuz, debian or debian:SUITE"),
        ("bookworm", None, "no such file"),
        ("debian:sid", Path("/lib"), "--modules /lib: debian:sid brings its own"),
    ],
)
def test_a_name_that_means_nothing_is_refused(text: str, modules: Path | None, words: str) -> None:
    with pytest.raises(SchemeError, match=words):
        find(text, modules, progress=no_progress)


# KVM


def program(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("USBIP_VUDC_CACHE", str(tmp_path / "cache"))
    made = tmp_path / "kvm"
    made.touch()
    return made


def test_boot_sector_is_one_that_a_bios_boots() -> None:
    sector = boot_sector()
    assert len(sector) == 512
    assert sector.endswith(b"\x55\xaa")
    assert sector.startswith(b"\xb0\x2a\xe6\xf4"), "mov al, 0x2a; out 0xf4, al"


@pytest.mark.parametrize(
    ("qemu", "usable", "reason"),
    [
        ("exit 85", True, "a boot sector ran under it"),
        ('echo "kvm_buf_set_msrs: Assertion" >&2; kill -ABRT $$', False,
         "QEMU ended with status -6 under KVM and said: kvm_buf_set_msrs: Assertion"),
        ("exit 1", False, "QEMU ended with status 1 under KVM and said: nothing"),
        ("exec sleep 60", False, "/dev/kvm hung for 0 s"),
    ],
    ids=["works", "asserts", "fails", "hangs"],
)  # fmt: skip
def test_kvm_is_used_only_if_it_boots(
    tmp_path: Path,
    device: Path,
    monkeypatch: pytest.MonkeyPatch,
    qemu: str,
    usable: bool,
    reason: str,
) -> None:
    if "sleep" in qemu:
        monkeypatch.setattr("usbip_vudc.lab.kvm._DEADLINE", 0.2)
    fake = program(tmp_path / "qemu", f'[ "$1" = --version ] && exit 0\n{qemu}')
    assert probe(fake, device) == Kvm(usable, reason)


def test_the_answer_is_kept_for_this_boot_and_this_qemu(tmp_path: Path, device: Path) -> None:
    boots = tmp_path / "boots"
    text = f'[ "$1" = --version ] && {{ echo $V; exit 0; }}\necho >>{boots}; exit 85'
    fake = program(tmp_path / "qemu", text)
    assert [probe(fake, device).usable for _ in range(3)] == [True] * 3
    assert boots.read_text() == "\n", "one boot"
    program(tmp_path / "qemu", text.replace("$V", "8.0"))
    assert probe(fake, device).usable
    assert boots.read_text() == "\n\n", "another version is asked again"


def test_no_device_is_no_kvm(tmp_path: Path) -> None:
    assert probe("/nowhere/qemu", tmp_path / "none") == Kvm(
        usable=False, reason=f"there is no {tmp_path / 'none'}"
    )


# the guest


def test_work_goes_along_and_the_session_stays() -> None:
    kept = carried(
        {"CI": "true", "VIRTUAL_ENV": "/v", "HOME": "/home/me", "TMPDIR": "/t", "DISPLAY": ":0",
         "SSH_AUTH_SOCK": "/s", "XDG_RUNTIME_DIR": "/x", "MAKEFLAGS": "-j",
         "PYTHONDONTWRITEBYTECODE": "1",
         "PATH": "/root/.pyenv/shims:/usr/bin:/opt/bin"}
    )  # fmt: skip
    path = kept.pop("PATH").split(":")
    assert kept == {
        "CI": "true", "VIRTUAL_ENV": "/v", "HOME": "/root", "TMPDIR": "/tmp", "USER": "root",
        "LOGNAME": "root", "USBIP_VUDC_LAB": "1",
    }  # fmt: skip
    assert path[0] == str(Path(sys.executable).parent), "the same Python as here"
    assert "/root/.pyenv/shims" not in path
    assert path.index("/usr/bin") < path.index("/opt/bin") < path.index("/usr/sbin")
    assert len(path) == len(set(path))


def task(tmp_path: Path, *command: str, **environment: str) -> Task:
    return Task(
        command=command,
        directory=tmp_path / "a b",
        environment=environment,
        run=tmp_path / "run",
        results=tmp_path / "results",
        modules=tmp_path / "modules",
    )


def test_script_is_bash_whatever_is_in_it(tmp_path: Path) -> None:
    text = script(task(tmp_path, "echo", "it's $HOME\n", A="'\"\n$(x)", B_1=";"))
    done = subprocess.run(("bash", "-n"), input=text, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert shlex.join(("echo", "it's $HOME\n")) in text
    assert f"cd '{tmp_path}/a b' && " in text
    assert f"export A={shlex.quote(chr(39) + chr(34) + chr(10) + '$(x)')}" in text
    assert END_OF_LOG in text


def test_a_variable_that_no_shell_can_set_stays() -> None:
    assert set(carried({"npm-config.x": "1", "1A": "2", "B": "3"})) - set(carried({})) == {"B"}


def test_entry_fits_on_the_kernels_command_line(tmp_path: Path) -> None:
    text = entry(tmp_path / "run")
    assert f"{HOST_ROOT}{tmp_path}/run/guest.sh" in text
    assert len(text) < 500, "x86 takes 2047 characters in all, and base64 adds a third"


# the VM


@pytest.mark.parametrize("usable", [True, False])
def test_launch_says_what_virtme_ng_needs(tmp_path: Path, usable: bool) -> None:
    kernel = Kernel("6.1", tmp_path / "vmlinuz-6.1", tmp_path, "here")
    machine = Machine(kernel, Kvm(usable, ""), memory="1G", cpus=3)
    words = launch_command(machine, kernel.image, "true")
    assert words[:3] == [sys.executable, "-m", "usbip_vudc.lab.virtme"]
    for option, value in (
        ("--kimg", str(kernel.image)), ("--memory", "1G"), ("--cpus", "3"), ("--script-sh", "true"),
    ):  # fmt: skip
        assert words[words.index(option) + 1] == value
    assert ("--disable-kvm" in words) is not usable
    assert ("-cpu" in words) is not usable, "virtme-ng's own choice under KVM is the host's"


class FakeVm:
    """Makes ``launch_command`` return a shell script, which knows $RUN and may write a status."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.results = tmp_path / "results"
        self.results.mkdir()
        self.body = ""
        self.runs: list[Path] = []
        self.out, self.err = io.BytesIO(), io.BytesIO()
        kernel = install_kernel(tmp_path, "6.1.9")
        self.kernel = from_path(kernel, tmp_path / "lib/modules/6.1.9")

        def launch(_machine: Machine, image: Path, entry_command: str) -> list[str]:
            assert image.resolve() == self.kernel.image
            assert (image.parent.parent / "lib/modules/6.1.9/modules.dep").exists()
            found = re.search(rf"{HOST_ROOT}(\S+)/guest\.sh", entry_command)
            assert found is not None
            self.runs.append(Path(found[1]))
            return ["bash", "-c", f"RUN={found[1]}\n{self.body}"]

        monkeypatch.setattr(boot, "launch_command", launch)

    def run(self, body: str, *, timeout: float = PATIENCE) -> Outcome:
        self.body = body
        return run(
            Machine(self.kernel, EMULATION, timeout=timeout),
            ("true",),
            results=self.results,
            directory=Path.cwd(),
            environment={"A": "b"},
            stdout=self.out,
            stderr=self.err,
        )


@pytest.fixture
def vm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeVm:
    return FakeVm(tmp_path, monkeypatch)


def test_status_and_output_come_back(vm: FakeVm) -> None:
    outcome = vm.run("echo 12.5 >$RUN/started; echo out; echo err >&2; echo 7 >$RUN/status")
    assert (outcome.status, outcome.ended, outcome.boot_seconds) == (7, True, 12.5)
    assert (vm.out.getvalue(), vm.err.getvalue()) == (b"out\n", b"err\n")


def test_nothing_is_left_of_a_run(vm: FakeVm) -> None:
    vm.run(
        "test -s $RUN/guest.sh && stat -c %a $RUN; touch $TMPDIR/virtme_ret; echo 0 >$RUN/status"
    )
    assert vm.out.getvalue() == b"700\n", "it has the caller's environment in it"
    assert not vm.runs[0].exists()


def test_output_streams(vm: FakeVm, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = vm.results / "seen"

    class Sink(io.BytesIO):
        def write(self, data: object) -> int:
            seen.touch()
            return super().write(data)  # type: ignore[arg-type]

    monkeypatch.setattr(vm, "out", Sink())
    outcome = vm.run(f"echo first; until [ -e {seen} ]; do sleep 0.01; done; echo 0 >$RUN/status")
    assert outcome.status == 0


@pytest.mark.parametrize(("started", "when"), [(False, "before"), (True, "while")])
def test_a_vm_that_dies_has_no_status_of_the_command(vm: FakeVm, started: bool, when: str) -> None:
    outcome = vm.run(f"{'echo 3 >$RUN/started' if started else ''}\nexit 255")
    assert (outcome.status, outcome.ended) == (DIED, False)
    assert outcome.why.startswith(f"the VM ended {when}")


def test_a_vm_that_hangs_is_killed_with_all_its_children(vm: FakeVm) -> None:
    body = "sleep 600 & echo $! >{0}; trap '' TERM; echo $$ >>{0}; wait; sleep 600"
    pids = vm.results / "pids"
    outcome = vm.run(body.format(pids), timeout=1.0)
    assert (outcome.status, outcome.ended) == (TIMED_OUT, False)
    assert outcome.why == "stopped after 1 s"
    for pid in map(int, pids.read_text().split()):
        wait_until(lambda pid=pid: not alive(pid))  # type: ignore[misc]


def test_a_vm_that_hangs_at_its_end_keeps_its_status(vm: FakeVm) -> None:
    assert vm.run("echo 4 >$RUN/status; sleep 600", timeout=1.0).status == 4


def test_an_exception_takes_the_vm_along(vm: FakeVm, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.BytesIO):
        def write(self, _data: object) -> int:
            raise KeyboardInterrupt

    monkeypatch.setattr(vm, "out", Broken())
    pids = vm.results / "pids"
    with pytest.raises(KeyboardInterrupt):
        vm.run(f"echo $$ >{pids}; echo hello; sleep 600")
    assert not alive(int(pids.read_text()))
    assert not vm.runs[0].exists()


# the command


def lab(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ("lab", *arguments))
    return done.exit_code, done.stderr


def test_a_lab_that_cannot_begin_says_so_with_125(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "why_no_boot", lambda: "")
    assert lab("--kernel", "/nowhere/vmlinuz", "--", "true") == (
        DIED,
        "usbip-vudc: --kernel /nowhere/vmlinuz: no such file; it has to be a vmlinuz, debian or "
        "debian:SUITE\n",
    )
    monkeypatch.setattr(cli, "why_no_boot", lambda: "no file: apt-get install file")
    assert lab("true") == (DIED, "usbip-vudc: no file: apt-get install file\n")


def test_what_the_lab_lacks_is_named_with_what_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def need(what: str, there: bool, boots: bool) -> Need:
        return Need(what, (f"{what}-package",), "", lambda: there, boots)

    needs = (need("qemu", False, True), need("file", True, True), need("sz", False, False))
    monkeypatch.setattr(packages, "NEEDS", needs)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: object())
    assert packages.why_no_boot() == (
        "no qemu: apt-get install --no-install-recommends qemu-package"
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert packages.why_no_boot() == "no virtme-ng: pip install 'usbip-vudc[lab]'"
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UsbipVudcError, match=f"no {packages.QEMU}: apt-get install"):
        boot.find_qemu()


def test_a_command_is_needed() -> None:
    assert lab()[0] == 2


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGHUP])
def test_signals_unwind_as_exceptions_do(name: signal.Signals) -> None:
    with pytest.raises(SystemExit) as caught, cli._signals_unwind():
        os.kill(os.getpid(), name)
        time.sleep(PATIENCE)
    assert caught.value.code == 128 + name


def test_the_command_ends_with_the_status_of_what_ran(
    vm: FakeVm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "find", lambda *_, **__: vm.kernel)
    monkeypatch.setattr(cli, "probe", lambda _qemu: EMULATION)
    monkeypatch.setattr(cli, "find_qemu", lambda: "qemu")
    monkeypatch.setattr(cli, "why_no_boot", lambda: "")
    log = shlex.quote(str(vm.results / "dmesg.txt"))
    vm.body = f"echo '[ 1.0] WARNING: x' >{log}; echo 3 >$RUN/status; echo 9 >$RUN/started"
    status, said = lab("--results", str(vm.results), "--", "pytest", "--flag", "-x")
    assert status == 3
    assert said.splitlines() == [
        f"lab: kernel 6.1.9, {vm.kernel.image}",
        "lab: emulation, 2 CPUs, 2G: a test",
        f"lab: results in {vm.results}",
        re.sub(r"\(\d+ s", "(0 s", said.splitlines()[3]),
        "lab: dmesg: [ 1.0] WARNING: x",
    ]
    assert said.splitlines()[3].endswith("9 s of boot); dmesg: 1 lines, 1 of trouble")


def test_old_results_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USBIP_VUDC_CACHE", str(tmp_path))
    for number in range(30):
        (tmp_path / "lab" / f"20200101-0000{number:02}-1").mkdir(parents=True)
    made = fresh_results()
    left = sorted(path.name for path in (tmp_path / "lab").iterdir())
    assert len(left) == 20
    assert left[0] == "20200101-000011-1"
    assert left[-1] == made.name


def test_probe_answers_are_json(tmp_path: Path, device: Path) -> None:
    probe(program(tmp_path / "qemu", "exit 85"), device)
    kept = next((tmp_path / "cache").glob("kvm-*.json"))
    assert json.loads(kept.read_text())["usable"] is True
