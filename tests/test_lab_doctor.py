"""lab/checks, lab/packages and the command doctor: what is found on machines made for it."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from usbip_vudc.cli import doctor as cli
from usbip_vudc.cli import main
from usbip_vudc.errors import UsbipVudcError
from usbip_vudc.lab import checks as room
from usbip_vudc.lab import packages
from usbip_vudc.lab.checks import Check, State, System, all_checks, userspace_works
from usbip_vudc.lab.kvm import Kvm
from usbip_vudc.lab.packages import NEEDS, Need, install, install_command, library, tool

RELEASE = "6.1.0-7-amd64"


@pytest.fixture(autouse=True)
def no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "find_qemu", lambda: "qemu")
    monkeypatch.setattr(room, "probe", lambda _qemu: Kvm(False, "there is no /dev/kvm"))


def machine(root: Path, files: dict[str, str], *, euid: int = 0) -> dict[str, Check]:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return {check.what: check for check in all_checks(System(root, RELEASE, euid))}


def modules(text: str) -> dict[str, str]:
    return {f"lib/modules/{RELEASE}/modules.dep": text}


def test_a_machine_that_has_it_all(tmp_path: Path) -> None:
    (tmp_path / "sys/module/vhci_hcd").mkdir(parents=True)
    (tmp_path / "sys/class/udc/dummy_udc.0").mkdir(parents=True)
    found = machine(
        tmp_path,
        {
            f"lib/modules/{RELEASE}/modules.dep": "k/usbip-vudc.ko.xz: a\nk/usb_f_fs.ko:\n",
            f"lib/modules/{RELEASE}/modules.builtin": "kernel/drivers/usb/libcomposite.ko\n",
            f"boot/config-{RELEASE}": "CONFIG_USB_GADGET=m\nCONFIG_USBIP_DEBUG=y\n",
            "proc/self/mounts": "none /sys/kernel/config configfs rw 0 0\n",
            "proc/filesystems": "nodev\tfunctionfs\n",
        },
    )
    assert found["module vhci-hcd"].seen == "loaded"
    assert found["module libcomposite"].seen == "built in"
    assert found["module usbip-vudc"].seen == "to be loaded"
    assert found["module usbip-vudc"].mend == "modprobe usbip-vudc"
    assert found["UDCs"].seen == "dummy_udc.0"
    for what in ("configfs", "functionfs", "UDCs", "CONFIG_USB_GADGET", "CONFIG_USBIP_DEBUG",
                 "module usb_f_fs", "root"):  # fmt: skip
        assert found[what].state is State.OK, what


@pytest.mark.parametrize(
    ("os_release", "mend"),
    [
        ("ID=ubuntu\n", f"apt-get install linux-modules-extra-{RELEASE}"),
        ("ID=fedora\n", "usbip-vudc lab -- COMMAND"),
        ("", "usbip-vudc lab -- COMMAND"),
    ],
)
def test_a_module_that_there_is_not_has_a_mend(tmp_path: Path, os_release: str, mend: str) -> None:
    found = machine(tmp_path, {"etc/os-release": os_release})
    check = found["module dummy_hcd"]
    assert (check.state, check.seen) == (State.MISSING, f"not in {RELEASE}")
    assert check.mend == mend
    assert found["configfs"].mend == mend, "there is no module to load either"


def test_what_can_be_loaded_is_told_how(tmp_path: Path) -> None:
    found = machine(tmp_path, modules("k/configfs.ko:\nk/usb_f_fs.ko:\nk/usbip-vudc.ko:\n"))
    assert found["configfs"].mend == (
        "modprobe configfs && mount -t configfs none /sys/kernel/config"
    )
    assert found["functionfs"].mend == "modprobe usb_f_fs"
    assert found["UDCs"].mend == "modprobe -a usbip-vudc dummy_hcd"


def test_configuration_is_found_in_proc_too(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/config.gz").write_bytes(gzip.compress(b"# CONFIG_USB_GADGET is not set\n"))
    found = machine(tmp_path, {})
    assert found["CONFIG_USB_GADGET"].state is State.MISSING
    assert found["CONFIG_USBIP_DEBUG"].state is State.NOT_APPLICABLE, "nothing depends on it"


def test_no_configuration_is_no_answer(tmp_path: Path) -> None:
    assert machine(tmp_path, {})["CONFIG_USB_GADGET"].state is State.NOT_APPLICABLE


def test_an_ordinary_user_is_told(tmp_path: Path) -> None:
    check = machine(tmp_path, {}, euid=1000)["root"]
    assert (check.state, check.seen) == (State.MISSING, "uid 1000")
    assert check.mend.startswith("sudo ")


def test_kvm_that_does_not_work_is_no_fault_of_ours(tmp_path: Path) -> None:
    check = machine(tmp_path, {})["KVM"]
    assert (check.state, check.seen) == (State.NOT_APPLICABLE, "there is no /dev/kvm")


def test_every_missing_thing_has_a_mend_and_a_reason(tmp_path: Path) -> None:
    for check in machine(tmp_path, {}, euid=1000).values():
        assert check.why, check.what
        assert check.mend or check.state is not State.MISSING, check.what


def test_userspace_needs_nothing_of_the_kernel(tmp_path: Path) -> None:
    checks = list(machine(tmp_path, {}, euid=1000).values())
    assert userspace_works(checks)
    broken = Check("loopback", State.MISSING, "", "", userspace=True)
    assert not userspace_works([*checks, broken])


def test_doctor_prints_a_table_and_json(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        Check("Python", State.OK, "3", "everything", userspace=True),
        Check("moon", State.MISSING, "not up", "tides", "wait 12h"),
    ]
    monkeypatch.setattr(cli, "all_checks", lambda _system: rows)
    done = CliRunner().invoke(main, ("doctor",))
    assert done.exit_code == 0
    line = next(line for line in done.output.splitlines() if "moon" in line)
    assert line.split() == ["moon", "missing", "not", "up", "tides", "wait", "12h"]
    done = CliRunner().invoke(main, ("doctor", "--json"))
    assert json.loads(done.output) == {
        "userspace": True,
        "checks": [
            {"check": "Python", "state": "ok", "seen": "3", "why": "everything", "mend": ""},
            {"check": "moon", "state": "missing", "seen": "not up", "why": "tides",
             "mend": "wait 12h"},
        ],
    }  # fmt: skip


def test_doctor_fails_where_userspace_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Check("loopback", State.MISSING, "refused", "serving", "ip link set lo up", True)
    monkeypatch.setattr(cli, "all_checks", lambda _system: [row])
    assert CliRunner().invoke(main, ("doctor",)).exit_code == 1


# packages


def absent() -> bool:
    return False


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An apt that knows some packages, others after an update; returns its log."""
    log = tmp_path / "log"
    log.touch()
    bin_directory = tmp_path / "bin"
    bin_directory.mkdir()
    updated = tmp_path / "updated"
    for name, text in (
        ("apt-get", f'shift; echo "$@" >>{log}; [ "$1" = update ] && touch {updated}; '
                    'case "$*" in *broken*) exit 100;; esac; exit 0'),
        ("apt-cache", 'shift; for p; do case $p in fresh) [ -e ' + str(updated) + ' ] || continue;;'
                      ' gone) continue;; old) c="(none)"; echo "old:"; echo "  Installed: (none)";'
                      ' echo "  Candidate: (none)"; continue;; esac; echo "$p:"; '
                      'echo "  Installed: (none)"; echo "  Candidate: 1.0"; done'),
    ):  # fmt: skip
        path = bin_directory / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_directory}:{os.environ['PATH']}")
    return log


