"""Modules without SG: the edit is checked, the packages fit the kernel, and kbuild is asked right.

The real build, of Debian's kernel, is the kernel lane's.
"""

from __future__ import annotations

import io
import lzma
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from usbip_vudc.errors import SchemeError
from usbip_vudc.lab import modules
from usbip_vudc.lab.archive import Mirror, Source, find_packages
from usbip_vudc.lab.modules import build_variant, main
from usbip_vudc.lab.variants import VARIANTS, VariantError, variant_path, without_sg

RELEASE = "6.1.0-56-amd64"

VHCI = """\
/* A comment may speak of sg_tablesize. */
\thcd->self.sg_tablesize = 32;
\thcd->self.no_sg_constraint = 1;

\treturn 0;
"""
DUMMY = "\thcd->self.sg_tablesize = ~0;\n\thcd->speed = HCD_USB2;\n"


# --- the edit -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["32", "~0", "VHCI_SG"])
def test_the_assignments_go_and_nothing_else(size: str) -> None:
    text = VHCI.replace("32", size)
    assert without_sg(text, VARIANTS["vhci-hcd"], kernel="6.1") == (
        VHCI.replace("\thcd->self.sg_tablesize = 32;\n\thcd->self.no_sg_constraint = 1;\n", "")
    )
    assert without_sg(DUMMY, VARIANTS["dummy_hcd"], kernel="6.1") == "\thcd->speed = HCD_USB2;\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            VHCI.replace("self.sg_tablesize", "bus.sg_entries"),
            r"Linux 9\.9, drivers/usb/usbip/vhci_hcd\.c: expected one line "
            r"'hcd->self\.sg_tablesize = \.\.\.;', found 0",
        ),
        (VHCI + VHCI, "expected one line .*, found 2"),
        (VHCI.replace("no_sg_constraint = 1;", "no_sg_constraint =\n1;"), "no_sg_constraint .* 0"),
        (VHCI + "\tother->self.sg_tablesize = 8;\n", "found 'other->self.sg_tablesize = 8;'"),
    ],
)
def test_a_kernel_that_reads_otherwise_is_refused(text: str, reason: str) -> None:
    with pytest.raises(VariantError, match=reason):
        without_sg(text, VARIANTS["vhci-hcd"], kernel="9.9")


def test_all_modules_of_a_kernel_lie_in_one_directory(tmp_path: Path) -> None:
    paths = [variant_path(tmp_path, RELEASE, module) for module in VARIANTS]
    assert [path.name for path in paths] == ["vhci-hcd.ko", "dummy_hcd.ko"]
    assert len({path.parent for path in paths}) == 1
    assert paths[0].parent.parent == tmp_path / RELEASE
    with pytest.raises(SchemeError, match=r"'usbcore': there are variants .* vhci-hcd, dummy_hcd"):
        variant_path(tmp_path, RELEASE, "usbcore")


# --- packages -----------------------------------------------------------------------------------


def stanza(name: str, version: str, depends: str = "") -> str:
    return (
        f"Package: {name}\nVersion: {version}\nDepends: {depends}\n"
        f"Filename: pool/{name}_{version}.deb\nSize: 7\nSHA256: {'0' * 64}\n\n"
    )


INDEX = (
    stanza("linux-headers-6.1.0-56-amd64", "6.1.192-2",
           "linux-headers-6.1.0-56-common (= 6.1.192-2), linux-kbuild-6.1 (>= 6.1.192-2), "
           "linux-compiler-gcc-12-x86")
    + stanza("linux-headers-6.1.0-56-common", "6.1.192-2")
    + stanza("linux-kbuild-6.1", "6.1.176-1")
    + stanza("linux-kbuild-6.1", "6.1.192-2")
    + stanza("linux-source-6.1", "6.1.192-2")
    + stanza("linux-source-6.1", "6.1.201-1")
    + stanza("linux-source-6.1-doc", "6.1.192-2")
)  # fmt: skip


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> list[Source]:
    """An archive whose security suite alone has kernels; the suites that were asked for."""
    asked: list[Source] = []

    def index_text(source: Source, architecture: str, **_: object) -> str | None:
        assert architecture == "amd64"
        asked.append(source)
        return INDEX if source.suite.endswith("-security") else None

    monkeypatch.setattr(modules, "index_text", index_text)
    monkeypatch.setattr(modules, "apt_mirror", Mirror)
    return asked


def test_every_version_of_a_package_is_found() -> None:
    found = find_packages(INDEX, "linux-source-6.1")
    assert [package.version for package in found] == ["6.1.192-2", "6.1.201-1"]
    assert find_packages(INDEX, "linux-source-6.12") == ()


