"""PyUSB's own tests, run against the PyUSB test device: ``python -m tests.pyusb_suite``.

The sdist of the PyUSB that is installed is fetched by pip into the cache, and its tests are
unpacked into a temporary directory; nothing of them stays here. They run as they are: our backend
only answers in place of libusb's, or with ``--linux`` PyUSB's own libusb backend is left to it,
and the device is attached to vhci_hcd (as root, in the lab).
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import usb.backend.libusb0
import usb.backend.libusb1
import usb.backend.openusb
from rich.console import Console

from usbip_vudc.carrier import OURS, Carrier, carried, libusb_device
from usbip_vudc.lab.cache import cache_directory
from usbip_vudc.pyusb_backend import get_backend
from usbip_vudc.registry import GadgetOptions, load_gadget
from usbip_vudc.serving import serving
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.usbtest.driver import load
from usbip_vudc.verdicts import FAIL, PASS, SKIP, Verdict, exit_status, summary, table

__all__ = ("fetch", "judge", "on_linux", "on_our_host", "unpack")

TRANSFERS: Final = tuple(f"{kind}_{way}" for kind in ("bulk", "intr", "iso")
                         for way in ("write", "read"))  # fmt: skip
"""A step of theirs passes quietly over NotImplementedError, so these are counted."""


class NotFetched(Exception):
    """The tests are neither in the cache nor to be had."""


def fetch(project: str) -> Path:
    """The sdist of an installed project, from the cache or by pip. Raises NotFetched."""
    version = importlib.metadata.version(project)
    directory = cache_directory() / "sdists"
    sdist = directory / f"{project}-{version}.tar.gz"
    if not sdist.exists():
        command = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                   "--disable-pip-version-check", "--no-binary", ":all:",
                   f"--dest={directory}", f"{project}=={version}")  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not sdist.exists():
            raise NotFetched(
                f"{project} {version}: its sdist is not in {directory}, and pip does not get it "
                f"(offline?):\n{done.stderr.strip()[-600:]}"
            )
    return sdist


def unpack(sdist: Path, directory: Path) -> Path:
    """The tests of an sdist, and nothing else of it: PyUSB itself is the installed one."""
    with tarfile.open(sdist) as archive:
        for member in archive.getmembers():
            _, _, name = member.name.partition("/")
            if name.startswith("tests/") and member.isfile():
                archive.extract(member, directory, filter="data")
    return next(directory.glob("*/tests"))


# --- where the device is -------------------------------------------------------------------------


@contextmanager
def on_our_host() -> Iterator[Any]:
    """The device on the userspace UDC; our backend answers where libusb1's would."""
    with serving(load_gadget("pyusb-test", GadgetOptions())) as port:
        backend = get_backend(port=port)
        with ExitStack() as patches:
            for module, answer in (
                (usb.backend.libusb1, backend),
                (usb.backend.libusb0, None),
                (usb.backend.openusb, None),
            ):
                patches.enter_context(
                    patch.object(module, "get_backend", lambda found=answer: found)
                )
            yield backend
        backend.finalize()


@contextmanager
def on_linux() -> Iterator[Any]:
    """The device under vhci_hcd; PyUSB's own backend, libusb and usbfs do the rest."""
    load("vhci-hcd")
    gadget = load_gadget("pyusb-test", GadgetOptions())
    with carried(gadget, Carrier(OURS, Speed.FULL, "linux")) as way:
        device = libusb_device(way.sysfs)  # looks for the library without asking a compiler
        assert device is not None
        yield device.backend


# --- judging -------------------------------------------------------------------------------------


