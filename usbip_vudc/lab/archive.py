"""Debian's package archive, as far as kernels go: which mirror, which packages, which hashes.

Pure: text in, values out. What downloads is ``fetch``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from usbip_vudc.errors import UsbipVudcError

__all__ = ("Mirror", "Package", "Source", "find_packages", "kernel_packages", "mirror_of",
           "parse_index", "release_hash", "sources_of", "version_key")  # fmt: skip

_MAIN: Final = "http://deb.debian.org/debian"
_SECURITY: Final = "http://deb.debian.org/debian-security"

_KERNEL_PART: Final = re.compile(r"linux-(?:image|binary|modules|base)-")
"""Since 7.0 Debian's image package is empty, and depends on the others."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """URLs without a slash at the end."""

    main: str = _MAIN
    security: str = _SECURITY


@dataclass(frozen=True, slots=True)
class Source:
    """One suite at one URL, as a line of sources.list names it."""

    url: str
    suite: str

    @property
    def release(self) -> str:
        """URL of the signed list of hashes."""
        return f"{self.url}/dists/{self.suite}/InRelease"


@dataclass(frozen=True, slots=True)
class Package:
    """What the index says of one package; ``size`` in bytes, ``url`` below the mirror's."""

    name: str
    version: str
    depends: tuple[str, ...]
    filename: str
    size: int
    sha256: str


def mirror_of(sources: Iterable[str]) -> Mirror:
    """The mirror that apt's files (sources.list, *.list, *.sources) name for Debian, or Debian's.

    Only http and https: apt's other methods are apt's.
    """
    found: dict[str, str] = {}
    for text in sources:
        active = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
        for match in re.finditer(r"https?://[^\s\]]+", active):
            url = match[0].rstrip("/")
            last = url.rpartition("/")[2]
            if last in ("debian", "debian-security"):
                found.setdefault(last, url)
    return Mirror(found.get("debian", _MAIN), found.get("debian-security", _SECURITY))


def sources_of(suite: str, mirror: Mirror) -> tuple[Source, ...]:
    """Where the kernels of a suite may be, its updates and security updates too."""
    alone = Source(mirror.main, suite)
    if suite in ("sid", "unstable", "experimental") or "-" in suite:
        return (alone,)
    return (
        alone,
        Source(mirror.main, f"{suite}-updates"),
        Source(mirror.security, f"{suite}-security"),
    )


def release_hash(release: str, path: str) -> str | None:
    """The SHA256 of an index file in a Release file, or None if that does not list it."""
    _, _, hashes = release.partition("\nSHA256:")
    match = re.search(rf"^ ([0-9a-f]{{64}}) +\d+ {re.escape(path)}$", hashes, re.MULTILINE)
    return match[1] if match else None


def parse_index(text: str) -> dict[str, Package]:
    """The kernel packages of a Packages file, by name; the newest of each."""
    found: dict[str, Package] = {}
    for stanza in _kernel_stanzas(text):
        package = _package(dict(_fields(stanza)))
        known = found.get(package.name)
        if known is None or version_key(package.version) > version_key(known.version):
            found[package.name] = package
    return found


def find_packages(text: str, name: str) -> tuple[Package, ...]:
    """Every version of one package in a Packages file, in its order."""
    stanzas = re.finditer(rf"^Package: {re.escape(name)}\n(?:[^\n]+\n)*", text, re.MULTILINE)
    return tuple(_package(dict(_fields(match[0]))) for match in stanzas)


def kernel_packages(index: Mapping[str, Package], architecture: str) -> tuple[Package, ...]:
    """Everything of the kernel that linux-image-ARCHITECTURE stands for, itself left out.

    Raises UsbipVudcError if the index lacks a part of it.
    """
    wanted, closure = [f"linux-image-{architecture}"], dict[str, Package]()
    while wanted:
        name = wanted.pop()
        if name in closure:
            continue
        if name not in index:
            raise UsbipVudcError(f"no package {name} in this suite")
        closure[name] = index[name]
        wanted += [other for other in index[name].depends if _KERNEL_PART.match(other)]
    return tuple(p for name, p in sorted(closure.items()) if re.search(r"-\d", name))


def version_key(version: str) -> tuple[tuple[int, int | str], ...]:
    """Sorts versions of one source package as Debian does (deb-version(7)), by number and word.

    >>> version_key("6.1.9-1") < version_key("6.1.10~rc1-1") < version_key("6.1.10-1")
    True
    """
    parts = re.findall(r"\d+|~|[^\d~]+", version)
    # A tilde sorts before the end, the end before a number or a word.
    order = [(0, "~") if p == "~" else (3, int(p)) if p.isdigit() else (2, p) for p in parts]
    return (*order, (1, ""))


def _kernel_stanzas(text: str) -> Iterator[str]:
    for match in re.finditer(r"^Package: linux-[^\n]*\n(?:[^\n]+\n)*", text, re.MULTILINE):
        if _KERNEL_PART.match(match[0], len("Package: ")):
            yield match[0]


def _fields(stanza: str) -> Iterator[tuple[str, str]]:
    for line in stanza.splitlines():
        if not line.startswith(" "):
            name, _, value = line.partition(":")
            yield name, value.strip()


def _package(fields: Mapping[str, str]) -> Package:
    alternatives = (part.split("|")[0] for part in fields.get("Depends", "").split(","))
    return Package(
        name=fields["Package"],
        version=fields["Version"],
        depends=tuple(a.split("(")[0].strip() for a in alternatives),
        filename=fields["Filename"],
        size=int(fields["Size"]),
        sha256=fields["SHA256"],
    )