def test_the_source_is_the_kernels_own_version(archive: list[Source]) -> None:
    located = modules._locate(RELEASE, None, modules._silent)
    assert [(one.package.name, one.package.version) for one in located] == [
        ("linux-headers-6.1.0-56-amd64", "6.1.192-2"),
        ("linux-headers-6.1.0-56-common", "6.1.192-2"),
        ("linux-kbuild-6.1", "6.1.192-2"),
        ("linux-source-6.1", "6.1.192-2"),
    ]
    assert {source.suite.partition("-")[0] for source in archive} == {"bookworm"}


@pytest.mark.parametrize(
    ("release", "reason"),
    [
        ("6.1.0-57-amd64", "no package linux-headers-6.1.0-57-amd64 in Debian bookworm"),
        ("7.2.13+deb14-amd64", r"linux-headers-7.2.13\+deb14-amd64 in Debian sid or stable-back"),
        ("mine-amd64", "kernel 'mine-amd64': expected a release such as 6.1.0-56-amd64"),
    ],
)
@pytest.mark.usefixtures("archive")
def test_a_kernel_that_debian_has_not_is_refused(release: str, reason: str) -> None:
    with pytest.raises(VariantError, match=reason):
        modules._locate(release, None, modules._silent)


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb")
def test_the_source_gives_the_files_of_the_modules_alone(tmp_path: Path) -> None:
    package = source_package(
        tmp_path,
        {
            "drivers/usb/core/message.c": "no",
            "drivers/usb/gadget/udc/Makefile": "yes",
            "drivers/usb/gadget/udc/bdc/Makefile": "no",
            "drivers/usb/gadget/udc/dummy_hcd.c": DUMMY,
            "drivers/usb/gadget/udc/net2280.c": "no",
            "drivers/usb/usbip/Kconfig": "no",
            "drivers/usb/usbip/usbip_common.h": "yes",
            "drivers/usb/usbip/vhci_hcd.c": VHCI,
            "drivers/usb/usbip/vhci_rx.c": "yes",
            "zlast": "no",
        },
    )
    modules._extract(package, tmp_path / "source")
    seen = {str(path.relative_to(tmp_path / "source")): path.read_text()
            for path in (tmp_path / "source").rglob("*") if path.is_file()}  # fmt: skip
    assert seen == {
        "drivers/usb/gadget/udc/Makefile": "yes",
        "drivers/usb/gadget/udc/dummy_hcd.c": DUMMY,
        "drivers/usb/usbip/usbip_common.h": "yes",
        "drivers/usb/usbip/vhci_hcd.c": VHCI,
        "drivers/usb/usbip/vhci_rx.c": "yes",
    }


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb")
def test_a_source_without_the_module_is_refused(tmp_path: Path) -> None:
    package = source_package(tmp_path, {"drivers/usb/usbip/vhci_hcd.c": VHCI})
    with pytest.raises(VariantError, match=r"no drivers/usb/gadget/udc/dummy_hcd\.c in the source"):
        modules._extract(package, tmp_path / "source")


