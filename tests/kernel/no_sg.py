"""Exchanges a module of the running kernel for the one without SG, and puts it back."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from usbip_vudc.lab.guest import HOST_ROOT
from usbip_vudc.lab.variants import variant_path
from usbip_vudc.sysfs import read_attribute

__all__ = ("NO_SG", "Modules", "exchangeable")

NO_SG: Final = "USBIP_VUDC_NO_SG"
"""The variable that says in which directory usbip_vudc.lab.modules has built."""

_MODULES: Final = Path("/sys/module")


def variant(module: str) -> Path:
    """The module without SG for this kernel; skips the test, with what would help, without it."""
    release = os.uname().release
    command = f"python -m usbip_vudc.lab.modules {release} DIR"
    directory = os.environ.get(NO_SG)
    if not directory:
        pytest.skip(f"NO MODULES WITHOUT SG: build them by `{command}`, then set {NO_SG}=DIR")
    # What the host has in a directory that the guest has of its own is seen by another way.
    for root in (Path(directory), Path(f"{HOST_ROOT}/{directory}")):
        path = variant_path(root, release, module)
        if path.exists():
            return path
    pytest.skip(f"NO {module} WITHOUT SG for {release} in {directory}; make it: `{command}`")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.returncode, f"{' '.join(command)}: {done.stderr.strip()}"


class Modules:
    """Which of the modules that may be exchanged are the stock ones."""

    def __init__(self) -> None:
        self._without: dict[str, tuple[tuple[str, ...], str]] = {}

    def want(self, module: str, *, sg: bool) -> None:
        """Have vhci-hcd or dummy_hcd with SG, which is the stock one, or without.

        The parameters stay the same. Skips the test where there is no variant.
        """
        name = module.replace("-", "_")
        if sg and module in self._without:
            options, taint = self._without.pop(module)
            if (_MODULES / name).exists():
                _run("rmmod", name)
            _run("modprobe", module, *options)
            assert read_attribute(_MODULES / name / "taint") == taint
        elif not sg and module not in self._without:
            path = variant(module)
            before = (_options(name), read_attribute(_MODULES / name / "taint"))
            self._without[module] = before
            _run("rmmod", name)
            _run("insmod", str(path), *before[0])
            # O: out of tree. So it is ours, whatever its name is.
            assert "O" in read_attribute(_MODULES / name / "taint")


def _options(name: str) -> tuple[str, ...]:
    parameters = _MODULES / name / "parameters"
    if not parameters.exists():
        return ()
    return tuple(f"{path.name}={read_attribute(path)}" for path in sorted(parameters.iterdir()))


@contextmanager
def exchangeable(*modules: str) -> Iterator[Modules]:
    """At the end each is the stock one again. None may be in use then."""
    loaded = Modules()
    try:
        yield loaded
    finally:
        with ExitStack() as undo:  # each, whatever becomes of the others
            for module in modules:
                undo.callback(loaded.want, module, sg=True)
