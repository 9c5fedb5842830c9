"""Matrix: gadgets x UDCs x speeds x SG or not x SG lists x plans, each cell run and judged.

    cell = Cell.parse("storage/vudc/super/no-sg/3584+7x4096/none")
    expected(cell)  # OUT TransportError, IN -EOVERFLOW, recovered
    examine(cell)   # runs it

What a cell must show is computed from its parts (`expectation`), what cannot exist says by which
rule (`possible`), and what is run uses the same carriers and seams as everything else.
"""

from __future__ import annotations

from usbip_vudc.matrix.axes import Axes, parse_axes
from usbip_vudc.matrix.cell import Cell
from usbip_vudc.matrix.expectation import Expected, expected
from usbip_vudc.matrix.possible import Impossible, why_impossible
from usbip_vudc.matrix.results import Result, Summary, examine
from usbip_vudc.matrix.running import Seen, run
from usbip_vudc.matrix.workers import examine_all

__all__ = (
    "Axes",
    "Cell",
    "Expected",
    "Impossible",
    "Result",
    "Seen",
    "Summary",
    "examine",
    "examine_all",
    "expected",
    "parse_axes",
    "run",
    "why_impossible",
)
