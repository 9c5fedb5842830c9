"""The matrix under pytest, and so under pytest-xdist: one test, which is every cell.

    USBIP_VUDC_MATRIX="--gadget storage --speed super --plan all" \
        python -m pytest --pyargs usbip_vudc.matrix.pytest_matrix -n 2

The variable holds axes as ``usbip-vudc matrix`` takes them; without it they are its defaults. With
UDCs of the kernel's and xdist, add ``--dist loadgroup``: each carries one gadget at a time.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
from collections.abc import Iterator
from typing import Any, Final

import pytest

from usbip_vudc.carrier import OURS
from usbip_vudc.matrix.axes import parse_axes
from usbip_vudc.matrix.cell import Cell
from usbip_vudc.matrix.results import RED, examine

__all__ = ("VARIABLE", "test_cell")

VARIABLE: Final = "USBIP_VUDC_MATRIX"

_HAS_XDIST: Final = importlib.util.find_spec("xdist") is not None


def _parameters() -> Iterator[Any]:
    for cell in parse_axes(shlex.split(os.environ.get(VARIABLE, ""))):
        udc = cell.carrier.udc
        together = _HAS_XDIST and udc != OURS
        yield pytest.param(
            cell, id=str(cell), marks=[pytest.mark.xdist_group(udc)] if together else []
        )


@pytest.mark.parametrize("cell", list(_parameters()))
def test_cell(cell: Cell) -> None:
    """A cell shows what it must; one that cannot be run is skipped, with the rule."""
    result = examine(cell)
    if result.why:
        pytest.skip(f"{result.status}: {result.why}")
    if result.status == RED:
        pytest.fail(
            f"expected: {result.expected}\nseen: {result.seen}\nreplay: {result.replay}",
            pytrace=False,
        )
