"""lab/archive, deb, fetch, debian: Debian's kernels, from a mirror of our own."""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from usbip_vudc.errors import SchemeError, UsbipVudcError
from usbip_vudc.lab import debian, fetch
from usbip_vudc.lab.archive import (
    Mirror,
    Package,
    Source,
    kernel_packages,
    mirror_of,
    parse_index,
    release_hash,
    sources_of,
    version_key,
)
from usbip_vudc.lab.deb import unpack
from usbip_vudc.lab.debian import from_debian, own_suite

VERSION = "6.1.0-9-amd64"


@contextmanager
def quiet(_what: str, _total: int) -> Iterator[Callable[[int], None]]:
    yield lambda _done: None


def stanza(name: str, version: str, depends: str = "", *, data: bytes = b"") -> str:
    return (
        f"Package: {name}\nVersion: {version}\nDepends: {depends}\nDescription: one\n two\n"
        f"Filename: pool/{name}_{version}.deb\nSize: {len(data)}\n"
        f"SHA256: {hashlib.sha256(data).hexdigest()}\n\n"
    )


# the index


def test_versions_sort_as_debian_sorts_them() -> None:
    rising = ["5.10.9-1", "5.10.10-1", "6.1.9~rc1-1", "6.1.9-1~bpo12+1", "6.1.9-1", "6.1.9-1+b1"]
    assert sorted(set(rising), key=version_key) == rising


def test_kernel_package_behind_the_meta_package_is_found() -> None:
    index = parse_index(
        stanza("bash", "5.2")
        + stanza("linux-image-amd64", "6.1.9-1", f"linux-image-{VERSION} (= 6.1.9-1)")
        + stanza(f"linux-image-{VERSION}", "6.1.9-1", "kmod, initramfs-tools | dracut")
    )
    assert [p.name for p in kernel_packages(index, "amd64")] == [f"linux-image-{VERSION}"]


def test_parts_of_a_split_kernel_are_all_found() -> None:
    index = parse_index(
        stanza("linux-image-amd64", "7.2", "linux-base-amd64, linux-image-7.2-amd64 (= 7.2)")
        + stanza("linux-base-amd64", "7.2", "linux-base-7.2-amd64")
        + stanza("linux-image-7.2-amd64", "7.2", "linux-binary-7.2-amd64, linux-modules-7.2-amd64")
        + stanza("linux-binary-7.2-amd64", "7.2", "linux-base-7.2-amd64")
        + stanza("linux-modules-7.2-amd64", "7.2", "kmod")
        + stanza("linux-base-7.2-amd64", "7.2")
    )
    names = [package.name for package in kernel_packages(index, "amd64")]
    assert names == [f"linux-{part}-7.2-amd64" for part in ("base", "binary", "image", "modules")]


def test_an_index_that_lacks_a_part_names_it() -> None:
    index = parse_index(stanza("linux-image-amd64", "6.1", "linux-image-6.1-amd64"))
    with pytest.raises(UsbipVudcError, match=r"no package linux-image-6\.1-amd64"):
        kernel_packages(index, "amd64")


def test_newest_of_two_versions_in_one_index_wins() -> None:
    index = parse_index(
        stanza("linux-image-amd64", "6.1.9") + stanza("linux-image-amd64", "6.1.10")
    )
    assert index["linux-image-amd64"].version == "6.1.10"


@pytest.mark.parametrize(
    ("sources", "mirror"),
    [
        ([], Mirror()),
        (["deb http://mirror.example/debian/ bookworm main\n"],
         Mirror("http://mirror.example/debian", Mirror().security)),
        (["Types: deb\nURIs: https://a.example/debian\nSuites: sid\n",
          "deb [arch=amd64 signed-by=/k] https://b.example/debian-security trixie-security main\n"],
         Mirror("https://a.example/debian", "https://b.example/debian-security")),
        (["# deb http://old.example/debian sid main\ndeb mirror+file:/etc/m sid main\n"], Mirror()),
        (["deb http://archive.ubuntu.com/ubuntu noble main\n"], Mirror()),
    ],
    ids=["none", "one line", "two forms", "comment", "not debian"],
)  # fmt: skip
def test_mirror_is_that_of_apt(sources: list[str], mirror: Mirror) -> None:
    assert mirror_of(sources) == mirror


def test_a_release_has_updates_and_security_and_sid_has_not() -> None:
    mirror = Mirror("M", "S")
    assert sources_of("bookworm", mirror) == (
        Source("M", "bookworm"), Source("M", "bookworm-updates"), Source("S", "bookworm-security"),
    )  # fmt: skip
    assert sources_of("sid", mirror) == (Source("M", "sid"),)
    assert sources_of("trixie-backports", mirror) == (Source("M", "trixie-backports"),)


