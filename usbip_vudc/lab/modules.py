"""Builds kernel modules without SG from the distribution's own packages, none of them installed.

The headers, kbuild and source packages of one kernel are downloaded into a cache, the few files
that are needed come out of the source, ``variants`` edits them, and kbuild makes the module out of
tree. Nothing of the kernel's code is kept anywhere else. It needs gcc, make and dpkg (and libelf1,
which gcc's packages bring, for the kernel's objtool); no bc, flex or libelf-dev. As a program:
``python -m usbip_vudc.lab.modules KERNEL_VERSION DIR`` prints the paths of the modules.
"""

from __future__ import annotations

import lzma
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

import click

from usbip_vudc.errors import UsbipVudcError
from usbip_vudc.lab.archive import Package, Source, find_packages, sources_of, version_key
from usbip_vudc.lab.debian import apt_mirror
from usbip_vudc.lab.fetch import Progress, download, index_text
from usbip_vudc.lab.variants import (
    VARIANTS,
    Variant,
    VariantError,
    kbuild_file,
    variant_of,
    variant_path,
    without_sg,
)

__all__ = ("build_variant", "main")

_SUITES: Final = {"5.10": ("bullseye",), "6.1": ("bookworm",), "6.12": ("trixie",)}
_NEWER: Final = ("sid", "stable-backports")
"""Where a kernel is whose series is of no release."""

_LINES_SHOWN: Final = 15


@contextmanager
def _silent(_what: str, _total: int) -> Iterator[Callable[[int], None]]:
    yield lambda _done: None


def build_variant(
    kernel_version: str,
    module: str,
    *,
    cache: Path,
    suite: str | None = None,
    progress: Progress = _silent,
) -> Path:
    """The path of vhci-hcd.ko or dummy_hcd.ko without SG, for a kernel that Debian built.

    ``kernel_version`` is what ``uname -r`` says; ``suite`` is where its packages are, guessed
    where it is not given. What the cache has is not built again. Raises SchemeError for another
    module, VariantError or UsbipVudcError where it cannot be had, and leaves no half of anything.
    """
    variant = variant_of(module)
    target = variant_path(cache.absolute(), kernel_version, module)
    if target.exists():
        return target
    _need_tools(cache)
    tree = _tree(kernel_version, cache.absolute() / kernel_version, suite, progress)
    with _work_directory(target.parent.parent) as work:
        _lay_out(variant, tree / "source", work, kernel_version)
        with progress(f"building {module}.ko without SG for {kernel_version}", 0):
            built = _build(tree / "headers", work, kernel_version, module)
        target.parent.mkdir(exist_ok=True)
        built.replace(target)
    return target