def source_package(directory: Path, files: dict[str, str]) -> Path:
    """A .deb as linux-source-6.1 is one."""
    tree = directory / "package"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        "Package: linux-source-6.1\nVersion: 1\nArchitecture: all\nMaintainer: A <a@b.c>\n"
        "Description: a test\n"
    )
    (tree / "usr/src").mkdir(parents=True)
    with (
        lzma.open(tree / "usr/src/linux-source-6.1.tar.xz", "wb", preset=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for name, text in files.items():
            member = tarfile.TarInfo(f"linux-source-6.1/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    package = directory / "source.deb"
    subprocess.run(("dpkg-deb", "--build", tree, package), check=True, capture_output=True)
    return package


def test_debians_makefiles_name_the_cache_instead(tmp_path: Path) -> None:
    flavour = tmp_path / "usr/src/linux-headers-7.2-amd64/Makefile"
    common = tmp_path / "usr/src/linux-headers-7.2-common/Makefile"
    for path in (flavour, common):
        path.parent.mkdir(parents=True)
    flavour.write_text(
        "KBUILD_OUTPUT=/usr/src/linux-headers-7.2-amd64\n"
        "include /usr/src/linux-headers-7.2-common/Makefile\n"
    )
    common.write_text("# see /usr/src/ for more\n" * 100)
    modules._relocate(tmp_path, Path("/cache/headers"))
    assert flavour.read_text() == (
        "KBUILD_OUTPUT=/cache/headers/usr/src/linux-headers-7.2-amd64\n"
        "include /cache/headers/usr/src/linux-headers-7.2-common/Makefile\n"
    )
    assert common.read_text() == "# see /usr/src/ for more\n" * 100


# --- kbuild -------------------------------------------------------------------------------------


def program(path: Path, script: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with a gcc 13 and a make that notes how it was called and "builds" the edited file."""
    tools = tmp_path / "bin"
    program(tools / "gcc", "echo 13")
    program(tools / "dpkg-deb", "exit 1")
    program(
        tools / "make",
        f'/usr/bin/env > {tmp_path}/environment; echo "$@" > {tmp_path}/arguments\n'
        'for word; do case $word in M=*) cd "${word#M=}" || exit;; esac; done\n'
        "module=$(/usr/bin/sed -n 's/obj-m := \\(.*\\)\\.o/\\1/p' Kbuild)\n"
        "/bin/cat vhci_hcd.c vhci_rx.c > $module.ko; echo 'error: as it must' >&2\n"
        f"test ! -e {tmp_path}/broken",
    )
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setenv("MAKEFLAGS", "-j --jobserver-auth=3,4")
    return tools


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with the unpacked packages of one kernel."""
    cache = tmp_path / "cache"
    headers = cache / RELEASE / "tree/headers/usr/src" / f"linux-headers-{RELEASE}"
    headers.mkdir(parents=True)
    (headers / ".kernelvariables").write_text("CC = $(CROSS_COMPILE)gcc-12\n")
    source = cache / RELEASE / "tree/source/drivers/usb/usbip"
    source.mkdir(parents=True)
    (source / "vhci_hcd.c").write_text(VHCI)
    (source / "vhci_rx.c").write_text("rest\n")
    return cache


@pytest.mark.usefixtures("tools")
def test_kbuild_makes_the_edited_module_out_of_tree(cache: Path, tmp_path: Path) -> None:
    built = build_variant(RELEASE, "vhci-hcd", cache=cache)
    assert built == variant_path(cache, RELEASE, "vhci-hcd")
    edited = without_sg(VHCI, VARIANTS["vhci-hcd"], kernel="6.1")
    assert built.read_text() == f"{edited}rest\n"
    assert sorted(path.name for path in (cache / RELEASE).iterdir()) == [built.parent.name, "tree"]
    words = (tmp_path / "arguments").read_text().split()
    assert words[1].endswith(f"/tree/headers/usr/src/linux-headers-{RELEASE}")
    assert {"CC=gcc", "modules"} <= set(words), "gcc 13 is newer than the kernel's 12"
    assert "MAKEFLAGS" not in (tmp_path / "environment").read_text()


def test_what_the_cache_has_needs_no_tools(
    cache: Path, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build_variant(RELEASE, "vhci-hcd", cache=cache)
    before = built.stat()
    monkeypatch.setenv("PATH", str(tools / "nothing"))
    assert build_variant(RELEASE, "vhci-hcd", cache=cache) == built
    assert built.stat() == before
    with pytest.raises(VariantError, match="no gcc and no make and no dpkg-deb: apt install gcc"):
        build_variant(RELEASE, "dummy_hcd", cache=cache)


@pytest.mark.usefixtures("tools")
def test_a_build_that_fails_says_what_kbuild_said_and_leaves_nothing(
    cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken").touch()
    with pytest.raises(VariantError, match=r"(?s)vhci-hcd.ko for .* not be built.*as it must"):
        build_variant(RELEASE, "vhci-hcd", cache=cache)
    assert [path.name for path in (cache / RELEASE).iterdir()] == ["tree"]


def test_the_kernels_own_gcc_comes_first_and_an_older_one_is_refused(tools: Path) -> None:
    assert modules._compiler("CC = gcc-13", RELEASE) == "gcc"
    with pytest.raises(VariantError, match="built by gcc-14, and gcc 13 does not know its options"):
        modules._compiler("gcc-14 linux-base", RELEASE)
    program(tools / "gcc-14", "echo 14")
    assert modules._compiler("gcc-14 linux-base", RELEASE) == "gcc-14"


@pytest.mark.usefixtures("tools")
def test_kbuild_cannot_work_below_a_space(tmp_path: Path) -> None:
    with pytest.raises(VariantError, match="kbuild takes no directory with a space or a colon"):
        build_variant(RELEASE, "vhci-hcd", cache=tmp_path / "my cache")


def test_the_program_prints_the_paths_or_the_reason(cache: Path, tools: Path) -> None:
    shutil.rmtree(tools)
    for module in VARIANTS:
        path = variant_path(cache, RELEASE, module)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    done = CliRunner().invoke(main, [RELEASE, str(cache)])
    assert done.exit_code == 0
    assert done.stdout.split() == [str(variant_path(cache, RELEASE, m)) for m in VARIANTS]
    path.unlink()
    done = CliRunner().invoke(main, [RELEASE, str(cache)])
    assert done.exit_code == 1
    assert done.stderr.startswith("no modules without SG: no gcc and no make"), os.environ["PATH"]
