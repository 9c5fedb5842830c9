"""How an FT232R is written in schemes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from gadgets.ftdi.eeprom import SIZE
from gadgets.ftdi.function import FtdiFunction
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

__all__ = ("FtdiScheme",)


class FtdiScheme(FunctionScheme):
    """``type = "ftdi"``: a serial port with FTDI's protocol.

    The host's driver goes by the device: idVendor 0x0403, idProduct 0x6001, bcdDevice 0x0600.
    """

    comments: ClassVar[Mapping[str, str]] = {
        **BYTES_COMMENTS,
        **LINE_COMMENTS,
        "cts_follows_rts": "show the host its own RTS as CTS, as a loopback plug does",
        "dsr_follows_dtr": "show the host its own DTR as DSR, as a loopback plug does",
        "eeprom": f"what hosts read there, {SIZE} bytes in hex",
    }

    def from_scheme(self, table: Table) -> FtdiFunction:
        """Build it of its profile, its flow, its plug and its eeprom."""
        table.expect("type", *self.comments)
        try:
            contents = bytes.fromhex(table.text("eeprom")) if "eeprom" in table else None
        except ValueError:
            raise table.error("eeprom", f"{SIZE} bytes in hex") from None
        return FtdiFunction(
            read_profile(table),
            flow=read_flow(table),
            cts_follows_rts=table.flag("cts_follows_rts", True),
            dsr_follows_dtr=table.flag("dsr_follows_dtr", True),
            eeprom=contents,
        )

    def to_scheme(self, function: Function) -> dict[str, object]:
        """Its keys."""
        assert isinstance(function, FtdiFunction)
        return {
            **bytes_keys(function),
            **line_keys(function),
            "cts_follows_rts": function.cts_follows_rts,
            "dsr_follows_dtr": function.dsr_follows_dtr,
            "eeprom": function.eeprom.hex(),
        }
