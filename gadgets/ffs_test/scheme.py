"""How ffs-test's twin is written in a scheme."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from gadgets.ffs_test.function import PATTERNS, FfsTestFunction
from usbip_vudc.function import Function
from usbip_vudc.scheme.functions import FunctionScheme
from usbip_vudc.scheme.table import Table

__all__ = ("FfsTestScheme",)


class FfsTestScheme(FunctionScheme):
    """``type = "ffs_test"``: a bulk source and a bulk sink, as tools/usb/ffs-test.c."""

    comments: ClassVar[Mapping[str, str]] = {
        "pattern": f"the bytes both ways: {', '.join(PATTERNS)}",
    }

    def from_scheme(self, table: Table) -> FfsTestFunction:
        """Build it of pattern."""
        table.expect("type", "pattern")
        return FfsTestFunction(
            pattern=table.choice("pattern", {word: word for word in PATTERNS}, "zero")
        )

    def to_scheme(self, function: Function) -> dict[str, object]:
        """Its key."""
        assert isinstance(function, FfsTestFunction)
        return {"pattern": function.pattern}
