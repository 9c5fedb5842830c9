"""Boots the VM and waits for it: no command, no signal and no kernel keeps it longer than allowed.

The exit status of what ran inside comes back in a file, written through: a VM that dies without
it has died.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from usbip_vudc.errors import UsbipVudcError
from usbip_vudc.lab.guest import Task, carried, entry, script
from usbip_vudc.lab.kernels import Kernel
from usbip_vudc.lab.kvm import Kvm
from usbip_vudc.lab.packages import QEMU
from usbip_vudc.lab.trouble import EXPECTED

__all__ = ("DIED", "TIMED_OUT", "Machine", "Outcome", "find_qemu", "launch_command", "run")

TIMED_OUT: Final = 124
"""Exit status of a command whose VM was stopped at its time limit, as of timeout(1)."""

DIED: Final = 125
"""Exit status when the VM ended, or never began, without a status of the command."""

_ENDED: Final = "the command ended"

_USELESS_MODULES: Final = (
    *("kvm_amd", "kvm_intel", "kvm", "powernow_k8", "ccp", "iTCO_wdt", "iTCO_vendor_support"),
    *("ahci", "libahci", "psmouse", "lpc_ich", "i2c_i801", "i2c_smbus", "pcspkr", "parport_pc"),
    *("intel_agp", "qemu_fw_cfg", "ghash_clmulni_intel", "aesni_intel", "crypto_simd", "cryptd"),
    *("crc32_pclmul", "sha512_ssse3", "irqbypass", "button"),
)
"""udev's coldplug loads them for QEMU's q35; without them an emulated boot is seconds shorter."""


_OPTIONS: Final = (
    "log_buf_len=4M",
    "mitigations=off",
    "lsm=",
    "init_on_alloc=0",
    "cgroup_disable=memory",
    "randomize_kstack_offset=off",
    "rcupdate.rcu_expedited=1",
)
"""The log whole, and a tenth of the time saved: what is off here has no part in USB."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The VM: ``memory`` in QEMU's form, ``timeout`` in seconds from power on to power off.

    ``qemu`` are more arguments of QEMU's: devices that the guest shall have.
    """

    kernel: Kernel
    kvm: Kvm
    memory: str = "2G"
    cpus: int = 2
    timeout: float = 600.0
    qemu: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """``status`` is the command's own, or TIMED_OUT or DIED with ``why`` saying it in words."""

    status: int
    why: str
    seconds: float
    boot_seconds: float | None
    """Of the guest's own clock, until the command began; None if it never did."""

    @property
    def ended(self) -> bool:
        """Whether the status is the command's own."""
        return self.why == _ENDED


def launch_command(machine: Machine, image: Path, entry_command: str) -> list[str]:
    """virtme-run's arguments. ``image`` lies in a tree that has the kernel's modules too."""
    options = ["module_blacklist=" + ",".join(_USELESS_MODULES), *_OPTIONS]
    if not machine.kvm.usable:
        options.append("nowatchdog")  # a busy host looks like a soft lockup
    # What emulation has to work for and no test needs: nested pages, five levels, protection keys.
    cpu = () if machine.kvm.usable else ("-cpu", "max,-svm,-la57,-pku")
    qemu = (*cpu, *machine.qemu)
    return [
        *(sys.executable, "-m", "usbip_vudc.lab.virtme", "--name", "lab"),
        *("--kimg", str(image), "--mods", "auto", "--rw", "--force-9p"),
        *(() if machine.kvm.usable else ("--disable-kvm",)),
        *("--memory", machine.memory, "--cpus", str(machine.cpus)),
        *(word for option in options for word in ("--kopt", option)),
        *("--script-sh", entry_command, "--show-boot-console"),  # quiet, but for a panic
        *(("--qemu-opts", *qemu) if qemu else ()),
    ]


