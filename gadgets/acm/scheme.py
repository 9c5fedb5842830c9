"""How a CDC-ACM port is written in schemes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from gadgets.acm.function import AcmFunction
from gadgets.serial.scheme import (
    BYTES_COMMENTS,
    LINE_COMMENTS,
    bytes_keys,
    line_keys,
    read_flow,
    read_profile,
)
from usbip_vudc.function import Function
from usbip_vudc.scheme.functions import FunctionScheme
from usbip_vudc.scheme.table import Table

__all__ = ("AcmScheme",)


class AcmScheme(FunctionScheme):
    """``type = "acm"``: a CDC-ACM serial port."""

    comments: ClassVar[Mapping[str, str]] = {
        **BYTES_COMMENTS,
        **LINE_COMMENTS,
        "dsr_follows_dtr": "show the host its own DTR as DSR, as through a null modem plug",
    }

    def from_scheme(self, table: Table) -> AcmFunction:
        """Build it of its profile, its flow and dsr_follows_dtr."""
        table.expect("type", *self.comments)
        return AcmFunction(
            read_profile(table),
            flow=read_flow(table),
            dsr_follows_dtr=table.flag("dsr_follows_dtr", False),
        )

    def to_scheme(self, function: Function) -> dict[str, object]:
        """Its keys."""
        assert isinstance(function, AcmFunction)
        return {
            **bytes_keys(function),
            **line_keys(function),
            "dsr_follows_dtr": function.dsr_follows_dtr,
        }
