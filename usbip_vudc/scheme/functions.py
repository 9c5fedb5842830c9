"""FunctionScheme: how one kind of function is written in a scheme. Found by registry.FUNCTIONS."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, cast

from usbip_vudc.errors import SchemeError
from usbip_vudc.function import Function
from usbip_vudc.registry import FUNCTIONS
from usbip_vudc.scheme.table import Table

__all__ = ("FunctionScheme", "function_scheme")


class FunctionScheme(ABC):
    """Reads and writes the keys of one kind of function, besides ``type``.

    ``comments`` says of each key, in one line, what it is: for templates.
    """

    comments: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def from_scheme(self, table: Table) -> Function:
        """Build the function. Raises SchemeError, and OSError for a file that does not open."""

    @abstractmethod
    def to_scheme(self, function: Function) -> dict[str, object]:
        """The keys that build it again, every one of them.

        Raises SchemeError where it holds something that no scheme can say (a program's own).
        """


def function_scheme(kind: str) -> FunctionScheme:
    """The FunctionScheme of a ``type``. Raises SchemeError for an unknown one."""
    if kind not in FUNCTIONS:
        raise SchemeError(
            f"function type {kind!r} is unknown to schemes; there are {', '.join(FUNCTIONS)}"
        )
    module, _, attribute = FUNCTIONS[kind].partition(":")
    return cast("FunctionScheme", getattr(importlib.import_module(module), attribute)())
