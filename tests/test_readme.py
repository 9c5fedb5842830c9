"""README: its examples run as they stand, and its claims about itself are true."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from usbip_vudc.registry import GADGETS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_examples_run_as_they_stand(tmp_path: Path) -> None:
    fixtures, gadget, test = blocks("python")
    (tmp_path / "test_disk.py").write_text(fixtures)
    (tmp_path / "echo.py").write_text(gadget)
    (tmp_path / "test_echo.py").write_text(test)
    done = subprocess.run(
        (sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", "."),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_make_targets_that_it_names_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"make (demo|test|bench|clean|\w+)\b", README)) - {"sure", "of"}
    assert {"demo", "test", "bench", "clean"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_files_that_it_links_exist() -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link


@pytest.mark.parametrize("room", ["pipe", "standard_requests", "cable", "server", "pyusb_backend"])
def test_the_picture_names_the_rooms(room: str) -> None:
    assert (ROOT / "usbip_vudc" / f"{room}.py").exists()
    assert room in README


def test_served_names_are_those_of_the_registry() -> None:
    for name in ("serial", "storage"):
        assert name in GADGETS