def test_hash_is_taken_from_the_sha256_section() -> None:
    release = (
        "Codename: sid\nMD5Sum:\n " + "0" * 64 + " 5 main/x\nSHA256:\n " + "a" * 64 + " 5 main/x\n"
    )
    assert release_hash(release, "main/x") == "a" * 64
    assert release_hash(release, "main/y") is None


@pytest.mark.parametrize(
    ("os_release", "suite"),
    [
        ('ID=debian\nVERSION_CODENAME="trixie"\n', "trixie"),
        ("ID=debian\n", "sid"),
        ("ID=ubuntu\nVERSION_CODENAME=noble\n", "stable"),
        (None, "stable"),
    ],
)
def test_suite_of_this_machine(tmp_path: Path, os_release: str | None, suite: str) -> None:
    if os_release is not None:
        (tmp_path / "etc").mkdir()
        (tmp_path / "etc/os-release").write_text(os_release)
    assert own_suite(tmp_path) == suite


# the package


def deb(files: dict[str, bytes], *, data_name: str = "data.tar.xz") -> bytes:
    """An ar archive with an xz tar in it, as dpkg-deb makes it."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w:xz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            if content.startswith(b"-> "):
                member.type, member.linkname = tarfile.SYMTYPE, content[3:].decode()
                archive.addfile(member)
                continue
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    members = (("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), (data_name, tar.getvalue()))
    out = b"!<arch>\n"
    for name, content in members:
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        out += content + b"\n" * (len(content) % 2)
    return out


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_image_and_modules_come_out_and_nothing_else(tmp_path: Path) -> None:
    package = tmp_path / "p.deb"
    package.write_bytes(
        deb(
            {
                "./boot/vmlinuz-6": b"K",
                "./usr/lib/modules/6/kernel/a.ko": b"A",
                "./lib/modules/6/modules.order": b"O",
                "./usr/share/doc/changelog": b"D",
                "./lib/modules/6/build": b"-> /usr/src",
                "./lib/modules/../../etc/passwd": b"evil",
            }
        )
    )
    unpack(package, tmp_path / "tree")
    assert tree(tmp_path / "tree") == {
        "boot/vmlinuz-6": b"K",
        "lib/modules/6/kernel/a.ko": b"A",
        "lib/modules/6/modules.order": b"O",
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"PK\x03\x04", "not a Debian package"),
        (b"!<arch>\n", "no data in it"),
        (deb({}, data_name="data.tar.zst"), "compressed in a way unknown here"),
    ],
    ids=["zip", "empty", "zstd"],
)
def test_what_is_no_package_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    package = tmp_path / "p.deb"
    package.write_bytes(content)
    with pytest.raises(UsbipVudcError, match=words):
        unpack(package, tmp_path / "tree")


# the archive


class Archive:
    """A mirror on loopback with one suite; ``asked`` are the paths that were fetched from it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[str] = []
        self.url = ""

    def publish(self, version: str, *, suite: str = "bookworm") -> None:
        package = deb({f"./boot/vmlinuz-{VERSION}": version.encode(),
                       f"./lib/modules/{VERSION}/kernel/a.ko": b"A"})  # fmt: skip
        text = stanza("linux-image-amd64", version, f"linux-image-{VERSION} (= {version})")
        text += stanza(f"linux-image-{VERSION}", version, data=package)
        index = lzma.compress(text.encode())
        path = "main/binary-amd64/Packages.xz"
        sha256 = hashlib.sha256(index).hexdigest()
        release = f"Codename: {suite}\nSHA256:\n {sha256} {len(index)} {path}\n"
        suite_root = self.root / "dists" / suite
        for file, content in (
            (suite_root / "InRelease", release.encode()),
            (suite_root / path, index),
            (self.root / f"pool/linux-image-{VERSION}_{version}.deb", package),
        ):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    made = Archive(tmp_path / "mirror")

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            made.asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(made.root)))
    made.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    depmod = tmp_path / "bin" / "depmod"
    depmod.parent.mkdir()
    depmod.write_text('#!/bin/sh\n: > "$2/lib/modules/$3/modules.dep"\n')
    depmod.chmod(0o755)
    monkeypatch.setenv("PATH", f"{depmod.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("USBIP_VUDC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(debian, "apt_mirror", lambda: Mirror(made.url, made.url))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(fetch, "_KEYRING", tmp_path / "no-keyring")
    monkeypatch.setattr(fetch, "_ATTEMPTS", 1)
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def kernel_of(suite: str = "bookworm") -> tuple[str, bytes]:
    kernel = from_debian(suite, progress=quiet)
    assert (kernel.modules / "modules.dep").exists(), "depmod ran"
    return kernel.version, kernel.image.read_bytes()


def test_a_kernel_is_downloaded_once(archive: Archive) -> None:
    archive.publish("6.1.9-1")
    assert kernel_of() == (VERSION, b"6.1.9-1")
    archive.asked.clear()
    assert kernel_of() == (VERSION, b"6.1.9-1")
    assert not archive.asked, "the archive is asked once a day"


def test_a_newer_kernel_is_found_the_next_day(archive: Archive, tmp_path: Path) -> None:
    archive.publish("6.1.9-1")
    kernel_of()
    archive.publish("6.1.10-1")
    os.utime(tmp_path / "cache/kernels/bookworm.json", (0, 0))
    assert kernel_of() == (VERSION, b"6.1.10-1")


def test_the_kernel_of_the_cache_serves_when_the_mirror_does_not(
    archive: Archive, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    archive.publish("6.1.9-1")
    kernel_of()
    os.utime(tmp_path / "cache/kernels/bookworm.json", (0, 0))
    (archive.root / "dists/bookworm/main/binary-amd64/Packages.xz").write_bytes(b"torn")
    for kept in (tmp_path / "cache/indexes").iterdir():
        kept.unlink()
    assert kernel_of() == (VERSION, b"6.1.9-1")
    assert "using the kernel of the cache" in caplog.text


def test_newest_is_that_of_sid_or_of_the_backports(archive: Archive) -> None:
    archive.publish("6.1.9-1", suite="sid")
    archive.publish("6.2.1-1~bpo13+1", suite="trixie-backports")
    archive.publish("6.0.1-1", suite="trixie")
    (archive.root / "dists/trixie").rename(archive.root / "dists/stable")
    kernel = from_debian("newest", progress=quiet)
    assert kernel.image.read_bytes() == b"6.2.1-1~bpo13+1"
    assert kernel.suite == "trixie-backports"


def test_a_wrong_hash_is_an_error_and_leaves_nothing(archive: Archive, tmp_path: Path) -> None:
    archive.publish("6.1.9-1")
    package = next((archive.root / "pool").iterdir())
    package.write_bytes(package.read_bytes() + b"more")
    with pytest.raises(UsbipVudcError, match=r"its SHA256 is [0-9a-f]{64}, it should be"):
        from_debian("bookworm", progress=quiet)
    assert list((tmp_path / "cache/kernels").iterdir()) == []


def test_an_unknown_suite_is_named(archive: Archive) -> None:
    archive.publish("6.1.9-1")
    with pytest.raises(SchemeError, match=r"--kernel debian:potato: .* no kernel in such a suite"):
        from_debian("potato", progress=quiet)
    with pytest.raises(SchemeError, match="a suite is a word like bookworm"):
        from_debian("../etc", progress=quiet)


def test_a_mirror_that_cannot_be_reached_is_named(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = Mirror("http://127.0.0.1:1", "http://127.0.0.1:1")
    monkeypatch.setattr(debian, "apt_mirror", lambda: nowhere)
    with pytest.raises(
        UsbipVudcError, match=r"http://127\.0\.0\.1:1/dists/sid/InRelease: .*refused"
    ):
        from_debian("sid", progress=quiet)
    assert not archive.asked


def test_a_release_that_debian_did_not_sign_is_refused(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    archive.publish("6.1.9-1")
    gpgv = tmp_path / "bin" / "gpgv"
    gpgv.write_text(
        '#!/bin/sh\necho "[GNUPG:] BADSIG 0 nobody"; echo "BAD signature" >&2; exit 1\n'
    )
    gpgv.chmod(0o755)
    monkeypatch.setattr(fetch, "_KEYRING", gpgv)
    with pytest.raises(UsbipVudcError, match="not signed by Debian's keyring: BAD signature"):
        from_debian("bookworm", progress=quiet)


def test_packages_are_values() -> None:
    index = parse_index(stanza("linux-image-amd64", "6.1", "a (= 1), b | c", data=b"12345"))
    assert index["linux-image-amd64"] == Package(
        name="linux-image-amd64",
        version="6.1",
        depends=("a", "b"),
        filename="pool/linux-image-amd64_6.1.deb",
        size=5,
        sha256=hashlib.sha256(b"12345").hexdigest(),
    )
