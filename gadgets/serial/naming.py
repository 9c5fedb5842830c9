"""The names of the profiles, as command lines and schemes write them: ``tcp:127.0.0.1:4000``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Final

from gadgets.serial.ends import Exec, Pty, Tcp
from gadgets.serial.file import File
from gadgets.serial.modem import Modem
from gadgets.serial.profile import Profile
from gadgets.serial.profiles import Echo, Sink, Source
from usbip_vudc.errors import SchemeError

__all__ = ("FORMS", "make_profile")

FORMS: Final = (
    "echo", "sink[:SEED]", "source[:SEED[:LENGTH]]", "pty[:LINK]", "tcp:HOST:PORT",
    "exec:COMMAND", "file:PATH", "modem",
)  # fmt: skip
"""Every profile that has a name, and what may follow it."""

_Make = Callable[[str, PurePath | None], Profile]


def make_profile(text: str, *, base: PurePath | None = None) -> Profile:
    """Make the profile of a name; relative paths start from ``base``. Opens nothing.

    Raises SchemeError for a name that there is not, or for what follows it.
    """
    if "\0" in text:  # no path, command or host name has one
        raise SchemeError(f"serial profile {text!r}: expected no NUL")
    name, colon, argument = text.partition(":")
    make = _MAKERS.get(name)
    if make is None:
        raise SchemeError(f"serial profile {text!r} is unknown; there are {', '.join(FORMS)}")
    form = next(form for form in FORMS if form.partition("[")[0].partition(":")[0] == name)
    missing = not argument and (bool(colon) or ":" in form.partition("[")[0])
    if missing or (argument and ":" not in form):
        raise SchemeError(f"serial profile {text!r}: expected {form}")
    try:
        return make(argument, base)
    except ValueError as error:
        raise SchemeError(f"serial profile {text!r}: expected {form} ({error})") from None


def _number(what: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{what} {text!r} is no number") from None


def _sink(argument: str, _base: PurePath | None) -> Profile:
    return Sink(seed=_number("SEED", argument)) if argument else Sink()


def _source(argument: str, _base: PurePath | None) -> Profile:
    seed, _, length = argument.partition(":")
    return Source(
        seed=_number("SEED", seed or "0"), length=_number("LENGTH", length) if length else None
    )


def _pty(argument: str, base: PurePath | None) -> Profile:
    return Pty(_path(argument, base)) if argument else Pty()


def _tcp(argument: str, _base: PurePath | None) -> Profile:
    host, _, port = argument.rpartition(":")
    return Tcp(host.removeprefix("[").removesuffix("]"), _number("PORT", port))


def _path(argument: str, base: PurePath | None) -> Path:
    return Path(argument) if base is None else Path(base / argument)


_MAKERS: Final[Mapping[str, _Make]] = {
    "echo": lambda _argument, _base: Echo(),
    "sink": _sink,
    "source": _source,
    "pty": _pty,
    "tcp": _tcp,
    "exec": lambda argument, _base: Exec(argument),
    "file": lambda argument, base: File(_path(argument, base)),
    "modem": lambda _argument, _base: Modem(),
}
