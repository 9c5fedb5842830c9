"""How the FunctionFS test device's function is written in a scheme."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from gadgets.functionfs_test.function import MAX_PAIRS, FunctionFSTestFunction
from usbip_vudc.function import Function
from usbip_vudc.scheme.functions import FunctionScheme
from usbip_vudc.scheme.table import Table

__all__ = ("FunctionFSTestScheme",)


class FunctionFSTestScheme(FunctionScheme):
    """``type = "functionfs_test"``: bulk pairs and an echo request."""

    comments: ClassVar[Mapping[str, str]] = {
        "pairs": f"bulk pairs, 1 to {MAX_PAIRS}; 3 fit a kernel's UDC",
    }

    def from_scheme(self, table: Table) -> FunctionFSTestFunction:
        """Build it of pairs."""
        table.expect("type", "pairs")
        return FunctionFSTestFunction(pairs=table.integer("pairs", MAX_PAIRS, 1, MAX_PAIRS))

    def to_scheme(self, function: Function) -> dict[str, object]:
        """Its key."""
        assert isinstance(function, FunctionFSTestFunction)
        return {"pairs": function.pairs}