def judge(tests: Path, backend: Any) -> list[Verdict]:
    """Run every suite that their modules give; a verdict for each step, in order."""
    # PyUSB 1.3.1 calls two names that Python 3.12 removed.
    aliases: dict[str, Any] = {"assertEquals": unittest.TestCase.assertEqual,
               "assertNotEquals": unittest.TestCase.assertNotEqual}  # fmt: skip
    verdicts: list[Verdict] = []
    with (
        counted(backend) as moved,
        patch.object(sys, "path", [str(tests), *sys.path]),
        patch.multiple(unittest.TestCase, create=True, **aliases),
    ):
        for path in sorted(tests.glob("test_*.py")):
            module = importlib.import_module(path.stem)
            cases = list(_flat(module.get_suite()))
            if not cases:
                verdicts.append(Verdict(name=path.stem, result=FAIL, why="found no device"))
            for case in cases:
                verdicts.extend(_run(path.stem, case))
    for name in TRANSFERS:
        result = PASS if moved[name] else FAIL
        why = f"{moved[name]} transfers" if moved[name] else "no transfer was made"
        verdicts.append(Verdict(name=f"transfers.{name}", result=result, why=why))
    return verdicts


@contextmanager
def counted(backend: Any) -> Iterator[Counter[str]]:
    """Counts the transfers of a backend that succeed."""
    moved: Counter[str] = Counter()

    def counting(name: str, transfer: Callable[..., int]) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            count = transfer(*arguments)
            moved[name] += 1
            return count

        return call

    with ExitStack() as patches:
        for name in TRANSFERS:
            wrapped = counting(name, getattr(backend, name))
            patches.enter_context(patch.object(backend, name, wrapped))
        yield moved


def _flat(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from _flat(item)
        else:
            yield item


def _run(module: str, case: unittest.TestCase) -> Iterator[Verdict]:
    """One case. Where its ``runTest`` calls steps, a verdict for each of them."""
    where = f"{module}.{type(case).__name__}"
    method = case.id().rpartition(".")[2]
    result = unittest.TestResult()
    if method != "runTest":
        case.run(result)
        yield _verdict(f"{where}.{method}", result, 0.0)
        return
    steps = [name for name in dir(case) if name.startswith("test_")]
    times: dict[str, float] = {}
    ended: list[str] = []
    for name in steps:
        setattr(case, name, _timed(name, getattr(case, name), times, ended))
    case.run(result)
    broken = [name for name in times if name not in ended]
    for name in ended:
        yield Verdict(name=f"{where}.{name}", result=PASS, seconds=times[name])
    if broken or not steps or not result.wasSuccessful():
        yield _verdict(".".join((where, *broken)), result, sum(times[name] for name in broken))
    why = "not reached" if broken else "PyUSB's own runTest leaves it out"
    for name in steps:
        if name not in times:
            yield Verdict(name=f"{where}.{name}", result=SKIP, why=why)


def _timed(
    name: str, step: Callable[[], None], times: dict[str, float], ended: list[str]
) -> Callable[[], None]:
    def run() -> None:
        started = time.monotonic()
        try:
            step()
        finally:
            times[name] = times.get(name, 0.0) + time.monotonic() - started
        if name not in ended:
            ended.append(name)

    return run


def _verdict(name: str, result: unittest.TestResult, seconds: float) -> Verdict:
    if result.wasSuccessful():
        return Verdict(name=name, result=PASS, seconds=seconds)
    text = "\n".join(text for _, text in (*result.errors, *result.failures))
    return Verdict(name=name, result=FAIL, why=text.strip(), seconds=seconds)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where all that ran has passed, 1 where something failed, 4 where nothing could run."""
    parser = argparse.ArgumentParser(prog="python -m tests.pyusb_suite", description=__doc__)
    parser.add_argument("--linux", action="store_true", help="under vhci_hcd, through libusb")
    options = parser.parse_args(arguments)
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=120)
    try:
        sdist = fetch("pyusb")
    except NotFetched as error:
        console.print(f"PYUSB'S TESTS DID NOT RUN: {error}", style="red", markup=False)
        return 4
    version = importlib.metadata.version("pyusb")
    host = "libusb, usbfs and vhci_hcd" if options.linux else "our backend"
    title = f"PyUSB {version}'s own tests: pyusb-test through {host}"
    place = on_linux if options.linux else on_our_host
    with tempfile.TemporaryDirectory() as directory, place() as backend:
        verdicts = judge(unpack(sdist, Path(directory)), backend)
    console.print(table(title, verdicts))
    console.print(summary(verdicts), markup=False)
    return exit_status(verdicts)


if __name__ == "__main__":
    sys.exit(main())
