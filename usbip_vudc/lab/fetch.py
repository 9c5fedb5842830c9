"""Downloads, each checked: Debian's signature on the list of hashes, and a hash on every file."""

from __future__ import annotations

import hashlib
import logging
import lzma
import os
import re
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Final, cast

from usbip_vudc.errors import UsbipVudcError
from usbip_vudc.lab.archive import Package, Source, parse_index, release_hash
from usbip_vudc.lab.cache import cache_directory

__all__ = ("Progress", "codename", "download", "index", "index_text")

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""``progress("what", total_bytes)`` yields a function that takes the bytes done so far."""

_KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_ATTEMPTS: Final = 3
_SILENCE: Final = 30.0
"""Seconds that a server may say nothing."""

_log = logging.getLogger(__name__)


def index(source: Source, architecture: str, *, progress: Progress) -> dict[str, Package] | None:
    """The kernel packages of a suite, or None if the mirror has no such suite.

    Raises UsbipVudcError as `index_text` does.
    """
    text = index_text(source, architecture, progress=progress)
    return None if text is None else parse_index(text)


def index_text(source: Source, architecture: str, *, progress: Progress) -> str | None:
    """The Packages file of a suite, or None if the mirror has no such suite.

    Raises UsbipVudcError if the mirror cannot be reached, or what it sends is not as signed.
    """
    try:
        release = _release(source)
    except _NotThere:
        return None
    path = f"main/binary-{architecture}/Packages.xz"
    expected = release_hash(release, path)
    if expected is None:
        return None
    kept = cache_directory() / "indexes" / expected
    if not kept.exists():
        url = f"{source.url}/dists/{source.suite}/{path}"
        download(url, kept, expected, 0, what=f"index of {source.suite}", progress=progress)
    return lzma.decompress(kept.read_bytes()).decode()


def codename(source: Source) -> str:
    """What a suite such as stable is called now. Raises UsbipVudcError if that is not to be had."""
    try:
        match = re.search(r"^Codename: (\S+)$", _release(source), re.MULTILINE)
    except _NotThere:
        match = None
    if match is None:
        raise UsbipVudcError(f"{source.release}: no codename")
    return match[1]


def download(
    url: str, target: Path, sha256: str, size: int, *, what: str, progress: Progress
) -> None:
    """Fetch a file into ``target``, which appears only when it is whole and its SHA256 right.

    Raises UsbipVudcError if that cannot be done, and leaves nothing then.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".", delete=False) as file:
        try:
            with _open(url) as answer:
                total = size or int(answer.headers.get("Content-Length") or 0)
                with progress(f"downloading {what} ({total / 1e6:.0f} MB)", total) as done:
                    while data := answer.read(1 << 18):
                        file.write(data)
                        digest.update(data)
                        done(file.tell())
            if digest.hexdigest() != sha256:
                raise UsbipVudcError(
                    f"{url}: its SHA256 is {digest.hexdigest()}, it should be {sha256}"
                )
            file.flush()
            Path(file.name).replace(target)
        except (OSError, HTTPException) as error:
            raise UsbipVudcError(f"{url}: {error}") from None
        finally:
            Path(file.name).unlink(missing_ok=True)


class _NotThere(Exception):
    """The mirror answered 404."""


def _open(url: str) -> HTTPResponse:
    reason: OSError = OSError("never tried")
    for attempt in range(_ATTEMPTS):
        try:
            return cast("HTTPResponse", urllib.request.urlopen(url, timeout=_SILENCE))
        except urllib.error.HTTPError as error:
            error.close()  # it is an answer, too, and holds the connection
            if error.code == 404:
                raise _NotThere from None
            reason = error
        except OSError as error:
            reason = error
        if attempt + 1 < _ATTEMPTS:
            time.sleep(2**attempt)
    raise UsbipVudcError(f"{url}: {reason}")


def _release(source: Source) -> str:
    """The text of InRelease, its signature checked where gpgv and Debian's keyring are here."""
    with _open(source.release) as answer:
        signed = answer.read()
    gpgv = shutil.which("gpgv")
    if gpgv is None or not _KEYRING.exists():
        _log.warning("%s: signature not checked: apt install gpgv debian-archive-keyring",
                     source.release)  # fmt: skip
        return str(signed.decode())
    with tempfile.TemporaryDirectory(prefix="usbip-vudc-gpgv-") as directory:
        plain = Path(directory) / "Release"
        done = subprocess.run(
            (gpgv, "--keyring", str(_KEYRING), "--output", str(plain), "--status-fd", "1"),
            input=signed,
            capture_output=True,
            env={**os.environ, "GNUPGHOME": directory},
            check=False,
        )
        # One good signature is enough: newer suites are signed with newer keys as well.
        if b"] VALIDSIG " not in done.stdout or b"] BADSIG " in done.stdout:
            said = done.stderr.decode(errors="replace").strip()
            raise UsbipVudcError(f"{source.release}: not signed by Debian's keyring: {said}")
        return plain.read_text()
