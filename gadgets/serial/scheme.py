"""How serial functions are written in schemes: the keys that all share, and ``generic`` itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from gadgets.serial.flow import BACK_PRESSURE, NAK, Flow
from gadgets.serial.function import SerialFunction
from gadgets.serial.generic import GenericSerialFunction
from gadgets.serial.naming import FORMS, make_profile
from gadgets.serial.profile import Profile
from usbip_vudc.errors import SchemeError
from usbip_vudc.function import Function
from usbip_vudc.scheme.functions import FunctionScheme
from usbip_vudc.scheme.table import Table, nearest

__all__ = (
    "BYTES_COMMENTS",
    "LINE_COMMENTS",
    "GenericSerialScheme",
    "bytes_keys",
    "line_keys",
    "read_flow",
    "read_profile",
)

BYTES_COMMENTS: Final[Mapping[str, str]] = {
    "profile": f"where the bytes of the port go: {', '.join(FORMS)}",
    "back_pressure": f"when nobody takes what the host sends: {', '.join(BACK_PRESSURE)}",
    "zlp": "end what the port sends with a ZLP where it is a multiple of the maxpacket",
}
"""The keys of every serial function."""

LINE_COMMENTS: Final[Mapping[str, str]] = {
    "baud_paced": "bytes take the time that they need at the rate the host has set",
    "wait_for_dtr": "send only while the host holds DTR up, and keep the rest",
}
"""The keys of one that has a line."""

_NAMES: Final = tuple(form.partition("[")[0].partition(":")[0] for form in FORMS)


def read_profile(table: Table) -> Profile:
    """The ``profile``, echo where it is not there. Relative paths are as the scheme's."""
    text = table.text("profile", "echo")
    name = text.partition(":")[0]
    if name not in _NAMES:
        raise table.error("profile", f"one of {', '.join(FORMS)}{nearest(name, _NAMES)}")
    with table.blamed():
        return make_profile(text, base=table.base)


def read_flow(table: Table) -> Flow:
    """The keys of the flow, each as it usually is where it is not there."""
    return Flow(
        back_pressure=table.choice("back_pressure", {word: word for word in BACK_PRESSURE}, NAK),
        zlp=table.flag("zlp", True),
        baud_paced=table.flag("baud_paced", False),
        wait_for_dtr=table.flag("wait_for_dtr", False),
    )


def bytes_keys(function: SerialFunction) -> dict[str, object]:
    """The keys of `BYTES_COMMENTS`. Raises SchemeError for a profile that has no name."""
    text = function.profile.text
    if not text:
        raise SchemeError(
            f"function {function.name}: profile {type(function.profile).__name__} belongs to a "
            f"program; a scheme has {', '.join(FORMS)}"
        )
    flow = function.flow
    return {"profile": text, "back_pressure": flow.back_pressure, "zlp": flow.zlp}


def line_keys(function: SerialFunction) -> dict[str, object]:
    """The keys of `LINE_COMMENTS`."""
    return {key: getattr(function.flow, key) for key in LINE_COMMENTS}


class GenericSerialScheme(FunctionScheme):
    """``type = "generic"``: a serial port without a class, for usbserial."""

    comments: ClassVar[Mapping[str, str]] = BYTES_COMMENTS

    def from_scheme(self, table: Table) -> GenericSerialFunction:
        """Build it of profile, back_pressure and zlp."""
        table.expect("type", *BYTES_COMMENTS)
        return GenericSerialFunction(read_profile(table), flow=read_flow(table))

    def to_scheme(self, function: Function) -> dict[str, object]:
        """Its keys."""
        assert isinstance(function, GenericSerialFunction)
        return bytes_keys(function)
