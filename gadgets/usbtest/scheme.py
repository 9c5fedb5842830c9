"""How a source and sink function is written in a scheme."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from gadgets.usbtest.function import LAYOUTS, SourceSinkFunction
from usbip_vudc.function import Function
from usbip_vudc.scheme.functions import FunctionScheme
from usbip_vudc.scheme.table import Table

__all__ = ("SourceSinkScheme",)

_MAX_BUFLEN: Final = 4 << 20
"""Bytes: what FunctionFS takes at once."""

_USUAL: Final = SourceSinkFunction()


class SourceSinkScheme(FunctionScheme):
    """``type = "source_sink"``: sources and sinks for usbtest."""

    comments: ClassVar[Mapping[str, str]] = {
        "endpoints": f"which there are: {', '.join(LAYOUTS)}",
        "pattern": "the bytes of a packet: 0 zeros, 1 byte i is i % 63, 2 zeros sent and any taken",
        "buflen": "bytes of a request, rounded up to whole packets",
        "qlen": "requests queued on each endpoint",
    }

    def from_scheme(self, table: Table) -> SourceSinkFunction:
        """Build it of endpoints, pattern, buflen and qlen."""
        table.expect("type", "endpoints", "pattern", "buflen", "qlen")
        return SourceSinkFunction(
            endpoints=table.choice("endpoints", {word: word for word in LAYOUTS}, _USUAL.endpoints),
            pattern=table.integer("pattern", _USUAL.pattern, 0, 2),
            buflen=table.integer("buflen", _USUAL.buflen, 1, _MAX_BUFLEN),
            qlen=table.integer("qlen", _USUAL.qlen, 1, 256),
        )

    def to_scheme(self, function: Function) -> dict[str, object]:
        """Its keys."""
        assert isinstance(function, SourceSinkFunction)
        return {
            "endpoints": function.endpoints,
            "pattern": function.pattern,
            "buflen": function.buflen,
            "qlen": function.qlen,
        }
