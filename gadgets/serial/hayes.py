"""A modem as its computer sees it: AT commands, result codes, the escape. Pure: no port, no clock.

The commands are those of V.250 and what terminal programs send besides. What it dials always
answers, and sends back what it is sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ("GUARD_SECONDS", "Hayes", "Reaction")

GUARD_SECONDS: Final = 1.0
"""Silence before and after the ``+++`` that leads from data back to commands."""

_MAX_LINE: Final = 256
_IDENTITY: Final = "usbip-vudc modem"
_WHO: Final = ("GMI", "GMM", "GMR", "CGMI", "CGMM", "CGMR")

_CODES: Final = {"OK": "0", "CONNECT": "1", "RING": "2", "NO CARRIER": "3", "ERROR": "4"}
"""Result codes, in words and as ``ATV0`` writes them (V.250 table 1)."""

_COMMAND: Final = re.compile(
    r"(?P<dial>D).*"
    r"|S(?P<register>\d{1,3})(?P<access>=\d*|\?)"
    r"|\+(?P<extended>[A-Z]+)"
    r"|(?P<basic>&?[A-Z])(?P<value>\d*)"
)
"""One command of a line (V.250 5.3, 5.4)."""


@dataclass(frozen=True, slots=True)
class Reaction:
    """What to send the host, and what becomes of DCD; None leaves it as it is."""

    reply: bytes = b""
    carrier: bool | None = None


class Hayes:
    """One modem. It begins in command mode, with echo and result codes in words."""

    def __init__(self) -> None:
        self.registers: dict[int, int] = {}
        self.online = False
        """Whether bytes are data."""
        self.carrier = False
        """Whether there is a call, online or not."""
        self.escape_at: float | None = None
        """When `tick` is due: then a ``+++`` has been followed by silence."""
        self._line = bytearray()
        self._last_line = ""
        self._pluses = 0
        self._heard_at = float("-inf")
        self._reset()

    def _reset(self) -> None:
        self.registers = {0: 0, 3: 13, 4: 10, 5: 8}
        self._echo = self._verbose = True
        self._quiet = False

    # --- what comes in -------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> Reaction:
        """Take bytes from the host at a time in seconds."""
        before = self.carrier
        reply = bytearray()
        while data:
            if self.online:
                self._look_for_escape(data, now)
                reply += data
                break
            reply += self._command_byte(data[0])
            data = data[1:]
        self._heard_at = now
        return Reaction(bytes(reply), self.carrier if self.carrier != before else None)

    def tick(self, now: float) -> Reaction:
        """Look at the clock: what is due at `escape_at`."""
        if self.escape_at is None or now < self.escape_at:
            return Reaction()
        self._forget_escape()
        self.online = False
        return Reaction(self._result("OK"))

    def hang_up(self) -> Reaction:
        """DTR has fallen: the call is over, and the next byte is a command (AT&D2)."""
        if not self.carrier:
            return Reaction()
        self._end_call()
        return Reaction(self._result("NO CARRIER"), carrier=False)

    def ring(self) -> Reaction:
        """Somebody calls: what the host is told."""
        return Reaction() if self.carrier else Reaction(self._result("RING"))

    def _look_for_escape(self, data: bytes, now: float) -> None:
        quiet = now - self._heard_at >= GUARD_SECONDS
        pluses = self._pluses if not quiet else 0
        if data == b"+" * len(data) and pluses + len(data) <= 3 and (quiet or pluses):
            self._pluses = pluses + len(data)
            self.escape_at = now + GUARD_SECONDS if self._pluses == 3 else None
        else:
            self._forget_escape()

    def _forget_escape(self) -> None:
        self._pluses = 0
        self.escape_at = None

    def _end_call(self) -> None:
        self.carrier = self.online = False
        self._forget_escape()

    # --- commands ------------------------------------------------------------------------------

    def _command_byte(self, value: int) -> bytes:
        echo = bytes((value,)) if self._echo else b""
        if value == self.registers[5]:
            del self._line[-1:]
        elif value == self.registers[3]:
            line = self._line.decode("ascii", "replace").strip()
            self._line.clear()
            return echo + self._execute(line)
        elif value >= 0x20:
            self._line.append(value)
            if self._line.upper() == b"A/":  # needs no end of line (V.250 5.2.4)
                self._line.clear()
                return echo + self._execute(self._last_line)
            del self._line[_MAX_LINE + 1 :]
        return echo

    def _execute(self, line: str) -> bytes:
        words = line.upper().replace(" ", "")
        if not words.startswith("AT"):
            return b""  # V.250 5.2.1: whatever else, it is not for a modem
        self._last_line = line
        if len(line) > _MAX_LINE:
            return self._result("ERROR")
        reply, position = b"", 2
        while position < len(words):
            match = _COMMAND.match(words, position)
            if match is None:
                return reply + self._result("ERROR")
            position = match.end()
            outcome = self._command(match)
            if outcome in _CODES:
                return reply + self._result(outcome)
            if outcome:
                reply += f"\r\n{outcome}\r\n".encode()
        return reply + self._result("OK")

    def _command(self, match: re.Match[str]) -> str:
        """What a command answers: a result code ends the line, other text is information."""
        if match["dial"]:
            return self._begin_call()
        if match["register"]:
            return self._access_register(int(match["register"]), match["access"])
        if match["extended"]:
            # They ask who it is (V.250 6.1); it has no other.
            return _IDENTITY if match["extended"] in _WHO else "ERROR"
        handler = _BASIC.get(match["basic"])
        return "ERROR" if handler is None else handler(self, match["value"])

    def _result(self, word: str) -> bytes:
        if self._quiet:
            return b""
        return f"\r\n{word}\r\n".encode() if self._verbose else f"{_CODES[word]}\r".encode()

    def _begin_call(self) -> str:
        self.carrier = self.online = True
        self._line.clear()
        return "CONNECT"

    def _access_register(self, number: int, access: str) -> str:
        if access == "?":
            return f"{self.registers.get(number, 0):03d}"
        self.registers[number] = int(access[1:] or 0) & 0xFF
        return ""

    def answer(self, _value: str) -> str:
        """ATA: as if somebody had called."""
        return self._begin_call()

    def go_online(self, _value: str) -> str:
        """ATO: back to the data of a call."""
        self.online = self.carrier
        return "CONNECT" if self.carrier else "NO CARRIER"

    def end_call(self, _value: str) -> str:
        """ATH."""
        self._end_call()
        return ""

    def reset(self, _value: str) -> str:
        """ATZ and AT&F: as at the start, without a call."""
        self._end_call()
        self._reset()
        return ""

    def set_echo(self, value: str) -> str:
        """ATE."""
        self._echo = value not in ("", "0")
        return ""

    def set_verbose(self, value: str) -> str:
        """ATV."""
        self._verbose = value not in ("", "0")
        return ""

    def set_quiet(self, value: str) -> str:
        """ATQ."""
        self._quiet = value not in ("", "0")
        return ""

    def identify(self, _value: str) -> str:
        """ATI."""
        return _IDENTITY

    def ignore(self, _value: str) -> str:
        """Speaker, pulse or tone, codes and flow: nothing to do, and programs set them."""
        return ""


_BASIC: Final[Mapping[str, Callable[[Hayes, str], str]]] = {
    "A": Hayes.answer,
    "E": Hayes.set_echo,
    "H": Hayes.end_call,
    "I": Hayes.identify,
    "O": Hayes.go_online,
    "Q": Hayes.set_quiet,
    "V": Hayes.set_verbose,
    "Z": Hayes.reset,
    "&F": Hayes.reset,
    **dict.fromkeys((*"BCLMNPTWXY", "&C", "&D", "&K", "&Q", "&S", "&V", "&W"), Hayes.ignore),
}
"""The commands of a letter, or of & and a letter."""
