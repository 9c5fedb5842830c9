"""The bulk URBs of one bus, as usbmon's text says them (Documentation/usb/usbmon.rst)."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

__all__ = ("BulkUrb", "UsbMon", "data_urbs")

_DIRECTORY: Final = "/sys/kernel/debug/usb/usbmon"
_CBW: Final = b"USBC"
_CSW_LENGTH: Final = 13
_READ_10: Final = 0x28


@dataclass(slots=True)
class BulkUrb:
    """``length`` is transfer_buffer_length; ``status`` is None until completion."""

    is_in: bool
    length: int
    data: bytes
    """The first 32 bytes of an OUT URB."""
    status: int | None = None


class UsbMon:
    """Collects from construction on; needs the module usbmon, debugfs and root."""

    def __init__(self, bus: int) -> None:
        self._fd = os.open(f"{_DIRECTORY}/{bus}u", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._urbs: list[BulkUrb] = []
        self._pending: dict[str, BulkUrb] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    def urbs(self) -> list[BulkUrb]:
        """The bulk URBs that were submitted so far, in order."""
        while text := self._read():
            for line in text.splitlines():
                self._event(line.split())
        return self._urbs

    def _read(self) -> str:
        try:
            return os.read(self._fd, 65536).decode()
        except BlockingIOError:
            return ""

    def _event(self, words: list[str]) -> None:
        """As in "ffff8881 35101278 S Bi:2:002:1 -115 13 <": address, us, event, pipe, status."""
        address, _, event, pipe, status, *rest = words
        if pipe[0] != "B":
            return
        if event == "S":
            data = bytes.fromhex("".join(rest[2:])) if rest[1:2] == ["="] else b""
            urb = BulkUrb(pipe[1] == "i", int(rest[0]), data)
            self._urbs.append(urb)
            self._pending[address] = urb
        elif address in self._pending:
            self._pending.pop(address).status = int(status)


def data_urbs(urbs: list[BulkUrb], lba: int, blocks: int) -> list[BulkUrb]:
    """The URBs of the data stage of the first READ(10) with these numbers; none if there is none.

    They are those between its CBW and the URB for the CSW (BOT 5).
    """
    cdb = struct.pack(">BxIxH", _READ_10, lba, blocks)
    for number, urb in enumerate(urbs):
        if urb.data[:4] == _CBW and urb.data[15 : 15 + len(cdb)] == cdb:
            lengths = [later.length for later in urbs[number + 1 :]]
            end = lengths.index(_CSW_LENGTH) if _CSW_LENGTH in lengths else len(lengths)
            return urbs[number + 1 : number + 1 + end]
    return []