def test_only_what_is_missing_is_installed_in_one_go(apt: Path) -> None:
    needs = (
        Need("here", ("x",), "", lambda: True),
        Need("one", ("a",), "", absent),
        Need("either", ("gone|old|b",), "", absent),
        Need("both", ("c", "d"), "", absent),
    )
    install(needs)
    assert apt.read_text() == "install --yes --no-install-recommends a b c d\n"


def test_nothing_missing_asks_nobody(apt: Path) -> None:
    install((Need("here", ("x",), "", lambda: True),))
    assert apt.read_text() == ""


def test_lists_are_fetched_when_a_package_is_unknown(apt: Path) -> None:
    install((Need("new", ("fresh",), "", absent), Need("never", ("gone",), "", absent)))
    assert apt.read_text() == "update\ninstall --yes --no-install-recommends fresh\n"


def test_an_apt_that_fails_is_an_error(apt: Path) -> None:
    with pytest.raises(UsbipVudcError, match=r"apt-get install .* broken: status 100"):
        install((Need("bad", ("broken",), "", absent),))
    assert apt.read_text()


def test_the_command_to_type_names_one_of_each() -> None:
    needs = (Need("a", ("new|old",), "", absent), Need("b", ("c", "d"), "", absent))
    assert install_command(needs) == "apt-get install --no-install-recommends old c d"


def test_install_without_root_prints_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "can_install", lambda: False)
    done = CliRunner().invoke(main, ("doctor", "--install"))
    assert done.exit_code == 1
    assert install_command(NEEDS) in done.output


def test_needs_are_named_once_and_none_is_a_kernel() -> None:
    names = [name for need in NEEDS for name in need.packages]
    assert len(names) == len(set(names))
    assert not any(name.startswith("linux-image") for name in names)
    assert all(isinstance(need.present(), bool) for need in NEEDS)


def test_programs_of_the_administrator_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert tool("no-such-program-anywhere") is None
    assert not library("libnothing.so.9")
    assert library("libc.so.6")
    assert packages.tool("ldconfig") is not None
