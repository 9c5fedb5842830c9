"""How the PyUSB test device's function is written in a scheme."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from gadgets.pyusb_test.function import PyusbTestFunction
from gadgets.pyusb_test.traffic import TEST_TYPES
from usbip_vudc.function import Function
from usbip_vudc.scheme.functions import FunctionScheme
from usbip_vudc.scheme.table import Table

__all__ = ("PyusbTestScheme",)


class PyusbTestScheme(FunctionScheme):
    """``type = "pyusb_test"``: loopbacks of bulk, interrupt and isochronous transfers."""

    comments: ClassVar[Mapping[str, str]] = {
        "test_type": f"what it powers up with, seen from the host: {', '.join(TEST_TYPES)}",
    }

    def from_scheme(self, table: Table) -> PyusbTestFunction:
        """Build it of test_type."""
        table.expect("type", "test_type")
        return PyusbTestFunction(test_type=table.choice("test_type", TEST_TYPES, "loop"))

    def to_scheme(self, function: Function) -> dict[str, object]:
        """Its key."""
        assert isinstance(function, PyusbTestFunction)
        return {"test_type": function.test_type.name.lower()}