def run(
    machine: Machine,
    command: Sequence[str],
    *,
    results: Path,
    directory: Path,
    environment: Mapping[str, str],
    stdout: IO[bytes] | None = None,
    stderr: IO[bytes] | None = None,
) -> Outcome:
    """Boot, run ``command`` in ``directory`` as root, pass its output on, and wait.

    Leaves dmesg.txt in ``results``, which must exist. Whatever ends it, an
    exception too, nothing goes on running and nothing is left but the results. Raises
    OSError if a process cannot be started or a file not be written.
    """
    for name in ("dmesg.txt", EXPECTED):  # of an earlier run
        (results / name).unlink(missing_ok=True)
    with _run_directory() as work:
        image = _kernel_tree(machine.kernel, work)
        task = Task(
            command=command,
            directory=directory,
            environment=carried(environment),
            run=work,
            results=results,
            modules=machine.kernel.modules,
            visible=(Path(sys.prefix), Path(sys.base_prefix)),
        )
        (work / "guest.sh").write_bytes(os.fsencode(script(task)))
        launch = launch_command(machine, image, entry(work))
        started = time.monotonic()
        with _started(launch, work) as process:
            in_time = _pass_on(
                process,
                started + machine.timeout,
                stdout or sys.stdout.buffer,
                stderr or sys.stderr.buffer,
            )
        seconds = time.monotonic() - started
        return _outcome(work, in_time, process.returncode, machine.timeout, seconds)


@contextlib.contextmanager
def _run_directory() -> Iterator[Path]:
    """Private: the script has the caller's environment in it."""
    with tempfile.TemporaryDirectory(prefix="usbip-vudc-lab-") as name:
        yield Path(name).resolve()


def _kernel_tree(kernel: Kernel, work: Path) -> Path:
    """boot/vmlinuz-V beside lib/modules/V: virtme-ng finds the modules by the kernel's place."""
    if kernel.image.parent == Path("/boot") and kernel.modules.parent == Path("/lib/modules"):
        return kernel.image
    image = work / "kernel" / "boot" / f"vmlinuz-{kernel.version}"
    modules = work / "kernel" / "lib" / "modules" / kernel.version
    for link, target in ((image, kernel.image), (modules, kernel.modules)):
        link.parent.mkdir(parents=True)
        link.symlink_to(target)
    return image


@contextlib.contextmanager
def _started(launch: Sequence[str], work: Path) -> Iterator[subprocess.Popen[bytes]]:
    """virtme-run and QEMU in a session of their own, killed together."""
    environment = {**os.environ, "TMPDIR": str(work), "PYTHONDONTWRITEBYTECODE": "1"}
    # QEMU opens /proc/self/fd/1 anew, which would truncate a regular file: hence the pipes.
    process = subprocess.Popen(
        launch,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def _pass_on(
    process: subprocess.Popen[bytes], deadline: float, stdout: IO[bytes], stderr: IO[bytes]
) -> bool:
    """Copy the guest's output as it comes, until it ends; False if the deadline was first."""
    with selectors.DefaultSelector() as selector:
        for source, sink in ((process.stdout, stdout), (process.stderr, stderr)):
            assert source is not None
            selector.register(source, selectors.EVENT_READ, sink)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                return False
            for key, _ in ready:
                data = os.read(key.fd, 65536)
                if not data:
                    selector.unregister(key.fileobj)
                    continue
                key.data.write(data)
                key.data.flush()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(max(0.0, deadline - time.monotonic()))
        return True
    return False


def _outcome(work: Path, in_time: bool, returncode: int, timeout: float, seconds: float) -> Outcome:
    status = _number(work / "status")
    started = _number(work / "started")
    if status is not None:
        return Outcome(int(status), _ENDED, seconds, started)
    if not in_time:
        return Outcome(TIMED_OUT, f"stopped after {timeout:.0f} s", seconds, started)
    what = "while the command ran" if started is not None else "before the command began"
    why = f"the VM ended {what} (virtme-run: {returncode})"
    return Outcome(DIED, why, seconds, started)


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None


def find_qemu() -> str:
    """Path of the QEMU that virtme-ng will use. Raises UsbipVudcError if there is none."""
    found = shutil.which(QEMU)
    if found is None:
        raise UsbipVudcError(f"no {QEMU}: apt-get install qemu-system-x86")
    return found
