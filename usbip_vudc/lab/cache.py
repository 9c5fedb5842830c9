"""Where the lab keeps what it may make again: kernels, answers of probes, results of late runs."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Final

__all__ = ("cache_directory", "fresh_results")

_RUNS_KEPT: Final = 20


def cache_directory() -> Path:
    """``USBIP_VUDC_CACHE``, or ``usbip-vudc`` in the user's cache. It may not exist yet."""
    if own := os.environ.get("USBIP_VUDC_CACHE"):
        return Path(own).absolute()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "usbip-vudc"


def fresh_results() -> Path:
    """A new empty directory for the results of one run; all but the latest 20 are removed."""
    runs = cache_directory() / "lab"
    runs.mkdir(parents=True, exist_ok=True)
    for old in sorted(runs.iterdir())[: -_RUNS_KEPT + 1]:
        shutil.rmtree(old, ignore_errors=True)
    made = runs / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    made.mkdir()
    return made
