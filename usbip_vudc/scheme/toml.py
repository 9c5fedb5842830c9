"""TOML, with errors that name the file: of schemes, and of plans."""

from __future__ import annotations

import tomllib
from pathlib import Path

from usbip_vudc.errors import SchemeError

__all__ = ("parse_toml", "read_toml")


def parse_toml(text: str, *, where: str) -> dict[str, object]:
    """The values of a TOML text, which messages call ``where``. Raises SchemeError."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SchemeError(f"{where}: not TOML: {error}") from None
    except RecursionError:
        raise SchemeError(f"{where}: arrays or tables in one another, too many of them") from None


def read_toml(path: Path) -> str:
    """The text of a TOML file. Raises SchemeError where it is no UTF-8, OSError."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SchemeError(f"{path}: not a text file in UTF-8 ({error})") from None