def _need_tools(cache: Path) -> None:
    missing = [tool for tool in ("gcc", "make", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        names = " ".join("dpkg" if tool == "dpkg-deb" else tool for tool in missing)
        raise VariantError(f"no {' and no '.join(missing)}: apt install {names}")
    if re.search(r"[\s:]", str(cache.absolute())):
        raise VariantError(f"{cache.absolute()}: kbuild takes no directory with a space or a colon")


@contextmanager
def _work_directory(parent: Path) -> Iterator[Path]:
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=".building-") as name:
        yield Path(name)


# --- packages -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Located:
    source: Source
    package: Package

    def fetch(self, target: Path, progress: Progress) -> Path:
        package = self.package
        download(
            f"{self.source.url}/{package.filename}",
            target,
            package.sha256,
            package.size,
            what=package.name,
            progress=progress,
        )
        return target


def _series(kernel_version: str) -> str:
    match = re.match(r"\d+\.\d+", kernel_version)
    if match is None:
        raise VariantError(f"kernel {kernel_version!r}: expected a release such as 6.1.0-56-amd64")
    return match[0]


def _locate(kernel_version: str, suite: str | None, progress: Progress) -> list[_Located]:
    """The packages of a kernel: its headers, what they depend on, and the source at the end."""
    series = _series(kernel_version)
    suites = (suite,) if suite else _SUITES.get(series, _NEWER)
    architecture = kernel_version.rpartition("-")[2]
    mirror = apt_mirror()
    sources = [source for name in suites for source in sources_of(name, mirror)]
    indexes = [
        (source, text)
        for source in sources
        if (text := index_text(source, architecture, progress=progress)) is not None
    ]

    def find(name: str, version: str | None = None) -> _Located:
        found = [
            _Located(source, package)
            for source, text in indexes
            for package in find_packages(text, name)
            if version in (None, package.version)
        ]
        if not found:
            raise VariantError(
                f"no package {name}{f' {version}' if version else ''} in Debian "
                f"{' or '.join(suites)}: variants are built of the kernels that Debian has there"
            )
        return max(found, key=lambda located: version_key(located.package.version))

    headers = find(f"linux-headers-{kernel_version}")
    parts = [
        find(name)
        for name in headers.package.depends
        if re.match(r"linux-(headers-.+-common|kbuild-)", name)
    ]
    return [headers, *parts, find(f"linux-source-{series}", headers.package.version)]


def _tree(kernel_version: str, directory: Path, suite: str | None, progress: Progress) -> Path:
    """The directory with ``headers`` (a root of the packages) and ``source`` (a bit of Linux)."""
    tree = directory / "tree"
    if tree.exists():
        return tree
    *headers, source = _locate(kernel_version, suite, progress)
    _compiler(" ".join(headers[0].package.depends), kernel_version)  # before so much is downloaded
    with _work_directory(directory) as work:
        new = work / "tree"
        (new / "headers").mkdir(parents=True)
        for located in headers:
            package = located.fetch(work / "package.deb", progress)
            _unpack(package, new / "headers", located.package.name)
        _relocate(new / "headers", tree / "headers")
        package = source.fetch(work / "package.deb", progress)
        with progress(f"unpacking {source.package.name}", 0):
            _extract(package, new / "source")
        try:
            new.rename(tree)
        except OSError:  # another process was faster
            if not tree.exists():
                raise
    return tree


def _unpack(package: Path, root: Path, name: str) -> None:
    command = ("dpkg-deb", "-x", str(package), str(root))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise VariantError(f"{name} cannot be unpacked: {done.stderr.strip()}")


def _relocate(unpacked: Path, final: Path) -> None:
    """Debian's Makefiles name each other below /usr/src: below our root they shall."""
    for makefile in unpacked.glob("usr/src/linux-headers-*/Makefile"):
        text = makefile.read_text()
        if len(text) < 1000:  # the other one is Linux's own
            makefile.write_text(re.sub(r"(?<=[ =])/usr/src/", f"{final}/usr/src/", text))


def _extract(package: Path, target: Path) -> None:
    """The files of all variants, out of the tar.xz in a linux-source package."""
    by_folder = {variant.folder: variant for variant in VARIANTS.values()}
    lacking = {f"{variant.folder}/{variant.edited}" for variant in VARIANTS.values()}
    with _linux_source(package) as archive:
        for member in archive:
            folder, _, name = member.name.partition("/")[2].rpartition("/")
            variant = by_folder.get(folder)
            if variant is None:
                if not lacking:
                    break  # the rest of Linux is of no use, and half of the time
                continue
            if member.isreg() and re.fullmatch(variant.files, name):
                (target / folder).mkdir(parents=True, exist_ok=True)
                file = cast("IO[bytes]", archive.extractfile(member))
                (target / folder / name).write_bytes(file.read())
                lacking.discard(f"{folder}/{name}")
    if lacking:
        raise VariantError(f"no {' and no '.join(sorted(lacking))} in the source of Linux")


@contextmanager
def _linux_source(package: Path) -> Iterator[tarfile.TarFile]:
    """The tar.xz in the tar in the package, as one stream: unpacked it has more than 1 GB."""
    command = ("dpkg-deb", "--fsys-tarfile", str(package))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as dpkg:
        try:
            with tarfile.open(fileobj=dpkg.stdout, mode="r|") as outer:
                for member in outer:
                    if re.search(r"/linux-source-[^/]+\.tar\.xz$", member.name):
                        packed = cast("IO[bytes]", outer.extractfile(member))
                        with (
                            lzma.open(packed) as plain,
                            tarfile.open(fileobj=plain, mode="r|") as archive,
                        ):
                            yield archive
                        return
            raise VariantError("no linux-source-*.tar.xz in the linux-source package")
        finally:
            dpkg.kill()


# --- kbuild -------------------------------------------------------------------------------------


def _lay_out(variant: Variant, source: Path, work: Path, kernel_version: str) -> None:
    for path in (source / variant.folder).iterdir():
        if path.name == variant.edited:
            text = without_sg(path.read_text(), variant, kernel=kernel_version)
            (work / path.name).write_text(text)
        else:
            shutil.copy(path, work)
    (work / "Kbuild").write_text(kbuild_file(variant.module))


def _build(headers: Path, work: Path, kernel_version: str, module: str) -> Path:
    directory = headers / "usr/src" / f"linux-headers-{kernel_version}"
    compiler = _compiler((directory / ".kernelvariables").read_text(), kernel_version)
    # What a make above us wants of its children is not for this one.
    kept = {name: os.environ[name] for name in ("HOME", "PATH", "TMPDIR") if name in os.environ}
    done = subprocess.run(
        (
            *("make", "-C", str(directory), f"-j{os.cpu_count() or 1}"),
            *(f"M={work}", f"CC={compiler}", "modules"),
        ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**kept, "LC_ALL": "C"},
        text=True,
        check=False,
    )
    built = work / f"{module}.ko"
    if done.returncode or not built.exists():
        tail = "\n".join(done.stdout.splitlines()[-_LINES_SHOWN:])
        raise VariantError(f"{module}.ko for {kernel_version} could not be built:\n{tail}")
    return built


def _compiler(names_it: str, kernel_version: str) -> str:
    """The gcc that built the kernel, or a newer one: an older one does not know its options."""
    match = re.search(r"\bgcc-(\d+)\b", names_it)
    if match is None or shutil.which(match[0]):
        return match[0] if match else "gcc"
    said = subprocess.run(("gcc", "-dumpversion"), capture_output=True, text=True, check=False)
    ours = int(said.stdout.strip().partition(".")[0] or 0)
    if ours < int(match[1]):
        raise VariantError(
            f"{kernel_version} was built by {match[0]}, and gcc {ours} does not know its options: "
            f"apt install {match[0]}, where the distribution has it"
        )
    return "gcc"


# --- as a program -------------------------------------------------------------------------------


@contextmanager
def _on_stderr(what: str, _total: int) -> Iterator[Callable[[int], None]]:
    click.echo(f"{what}...", err=True)
    yield lambda _done: None


@click.command(help="Build the modules without SG for a kernel of Debian's; prints their paths.")
@click.argument("kernel_version")
@click.argument("cache", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--suite", help="Where the kernel's packages are.  [default: by its version]")
def main(kernel_version: str, cache: Path, suite: str | None) -> None:
    """Exit status 0: all are there; 1: one cannot be had, and why is on standard error."""
    try:
        for module in VARIANTS:
            click.echo(
                build_variant(kernel_version, module, cache=cache, suite=suite, progress=_on_stderr)
            )
    except (UsbipVudcError, OSError) as error:
        click.echo(f"no modules without SG: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
