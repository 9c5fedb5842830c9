"""What runs inside the VM: one bash script, made here as text.

The guest's root is the host's, read-write; its /tmp, /run, /var/tmp, /var/log, /var/cache,
/var/lib/apt and /dev/shm are its own, empty at the start.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ("END_OF_LOG", "HOST_ROOT", "Task", "carried", "entry", "script")

HOST_ROOT: Final = "/run/lab-host"
"""Where the guest sees all of the host's root, also what lies under the guest's own mounts."""

END_OF_LOG: Final = "usbip-vudc lab: end of the command"
"""The last line that the guest writes into its kernel's log."""

_STAYS: Final = re.compile(
    "DBUS_.*|DISPLAY|HOME|HOSTNAME|INVOCATION_ID|JOURNAL_STREAM|LOGNAME|MAIL|MAKEFLAGS|MAKELEVEL"
    "|MFLAGS|NOTIFY_SOCKET|OLDPWD|PATH|PWD|PYTHONDONTWRITEBYTECODE|SHLVL|SSH_.*|TEMP|TERM|TMP"
    "|TMPDIR|USER|WAYLAND_DISPLAY|XDG_.*|_|BASH_FUNC_.*"
)
"""Variables that say something about the host's session, not about the work.

Under emulation each Python would take seconds to compile what the one before it has compiled.
"""

_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Task:
    """One command for the guest. All paths are absolute, and the host's."""

    command: Sequence[str]
    directory: Path
    environment: Mapping[str, str]
    run: Path
    """Where the script and its exit status lie."""
    results: Path
    """Where dmesg goes, and what the command wants to leave."""
    modules: Path
    """What shall be /lib/modules/VERSION."""
    visible: Sequence[Path] = ()
    """What else the guest must see, even if it lies in one of the directories of its own."""


def carried(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that go along into the guest; its PATH begins with this very Python's.

    A pyenv shim takes 20 s under emulation, so the directories of shims are left out.
    """
    kept = {
        name: text
        for name, text in environment.items()
        if re.fullmatch(r"[A-Za-z_]\w*", name) and not _STAYS.fullmatch(name)
    }
    base = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    path = [str(Path(sys.executable).parent), str(base.parent)]
    path += f"{environment.get('PATH', '')}:{_SYSTEM_PATH}".split(":")
    kept["PATH"] = ":".join(dict.fromkeys(p for p in path if p and not p.endswith("/shims")))
    kept.update(HOME="/root", TMPDIR="/tmp", USER="root", LOGNAME="root", USBIP_VUDC_LAB="1")
    return kept


def entry(run: Path) -> str:
    """The command that virtme-ng's init runs: it has to fit on the kernel's command line."""
    return (
        f"mkdir -p {HOST_ROOT} && mount --bind / {HOST_ROOT} && "
        f"exec bash {shlex.quote(f'{HOST_ROOT}{run}/guest.sh')}"
    )


def script(task: Task) -> str:
    """The whole of guest.sh. It prepares the guest, runs the command, and notes its status."""
    run = shlex.quote(f"{HOST_ROOT}{task.run}")
    log = shlex.quote(f"{HOST_ROOT}{task.results}/dmesg.txt")
    modules = shlex.quote(str(task.modules))
    paths = (task.directory, task.results, task.modules, *task.visible)
    seen = " ".join(shlex.quote(str(path)) for path in dict.fromkeys(paths))
    names = "\n".join(f"export {k}={shlex.quote(v)}" for k, v in sorted(task.environment.items()))
    return f"""\
exec </dev/null
dmesg -n 1
mount -t tmpfs -o mode=1777 tmp /tmp
for path in {seen}; do
    [ -e "$path" ] && continue
    mkdir -p "$path" && mount --bind "{HOST_ROOT}$path" "$path"
done
ip link set lo up
# virtme-ng has put a directory of its own there, unless the kernel is one of /boot.
[ /lib/modules/$(uname -r) -ef {modules} ] || ln -sfn {modules} /lib/modules/$(uname -r)
modprobe -a configfs >/dev/null 2>&1
for fs in config:configfs debug:debugfs; do
    mountpoint -q /sys/kernel/${{fs%:*}} || mount -t ${{fs#*:}} none /sys/kernel/${{fs%:*}}
done
# Written through at once, so that the log survives a panic and a kill.
dmesg -w 2>/dev/null | dd of={log} bs=64k oflag=dsync status=none &
cut -d' ' -f1 /proc/uptime | dd of={run}/started oflag=dsync status=none
{names}
export USBIP_VUDC_LAB_RESULTS={shlex.quote(str(task.results))}
cd {shlex.quote(str(task.directory))} && {shlex.join(task.command)}
status=$?
echo '{END_OF_LOG}' >/dev/kmsg
for _ in $(seq 50); do
    grep -q '{END_OF_LOG}' {log} && break
    sleep 0.1
done
sync -f {HOST_ROOT}
echo 0 >/proc/sys/kernel/printk  # not a word of powering down
echo $status | dd of={run}/status oflag=dsync status=none
exit $status
"""
