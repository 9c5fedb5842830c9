"""Debian's own kernels, unpacked in the cache and never installed."""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from usbip_vudc.errors import SchemeError, UsbipVudcError
from usbip_vudc.lab.archive import (
    Mirror,
    Package,
    Source,
    kernel_packages,
    mirror_of,
    sources_of,
    version_key,
)
from usbip_vudc.lab.cache import cache_directory
from usbip_vudc.lab.deb import unpack
from usbip_vudc.lab.fetch import Progress, codename, download, index
from usbip_vudc.lab.kernels import Kernel

__all__ = ("NEWEST", "apt_mirror", "from_debian", "own_suite")

NEWEST: Final = "newest"
"""Stands for whichever of sid and stable's backports has the newer kernel."""

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_FRESH: Final = 24 * 3600.0
"""Seconds that an answer of the archive is good for."""

_log = logging.getLogger(__name__)


def from_debian(suite: str, *, progress: Progress) -> Kernel:
    """The newest kernel of a suite ("" is this machine's own), downloaded if it is not here.

    The archive is asked once a day; a kernel in the cache serves when it cannot be reached.
    Raises SchemeError for a suite that the mirror does not have, UsbipVudcError for the rest.
    """
    suite = suite or own_suite()
    if not re.fullmatch(r"[a-z][a-z0-9-]*", suite):
        raise SchemeError(f"--kernel debian:{suite}: a suite is a word like bookworm or sid")
    note = cache_directory() / "kernels" / f"{suite}.json"
    known = _known(note)
    if known is not None and time.time() - note.stat().st_mtime < _FRESH:
        return known
    try:
        kernel = _fetched(suite, progress)
    except SchemeError:
        raise
    except UsbipVudcError as error:
        if known is None:
            raise
        _log.warning("using the kernel of the cache: %s", error)
        return known
    kept = {
        "directory": str(kernel.modules.parent.parent.parent),
        "origin": kernel.origin,
        "suite": kernel.suite,
    }
    note.write_text(json.dumps(kept))
    return kernel


def own_suite(root: Path = Path("/")) -> str:
    """The suite of this machine if it is a Debian, else stable."""
    try:
        text = (root / "etc/os-release").read_text()
    except OSError:
        return "stable"
    fields = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', text, re.MULTILINE))
    return fields.get("VERSION_CODENAME", "sid") if fields.get("ID") == "debian" else "stable"


def _known(note: Path) -> Kernel | None:
    try:
        kept = json.loads(note.read_text())
        return _unpacked(Path(kept["directory"]), kept["origin"], kept["suite"])
    except (OSError, ValueError, KeyError, UsbipVudcError):
        return None


def _unpacked(tree: Path, origin: str, suite: str | None) -> Kernel:
    """The kernel of an unpacked package: the image in boot/, or since 7.0 among the modules."""
    found = [
        Kernel(modules.name, image, modules, origin, suite)
        for modules in tree.glob("lib/modules/*")
        for image in (tree / "boot" / f"vmlinuz-{modules.name}", modules / "vmlinuz")
        if image.exists()
    ]
    if len(found) != 1:
        raise UsbipVudcError(f"{tree}: {len(found)} kernels in it, not one")
    return found[0]


@dataclass(frozen=True, slots=True)
class _Found:
    """A kernel in the archive: ``source`` may be the security updates of ``suite``."""

    suite: str
    source: Source
    packages: tuple[Package, ...]

    @property
    def version(self) -> str:
        return self.packages[0].version


def _fetched(suite: str, progress: Progress) -> Kernel:
    architecture = _ARCHITECTURES.get(platform.machine())
    if architecture is None:
        raise UsbipVudcError(f"no Debian kernels for {platform.machine()} here: name a vmlinuz")
    found = _newest(suite, architecture, progress)
    directory = cache_directory() / "kernels" / f"{found.version}-{architecture}"
    if not directory.exists():
        _unpack_all(found, directory, progress)
    origin = f"Debian {found.source.suite} {found.version}, in the cache"
    return _unpacked(directory, origin, found.suite)


def _newest(suite: str, architecture: str, progress: Progress) -> _Found:
    mirror = apt_mirror()
    suites: tuple[str, ...] = (suite,)
    if suite == NEWEST:
        suites = ("sid", f"{codename(Source(mirror.main, 'stable'))}-backports")
    found = [
        _Found(name, source, kernel_packages(packages, architecture))
        for name in suites
        for source in sources_of(name, mirror)
        if (packages := index(source, architecture, progress=progress))
        and f"linux-image-{architecture}" in packages
    ]
    if not found:
        raise SchemeError(
            f"--kernel debian:{suite}: {mirror.main} has no kernel in such a suite; "
            "bullseye, bookworm, trixie, trixie-backports and sid are some"
        )
    return max(found, key=lambda one: version_key(one.version))


def apt_mirror() -> Mirror:
    """The mirror that this machine's apt uses, or Debian's own."""
    etc = Path("/etc/apt")
    files = (etc / "sources.list", *sorted((etc / "sources.list.d").glob("*")))
    return mirror_of(
        path.read_text() for path in files if path.is_file() and os.access(path, os.R_OK)
    )


def _unpack_all(found: _Found, directory: Path, progress: Progress) -> None:
    """Everything in a directory that appears only when it is whole."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=directory.parent, prefix=".unpacking-"))
    try:
        tree = work / "tree"
        for package in found.packages:
            file = work / "package.deb"
            url = f"{found.source.url}/{package.filename}"
            download(url, file, package.sha256, package.size, what=package.name, progress=progress)
            unpack(file, tree)
        _depmod(tree, _unpacked(tree, "", None).version)
        try:
            tree.rename(directory)
        except OSError:  # another process was faster
            if not directory.exists():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _depmod(tree: Path, version: str) -> None:
    depmod = shutil.which("depmod", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if depmod is None:
        raise UsbipVudcError("no depmod: apt install kmod")
    done = subprocess.run(
        (depmod, "-b", str(tree), version), capture_output=True, text=True, check=False
    )
    if done.returncode or not (tree / "lib/modules" / version / "modules.dep").exists():
        raise UsbipVudcError(f"depmod -b {tree} {version}: {done.stderr.strip()}")
